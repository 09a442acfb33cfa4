"""An epoch of images, batch by batch, against a numpy copy of as many bytes.

From each place where images may lie, before augmentation. Without `data.root` from drawn faces.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from facever.bench.faces import configured
from facever.bench.harness import Options, compare
from facever.bench.rows import Row
from facever.data.datasets import ImageDataset
from facever.data.loader import epoch_batches
from facever.data.manifest import read_manifest
from facever.data.pack import PackMode
from facever.data.sampler import shuffled_batches

# More would be read from the disk on a machine with little memory.
IMAGES = 4096
TIERS: tuple[PackMode, ...] = ("memmap", "blob", "files")

# At least 0.5 of the copy's bytes a second. Decoding has no such aim.
AIM = 2.0


def measure(options: Options) -> Iterator[Row]:
    """One row for each place."""
    with configured("load", options) as config:
        manifest, size = read_manifest(config.data.root), config.data.image_size
        most = range(IMAGES, max(IMAGES, len(manifest.train)))
        manifest = replace(manifest, train=manifest.train.without(most))
        n = len(manifest.train)
        plan = shuffled_batches(n, config.optim.batch_size, seed=0, epoch=0)
        pixels = ImageDataset(manifest, image_size=size).gather(np.arange(n))

        def copy() -> object:
            batch = None
            for start in range(0, n, config.optim.batch_size):
                # A batch is there until the next one is, as in a training.
                batch = pixels[start : start + config.optim.batch_size].copy()
            return batch

        for tier in TIERS:
            images = ImageDataset(manifest, image_size=size, pack=tier)

            def epoch(images: ImageDataset = images) -> None:
                for _ in epoch_batches(images, plan, None, seed=0, epoch=0):
                    pass

            yield Row(
                "load",
                tier,
                "a numpy copy of the same bytes",
                compare(epoch, copy, repeats=options.repeats),
                AIM if tier == "memmap" else None,
                {"batch": config.optim.batch_size, "pixels": size},
                images=n,
            )
