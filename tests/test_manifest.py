"""Rows A4, A5, A9, A11, A16, C3, and every layout of `competition.md`."""

import csv
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_helpers import make_folders, make_hw2p2, make_labelled, people, save_image

from facever.data.lists import Manifest
from facever.data.manifest import layout_names, read_manifest
from facever.errors import ConfigError, DataError


def names(manifest: Manifest) -> list[str]:
    return [path.rpartition("/")[2] for path in manifest.train.paths]


def write_csv(file: Path, header: list[str], rows: list[list[str]]) -> Path:
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return file


# --- layouts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kwargs", [{}, {"dev": "val"}, {"pairs_in": "ver_data"}])
def test_hw2p2_and_its_mirror(tmp_path: Path, kwargs: dict[str, str]) -> None:
    manifest = read_manifest(make_hw2p2(tmp_path, **kwargs))
    assert manifest.layout == "hw2p2"
    assert manifest.identities == ("id00", "id01", "id02", "id03", "id04")
    assert len(manifest.train) == 20
    assert manifest.train.labels.tolist() == sorted([0, 1, 2, 3, 4] * 4)
    assert manifest.dev is not None
    assert manifest.dev.labels.tolist() == [0, 1, 2, 3, 4]
    assert manifest.test is None
    assert manifest.val_pairs is not None
    assert manifest.val_pairs.mated.tolist() == [1, 0, 0]
    assert manifest.val_pairs.images[0] == "ver_data/A.png"
    assert manifest.test_pairs is not None
    assert len(manifest.test_pairs) == 2
    for images in (manifest.train, manifest.dev):
        assert all((manifest.root / path).is_file() for path in images.paths)


@pytest.mark.parametrize("labels", [True, False])
def test_hw2p2_test_labels_may_be_absent(tmp_path: Path, labels: bool) -> None:
    make_hw2p2(tmp_path)
    make_labelled(tmp_path / "cls_data" / "test", people(5, 2), seed=300, labels=labels)
    manifest = read_manifest(tmp_path)
    assert manifest.test is not None
    assert len(manifest.test) == 10
    assert set(manifest.test.labels.tolist()) == ({0, 1, 2, 3, 4} if labels else {-1})


def test_f24_has_folders_per_identity_inside_cls_data(tmp_path: Path) -> None:
    make_folders(tmp_path / "cls_data" / "train", people(3, 2))
    make_folders(tmp_path / "cls_data" / "dev", people(3, 1), seed=50)
    save_image(tmp_path / "ver_data" / "A.png")
    save_image(tmp_path / "ver_data" / "B.png")
    (tmp_path / "val_pairs.csv").write_text("A.png,B.png,0\n")
    (tmp_path / "test_pair.csv").write_text("A.png,B.png\n")
    manifest = read_manifest(tmp_path)
    assert (len(manifest.identities), len(manifest.train)) == (3, 6)
    assert manifest.val_pairs is not None
    assert manifest.test_pairs is not None


def test_f20_and_f21(tmp_path: Path) -> None:
    make_folders(tmp_path / "train_data", people(3, 2))
    make_folders(tmp_path / "val_data", people(3, 1), seed=50)
    for i, name in enumerate("AB"):
        save_image(tmp_path / "verification_data" / f"{name}.png", 60 + i, (64, 64))
    line = "verification_data/A.png verification_data/B.png"
    (tmp_path / "verification_pairs_val.txt").write_text(f"{line} 1\n")
    (tmp_path / "verification_pairs_test.txt").write_text(f"{line}\n")
    manifest = read_manifest(tmp_path)
    assert manifest.layout == "f20"
    assert manifest.val_pairs is not None
    assert manifest.val_pairs.images == ("verification_data/A.png", "verification_data/B.png")
    assert manifest.test_pairs is not None
    assert " ".join(manifest.test_pairs.rows[0]) == line


def test_s22(tmp_path: Path) -> None:
    for split, count in (("train", 2), ("dev", 1), ("test", 1)):
        make_folders(tmp_path / "classification" / split, people(3, count))
    for split in ("dev", "test"):
        save_image(tmp_path / "verification" / split / "A.png", 1)
        save_image(tmp_path / "verification" / split / "B.png", 2)
    (tmp_path / "verification" / "verification_dev.csv").write_text("img1,img2,gt\nA.png,B.png,1\n")
    (tmp_path / "verification_test.csv").write_text("img1,img2\nA.png,B.png\n")
    manifest = read_manifest(tmp_path)
    assert manifest.layout == "s22"
    assert manifest.val_pairs is not None
    assert manifest.val_pairs.images == ("verification/dev/A.png", "verification/dev/B.png")
    assert manifest.test_pairs is not None
    assert manifest.test_pairs.images[0] == "verification/test/A.png"


