"""The section `data` -> a data set: read, checked, its images ready to be fetched by index."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from facever.config import Data
from facever.data.datasets import ImageDataset, ImagePairDataset
from facever.data.lists import Manifest, PairList
from facever.data.manifest import read_manifest
from facever.data.pack import find_damaged, fingerprint
from facever.data.sampler import single_images
from facever.errors import DataError
from facever.tracking import note, progress


@dataclass(frozen=True)
class OpenData:
    """A data set, its images ready to be fetched by index."""

    manifest: Manifest
    train: ImageDataset
    dev: ImageDataset | None
    val: ImagePairDataset | None
    fingerprint: str
    """of the training images' names, sizes and labels, and of the validation pairs"""

    def labelled_pairs(self) -> ImagePairDataset:
        """Give the pairs by which the best epoch is chosen.

        Raises:
            DataError: there are none, some have no label, or all are of one kind.
        """
        pairs = self.manifest.val_pairs
        if self.val is None or pairs is None or not pairs.labelled:
            raise DataError(
                f"{self.manifest.root}: no labelled pairs, and none can be made: nothing to choose "
                "the best epoch by\n  expected val_pairs.txt, or identities with several images"
            )
        mated = int((pairs.mated == 1).sum())
        if mated in (0, len(pairs)):
            raise DataError(
                f"{pairs.source or pairs.root}: {mated} of {len(pairs)} pairs are mated; expected "
                "both kinds, without which there is no EER to choose the best epoch by"
            )
        return self.val

    def describe(self) -> dict[str, Any]:
        """Count what there is, for the banner, the dry run and the run's environment."""
        return {
            "layout": self.manifest.layout,
            "identities": len(self.manifest.identities),
            "train": len(self.train),
            "tier": self.train.tier,
            "dev": len(self.dev) if self.dev else 0,
            "val_pairs": len(self.val) if self.val else 0,
            "test_pairs": len(self.manifest.test_pairs) if self.manifest.test_pairs else 0,
            "fingerprint": self.fingerprint,
        }


def read_data(data: Data, *, pairs: bool = False) -> Manifest:
    """Read the manifest, tell its notes, and leave damaged images out where that is asked for.

    Args:
        data: the section of the configuration.
        pairs: batches will need identities with several images.

    Raises:
        DataError: nothing found, files that contradict each other, more damage than 5 %; with
            `pairs`, fewer than two identities have two images.
    """
    manifest = read_manifest(
        data.root, layout=data.layout, identities=data.identities, seed=data.split_seed
    )
    for line in manifest.notes:
        note(f"data: {line}")
    if pairs:
        _check_pairs(manifest)
    if data.on_error == "skip":
        return _without_damaged(manifest, limit=0.05)
    # Packing decodes everything; files must be looked at here, or one stops the run in its middle.
    return _without_damaged(manifest, limit=0) if data.pack == "files" else manifest


def _check_pairs(manifest: Manifest) -> None:
    """Tell identities that no pair can be made of, before an image of theirs is decoded.

    Raises:
        DataError: nearly all are.
    """
    try:
        alone = single_images(manifest.train.labels)
    except DataError as error:
        raise DataError(f"{manifest.root}: {error}") from None
    if alone:
        note(f"data: {alone:,} identities with one image make no pairs and are left out")


def _without_damaged(manifest: Manifest, limit: float) -> Manifest:
    """Drop unreadable images of train and dev, and validation pairs that show one.

    Raises:
        DataError: more than the share `limit` is damaged.
    """
    kept: dict[str, Any] = {}
    for split in ("train", "dev", "val_pairs"):
        images = getattr(manifest, split)
        if images is None:
            continue
        paths = images.images if isinstance(images, PairList) else images.paths
        with progress(f"checking {split}") as report:
            damaged = find_damaged(images.root, paths, limit=limit, progress=report)
        if damaged:
            note(f"data: {len(damaged)} damaged images of {split} are left out")
            kept[split] = images.without(damaged)
    return replace(manifest, **kept)


def open_data(data: Data, *, pairs: bool = False) -> OpenData:
    """Open the images of train, dev and the validation pairs; the arguments are `read_data`'s.

    Raises:
        DataError: as `read_data`; too little to train on; a damaged image.
    """
    manifest = read_data(data, pairs=pairs)
    if len(manifest.identities) < 2 or len(manifest.train) < 4:
        raise DataError(
            f"{data.root}: {len(manifest.train)} training images of "
            f"{len(manifest.identities)} identities; expected at least 4 images of 2 identities"
        )
    return OpenData(
        manifest,
        train=ImageDataset(manifest, split="train", image_size=data.image_size, pack=data.pack),
        dev=open_dev(manifest, data),
        val=open_pairs(manifest.val_pairs, data) if manifest.val_pairs else None,
        fingerprint=data_fingerprint(manifest),
    )


def data_fingerprint(manifest: Manifest) -> str:
    """Hash what a run's result rests on: training images and labels, and validation pairs."""
    digest = hashlib.sha256(fingerprint(manifest.root, manifest.train.paths).encode())
    digest.update(repr(manifest.identities).encode() + manifest.train.labels.tobytes())
    if manifest.val_pairs is not None:
        digest.update(manifest.val_pairs.sha256.encode())
    return digest.hexdigest()


def open_dev(manifest: Manifest, data: Data) -> ImageDataset | None:
    """Open the dev images of known identities; the others cannot be classified."""
    if manifest.dev is None:
        return None
    known = manifest.dev.without(np.flatnonzero(manifest.dev.labels < 0))
    if not len(known):
        return None
    return ImageDataset(
        replace(manifest, dev=known), split="dev", image_size=data.image_size, pack=data.pack
    )


def open_pairs(pairs: PairList, data: Data) -> ImagePairDataset:
    """Open the distinct images of a pair list."""
    return ImagePairDataset(pairs, pairs.root, image_size=data.image_size, pack=data.pack)


def pack_all(data: Data) -> dict[str, Any]:
    """Decode every image of a data set into packs, and count what there is."""
    opened = open_data(data)
    if opened.manifest.test_pairs is not None:
        open_pairs(opened.manifest.test_pairs, data)
    return opened.describe()
