"""Images and pairs as torch data sets, for loops of one's own."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from facever.data.lists import ImageList, Manifest, PairList
from facever.data.manifest import read_manifest
from facever.data.pack import FileImages, Images, PackMode, open_images
from facever.data.pairfiles import read_pairs
from facever.errors import ConfigError, DataError
from facever.tracking import note, progress
from facever.transforms import EvalTransform

# Of a pack; size, fingerprint and suffix have to fit into 255 bytes behind it.
_LONGEST_NAME = 40

Transform = Callable[[NDArray[np.uint8]], Any]
"""An image (S, S, 3) uint8 -> what the encoder takes, usually a tensor (3, S, S)."""


class ImageDataset(Dataset[tuple[Any, int]]):
    """Images of one split with their labels: `dataset[i] -> (transformed image, label)`.

    Args:
        manifest_or_dir: a manifest, or a folder that `read_manifest` reads.
        transform: takes (image_size, image_size, 3) uint8; None stands for `EvalTransform`.
        split: `train`, `dev` or `test`.
        image_size: side of the square that is cut out and resampled.
        pack: where images are kept once looked at: `auto`, `memmap`, `blob` or `files`.
    """

    def __init__(
        self,
        manifest_or_dir: Manifest | str | os.PathLike[str],
        transform: Transform | None = None,
        *,
        split: str = "train",
        image_size: int = 112,
        pack: PackMode = "files",
    ) -> None:
        manifest = manifest_or_dir
        if not isinstance(manifest, Manifest):
            manifest = read_manifest(manifest)
        images = _split(manifest, split)
        self.identities = manifest.identities
        self.paths = images.paths
        self.labels = images.labels
        self.transform = transform or EvalTransform(image_size)
        self._images = _open(images.root, images.paths, image_size, pack, split)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, int]]:
        """Fetch several images at once, as torch's DataLoader does for a batch."""
        images = map(self.transform, self.gather(np.asarray(indices)))
        return list(zip(images, self.labels[indices].tolist(), strict=True))

    @property
    def tier(self) -> str:
        """Where the images come from: `memmap`, `blob` or `files`."""
        return self._images.tier

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""
        return 3 * self._images.size**2 * len(self)

    def gather(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Fetch the images (B, S, S, 3) uint8 at these positions, before any transform."""
        return self._images.gather(indices)


class ImagePairDataset(Dataset[tuple[Any, Any, int]]):
    """Pairs of images: `dataset[i] -> (left, right, mated)`; mated is -1 where unknown.

    `images` (M) are the distinct paths, `left` and `right` (N,) index into them, so that each
    image need be embedded only once; `gather` fetches them by that index.

    Args:
        pairs: a pair list, or a pair file of any dialect.
        image_dir: where the images of a pair file lie; a pair list knows its own.
        transform: takes (image_size, image_size, 3) uint8; None stands for `EvalTransform`.
        image_size: side of the square that is cut out and resampled.
        pack: where images are kept once looked at: `auto`, `memmap`, `blob` or `files`.
    """

    def __init__(
        self,
        pairs: PairList | str | os.PathLike[str],
        image_dir: str | os.PathLike[str] | None = None,
        transform: Transform | None = None,
        image_size: int = 112,
        pack: PackMode = "files",
    ) -> None:
        if not isinstance(pairs, PairList):
            if image_dir is None:
                raise ConfigError(f"{pairs}: no image_dir; expected the folder of its images")
            pairs = read_pairs(pairs, image_dir)
        self.images = pairs.images
        self.left, self.right, self.mated = pairs.left, pairs.right, pairs.mated
        self.units = pairs.units
        self.transform = transform or EvalTransform(image_size)
        # Each pair file keeps a pack of its own: an older one of the same name is removed.
        name = pairs.source.stem[:_LONGEST_NAME] if pairs.source else "made_pairs"
        self._images = _open(pairs.root, pairs.images, image_size, pack, name)

    def __len__(self) -> int:
        return len(self.left)

    def __getitem__(self, index: int) -> tuple[Any, Any, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, Any, int]]:
        """Fetch several pairs at once, as torch's DataLoader does for a batch."""
        left = map(self.transform, self.gather(self.left[indices]))
        right = map(self.transform, self.gather(self.right[indices]))
        return list(zip(left, right, self.mated[indices].tolist(), strict=True))

    def gather(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Fetch the images (B, S, S, 3) uint8 at these positions of `images`."""
        return self._images.gather(indices)


def _split(manifest: Manifest, split: str) -> ImageList:
    splits = {"train": manifest.train, "dev": manifest.dev, "test": manifest.test}
    if split not in splits:
        raise ConfigError(f"split: {split!r}; expected train, dev or test")
    images = splits[split]
    if images is None:
        raise DataError(f"{manifest.root}: no {split} images in this data set")
    return images


def _open(root: Path, paths: tuple[str, ...], size: int, pack: PackMode, name: str) -> Images:
    # Without a pack nothing is decoded before it is asked for.
    if pack == "files":
        return FileImages(root, paths, size)
    with progress(f"packing {name}") as report:
        images = open_images(root, paths, size, pack=pack, name=name, progress=report)
    if images.reason:
        note(f"data: {name} is read from files: {images.reason}")
    return images