@pytest.mark.parametrize("dev", ["dev", "val", "test"])
def test_folders_per_identity_with_a_held_out_split(tmp_path: Path, dev: str) -> None:
    make_folders(tmp_path / "train", people(6, 3))
    make_folders(tmp_path / dev, people(6, 2), seed=50)
    manifest = read_manifest(tmp_path)
    assert manifest.layout == "folders"
    assert (len(manifest.identities), len(manifest.train)) == (6, 18)
    assert manifest.dev is not None
    assert len(manifest.dev) == 12
    assert manifest.val_pairs is not None
    assert set(manifest.val_pairs.images) <= set(manifest.dev.paths)
    assert manifest.val_pairs.mated.mean() == 0.5
    assert any("made from dev images (seed 0)" in note for note in manifest.notes)


def test_a_dev_split_that_shows_nobody_twice_makes_no_pairs(tmp_path: Path) -> None:
    """As in S19, where it has one image of each; some identities are held out instead."""
    make_folders(tmp_path / "train", people(20, 3))
    make_folders(tmp_path / "dev", people(20, 1), seed=70)
    manifest = read_manifest(tmp_path)
    assert len(manifest.identities) == 18
    assert manifest.val_pairs is not None
    held_out = {path.split("/")[-2] for path in manifest.val_pairs.images}
    assert len(held_out) == 2
    assert not held_out & {*manifest.identities}
    assert manifest.dev is not None
    assert sorted(manifest.dev.labels.tolist()) == [-1, -1, *range(18)]
    assert "dev: 2 images of 2 identities that train lacks" in manifest.notes


@pytest.mark.parametrize("below", ["", "train"])
def test_one_tree_is_split_by_identity_with_a_seed(tmp_path: Path, below: str) -> None:
    make_folders(tmp_path / below, people(30, 3))
    manifest = read_manifest(tmp_path, seed=3)
    pairs = manifest.val_pairs
    assert pairs is not None
    held_out = {path.split("/")[-2] for path in pairs.images}
    assert len(held_out) == 3
    assert not held_out & set(manifest.identities)
    assert len(manifest.identities) == 27
    for left, right, mated in zip(pairs.left, pairs.right, pairs.mated, strict=True):
        same = pairs.images[left].split("/")[-2] == pairs.images[right].split("/")[-2]
        assert left != right
        assert same == mated
    assert pairs.mated.mean() == 0.5
    assert pairs.repeated() == (0, 0)


def test_the_split_of_a_tree_is_a_function_of_its_seed(tmp_path: Path) -> None:
    make_folders(tmp_path, people(30, 3))
    first, again, other = (read_manifest(tmp_path, seed=seed) for seed in (1, 1, 2))
    assert first.identities == again.identities != other.identities
    assert first.val_pairs is not None
    assert again.val_pairs is not None
    assert first.val_pairs.rows == again.val_pairs.rows
    assert first.val_pairs.sha256 == again.val_pairs.sha256


def test_without_dev_and_pairs_hw2p2_holds_identities_out(tmp_path: Path) -> None:
    make_labelled(tmp_path / "cls_data" / "train", people(10, 3))
    manifest = read_manifest(tmp_path)
    assert len(manifest.identities) == 8
    assert manifest.val_pairs is not None
    assert any("2 identities held out" in note for note in manifest.notes)


LFW_PAIRS = "2\t1\nAnn\t1\t2\nAnn\t1\tBob\t2\nBob\t1\t2\nBob\t1\tAnn\t2\n"


@pytest.mark.parametrize("below", ["", "lfw_funneled"])
def test_lfw_keeps_people_in_its_pairs_out_of_training(tmp_path: Path, below: str) -> None:
    who = {p: [f"{p}_000{i}.jpg" for i in (1, 2)] for p in ("Ann", "Bob", "Cid", "Dan")}
    make_folders(tmp_path / below, who)
    (tmp_path / "pairs.txt").write_text(LFW_PAIRS)
    (tmp_path / "pairsDevTrain.txt").write_text("1\nAnn\t1\t2\nAnn\t1\tBob\t2\n")
    manifest = read_manifest(tmp_path)
    assert manifest.layout == "lfw"
    assert manifest.identities == ("Cid", "Dan")
    assert manifest.val_pairs is not None
    assert manifest.val_pairs.fold.tolist() == [0, 0, 1, 1]
    assert any("pairsDevTrain.txt: not used" in note for note in manifest.notes)


