"""Drawn faces: the same numbers give the same bytes, people stay themselves, files are exact."""

import csv
import hashlib
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facever.data.manifest import read_manifest
from facever.data.synth import LAYOUTS, MEASURED, render, synthesise
from facever.data.synth.layouts import find_layout
from facever.data.synth.plan import Counts
from facever.errors import ConfigError, DataError, FaceverError, StorageError

SMALL = {
    "identities": 4,
    "images": 3,
    "size": 32,
    "val_pairs": 10,
    "test_pairs": 20,
    "ver_identities": 8,
}
ALL_LAYOUTS = sorted(LAYOUTS)


def small(out: Path, **changes) -> Counts:
    # LFW's ten folds want twenty people of their own.
    people = {"ver_identities": 40, "test_pairs": 40} if changes.get("layout") == "LFW" else {}
    return synthesise(out, **(SMALL | people | changes))


def hashes(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def lines(path: Path) -> list[list[str]]:
    text = path.read_bytes().decode()
    assert text.endswith("\n")
    assert "\r" not in text
    return [line.split() for line in text.splitlines()]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def identity_of(root: Path) -> dict[str, str]:
    """Path of every picture -> identity, from the side file."""
    return {row["path"]: row["identity"] for row in table(root / "quality.csv")}


def rank(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values)).astype(float)


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(rank(one), rank(other))[0, 1])


def sharpness(pixels: np.ndarray) -> np.ndarray:
    """Variance of the Laplacian of pictures smoothed enough that noise is not taken for detail."""
    grey = pixels.astype(float).mean(axis=3)
    for axis in (1, 2):
        grey = grey + np.roll(grey, 1, axis) + np.roll(grey, -1, axis)
    around = sum(np.roll(grey, step, axis) for step in (1, -1) for axis in (1, 2))
    contrast = grey.std(axis=(1, 2)) + 1.0
    return (4 * grey - around)[:, 1:-1, 1:-1].std(axis=(1, 2)) / contrast


# --- the same numbers, the same bytes ------------------------------------------------------


def test_a_picture_does_not_depend_on_what_is_drawn_with_it():
    """Batches differ in length and company; vector tails must not round differently."""
    keys = [(identity, image) for identity in range(7) for image in range(3)]
    together = render(*zip(*keys, strict=True), size=48, seed=3).pixels
    for i in (0, 4, 13, 20):
        alone = render([keys[i][0]], [keys[i][1]], size=48, seed=3).pixels[0]
        assert np.array_equal(together[i], alone)
    backwards = render(*zip(*keys[::-1], strict=True), size=48, seed=3).pixels
    assert np.array_equal(together, backwards[::-1])


def test_files_do_not_depend_on_the_number_of_workers(tmp_path, monkeypatch):
    monkeypatch.setattr("facever.data.synth.writing._POOL_SHOTS", 1)
    for workers in (1, 3):
        small(tmp_path / str(workers), workers=workers)
    assert hashes(tmp_path / "1") == hashes(tmp_path / "3")


def test_another_seed_makes_other_people_and_other_pairs(tmp_path):
    for seed in (0, 1):
        small(tmp_path / str(seed), seed=seed)
    zero, one = hashes(tmp_path / "0"), hashes(tmp_path / "1")
    train = [path for path in zero if path.startswith("cls_data/train/images/")]
    assert not {zero[path] for path in train} & {one[path] for path in train}
    assert zero["val_pairs.txt"] != one["val_pairs.txt"]


def test_no_two_pictures_are_the_same(tmp_path):
    small(tmp_path / "out")
    found = [digest for path, digest in hashes(tmp_path / "out").items() if path.endswith(".jpg")]
    assert len(set(found)) == len(found)


# --- faces ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 45, 112, 160])
def test_every_size_shows_the_same_picture(size):
    """Lengths are shares of the image: the small one is the large one made smaller."""
    identities = list(range(6))
    pictures = render(identities, [0] * 6, size=size).pixels
    assert pictures.shape == (6, size, size, 3)
    assert pictures.dtype == np.uint8
    reference = render(identities, [0] * 6, size=96).pixels
    for one, other in zip(pictures, reference, strict=True):
        ours = np.asarray(Image.fromarray(one).resize((16, 16), Image.Resampling.BOX), float)
        theirs = np.asarray(Image.fromarray(other).resize((16, 16), Image.Resampling.BOX), float)
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.9


