"""The two data sets for loops of one's own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import make_hw2p2
from torch.utils.data import DataLoader

import facever.data
from facever.data import ImageDataset, ImagePairDataset, read_manifest, read_pairs
from facever.data.images import read_rgb
from facever.errors import ConfigError, DataError
from facever.transforms import EvalTransform


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_hw2p2(tmp_path)


def test_images_come_with_their_labels_in_the_order_of_the_manifest(root: Path) -> None:
    manifest = read_manifest(root)
    dataset = ImageDataset(root)
    assert len(dataset) == 20
    assert dataset.identities == manifest.identities
    assert dataset.paths == manifest.train.paths
    assert dataset.labels.dtype == np.int64
    for i in (0, 7, 19):
        image, label = dataset[i]
        assert type(label) is int
        assert label == manifest.train.labels[i]
        expected = EvalTransform(112)(read_rgb(manifest.root / dataset.paths[i]))
        assert image.shape == (3, 112, 112)
        torch.testing.assert_close(image, expected)


def test_a_manifest_and_a_split_can_be_given(root: Path) -> None:
    manifest = read_manifest(root)
    assert len(ImageDataset(manifest, split="dev")) == 5
    with pytest.raises(DataError, match="no test images"):
        ImageDataset(manifest, split="test")
    with pytest.raises(ConfigError, match="expected train, dev or test"):
        ImageDataset(manifest, split="val")


def test_the_transform_sees_square_uint8_images(root: Path) -> None:
    seen = []

    def transform(image: np.ndarray) -> torch.Tensor:
        seen.append((image.shape, image.dtype))
        return torch.zeros(3, 20, 20)

    image, _ = ImageDataset(root, transform=transform, image_size=20)[0]
    assert image.shape == (3, 20, 20)
    assert seen == [((20, 20, 3), np.dtype(np.uint8))]


def test_a_pack_changes_no_pixel(root: Path) -> None:
    plain, packed = (ImageDataset(root, image_size=8, pack=pack) for pack in ("files", "memmap"))
    indices = np.arange(20)
    np.testing.assert_array_equal(plain.gather(indices), packed.gather(indices))
    assert (root / ".facever").is_dir()


def test_loader_workers_fetch_batches(root: Path) -> None:
    dataset = ImageDataset(root, image_size=8)
    loader = DataLoader(dataset, batch_size=10, num_workers=1)
    images, labels = next(iter(loader))
    assert images.shape == (10, 3, 8, 8)
    assert labels.tolist() == dataset.labels[:10].tolist()


def test_pairs_come_with_their_truth(root: Path) -> None:
    dataset = ImagePairDataset(root / "val_pairs.txt", root / "ver_data", image_size=8)
    assert len(dataset) == 3
    assert dataset.images == ("A.png", "B.png", "C.png", "D.png")
    left, right, mated = dataset[2]
    assert mated == 0
    transform = EvalTransform(8)
    torch.testing.assert_close(left, transform(read_rgb(root / "ver_data" / "D.png")))
    torch.testing.assert_close(right, transform(read_rgb(root / "ver_data" / "B.png")))
    assert dataset.gather(dataset.left).shape == (3, 8, 8, 3)


def test_pairs_without_labels_give_minus_one(root: Path) -> None:
    pairs = read_pairs(root / "test_pairs.txt", root / "ver_data")
    assert [ImagePairDataset(pairs)[i][2] for i in range(2)] == [-1, -1]


def test_a_pair_list_of_a_manifest_knows_where_its_images_are(root: Path) -> None:
    pairs = read_manifest(root).val_pairs
    assert pairs is not None
    assert ImagePairDataset(pairs, image_size=8)[0][2] == 1


def test_packs_of_two_pair_files_live_side_by_side(root: Path) -> None:
    manifest = read_manifest(root)
    for pairs in (manifest.val_pairs, manifest.test_pairs):
        assert pairs is not None
        ImagePairDataset(pairs, image_size=8, pack="memmap")
    names = {file.name.partition("-")[0] for file in (root / ".facever").glob("*.u8")}
    assert names == {"val_pairs", "test_pairs"}


def test_a_pair_file_needs_its_folder(root: Path) -> None:
    with pytest.raises(ConfigError, match="expected the folder of its images"):
        ImagePairDataset(root / "val_pairs.txt")


def test_public_names_are_listed_and_others_are_not_there() -> None:
    assert set(facever.data.__all__) <= set(dir(facever.data))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        facever.data.Nothing  # noqa: B018