@pytest.mark.parametrize("explicit", [True, False])
def test_csv_manifest_with_pairs(tmp_path: Path, explicit: bool) -> None:
    rows = []
    for i in range(6):
        save_image(tmp_path / "pics" / f"{i}.png", i)
        rows.append([f"pics/{i}.png", f"p{i % 2}", "train" if i < 4 else "dev"])
    file = write_csv(tmp_path / "manifest.csv", ["path", "identity", "split"], rows)
    pairs = [["pics/4.png", "pics/5.png", "0", "1"]]
    write_csv(tmp_path / "val_pairs.csv", ["left", "right", "mated", "fold"], pairs)
    manifest = read_manifest(file if explicit else tmp_path)
    assert manifest.layout == "csv"
    assert manifest.train.paths == ("pics/0.png", "pics/2.png", "pics/1.png", "pics/3.png")
    assert manifest.dev is not None
    assert manifest.dev.labels.tolist() == [0, 1]
    assert manifest.val_pairs is not None
    assert manifest.val_pairs.fold.tolist() == [1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["pics/0.png", "a", "holdout"], "line 3: split 'holdout'\n  expected train, dev or test"),
        (["pics/0.png", "", "train"], "line 3: no identity"),
        (["pics/1.png", "other", "dev"], "line 3: pics/1.png is 'other', but 'a' in line 2"),
        (["pics/0.png", "a"], "line 3: 2 columns"),
        (["../0.png", "a", "train"], r"line 3: path '../0.png' with '\.\.'"),
        (["pics/9.png", "a", "train"], r"1 of 2 rows name images .*\n  first: pics/9.png \(line 3"),
    ],
)
def test_csv_manifest_rows_are_checked(tmp_path: Path, row: list[str], message: str) -> None:
    for i in range(2):
        save_image(tmp_path / "pics" / f"{i}.png", i)
    rows = [["pics/1.png", "a", "train"], row]
    file = write_csv(tmp_path / "faces.csv", ["path", "identity", "split"], rows)
    with pytest.raises(DataError, match=message):
        read_manifest(file)


def test_csv_manifest_without_its_columns_says_what_it_expects(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "faces.csv", ["path", "colour"], [["a.png", "red"]])
    with pytest.raises(DataError, match="header with path, identity"):
        read_manifest(file)