def test_the_nearest_mean_of_the_pixels_tells_people_apart_far_above_chance():
    people, images = 20, 14
    keys = [(identity, image) for identity in range(people) for image in range(images)]
    drawn = render(*zip(*keys, strict=True), size=32)
    pixels = drawn.pixels.reshape(people, images, -1).astype(float)
    means = pixels[:, : images // 2].mean(axis=1)
    queries = pixels[:, images // 2 :]
    distances = ((queries[:, :, None] - means) ** 2).sum(axis=-1)
    right = (distances.argmin(axis=-1) == np.arange(people)[:, None]).mean()
    assert 3.0 / people < right < 0.95


def test_quality_follows_measured_sharpness():
    keys = [(identity, image) for identity in range(15) for image in range(12)]
    drawn = render(*zip(*keys, strict=True), size=64)
    assert correlation(drawn.quality, sharpness(drawn.pixels)) > 0.3
    whole = drawn.known["resolution"] == 1.0
    assert correlation(drawn.known["blur"][whole], sharpness(drawn.pixels[whole])) < -0.3


def test_quality_spreads_over_its_range_and_every_damage_lowers_it():
    keys = [(identity, image) for identity in range(20) for image in range(10)]
    known = render(*zip(*keys, strict=True), size=32).known
    assert set(known) == set(MEASURED)
    assert known["quality"].min() > 0.0
    assert known["quality"].max() <= 1.0
    assert np.quantile(known["quality"], 0.1) < 0.3
    assert np.quantile(known["quality"], 0.9) > 0.6
    for name, sign in {
        "blur": -1, "noise": -1, "occlusion": -1, "harshness": -1, "resolution": 1, "jpeg": 1,
    }.items():  # fmt: skip
        assert sign * np.corrcoef(known["quality"], known[name])[0, 1] > 0.0, name


# --- layouts -------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ALL_LAYOUTS)
def test_quality_csv_lists_every_picture_once(tmp_path, layout):
    counts = small(tmp_path / "out", layout=layout)
    root = tmp_path / "out"
    pictures = {path.relative_to(root).as_posix() for path in root.rglob("*.jpg")}
    rows = table(root / "quality.csv")
    assert [*rows[0]] == ["path", "identity", *MEASURED]
    assert sorted(row["path"] for row in rows) == sorted(pictures)
    assert len(pictures) == counts.train + counts.dev + counts.test + counts.verification
    with Image.open(root / rows[0]["path"]) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (32, 32), "RGB")


@pytest.mark.parametrize(
    ("layout", "dev", "pairs"), [("S25", "dev", ""), ("S25-mirror", "val", "ver_data/")]
)
def test_s25_labels_and_pairs_are_written_as_in_the_competition(tmp_path, layout, dev, pairs):
    root = tmp_path / "out"
    counts = small(root, layout=layout)
    assert (counts.train, counts.dev, counts.test) == (12, 4, 4)
    truth = identity_of(root)
    for split in ("train", dev, "test"):
        folder = root / "cls_data" / split
        rows = lines(folder / "labels.txt")
        assert sorted(name for name, _ in rows) == sorted(p.name for p in folder.glob("images/*"))
        assert all(truth[f"cls_data/{split}/images/{name}"] == label for name, label in rows)
        assert {label for _, label in rows} == {"0", "1", "2", "3"}
        labels = [label for _, label in rows]
        assert split != "train" or labels != sorted(labels)

    val = lines(root / f"{pairs}val_pairs.txt")
    assert len(val) == counts.val_pairs == 10
    assert sum(row[2] == "1" for row in val) == 5
    for left, right, mated in val:
        same = truth[f"ver_data/{left}"] == truth[f"ver_data/{right}"]
        assert mated == str(int(same))
        assert left != right
    test = lines(root / f"{pairs}test_pairs.txt")
    assert {len(row) for row in test} == {2}
    answers = table(root / "test_truth.csv")
    assert [[row["left"], row["right"]] for row in answers] == test
    assert all(
        row["mated"]
        == str(int(truth[f"ver_data/{row['left']}"] == truth[f"ver_data/{row['right']}"]))
        for row in answers
    )


def test_people_of_train_val_and_test_pairs_are_all_different(tmp_path):
    """Otherwise EER is measured on people the encoder, or the choice of a model, has seen."""
    root = tmp_path / "out"
    small(root)
    truth = identity_of(root)
    train = {identity for path, identity in truth.items() if path.startswith("cls_data/")}
    shown = {
        name: {truth[f"ver_data/{image}"] for row in lines(root / name) for image in row[:2]}
        for name in ("val_pairs.txt", "test_pairs.txt")
    }
    for one, other in combinations([train, *shown.values()], 2):
        assert len(one) == 4
        assert not one & other
    used = {f"ver_data/{i}" for n in shown for row in lines(root / n) for i in row[:2]}
    assert used == {path for path in truth if path.startswith("ver_data/")}


def test_pairs_are_distinct_whatever_their_order(tmp_path):
    small(tmp_path / "out", test_pairs=40)
    pairs = [frozenset(row[:2]) for row in lines(tmp_path / "out" / "test_pairs.txt")]
    assert len(pairs) == len(set(pairs)) == 40


def test_f24_has_folders_per_identity_and_its_pairs_twice(tmp_path):
    root = tmp_path / "out"
    small(root, layout="F24")
    assert sorted(p.name for p in (root / "cls_data").iterdir()) == ["dev", "train"]
    people = sorted(p.name for p in (root / "cls_data" / "train").iterdir())
    assert people == ["n000000", "n000001", "n000002", "n000003"]
    text = lines(root / "val_pairs.txt")
    assert (root / "val_pairs.csv").read_text().splitlines() == [
        "left,right,mated",
        *(",".join(row) for row in text),
    ]
    assert (root / "test_pairs.csv").read_text().splitlines()[0] == "left,right"


def test_f20_names_images_with_their_folder(tmp_path):
    root = tmp_path / "out"
    small(root, layout="F20")
    assert {p.name for p in root.iterdir() if p.is_dir()} == {
        "train_data", "val_data", "test_data", "verification_data",
    }  # fmt: skip
    for left, right, mated in lines(root / "verification_pairs_val.txt"):
        assert mated in ("0", "1")
        assert left.startswith("verification_data/")
        assert (root / left).is_file()
        assert (root / right).is_file()
    assert {len(row) for row in lines(root / "verification_pairs_test.txt")} == {2}


def test_s22_keeps_its_two_verification_sets_apart(tmp_path):
    root = tmp_path / "out"
    small(root, layout="S22")
    val = table(root / "verification" / "verification_dev.csv")
    assert [*val[0]] == ["img1", "img2", "gt"]
    assert all(row["img1"].startswith("dev/") for row in val)
    assert all((root / "verification" / row["img2"]).is_file() for row in val)
    test = table(root / "verification" / "verification_test.csv")
    assert [*test[0]] == ["img1", "img2"]
    assert {p.name for p in (root / "classification").iterdir()} == {"train", "dev", "test"}


@pytest.mark.parametrize(
    ("layout", "folders"),
    [("folders", ["dev", "train"]), ("tree", [f"n00000{i}" for i in range(4)])],
)
def test_folder_layouts_hold_nothing_but_people(tmp_path, layout, folders):
    root = tmp_path / "out"
    counts = small(root, layout=layout)
    assert sorted(p.name for p in root.iterdir() if p.is_dir()) == folders
    assert [p.name for p in root.iterdir() if p.is_file()] == ["quality.csv"]
    assert counts.val_pairs == counts.test_pairs == counts.verification == 0


def test_lfw_files_have_lfw_lines(tmp_path):
    root = tmp_path / "out"
    small(root, layout="LFW")
    rows = [line.split("\t") for line in (root / "pairs.txt").read_text().splitlines()]
    assert rows[0] == ["10", "2"]
    assert [len(row) for row in rows[1:]] == [3, 3, 4, 4] * 10
    people_of_folds = []
    for start in range(1, len(rows), 4):
        people = set()
        for row in rows[start : start + 4]:
            left, first = row[0], row[1]
            right, second = (left, row[2]) if len(row) == 3 else (row[2], row[3])
            assert (left == right) == (len(row) == 3)
            for name, number in ((left, first), (right, second)):
                assert (root / name / f"{name}_{int(number):04d}.jpg").is_file()
                people.add(name)
        people_of_folds.append(people)
    assert not any(one & other for one, other in combinations(people_of_folds, 2))
    for name in ("pairsDevTrain.txt", "pairsDevTest.txt"):
        rows = [line.split("\t") for line in (root / name).read_text().splitlines()]
        assert [len(row) for row in rows] == [1] + [3] * 5 + [4] * 5
        assert rows[0] == ["5"]


def test_csv_manifest_names_every_split(tmp_path):
    root = tmp_path / "out"
    small(root, layout="csv")
    rows = table(root / "manifest.csv")
    assert [*rows[0]] == ["path", "identity", "split"]
    assert {row["split"] for row in rows} == {"train", "dev", "test"}
    assert {row["path"] for row in rows} == {
        p.relative_to(root).as_posix() for p in (root / "images").iterdir()
    }
    assert [*table(root / "val_pairs.csv")[0]] == ["left", "right", "mated"]
    assert all((root / row["left"]).is_file() for row in table(root / "test_pairs.csv"))


@pytest.mark.parametrize(
    ("name", "same"), [("F25", "S25"), ("s26", "S25"), ("S21", "F20"), ("s24", "F22")]
)
def test_terms_of_one_layout_are_drawn_alike(tmp_path, name, same):
    small(tmp_path / "named", layout=name)
    small(tmp_path / "same", layout=same)
    assert hashes(tmp_path / "named") == hashes(tmp_path / "same")


def test_f26_hides_the_labels_of_its_test_images_and_has_a_sample(tmp_path):
    root = tmp_path / "out"
    counts = small(root, layout="F26")
    assert not (root / "cls_data/test/labels.txt").exists()
    rows = (root / "sample_submission.csv").read_text().splitlines()
    assert rows[:2] == ["ID,Class,Score", "0,0,0"]
    assert len(rows) == 1 + counts.test + counts.test_pairs


def test_f24_verifies_faces_that_are_not_aligned(tmp_path):
    root = tmp_path / "out"
    small(root, layout="F24")
    sizes = []
    for path in (root / "ver_data").iterdir():
        with Image.open(path) as image:
            sizes.append(image.size)
    assert all(width != height and min(width, height) > 32 for width, height in sizes)
    assert len(set(sizes)) > len(sizes) / 2
    with Image.open(next((root / "cls_data/train/n000000").iterdir())) as image:
        assert image.size == (32, 32)


def test_f22_asks_who_somebody_is_or_nobody(tmp_path):
    root = tmp_path / "out"
    counts = small(root, layout="F22", test_pairs=12)
    assert {path.name for path in root.iterdir() if path.is_dir()} == {
        "train", "dev", "test", "known", "unknown_dev", "unknown_test",
    }  # fmt: skip
    truth, known = identity_of(root), {path.name for path in (root / "known").iterdir()}
    assert (len(known), counts.val_probes, counts.test_probes) == (4, 10, 12)
    assert not known & {path.name for path in (root / "train").iterdir()}
    rows = table(root / "verification_dev.csv")
    assert [*rows[0]] == ["id", "label"]
    files = sorted(path.name for path in (root / "unknown_dev").iterdir())
    assert [row["label"] for row in rows] == [truth[f"unknown_dev/{name}"] for name in files]
    strangers = [row["label"] for row in rows if row["label"] not in known]
    assert strangers == ["n000000"] * 2
    answers = table(root / "test_truth.csv")
    assert [row["id"] for row in answers] == [str(i) for i in range(12)]


def test_rfiw_pairs_images_of_families(tmp_path):
    root = tmp_path / "out"
    small(root, layout="RFIW")
    relations = table(root / "train_relationships.csv")
    assert [*relations[0]] == ["p1", "p2"]
    for row in relations:
        assert row["p1"].split("/")[0] == row["p2"].split("/")[0]
        assert (root / "train" / row["p1"]).is_dir()
        assert (root / "train" / row["p2"]).is_dir()
    sample = table(root / "sample_submission.csv")
    assert [*sample[0]] == ["img_pair", "is_related"]
    assert all((root / "test" / n).is_file() for r in sample for n in r["img_pair"].split("-"))


@pytest.mark.parametrize(
    ("layout", "size"), [("S25", 112), ("F20", 64), ("F22", 224), ("S22", 112), ("RFIW", 224)]
)
def test_pictures_have_the_competition_s_size_unless_another_is_asked_for(layout, size):
    assert find_layout(layout).size == size


@pytest.mark.parametrize("layout", sorted({*ALL_LAYOUTS} - {"LFW", "tree", "folders"}))
def test_facever_reads_back_what_was_written(tmp_path, layout):
    counts = small(tmp_path / "out", layout=layout)
    root = tmp_path / "out"
    manifest, truth = read_manifest(root), identity_of(root)
    # S19's dev split shows nobody twice, so two people are held out for pairs, with their images.
    held_out = 2 if layout == "S19" else 0
    assert len(manifest.identities) == counts.identities - held_out
    train = counts.train - held_out * counts.train // counts.identities
    shown = [(manifest.train, train), (manifest.dev, counts.dev)]
    for images, count in [*shown, (manifest.test, counts.test)]:
        assert len(images or ()) == count or layout == "RFIW"
        for path, label in zip(images.paths, images.labels, strict=True) if images else ():
            assert label == -1 or truth[path] == manifest.identities[label]
    if layout not in ("S19", "F22", "RFIW"):
        assert len(manifest.val_pairs) == counts.val_pairs
    if manifest.val_pairs is not None:
        paths = manifest.val_pairs.images
        for left, right, mated in zip(
            manifest.val_pairs.left, manifest.val_pairs.right, manifest.val_pairs.mated, strict=True
        ):
            assert (truth[paths[left]] == truth[paths[right]]) == bool(mated)
    assert len(manifest.test_pairs or ()) == counts.test_pairs
    if manifest.test_pairs is not None:
        assert set(manifest.test_pairs.mated.tolist()) == {-1}
        hidden = [(row["left"], row["right"]) for row in table(root / "test_truth.csv")]
        assert [*manifest.test_pairs.rows] == hidden


def test_known_people_and_probes_are_read_back_as_planned(tmp_path):
    counts = small(tmp_path / "out", layout="F22")
    open_set, truth = read_manifest(tmp_path / "out").open_set, identity_of(tmp_path / "out")
    for images in (open_set.known, open_set.dev):
        for path, label in zip(images.paths, images.labels.tolist(), strict=True):
            assert truth[path] == ("n000000" if label < 0 else open_set.identities[label])
    assert len(open_set.dev) == counts.val_probes
    assert len(open_set.test) == counts.test_probes
    assert list(open_set.test.paths) == sorted(open_set.test.paths)


def test_families_to_validate_by_are_not_trained_on(tmp_path):
    small(tmp_path / "out", layout="RFIW", images=6)
    manifest = read_manifest(tmp_path / "out")
    assert manifest.layout == "rfiw"
    assert manifest.identities == ("F0001", "F0002", "F0003", "F0004")
    pairs = manifest.val_pairs
    assert {path.split("/")[1][:3] for path in pairs.images} == {"F09"}
    assert pairs.mated.mean() == 0.5
    for left, right, mated in zip(pairs.left, pairs.right, pairs.mated, strict=True):
        one, other = pairs.images[left].split("/"), pairs.images[right].split("/")
        assert (one[1] == other[1]) == mated
        assert one[1:3] != other[1:3]


# --- refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"identities": 1}, ConfigError, "identities: 1"),
        ({"images": 0}, ConfigError, "images: 0"),
        ({"size": 31}, ConfigError, "size: 31"),
        ({"seed": -1}, ConfigError, "seed: -1"),
        ({"val_pairs": 1}, ConfigError, "val_pairs: 1"),
        ({"ver_identities": 3}, ConfigError, "ver_identities: 3"),
        ({"workers": 0}, ConfigError, "workers: 0"),
        ({"layout": "S52"}, ConfigError, "S25"),
        ({"layout": "folder"}, ConfigError, "nearest is folders"),
        ({"layout": "LFW", "ver_identities": 8}, DataError, "10 fold"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, changes, kind, words):
    with pytest.raises(kind, match=words):
        small(tmp_path / "out", **changes)
    assert not list(tmp_path.iterdir())


def test_unequal_or_negative_numbers_are_refused():
    with pytest.raises(DataError, match="2 identity_ids but 1"):
        render([0, 1], [0])
    with pytest.raises(DataError, match="negative"):
        render([-1], [0])


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        small(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    small(tmp_path / "out", layout="tree")
    assert (tmp_path / "out" / "quality.csv").is_file()


def test_nothing_half_written_is_left_when_it_is_interrupted(tmp_path):
    def interrupt(done, total):
        assert not (tmp_path / "out").exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small(tmp_path / "out", progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_refuses_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="not written"):
        small(tmp_path / "file" / "out")
    assert issubclass(StorageError, FaceverError)


def test_progress_ends_at_the_number_of_pictures(tmp_path):
    seen = []
    counts = small(tmp_path / "out", layout="tree", progress=lambda *step: seen.append(step))
    assert seen[-1] == (counts.train, counts.train)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
