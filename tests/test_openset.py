"""Known people, probes, and families: read as the competitions have them, or refused."""

from pathlib import Path

import pytest
from data_helpers import make_folders, people, save_image

from facever.data.manifest import read_manifest
from facever.errors import DataError

KNOWN = {"n000005": ["a.png"], "n000007": ["b.png", "c.png"]}
LABELS = "id,label\n0,n000007\n1,n000000\n2,n000005\n"


def make_f22(root: Path, *, classification: str = "", verification: str = "") -> Path:
    """Write three people to train on, two who are known, and three probes of each kind."""
    make_folders(root / classification / "train", people(3, 2))
    make_folders(root / classification / "dev", people(3, 1), seed=50)
    base = root / verification
    make_folders(base / "known", KNOWN, seed=100)
    for split in ("unknown_dev", "unknown_test"):
        for i in (10, 2, 1):  # as text, 10 comes before 2
            save_image(base / split / f"{i}.png", i)
    (base / "verification_dev.csv").write_text(LABELS)
    return root


@pytest.mark.parametrize(
    ("classification", "verification"),
    [
        ("", ""),
        ("classification", "verification"),
        ("11-785-f22-hw2p2-classification/classification", "verification"),
        ("11-785-s23-hw2p2-classification", "11-785-s23-hw2p2-verification"),
    ],
)
def test_identification_is_read_from_every_archive_of_the_course(
    tmp_path, classification, verification
):
    make_f22(tmp_path, classification=classification, verification=verification)
    manifest = read_manifest(tmp_path)
    found = manifest.open_set
    assert manifest.layout == "f22"
    assert found.identities == ("n000005", "n000007")
    assert found.known.labels.tolist() == [0, 1, 1]
    assert [Path(path).name for path in found.dev.paths] == ["1.png", "10.png", "2.png"]
    assert found.dev.labels.tolist() == [1, -1, 0]
    assert found.test.labels.tolist() == [-1, -1, -1]
    assert manifest.val_pairs.labelled
    assert set(manifest.val_pairs.images) <= {*found.known.paths, *found.dev.paths}


def test_labels_may_be_called_otherwise_and_lack_numbers(tmp_path):
    make_f22(tmp_path)
    (tmp_path / "verification_dev.csv").unlink()
    (tmp_path / "dev_identities.csv").write_text("label\nn000007\nn000000\nn000005\n")
    assert read_manifest(tmp_path).open_set.dev.labels.tolist() == [1, -1, 0]


def test_numbers_say_which_image_a_row_is_about(tmp_path):
    make_f22(tmp_path)
    header, *rows = LABELS.splitlines()
    text = "\n".join([header, *reversed(rows)])
    (tmp_path / "verification_dev.csv").write_text(text)
    assert read_manifest(tmp_path).open_set.dev.labels.tolist() == [1, -1, 0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LABELS.replace("n000005", "n000009"), r"1 names .* not among the known people.*'n000009'"),
        (LABELS + "3,n000005\n", "4 rows for 3 images of unknown_dev/"),
        (LABELS.replace("2,", "1,"), "line 4: id '1', as in line 3"),
        (LABELS.replace("2,", "3,"), "line 4: id '3'"),
        (LABELS.replace("2,", "x,"), "line 4: id 'x'"),
        (LABELS.replace("2,n000005", "2"), "line 4: 1 columns"),
        (LABELS.replace("label", "who"), r"columns \('id', 'who'\)"),
        ("", "empty file"),
    ],
)
def test_labels_of_probes_that_do_not_fit_are_refused(tmp_path, text, words):
    make_f22(tmp_path)
    (tmp_path / "verification_dev.csv").write_text(text)
    with pytest.raises(DataError, match=f"(?s)verification_dev.csv.*{words}"):
        read_manifest(tmp_path)


def test_nobody_known_is_refused(tmp_path):
    make_f22(tmp_path)
    for path in (tmp_path / "known").rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="no images of known people"):
        read_manifest(tmp_path)


def test_without_labels_dev_serves_for_pairs(tmp_path):
    make_f22(tmp_path)
    (tmp_path / "verification_dev.csv").unlink()
    make_folders(tmp_path / "dev", people(3, 3), seed=70)
    manifest = read_manifest(tmp_path)
    assert manifest.open_set.dev is None
    assert set(manifest.val_pairs.images) <= set(manifest.dev.paths)


# --- families --------------------------------------------------------------------------------


def make_rfiw(root: Path) -> Path:
    """Write two families to train on and two to validate by, of two members each."""
    for family in ("F0001", "F0002", "F0901", "F0902"):
        make_folders(
            root / "train" / family, {m: [f"{m}_{i}.png" for i in range(3)] for m in ("M1", "M2")}
        )
    relations = [f"{f}/M1,{f}/M2" for f in ("F0001", "F0901", "F0902")]
    (root / "train_relationships.csv").write_text(
        "\n".join(["p1,p2", *relations, "F0003/M1,F0003/M2"])
    )
    for name in ("a", "b-c", "d"):
        save_image(root / "test" / f"{name}.png", len(name))
    (root / "sample_submission.csv").write_text(
        "img_pair,is_related\na.png-b-c.png,0\nb-c.png-d.png,0\n"
    )
    return root


def test_kinship_is_read_with_its_families_and_its_pairs(tmp_path):
    manifest = read_manifest(make_rfiw(tmp_path))
    assert manifest.layout == "rfiw"
    assert manifest.identities == ("F0001", "F0002")
    assert len(manifest.train) == 12
    assert manifest.val_pairs.mated.tolist() == [1] * 6 + [0] * 6
    assert manifest.test_pairs.rows == (("a.png", "b-c.png"), ("b-c.png", "d.png"))
    assert manifest.test_pairs.mated.tolist() == [-1, -1]
    assert manifest.sample == (tmp_path / "sample_submission.csv").resolve()


def test_families_without_a_relation_to_validate_by_are_trained_on(tmp_path):
    make_rfiw(tmp_path)
    (tmp_path / "train_relationships.csv").write_text("p1,p2\nF0001/M1,F0001/M2\n")
    manifest = read_manifest(tmp_path)
    people_seen = {*manifest.identities, *(p.split("/")[1] for p in manifest.val_pairs.images)}
    assert people_seen == {"F0001", "F0002", "F0901", "F0902"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("p1,p2\n", "names nobody of train/"),
        ("p1,p2\nF0001/M1,F0001\n", "line 2: 'F0001/M1,F0001'"),
        ("p1,p2\nF0001/M1,F0001/M2\nF0001/M1\n", "line 3: 1 columns"),
        ("p1,p2\nF0009/M1,F0009/M2\n", "names nobody of train/"),
    ],
)
def test_relations_that_cannot_be_read_are_refused(tmp_path, text, words):
    make_rfiw(tmp_path)
    (tmp_path / "train_relationships.csv").write_text(text)
    with pytest.raises(DataError, match=f"train_relationships.csv.*{words}"):
        read_manifest(tmp_path)