def test_absolute_paths_are_taken_only_from_a_manifest_given_as_a_file(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    away = [save_image(tmp_path / "away" / f"{i}.png", i) for i in range(4)]
    rows = [[str(path), f"p{i % 2}", "train"] for i, path in enumerate(away)]
    file = write_csv(data / "manifest.csv", ["path", "identity", "split"], rows)
    manifest = read_manifest(file)
    assert set(manifest.train.paths) == {str(path) for path in away}
    assert all((manifest.root / path).is_file() for path in manifest.train.paths)
    with pytest.raises(DataError, match="line 2: absolute path"):
        read_manifest(data)


def test_the_same_data_has_the_same_order_in_every_layout(tmp_path: Path) -> None:
    """Seeds and folds rest on it: identities as strings, images by (identity, file name)."""
    who = {"10": ["b.png", "z.png"], "9": ["a.png", "y.png"], "0001": ["c.png", "x.png"]}
    make_labelled(tmp_path / "a" / "cls_data" / "train", who)
    make_labelled(tmp_path / "a" / "cls_data" / "dev", {"9": ["d.png"]})
    make_folders(tmp_path / "b" / "train", who)
    make_folders(tmp_path / "b" / "dev", {"9": ["d.png"]})
    rows = []
    for i, (identity, file) in enumerate((k, f) for k, files in who.items() for f in files):
        # Folders here sort the other way round than the files in them.
        path = save_image(tmp_path / "c" / f"{9 - i}" / file, i)
        rows.append([path.relative_to(tmp_path / "c").as_posix(), identity, "train"])
    save_image(tmp_path / "c" / "d.png")
    rows.append(["d.png", "9", "dev"])
    write_csv(tmp_path / "c" / "manifest.csv", ["path", "identity", "split"], rows)
    manifests = [read_manifest(tmp_path / folder) for folder in "abc"]
    assert [manifest.layout for manifest in manifests] == ["hw2p2", "folders", "csv"]
    for manifest in manifests:
        assert manifest.identities == ("0001", "10", "9")
        assert names(manifest) == ["c.png", "x.png", "b.png", "z.png", "a.png", "y.png"]
        assert manifest.train.labels.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("below", ["", "a", "a/b", "a/b/c"])
def test_data_is_found_up_to_three_folders_below(tmp_path: Path, below: str) -> None:
    make_hw2p2(tmp_path / below)
    manifest = read_manifest(tmp_path)
    assert manifest.root == (tmp_path / below).resolve()
    assert any(f"found in {below}/" in note for note in manifest.notes) == bool(below)


def test_a_layout_may_be_named_by_its_term(tmp_path: Path) -> None:
    make_hw2p2(tmp_path)
    assert read_manifest(tmp_path, layout="S25").layout == "hw2p2"
    with pytest.raises(DataError, match="looked for: train_data/"):
        read_manifest(tmp_path, layout="F21")
    with pytest.raises(ConfigError, match="'imagenet'; expected auto, hw2p2"):
        read_manifest(tmp_path, layout="imagenet")
    assert {"hw2p2", "tree", "lfw", "csv", "s25", "f21"} <= set(layout_names())


def test_the_first_identities_can_be_kept(tmp_path: Path) -> None:
    manifest = read_manifest(make_hw2p2(tmp_path), identities=2)
    assert manifest.identities == ("id00", "id01")
    assert set(manifest.train.labels.tolist()) == {0, 1}
    assert manifest.dev is not None
    assert manifest.dev.labels.tolist() == [0, 1]
    with pytest.raises(ConfigError, match=r"data.identities: 0"):
        read_manifest(tmp_path, identities=0)


# --- names ------------------------------------------------------------------------------------

ODD_IDENTITIES = ("-inf", "0001", "1", "1e5", "NA", "True", "nan", "null")


@pytest.mark.parametrize("layout", ["labels", "folders", "csv"])
def test_identities_stay_the_strings_they_are(tmp_path: Path, layout: str) -> None:
    """pandas would read NA and null as missing, 0001 as 1 and 1e5 as 100000.0."""
    who = {identity: [f"{i}.png", f"{i}b.png"] for i, identity in enumerate(ODD_IDENTITIES)}
    dev = {"1": ["c.png"], "NA": ["d.png", "e.png"]}
    if layout == "labels":
        make_labelled(tmp_path / "cls_data" / "train", who)
        make_labelled(tmp_path / "cls_data" / "dev", dev)
    else:
        make_folders(tmp_path / "train", who)
        make_folders(tmp_path / "dev", dev)
    if layout == "csv":
        rows = [[f"train/{k}/{file}", k, "train"] for k, files in who.items() for file in files]
        rows += [[f"dev/{k}/{file}", k, "dev"] for k, files in dev.items() for file in files]
        write_csv(tmp_path / "manifest.csv", ["path", "identity", "split"], rows)
    manifest = read_manifest(tmp_path)
    assert manifest.identities == tuple(sorted(ODD_IDENTITIES))
    assert manifest.dev is not None
    assert [manifest.identities[label] for label in manifest.dev.labels] == ["1", "NA", "NA"]


ODD_FILES = (
    "a b.png",
    "two\nlines.png",
    "😀.png",
    "-rf.png",
    "A.png",
    "a.png",
    "é" * 125 + "x.png",
)


@pytest.mark.parametrize("layout", ["folders", "csv"])
def test_odd_file_names_round_trip(tmp_path: Path, layout: str) -> None:
    who = {"p": ODD_FILES, "q": ["1.png", "2.png"]}
    make_folders(tmp_path / "train", who)
    make_folders(tmp_path / "dev", {"p": ["3.png"]})
    if layout == "csv":
        rows = [[f"train/{k}/{file}", k, "train"] for k, files in who.items() for file in files]
        write_csv(tmp_path / "manifest.csv", ["path", "identity", "split"], rows)
    manifest = read_manifest(tmp_path)
    assert sorted(names(manifest)) == sorted([*ODD_FILES, "1.png", "2.png"])
    assert all((manifest.root / path).is_file() for path in manifest.train.paths)


def test_quoted_names_in_labels_txt_may_hold_blanks(tmp_path: Path) -> None:
    make_labelled(tmp_path / "cls_data" / "train", {"a": ["1.png"], "b": ["2.png"]})
    save_image(tmp_path / "cls_data" / "train" / "images" / "my face.png")
    with (tmp_path / "cls_data" / "train" / "labels.txt").open("a") as stream:
        stream.write('"my face.png" b\n')
    assert "my face.png" in names(read_manifest(tmp_path))


def test_files_that_are_no_images_by_name_are_passed_over(tmp_path: Path) -> None:
    make_folders(tmp_path / "train", people(3, 2))
    make_folders(tmp_path / "dev", people(3, 2))
    for junk in ("Thumbs.db", ".DS_Store", "._a.png", "notes.txt"):
        (tmp_path / "train" / "id00" / junk).write_bytes(b"x")
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    assert len(read_manifest(tmp_path).train) == 6


# --- contradictions and absences --------------------------------------------------------------


def edit(file: Path, change: Callable[[str], str]) -> None:
    file.write_text(change(file.read_text()))


def test_labels_that_name_absent_images_are_counted_with_the_first(tmp_path: Path) -> None:
    labels = make_hw2p2(tmp_path) / "cls_data" / "train" / "labels.txt"
    edit(labels, lambda text: "gone.png id00\n" + text + "lost.png id01\n")
    with pytest.raises(DataError) as caught:
        read_manifest(tmp_path)
    assert str(caught.value) == (
        "cls_data/train/labels.txt: 2 of 22 rows name images that are not in "
        "cls_data/train/images/\n  first: gone.png (line 1)\n"
        "  expected paths relative to cls_data/train/images/; `facever data inspect` lists them all"
    )


def test_labels_that_miss_images_are_counted_with_the_first(tmp_path: Path) -> None:
    images = make_hw2p2(tmp_path) / "cls_data" / "train" / "images"
    save_image(images / "new1.png")
    save_image(images / "new0.png")
    with pytest.raises(
        DataError, match=r"labels.txt: 2 of 22 images .*\n  first: new0.png in cls_"
    ):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.png id00 extra", "line 21: 3 columns, .* have 2\n  expected two columns, file and"),
        ("a.png", "line 21: 1 columns"),
        ("../../x.png id00", "line 21: path"),
        ("/x.png id00", "line 21: absolute"),
    ],
)
def test_damaged_label_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    labels = make_hw2p2(tmp_path) / "cls_data" / "train" / "labels.txt"
    edit(labels, lambda text: text + line + "\n")
    with pytest.raises(DataError, match=f"cls_data/train/labels.txt, {message}"):
        read_manifest(tmp_path)


