import pytest

from facever.competition import DEFAULT, PROFILES, REFUSED, profile
from facever.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("name", "header", "metric"),
    [
        ("F24", "ID,Label", "EER"),
        ("S25", "ID,Label", "EER"),
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
    assert (found.metric, found.higher_is_better) == (metric, metric == "AUC")


def test_every_profile_is_filed_under_its_own_name():
    assert all(found.name == name for name, found in PROFILES.items())
    assert DEFAULT in PROFILES
    assert not PROFILES.keys() & REFUSED.keys()


def test_names_are_taken_in_any_case():
    assert profile("s25") is profile("S25")
    assert profile("rfiw").name == "RFIW"


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'S255'; did you mean S25\?"):
        profile("S255")
    with pytest.raises(ConfigError, match="did you mean custom"):
        profile("costum")
    with pytest.raises(ConfigError, match="expected one of F24, S25"):
        profile("")


@pytest.mark.parametrize("name", REFUSED)
def test_a_term_that_cannot_be_written_says_why(name):
    with pytest.raises(ConfigError, match="cannot be written"):
        profile(name.lower())


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
