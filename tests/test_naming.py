"""CSVs that hold names: alone, or in the cells that a sample submission leaves for them."""

from pathlib import Path

import numpy as np
import pytest

from facever.competition import PROFILES, profile
from facever.data.lists import PairList
from facever.errors import CheckFailed
from facever.naming import Named, lint_combined_file, lint_names_file, write_combined, write_names

F22 = PROFILES["F22"]
IMAGES = [f"unknown_test/{i:03d}.jpg" for i in range(6)]
POSSIBLE = frozenset(["n000001", "n000002", "n000000"])
NAMES = ["n000001", "n000000", "n000002", "n000002", "n000000", "n000001"]


def named(names=None):
    return Named(IMAGES, names or NAMES, POSSIBLE)


def test_names_are_written_by_the_place_of_their_image(tmp_path):
    path = write_names(tmp_path / "x.csv", named(), F22, side_car={})
    expected = ["id,label", *(f"{i},{name}" for i, name in enumerate(NAMES))]
    assert path.read_bytes().decode() == "".join(line + "\n" for line in expected)
    assert lint_names_file(path, IMAGES, POSSIBLE, F22) == []


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (NAMES[1:], "5 of them for 6 images"),
        ([*NAMES[1:], "n9"], "1 are nobody's, the first is 'n9'"),
        (["n000001"] * 6, "constant, all are 'n000001'"),
        (["n000000"] * 6, "constant, all are nobody known"),
    ],
)
def test_names_that_cannot_be_right_are_not_written(tmp_path, names, problem):
    with pytest.raises(CheckFailed, match=problem):
        write_names(tmp_path / "x.csv", named(names), F22, side_car={})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("id,label", "ID,Label"), "header: 'ID,Label'"),
        (("5,", "4,"), "1 have no row, the first is '5'"),
        (("5,n000001", "5,n000001\n9,n000001"), "rows: 7; expected 6"),
        (("n000002", "Anna"), "2 are nobody's, the first is 'Anna'"),
        (("0,n000001", "0"), "1 have not 2 columns"),
        (("0,n000001\n", ""), "rows: 5; expected 6"),
    ],
)
def test_names_of_another_tool_are_linted(tmp_path, change, problem):
    path = write_names(tmp_path / "x.csv", named(), F22, side_car={})
    path.write_text(path.read_text().replace(*change))
    assert problem in lint_names_file(path, IMAGES, POSSIBLE, F22)[0]


# --- both tasks ------------------------------------------------------------------------------

PAIRS = PairList.build(Path(), [(f"a{i}.jpg", f"b{i}.jpg") for i in range(4)], [-1] * 4)
SCORES = np.array([0.5, -0.25, 0.125, 0.75])
TEXTS = ["0.5", "-0.25", "0.125", "0.75"]

SAMPLES = {
    "in order": (
        ["id,class,score", *(f"{i},0,-1" for i in range(10))],
        [*(f"{i},{name},-1" for i, name in enumerate(NAMES)),
         *(f"{6 + i},0,{score}" for i, score in enumerate(TEXTS))],
    ),
    "one column": (
        ["ID,Label", *(f"{i},0" for i in range(10))],
        [*(f"{i},{name}" for i, name in enumerate(NAMES)),
         *(f"{6 + i},{score}" for i, score in enumerate(TEXTS))],
    ),
    "by name, pairs first": (
        ["id,score,label", *(f"a{i}.jpg-b{i}.jpg,0," for i in range(4)),
         *(f"{i:03d}.jpg,,x" for i in reversed(range(6)))],
        [*(f"a{i}.jpg-b{i}.jpg,{score}," for i, score in enumerate(TEXTS)),
         *(f"{i:03d}.jpg,,{NAMES[i]}" for i in reversed(range(6)))],
    ),
    "stems, then numbers": (
        ["id,class,score", *(f"{i:03d},0,0" for i in range(6)), *(f"{i},0,0" for i in range(4))],
        [*(f"{i:03d},{NAMES[i]},0" for i in range(6)),
         *(f"{i},0,{score}" for i, score in enumerate(TEXTS))],
    ),
    "side by side": (
        ["id,class,score", *(f"{i},0,0" for i in range(6))],
        [f"{i},{NAMES[i]},{TEXTS[i] if i < 4 else 0}" for i in range(6)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", SAMPLES)
def test_answers_go_where_the_sample_has_their_cells(tmp_path, form):
    sample, expected = SAMPLES[form]
    (tmp_path / "sample.csv").write_text("\n".join(sample))
    rules = profile("F26", tmp_path / "sample.csv")
    path = write_combined(tmp_path / "x.csv", SCORES, PAIRS, named(), rules, side_car={})
    assert path.read_text().splitlines() == [sample[0], *expected]
    assert lint_combined_file(path, PAIRS, IMAGES, POSSIBLE, rules) == []


@pytest.mark.parametrize("rows", [0, 5, 9, 11])
def test_a_sample_of_another_length_is_refused(tmp_path, rows):
    lines = ["id,class,score", *(f"{i},0,0" for i in range(rows))]
    (tmp_path / "sample.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=f"{rows} rows"):
        write_combined(
            tmp_path / "x.csv", SCORES, PAIRS, named(),
            profile("F26", tmp_path / "sample.csv"), side_car={},
        )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["sample.csv"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("0,n000001,", "0,n9,"), "1 are nobody's"),
        (("7,0,-0.25", "7,0,nan"), "1 are no finite numbers"),
        (("7,0,-0.25", "8,0,-0.25"), "1 have no row, the first is '7'"),
        (("id,class,score", "id,score,class"), "header"),
        (("9,0,0.75\n", ""), "rows: 9; expected 10"),
    ],
)
def test_both_answers_of_another_tool_are_linted(tmp_path, change, problem):
    (tmp_path / "sample.csv").write_text("\n".join(SAMPLES["in order"][0]))
    rules = profile("F26", tmp_path / "sample.csv")
    path = write_combined(tmp_path / "x.csv", SCORES, PAIRS, named(), rules, side_car={})
    path.write_text(path.read_text().replace(*change))
    assert problem in lint_combined_file(path, PAIRS, IMAGES, POSSIBLE, rules)[0]


def test_scores_and_names_are_both_linted_before_anything_is_written(tmp_path):
    (tmp_path / "sample.csv").write_text("\n".join(SAMPLES["in order"][0]))
    rules = profile("F26", tmp_path / "sample.csv")
    with pytest.raises(CheckFailed, match=r"(?s)constant.*nobody's") as caught:
        write_combined(
            tmp_path / "x.csv", SCORES * 0, PAIRS, named([*NAMES[1:], "n9"]), rules, side_car={}
        )
    assert caught.value.exit_code == 3
    with pytest.raises(CheckFailed, match="sign swapped"):
        write_combined(tmp_path / "x.csv", SCORES, PAIRS, named(), rules,
                       side_car={"validation": {"eer": 0.9}})  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["sample.csv"]
