"""The small competition of real photographs, where it is at hand beside the checkout."""

import zipfile
from pathlib import Path

import pytest
from conftest import TINY

ARCHIVE = Path(__file__).parents[2] / "shared" / "data" / "faces_hw2p2.zip"

pytestmark = pytest.mark.skipif(not ARCHIVE.exists(), reason=f"no {ARCHIVE.name} in ../shared/data")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder / "faces_hw2p2"


def test_the_archive_reads_as_the_competition_s_layout(real):
    from facever.data import read_manifest, read_pairs

    manifest = read_manifest(real.parent)
    assert manifest.layout == "hw2p2"
    assert (len(manifest.train), len(manifest.identities)) == (17_220, 3_025)
    assert manifest.dev is not None
    assert len(manifest.dev) == 1_075
    assert manifest.val_pairs is not None
    assert (manifest.val_pairs.mated == 1).sum() == (manifest.val_pairs.mated == 0).sum() == 500
    assert manifest.test_pairs is not None
    assert len(manifest.test_pairs) == 6_000
    assert len(read_pairs(real / "more_val_pairs.txt", real / "ver_data")) == 3_000


def test_a_short_training_on_real_faces_ends_in_a_csv_of_every_pair(facever, real, tmp_path):
    trained = facever("train", f"data.root={real}", *TINY, "data.identities=100")
    assert trained.code == 0, trained.err
    answer = facever("submit")
    assert answer.code == 0, answer.err
    rows = (tmp_path / "submissions" / "train-1.csv").read_text().splitlines()
    assert len(rows) == 6_001
