"""What the page of a run shows of its data and its best encoder, gathered while both are at hand.

Letters: N images, S side.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from facever.config import Config, operations
from facever.data.datasets import ImageDataset, ImagePairDataset
from facever.data.loader import epoch_batches
from facever.data_setup import OpenData
from facever.distributed import is_leader
from facever.encoder import Encoder
from facever.losses.quality import sharpness
from facever.metrics import hardest_pairs
from facever.prepare import Parts
from facever.report import HARDEST, Exhibits
from facever.report.exhibits import FILE
from facever.transforms import Augment
from facever.validate import Embed

UInt8 = NDArray[np.uint8]
Int64 = NDArray[np.int64]

# Enough to see what a picture is about; embedding the last two takes a CPU some seconds.
BATCH = 24
PEOPLE, EACH = 10, 20
SPREAD = 400
FEWEST = 8  # images of an identity that make a cluster


def show_data(run: Path, config: Config, data: OpenData, parts: Parts) -> None:
    """Keep the first batch as the encoder sees it, and how many images the identities have."""
    if (run / FILE).exists():
        return
    recipe = parts.recipe
    augment = None if recipe.augment else Augment(**operations(config.augment))
    (batch,) = epoch_batches(data.train, parts.plan(0)[:1], augment, seed=recipe.seed, epoch=0)
    images = batch.images
    if recipe.augment:
        images = recipe.augment(images.to(recipe.device), (recipe.seed, 0, 0)).cpu()
    sizes = np.bincount(data.train.labels, minlength=len(data.manifest.identities))
    Exhibits.of(batch=images[:BATCH].numpy(), sizes=sizes).write(run)


def show_encoder(
    run: Path,
    data: OpenData,
    pairs: ImagePairDataset,
    scores: NDArray[np.float64],
    encoder: Encoder,
    embed: Embed,
) -> None:
    """Add the hardest pairs, norms over sharpness, and embeddings of a few identities.

    Every one of several processes must call it: they embed together.
    """
    images, source = _with_clusters(data)
    people = _largest(images.labels)
    few = [np.flatnonzero(images.labels == who)[:EACH] for who in people.tolist()]
    spread = np.linspace(0, len(images) - 1, min(SPREAD, len(images))).astype(np.int64)
    some = _Some(images, np.unique(np.concatenate([*few, spread])))
    table = embed(encoder, some, len(some.rows))
    if not is_leader():
        return
    rows = np.concatenate(hardest_pairs(scores, pairs.mated == 1, HARDEST))
    sides = [pairs.gather(side[rows]) for side in (pairs.left, pairs.right)]
    replace(
        Exhibits.read(run),
        pairs=rows,
        pair_images=np.stack(sides, axis=1),
        norms=np.linalg.norm(table, axis=1),
        sharpness=some.sharpness(),
        embeddings=table[np.searchsorted(some.rows, np.concatenate(few))],
        labels=np.repeat(np.arange(len(few)), [len(rows) for rows in few]),
        names=np.array([images.identities[who] for who in people.tolist()]),
        source=np.array(source),
    ).write(run)


def _with_clusters(data: OpenData) -> tuple[ImageDataset, str]:
    """Take held-out images where identities have enough of them, and say which they are."""
    if data.dev is not None and (np.bincount(data.dev.labels) >= FEWEST).sum() > 1:
        return data.dev, "held-out images of known identities"
    return data.train, "training images"


def _largest(labels: Int64) -> Int64:
    """The identities with the most images, the earlier of equal ones first."""
    counts = np.bincount(labels)
    largest = np.argsort(-counts, kind="stable")[:PEOPLE]
    return largest[counts[largest] > 0]


@dataclass(frozen=True)
class _Some:
    """Some images of a data set, by their rows in it (N,)."""

    images: ImageDataset
    rows: Int64

    def gather(self, indices: Int64) -> UInt8:
        return self.images.gather(self.rows[indices])

    def sharpness(self) -> NDArray[np.float32]:
        """How sharp the pixels of each are, (N,)."""
        blocks = np.array_split(self.rows, -(-len(self.rows) // 64))
        found = [sharpness(torch.from_numpy(self.images.gather(rows))) for rows in blocks]
        return torch.cat(found).numpy()