def test_one_image_with_two_labels_is_refused(tmp_path: Path) -> None:
    labels = make_hw2p2(tmp_path) / "cls_data" / "train" / "labels.txt"
    first = labels.read_text().split()[0]
    edit(labels, lambda text: text + f"{first} nobody\n")
    with pytest.raises(DataError, match=f"line 21: {first} is 'nobody', but 'id.*' in line 1"):
        read_manifest(tmp_path)


def test_pairs_that_name_absent_images_are_counted_with_the_first(tmp_path: Path) -> None:
    make_hw2p2(tmp_path)
    edit(tmp_path / "test_pairs.txt", lambda text: text + "A.png Z.png\n")
    with pytest.raises(
        DataError, match=r"^test_pairs.txt: 1 of 3 .* not in ver_data/\n.*Z.png \(l"
    ):
        read_manifest(tmp_path)


def test_repeated_pairs_are_noted(tmp_path: Path) -> None:
    make_hw2p2(tmp_path)
    edit(tmp_path / "val_pairs.txt", lambda text: text + "A.png B.png 0\n")
    notes = read_manifest(tmp_path).notes
    assert "val pairs: 1 repeat an earlier pair, 1 of them with the other label" in notes


def test_a_pair_file_without_its_folder_says_which(tmp_path: Path) -> None:
    make_labelled(tmp_path / "cls_data" / "train", people(3, 2))
    (tmp_path / "val_pairs.txt").write_text("A.png B.png 1\n")
    with pytest.raises(DataError, match=r"val_pairs.txt: there is no ver_data/"):
        read_manifest(tmp_path)


def test_dev_identities_unknown_to_train_become_minus_one_and_are_noted(tmp_path: Path) -> None:
    make_labelled(tmp_path / "cls_data" / "train", people(3, 2))
    make_labelled(tmp_path / "cls_data" / "dev", {"id00": ["a.png"], "zoe": ["b.png", "c.png"]})
    manifest = read_manifest(tmp_path)
    assert manifest.identities == ("id00", "id01", "id02")
    assert manifest.dev is not None
    assert manifest.dev.labels.tolist() == [0, -1, -1]
    assert "dev: 2 images of 1 identities that train lacks" in manifest.notes


