"""Rows A1, A9, A10, A16: everything wrong in a folder, in one report."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from data_helpers import make_folders, make_hw2p2, make_labelled, people, save_image

from facever.data.images import read_rgb
from facever.data.inspect import inspect
from facever.errors import CheckFailed, DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_hw2p2(tmp_path)


def test_a_sound_folder_has_facts_and_no_problems(root: Path) -> None:
    report = inspect(root, strict=True)
    assert report.problems == []
    facts = json.loads(json.dumps(report.facts))
    assert facts["layout"] == "hw2p2"
    assert facts["images"] == {"train": 20, "dev": 5}
    assert facts["identities"] == 5
    assert facts["layout_reason"] == "found by cls_data/train/"
    assert facts["identities_by_split"] == {"train": 5, "dev": 5}
    each = {"min": 4, "median": 4.0, "max": 4, "histogram": {"4": 5}}
    assert facts["images_per_identity"] == each
    assert facts["sizes"] == {"8x8": 29}
    assert facts["unreadable"] == {}
    assert facts["duplicates"] == facts["near_duplicates"] == facts["blank"] == []
    val = facts["pairs"]["val"]
    assert (val["pairs"], val["mated"], val["non_mated"], val["images"]) == (3, 1, 2, 4)
    assert facts["pairs"]["test"]["unlabelled"] == 2


def test_every_unreadable_file_is_listed_with_its_reason(root: Path) -> None:
    images = root / "cls_data" / "train" / "images"
    names = sorted(file.name for file in images.iterdir())[:4]
    whole = (images / names[3]).read_bytes()
    contents = (b"", b"<html></html>", b"\0" * 5000, whole[:-40])
    for name, content in zip(names, contents, strict=True):
        (images / name).write_bytes(content)
    report = inspect(root)
    unreadable = report.facts["unreadable"]
    assert set(unreadable) == {f"cls_data/train/images/{name}" for name in names}
    reasons = [unreadable[f"cls_data/train/images/{name}"] for name in names]
    for reason, word in zip(reasons, ("empty", "<html>", "zero bytes", "not a rea"), strict=True):
        assert word in reason
    assert any("4 of 29 images are unreadable" in problem for problem in report.problems)
    with pytest.raises(CheckFailed, match="4 of 29 images are unreadable"):
        inspect(root, strict=True)


def test_contradictions_between_files_are_all_listed_instead_of_the_first(root: Path) -> None:
    train = root / "cls_data" / "train"
    (train / "labels.txt").write_text("gone.png id00\n" + (train / "labels.txt").read_text())
    save_image(train / "images" / "new.png", 77)
    (root / "val_pairs.txt").write_text("A.png B.png 1\nA.png X.png 0\nY.png B.png 0\n")
    report = inspect(root)
    items = [entry["items"] for entry in report.facts["contradictions"]]
    assert items == [["gone.png"], ["cls_data/train/images/new.png"], ["X.png", "Y.png"]]
    assert len(report.problems) == 3
    assert report.facts["images"]["train"] == 20
    assert report.facts["pairs"]["val"]["pairs"] == 1


def test_the_same_bytes_across_splits_are_shown(root: Path) -> None:
    train = root / "cls_data" / "train" / "images"
    file = sorted(train.iterdir())[0]
    shutil.copy(file, root / "ver_data" / "C.png")
    report = inspect(root)
    (group,) = report.facts["duplicates"]
    assert group["paths"] == [f"cls_data/train/images/{file.name}", "ver_data/C.png"]
    assert group["splits"] == ["test_pairs", "train", "val_pairs"]
    assert any("1 images are there under several names in several" in p for p in report.problems)


def test_the_same_bytes_of_two_people_are_shown(tmp_path: Path) -> None:
    make_folders(tmp_path / "train", people(4, 3))
    make_folders(tmp_path / "dev", people(4, 2), seed=50)
    first, second = (tmp_path / "train" / f"id0{i}" for i in (0, 1))
    shutil.copy(sorted(first.iterdir())[0], second / "copy.png")
    shutil.copy(sorted(first.iterdir())[0], first / "copy.png")
    report = inspect(tmp_path)
    assert report.facts["duplicates"][0]["identities"] == ["id00", "id01"]
    assert len(report.problems) == 1
    assert "of several people" in report.problems[0]


def test_pairs_made_from_dev_are_no_problem(tmp_path: Path) -> None:
    make_folders(tmp_path / "train", people(4, 3))
    make_folders(tmp_path / "dev", people(4, 2), seed=50)
    shutil.copy(tmp_path / "dev" / "id00" / "0_0_0.png", tmp_path / "dev" / "id00" / "copy.png")
    report = inspect(tmp_path, strict=True)
    assert len(report.facts["duplicates"]) == 1
    assert report.facts["pairs"]["val"]["file"] is None


def test_identities_in_train_and_verification_are_shown_where_names_tell(tmp_path: Path) -> None:
    make_folders(tmp_path / "train", people(4, 3))
    make_folders(tmp_path / "dev", people(4, 1), seed=50)
    make_folders(tmp_path / "ver_data", {"id02": ["x.png"], "zoe": ["y.png", "z.png"]}, seed=90)
    (tmp_path / "val_pairs.txt").write_text("id02/x.png zoe/y.png 0\nzoe/y.png zoe/z.png 1\n")
    report = inspect(tmp_path)
    assert report.facts["identities_in_train_and_verification"] == ["id02"]
    with pytest.raises(CheckFailed, match="1 identities are in both train and verification"):
        inspect(tmp_path, strict=True)


def test_contradicting_pairs_unused_images_and_label_gaps_are_shown(tmp_path: Path) -> None:
    make_labelled(tmp_path / "cls_data" / "train", {"0": ["a.png"], "2": ["b.png"], "5": ["c.png"]})
    for i, name in enumerate("ABC"):
        save_image(tmp_path / "ver_data" / f"{name}.png", 50 + i)
    (tmp_path / "val_pairs.txt").write_text("A.png B.png 1\nB.png A.png 0\n")
    report = inspect(tmp_path)
    assert report.facts["label_gaps"] == [1, 3, 4]
    assert report.facts["images_in_no_pair"] == ["ver_data/C.png"]
    assert report.problems == ["val pairs: 1 repeat an earlier pair with the other label"]


def test_a_folder_of_another_layout_is_described(tmp_path: Path) -> None:
    save_image(tmp_path / "holiday" / "beach" / "a.PNG")
    (tmp_path / "readme.txt").write_text("hello")
    report = inspect(tmp_path)
    assert report.facts["layout"] is None
    assert report.facts["folders"] == {
        ".": {".txt": 1},
        "holiday": {},
        "holiday/beach": {".png": 1},
    }
    assert "looked for" in report.problems[0]


def test_a_pair_file_that_cannot_be_read_is_a_problem_with_its_line(root: Path) -> None:
    (root / "val_pairs.txt").write_text("A.png B.png 2\n")
    assert "val_pairs.txt, line 1: label '2'" in inspect(root).problems[0]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        inspect(tmp_path / "absent")


def test_progress_is_told(root: Path) -> None:
    calls: list[tuple[int, int]] = []
    inspect(root, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(29, 29)]


def test_mean_and_deviation_are_those_of_all_training_pixels(tmp_path: Path) -> None:
    sizes = [(8, 8), (5, 3), (20, 1), (7, 9)]
    for i, size in enumerate(sizes):
        for k in range(2):
            save_image(tmp_path / "train" / f"id{i}" / f"{k}.png", 10 * i + k, size)
    make_folders(tmp_path / "dev", people(4, 2), seed=50)
    files = sorted((tmp_path / "train").rglob("*.png"))
    pixels = np.concatenate([read_rgb(file).reshape(-1, 3) for file in files]) / 255
    found = inspect(tmp_path).facts["pixels"]
    assert found["mean"] == pytest.approx(pixels.mean(axis=0), abs=1e-6)
    assert found["std"] == pytest.approx(pixels.std(axis=0), abs=1e-6)


def test_many_different_counts_are_told_in_ranges(tmp_path: Path) -> None:
    who = {f"id{i:02d}": [f"{i}_{k}.png" for k in range(i + 1)] for i in range(12)}
    make_folders(tmp_path / "train", who)
    make_folders(tmp_path / "dev", people(2, 2), seed=500)
    each = inspect(tmp_path).facts["images_per_identity"]
    assert each["histogram"] == {"1": 1, "2-3": 2, "4-7": 4, "8-15": 5}


def test_the_page_says_in_lines_what_the_facts_are(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.mktemp("out")
    save_image(root / "ver_data" / "unused.png", 300)
    (root / "cls_data" / "train" / "images" / "0_0_0.png").write_bytes(b"")
    report = inspect(root, sheet=out / "sheet.png", fix=out / "fix.csv")
    text = report.to_text()
    for line in (
        "layout           hw2p2: found by cls_data/train/",
        "train            20 images of 5 identities",
        "of each          4 to 4, median 4",
        f"                 4  {'#' * 40} 5",
        "val pairs        3 of 4 images, 1 mated (33.3%), ",
        "test pairs       2 of 3 images, no labels, ",
        "sizes            8x8 28",
        "unreadable       1: cls_data/train/images/0_0_0.png (",
        "in no pair       1: ver_data/unused.png",
        "duplicates       none",
        f"contact sheet    {out}/sheet.png",
        f"cleaned          {out}/fix.csv: 19 train, 5 dev; 1 left out",
        "problem: 1 of 29 images are unreadable",
    ):
        assert f"\n{line}" in text
