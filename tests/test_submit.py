import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import facever
from facever.competition import PROFILES, profile
from facever.data.lists import PairList
from facever.errors import CheckFailed, ConfigError, DataError
from facever.submit import lint, lint_file, submission_ids, write_submission

S25 = PROFILES["S25"]


def pair_list(count=200, labelled=False, rows=None):
    rows = rows or [(f"a{i}.jpg", f"b{i}.jpg") for i in range(count)]
    mated = np.arange(len(rows)) % 2 if labelled else np.full(len(rows), -1)
    return PairList.build(Path("ver_data"), rows, mated)


def cosines(count=200, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, count)


def side_car(eer=0.03, checkpoints=("c" * 64,)):
    return {
        "checkpoints": list(checkpoints),
        "config": {"model": {"backbone": "resnet18"}},
        "validation": {"eer": eer, "eer_low": 0.02, "eer_high": 0.04},
    }


def test_a_submission_is_the_header_the_line_numbers_and_nine_digits(tmp_path):
    scores = cosines().astype(np.float32)
    scores[:2] = -0.0, 1 / 3
    path = write_submission(tmp_path / "new" / "x.csv", scores, pair_list(), S25,
                            side_car=side_car())  # fmt: skip
    lines = path.read_bytes().split(b"\n")
    assert lines[:3] == [b"ID,Label", b"0,0", b"1,0.333333343"]
    assert len(lines) == 202
    assert lines[-1] == b""
    written = [float(line.split(b",")[1]) for line in lines[1:-1]]
    assert np.array_equal(np.float32(written), scores)
    assert lint_file(path, pair_list(), S25) == []


def test_the_side_car_names_its_pair_file_without_the_machine_s_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = replace(pair_list(), source=tmp_path / "data" / "test_pairs.txt")
    write_submission(tmp_path / "x.csv", cosines(), pairs, S25, side_car=side_car())
    about = json.loads((tmp_path / "x.json").read_text())
    assert about["pairs"]["file"] == "data/test_pairs.txt"


def test_the_side_car_tells_where_a_submission_comes_from(tmp_path):
    pairs = pair_list()
    path = write_submission(tmp_path / "x.csv", cosines(), pairs, S25,
                            side_car=side_car(checkpoints=("a" * 64, "b" * 64)))  # fmt: skip
    about = json.loads((tmp_path / "x.json").read_text())
    assert about["checkpoints"] == ["a" * 64, "b" * 64]
    assert about["pairs"]["sha256"] == pairs.sha256
    assert about["config"]["model"]["backbone"] == "resnet18"
    assert about["validation"]["eer_high"] == 0.04
    assert about["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (about["lint"], about["facever"]) == ([], facever.__version__)
    assert sorted(child.name for child in tmp_path.iterdir()) == ["x.csv", "x.json"]


def with_nan(scores):
    scores[7] = np.nan
    return scores


WRONG = {
    "no finite numbers, the first is that of pair 7": with_nan,
    "199 of them; the pair file has 200": lambda scores: scores[1:],
    "constant": lambda scores: scores * 0 + 0.25,
    "binary": lambda scores: (scores > 0).astype(float),
    "rounded": lambda scores: np.round(scores, 1),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_would_be_rejected_is_not_written(tmp_path, message):
    scores = WRONG[message](cosines())
    assert len(lint(scores, pair_list().rows, S25)) == 1
    with pytest.raises(CheckFailed, match=message) as caught:
        write_submission(tmp_path / "x.csv", scores, pair_list(), S25, side_car=side_car())
    assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_a_swapped_sign_is_called_that(tmp_path):
    with pytest.raises(CheckFailed, match=r"sign swapped: validation EER is 97\.00%"):
        write_submission(tmp_path / "x.csv", cosines(), pair_list(), S25,
                         side_car=side_car(eer=0.97))  # fmt: skip
    assert lint(cosines(), pair_list().rows, S25, validation_eer=0.49) == []


def test_a_submission_that_is_refused_leaves_the_older_one_alone(tmp_path):
    path = write_submission(tmp_path / "x.csv", cosines(), pair_list(), S25, side_car=side_car())
    before = path.read_bytes(), (tmp_path / "x.json").read_bytes()
    with pytest.raises(CheckFailed):
        write_submission(path, cosines() * 0, pair_list(), S25, side_car=side_car())
    assert (path.read_bytes(), (tmp_path / "x.json").read_bytes()) == before


def test_the_place_of_the_side_car_is_refused_for_the_submission(tmp_path):
    with pytest.raises(ConfigError, match="side-car"):
        write_submission(tmp_path / "x.json", cosines(), pair_list(), S25, side_car=side_car())


ROWS = [("v/A 1.jpg", "v/B.jpg"), ("=C.jpg", "-D.jpg"), ("E.jpg", "F.jpg")]


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("S25", ["0", "1", "2"]),
        ("S22", ["0", "1", "2"]),
        ("F20", ["v/A 1.jpg v/B.jpg", "=C.jpg -D.jpg", "E.jpg F.jpg"]),
        ("S19", ["v/A 1.jpg v/B.jpg", "=C.jpg -D.jpg", "E.jpg F.jpg"]),
        ("RFIW", ["v/A 1.jpg-v/B.jpg", "=C.jpg--D.jpg", "E.jpg-F.jpg"]),
    ],
)
def test_ids_are_exactly_what_the_competition_keys_on(tmp_path, name, ids):
    pairs = pair_list(rows=ROWS)
    assert submission_ids(ROWS, PROFILES[name]) == ids
    path = write_submission(tmp_path / "x.csv", [0.1, 0.2, 0.3], pairs, PROFILES[name],
                            side_car=side_car())  # fmt: skip
    assert [line.split(",")[0] for line in path.read_text().splitlines()[1:]] == ids
    assert lint_file(path, pairs, PROFILES[name]) == []


