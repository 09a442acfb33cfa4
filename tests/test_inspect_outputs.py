"""The cleaned manifest and the contact sheet that `data inspect` writes."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from data_helpers import make_folders, make_hw2p2, people, save_image
from PIL import Image

from facever.data.inspect import inspect
from facever.data.manifest import read_manifest
from facever.errors import DataError


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and ".facever" not in path.parts
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_hw2p2(tmp_path / "data")


def test_a_cleaned_manifest_is_the_data_without_what_is_broken(root: Path, tmp_path: Path) -> None:
    train, dev = (root / "cls_data" / split / "images" for split in ("train", "dev"))
    names = sorted(file.name for file in train.iterdir())
    unreadable, first, second, third, fourth = names[:5]
    labels = (root / "cls_data" / "train" / "labels.txt").read_text().splitlines()
    people_of = dict(line.split() for line in labels)
    (train / unreadable).write_bytes(b"")
    # A twin of one's own, two people in one picture, a picture of dev, one of the pairs.
    twin = next(n for n in names[5:] if people_of[n] == people_of[first])
    shutil.copy(train / first, train / twin)
    other = next(n for n in names[5:] if people_of[n] != people_of[second] and n != twin)
    shutil.copy(train / second, train / other)
    own = f"d_{people_of[third]}.png"
    shutil.copy(dev / own, train / third)
    shutil.copy(root / "ver_data" / "A.png", train / fourth)
    before = digests(root)
    cleaned = tmp_path / "clean" / "a b.csv"
    fixed = inspect(root, fix=cleaned).facts["fixed"]
    assert digests(root) == before

    prefix = "cls_data/train/images/"
    assert fixed["dropped"].pop(prefix + unreadable).startswith("not a readable image")
    assert fixed["dropped"] == {
        prefix + max(first, twin): f"same bytes as {prefix}{min(first, twin)}",
        prefix + third: f"same bytes as cls_data/dev/images/{own}",
        prefix + fourth: "same bytes as ver_data/A.png",
        **dict.fromkeys(
            (prefix + second, prefix + other),
            "labelled as " + " and ".join(sorted({people_of[second], people_of[other]})),
        ),
    }
    assert [set(c["paths"]) for c in fixed["conflicts"]] == [{prefix + second, prefix + other}]
    old, new = read_manifest(root), read_manifest(cleaned)
    gone = {unreadable, max(first, twin), third, fourth, second, other}
    kept = [
        (Path(path).name, old.identities[label])
        for path, label in zip(old.train.paths, old.train.labels, strict=True)
        if Path(path).name not in gone
    ]
    found = zip(new.train.paths, new.train.labels, strict=True)
    assert [(Path(path).name, new.identities[label]) for path, label in found] == kept
    assert [Path(path).name for path in new.dev.paths] == [
        Path(path).name for path in old.dev.paths
    ]
    assert [(new.val_pairs.left.tolist(), new.val_pairs.mated.tolist())] == [
        (old.val_pairs.left.tolist(), old.val_pairs.mated.tolist())
    ]


def test_pairs_of_unreadable_images_are_left_out_and_folds_stay(tmp_path: Path) -> None:
    root = tmp_path / "lfw"
    for person in ("Ann_A", "Bo_B", "Cy_C", "Di_D"):
        for k in (1, 2):
            save_image(root / person / f"{person}_{k:04d}.png", 10 * ord(person[0]) + k)
    for person in ("Eve", "Flo"):
        save_image(root / person / f"{person}_0001.png", 20 * ord(person[0]))
    (root / "pairs.txt").write_text(
        "2\t1\nAnn_A\t1\t2\nAnn_A\t1\tBo_B\t1\nCy_C\t1\t2\nCy_C\t1\tDi_D\t2\n"
    )
    (root / "Bo_B" / "Bo_B_0001.png").write_bytes(b"")
    fixed = inspect(root, fix=tmp_path / "out" / "x.csv").facts["fixed"]
    assert (fixed["pairs"], fixed["pairs_dropped"]) == (3, 1)
    pairs = read_manifest(tmp_path / "out" / "x.csv").val_pairs
    assert pairs.mated.tolist() == [1, 1, 0]
    assert pairs.fold.tolist() == [0, 1, 1]


def test_pairs_that_were_made_are_kept_and_names_stay_what_they_are(tmp_path: Path) -> None:
    odd = ["a b.png", " lead.png", 'quo"te.png', "semi;colon.png", "tab\there.png", "=1.png",
           "new\nline.png"]  # fmt: skip
    root = make_folders(tmp_path / "data", {f"00{i}": odd for i in range(12)})
    (root / "000" / b"\xff.png".decode("utf-8", "surrogateescape")).write_bytes(
        (root / "001" / "a b.png").read_bytes()[:-1] + b"!"
    )
    old = read_manifest(root)
    fixed = inspect(root, fix=tmp_path / "clean.csv").facts["fixed"]
    new = read_manifest(tmp_path / "clean.csv")
    assert "its name is not UTF-8" in fixed["dropped"].values()
    assert {f"data/{path}" for path in old.train.paths} - set(new.train.paths) == {
        f"data/{path}" for path in fixed["dropped"]
    }
    assert new.identities == old.identities
    assert new.val_pairs.mated.tolist() == old.val_pairs.mated.tolist()
    assert [f"data/{path}" for path in old.val_pairs.images] == list(new.val_pairs.images)


def test_nothing_is_written_over_or_into_the_data(root: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.csv"
    there.write_text("mine")
    for file in (root / "new.csv", root / "cls_data" / "new.csv", there):
        with pytest.raises(DataError, match=r"lies in the data folder|exists"):
            inspect(root, fix=file)
    (tmp_path / "pairs" / "val_pairs.csv").mkdir(parents=True)
    with pytest.raises(DataError, match=r"val_pairs.csv: exists"):
        inspect(root, fix=tmp_path / "pairs" / "x.csv")
    assert there.read_text() == "mine"
    with pytest.raises(DataError, match="no data set found"):
        inspect(tmp_path / "pairs", fix=tmp_path / "x.csv")


def test_the_contact_sheet_shows_each_split_and_copies_side_by_side(tmp_path: Path) -> None:
    root = tmp_path / "data"
    make_folders(root / "train", people(9, 5))
    make_folders(root / "dev", people(9, 1), seed=500)
    shutil.copy(root / "dev" / "id02" / "4_2_0.png", root / "train" / "id00" / "copy.png")
    (root / "train" / "id01" / "bad.png").write_bytes(b"")
    inspect(root, sheet=tmp_path / "out" / "sheet.png")
    with Image.open(tmp_path / "out" / "sheet.png") as image:
        pixels = np.asarray(image)
    # 24 of train, 9 of dev, those of pairs made of people held out, a copy beside its twin: four
    # captions, five rows of twelve.
    assert pixels.shape == (4 * 18 + 5 * 96, 12 * 96, 3)
    left, right = (pixels[-96:-2, 96 * i : 96 * i + 94] for i in range(2))
    assert np.array_equal(left, right)
    assert left.std() > 10
    assert (pixels[-96:, 2 * 96 :] == 255).all()
