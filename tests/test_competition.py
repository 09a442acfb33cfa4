from pathlib import Path

import pytest

from facever.competition import DEFAULT, METRICS, PROFILES, answer_columns, profile
from facever.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("name", "header", "metric"),
    [
        ("F24", "ID,Label", "EER"),
        ("S25", "ID,Label", "EER"),
        ("F22", "id,label", "accuracy"),
        ("F23", "id,label", "accuracy"),
        ("S23", "id,label", "accuracy"),
        ("S24", "id,label", "accuracy"),
        ("F26", "", "combined"),
        ("F25", "ID,Label", "EER"),
        ("S26", "ID,Label", "EER"),
        ("S22", "id,match", "AUC"),
        ("F20", "Id,Category", "AUC"),
        ("S21", "Id,Category", "AUC"),
        ("S19", "trial,score", "EER"),
        ("RFIW", "img_pair,is_related", "AUC"),
    ],
)
def test_each_term_has_its_header_and_metric(name, header, metric):
    found = profile(name)
    assert ",".join(found.header) == header
    assert (found.metric, found.higher_is_better) == (metric, metric != "EER")


def test_every_profile_is_filed_under_its_own_name():
    assert all(found.name == name for name, found in PROFILES.items())
    assert DEFAULT in PROFILES
    terms = [term for found in PROFILES.values() for term in found.terms]
    assert len(terms) == len(set(terms))
    assert {found.metric for found in PROFILES.values()} == METRICS.keys()


def test_names_are_taken_in_any_case():
    assert profile("s25") is profile("S25")
    assert profile("rfiw").name == "RFIW"
    assert profile("s21") is PROFILES["F20"]


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'S255'; did you mean S25\?"):
        profile("S255")
    with pytest.raises(ConfigError, match="did you mean custom"):
        profile("costum")
    with pytest.raises(ConfigError, match="expected one of F24, S25"):
        profile("")


def test_the_columns_of_f26_are_those_of_its_sample(tmp_path):
    sample = tmp_path / "sample.csv"
    sample.write_text("ID,Class,Score\n0,0,\n1,,0\n")
    found = profile("F26", sample)
    assert found.header == ("ID", "Class", "Score")
    assert found.sample_rows == (("0", "0", ""), ("1", "", "0"))
    assert found.parameter_cap == profile("F26").parameter_cap == 30_000_000
    assert profile("S26", sample).header == ("ID", "Label")


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        (("id", "value"), (1, 1)),
        (("ID", "Class", "Score"), (1, 2)),
        (("id", "similarity", "label"), (2, 1)),
    ],
)
def test_the_columns_of_class_and_score_are_told_by_their_names(header, columns):
    assert answer_columns(header) == columns


def test_columns_that_are_called_otherwise_are_refused():
    with pytest.raises(DataError, match="called like class and score"):
        answer_columns(("id", "a", "b"))


def test_a_custom_profile_takes_header_and_ids_from_the_sample(tmp_path):
    sample = tmp_path / "sample.csv"
    sample.write_bytes(b"\xef\xbb\xbfrow,similarity\r\n0007,0\r\nNA,0\r\n")
    found = profile("custom", sample)
    assert found.header == ("row", "similarity")
    assert found.sample_ids == ("0007", "NA")


@pytest.mark.parametrize("text", ["", "id,value\n", "id,a,b\n1,2,3\n", "id,value\n1,0\n2\n"])
def test_a_sample_without_two_columns_and_rows_is_refused(tmp_path, text):
    sample = tmp_path / "sample.csv"
    sample.write_text(text)
    with pytest.raises(DataError, match=r"sample\.csv"):
        profile("custom", sample)


def test_a_custom_profile_without_a_readable_sample_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="sample submission"):
        profile("custom")
    with pytest.raises(DataError, match=r"absent\.csv"):
        profile("custom", tmp_path / "absent.csv")


DOCS = Path(__file__).parents[1] / "docs" / "competitions.md"


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    # A bar ends a cell even where it is code.
    cells = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def forms_table():
    """How each profile's data lies and what it wants, for docs/competitions.md."""
    header = ["profile", "terms", "`data.layout`", "pairs", "answer", "header", "id", "ranked by"]
    return table(
        header,
        [
            [
                name, ", ".join(p.terms), f"`{p.layout}`", p.pairs, p.value,
                f"`{','.join(p.header)}`" if p.header else "the sample's", p.id_rule,
                f"{p.metric}, {'higher' if p.higher_is_better else 'lower'} is better",
            ]
            for name, p in PROFILES.items()
        ],
    )  # fmt: skip


def rules_table():
    """What each profile allows, for docs/competitions.md; those of whom nothing is known apart."""
    told = {name: p for name, p in PROFILES.items() if p.parameter_cap}
    rules = {
        "parameters at most": lambda p: f"{p.parameter_cap / 1e6:g} M",
        "pretrained weights": lambda p: p.pretrained,
        "imported architectures": lambda p: p.imported_architectures,
        "anything but convolutions": lambda p: p.attention,
        "external data": lambda p: p.external_data,
        "smoothing with a margin": lambda p: p.smoothing_with_margin,
        "the best submission's model": lambda p: "must be it" if p.same_model else "free",
        "submissions a day": lambda p: str(p.submissions_a_day or "unknown"),
    }
    return table(
        ["rule", *told], [[rule, *map(tell, told.values())] for rule, tell in rules.items()]
    )


@pytest.mark.parametrize("expected", [forms_table(), rules_table()])
def test_the_tables_of_the_docs_are_the_profiles(expected):
    assert expected in DOCS.read_text(encoding="utf-8"), f"expected this table:\n{expected}"