@pytest.mark.parametrize(
    ("sample", "ids"),
    [
        (["2", "0", "1"], ["0", "1", "2"]),
        (["1", "2", "3"], ["1", "2", "3"]),
        (["E.jpg,F.jpg", "v/A 1.jpg,v/B.jpg", "=C.jpg,-D.jpg"],
         ["v/A 1.jpg,v/B.jpg", "=C.jpg,-D.jpg", "E.jpg,F.jpg"]),
        (["x9", "x7", "x8"], ["x9", "x7", "x8"]),
    ],
)  # fmt: skip
def test_ids_of_a_sample_are_matched_to_the_pairs(tmp_path, sample, ids):
    file = tmp_path / "sample.csv"
    file.write_text("id,score\n" + "".join(f'"{key}",0\n' for key in sample))
    assert submission_ids(ROWS, profile("custom", file)) == ids


def test_a_sample_of_another_length_is_refused(tmp_path):
    file = tmp_path / "sample.csv"
    file.write_text("id,score\n0,0\n1,0\n")
    custom = profile("custom", file)
    expected = ["sample file: 2 rows; the pair file has 3 pairs"]
    assert lint([0.1, 0.2, 0.3], ROWS, custom) == expected
    assert lint_file(file, pair_list(rows=ROWS, labelled=True), custom) == expected


def test_a_pair_that_repeats_makes_a_duplicate_id_where_pairs_are_the_ids():
    rows = [*ROWS, ROWS[0]]
    assert lint([0.1, 0.2, 0.3, 0.1], rows, S25) == []
    assert "appear more than once" in lint([0.1, 0.2, 0.3, 0.1], rows, PROFILES["F20"])[0]


def submission(tmp_path, lines, header="ID,Label"):
    path = tmp_path / "theirs.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def theirs(scores=None):
    return [f"{i},{score}" for i, score in enumerate(cosines() if scores is None else scores)]


@pytest.mark.parametrize(
    ("lines", "problems"),
    [
        (theirs(), []),
        (theirs()[::-1], []),
        (theirs()[:-1], ["rows: 199", "no row, the first is '199'"]),
        ([*theirs(), "200,0.5"], ["rows: 201", "are not asked for, the first is '200'"]),
        ([*theirs()[:-1], "0,0.5"], ["no row, the first is '199'", "more than once"]),
        ([*theirs()[:-1], "199,nan"], ["1 are no finite numbers, the first is that of pair 199"]),
        ([*theirs()[:-1], "199,"], ["no finite numbers"]),
        ([*theirs()[:-1], "199"], ["not 2 columns"]),
        (theirs(np.full(200, 0.5)), ["constant"]),
        (theirs(np.arange(200) % 2), ["binary"]),
        (theirs(np.round(cosines(), 1)), ["rounded"]),
    ],
)
def test_a_file_of_another_tool_is_linted(tmp_path, lines, problems):
    found = lint_file(submission(tmp_path, lines), pair_list(), S25)
    assert len(found) == len(problems), found
    for line, problem in zip(found, problems, strict=True):
        assert problem in line


@pytest.mark.parametrize("header", ["id,label", ",ID,Label", "ID,Label,", "\ufeffID,Label", ""])
def test_any_other_header_is_a_problem(tmp_path, header):
    found = lint_file(submission(tmp_path, theirs(), header), pair_list(), S25)
    assert len(found) == 1
    assert "header" in found[0]
    assert ("index column" in found[0]) == (header == ",ID,Label")


def test_a_swapped_sign_is_known_where_the_pairs_are_labelled(tmp_path):
    scores = cosines() * 0.1 + np.arange(200) % 2
    good, swapped = submission(tmp_path, theirs(scores)), theirs(-scores)
    assert lint_file(good, pair_list(labelled=True), S25) == []
    found = lint_file(submission(tmp_path, swapped), pair_list(labelled=True), S25)
    assert len(found) == 1
    assert "sign swapped" in found[0]


def test_files_that_are_no_csv_are_refused(tmp_path):
    (tmp_path / "theirs.csv").write_bytes(b"\xff\xfe\x00\x01")
    for name in ("theirs.csv", "absent.csv"):
        with pytest.raises(DataError, match=name):
            lint_file(tmp_path / name, pair_list(), S25)