def test_one_identity_and_single_images_are_read_without_pairs(tmp_path: Path) -> None:
    make_folders(tmp_path / "one" / "train", people(1, 5))
    make_folders(tmp_path / "many" / "train", people(50, 1))
    for folder, identities in (("one", 1), ("many", 50)):
        manifest = read_manifest(tmp_path / folder)
        assert len(manifest.identities) == identities
        assert manifest.val_pairs is None
        assert any("no labelled pairs" in note for note in manifest.notes)


def test_training_images_without_labels_are_refused(tmp_path: Path) -> None:
    make_labelled(tmp_path / "cls_data" / "train", people(3, 2), labels=False)
    with pytest.raises(DataError, match="training images have no labels"):
        read_manifest(tmp_path)


def test_missing_folder_names_the_next_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder.*\n.*facever data synth"):
        read_manifest(tmp_path / "absent")


def test_empty_and_unknown_folders_tell_what_was_looked_for_and_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the folder is empty") as caught:
        read_manifest(tmp_path)
    for text in ("cls_data/train/ (hw2p2)", "pairs.txt (lfw)", "facever data inspect"):
        assert text in str(caught.value)
    save_image(tmp_path / "pictures" / "a.png")
    with pytest.raises(DataError, match="found: pictures/"):
        read_manifest(tmp_path)


def test_an_empty_training_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cls_data" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match="no training images"):
        read_manifest(tmp_path)


def test_two_data_sets_side_by_side_are_an_error_that_names_both(tmp_path: Path) -> None:
    make_hw2p2(tmp_path / "one")
    make_hw2p2(tmp_path / "two")
    with pytest.raises(DataError, match=r"several data sets: .*one, .*two"):
        read_manifest(tmp_path)


def test_a_read_only_folder_is_read(tmp_path: Path) -> None:
    make_hw2p2(tmp_path)
    tmp_path.chmod(0o555)
    try:
        assert len(read_manifest(tmp_path).train) == 20
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize("what", ["image", "identity", "split"])
def test_links_out_of_the_root_are_refused(tmp_path: Path, what: str) -> None:
    away = make_folders(tmp_path / "away", people(2, 2))
    root = tmp_path / "data"
    make_folders(root / "train", people(3, 2))
    link = {"image": "train/id00/x.png", "identity": "train/x", "split": "dev"}[what]
    target = {"image": away / "id00" / "0_0_0.png", "identity": away / "id00", "split": away}[what]
    (root / link).symlink_to(target)
    with pytest.raises(DataError, match=f"{link}: links out of the data folder to .*away"):
        read_manifest(root)


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    make_hw2p2(tmp_path / "scratch")
    (tmp_path / "data").symlink_to(tmp_path / "scratch")
    assert len(read_manifest(tmp_path / "data").train) == 20


def test_a_linked_data_set_is_not_entered_but_pointed_at(tmp_path: Path) -> None:
    make_hw2p2(tmp_path / "scratch")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "hw2p2").symlink_to(tmp_path / "scratch")
    with pytest.raises(DataError, match=r"give data.root=.*data/hw2p2"):
        read_manifest(tmp_path / "data")


# --- lists ------------------------------------------------------------------------------------


def test_images_and_pairs_can_be_left_out(tmp_path: Path) -> None:
    manifest = read_manifest(make_hw2p2(tmp_path))
    rest = manifest.train.without([0, 19])
    assert rest.paths == manifest.train.paths[1:19]
    np.testing.assert_array_equal(rest.labels, manifest.train.labels[1:19])
    pairs = manifest.val_pairs
    assert pairs is not None
    left = pairs.without([pairs.images.index("ver_data/A.png")])
    assert left.rows == (("D.png", "B.png"),)
    assert left.images == ("ver_data/D.png", "ver_data/B.png")
    assert left.mated.tolist() == [0]


def test_undecodable_file_names_survive(tmp_path: Path) -> None:
    """Old archives hold names in Latin-1; Python carries their bytes through."""
    make_folders(tmp_path / "train", people(3, 2))
    make_folders(tmp_path / "dev", people(3, 2))
    name = os.fsdecode(b"caf\xe9.png")
    save_image(tmp_path / "train" / "id00" / "a.png").rename(tmp_path / "train" / "id00" / name)
    assert name in names(read_manifest(tmp_path))
