"""Twice as many images, identities and pairs against as many: what grows faster than its input?"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from facever.bench.harness import Options, compare
from facever.bench.rows import Row
from facever.data.loader import epoch_batches
from facever.data.sampler import balanced_batches, pk_batches, shuffled_batches
from facever.losses import build_loss
from facever.metrics import verification

IMAGES, IDENTITIES, PAIRS = 20_000, 20_000, 100_000
SIZE, BATCH, DIM, EACH = 32, 128, 128, 20

AIM = 2.05


def measure(
    options: Options, *, images: int = IMAGES, identities: int = IDENTITIES, pairs: int = PAIRS
) -> Iterator[Row]:
    """One row for each of the three."""
    for name, make, count in (
        ("images: an epoch planned in three ways, and loaded", _epoch, images),
        ("identities: arcface, forward and backward", _head, identities),
        ("pairs: all figures of a validation", _figures, pairs),
    ):
        subject, floor = make(2 * count), make(count)
        timing = compare(subject, floor, repeats=options.repeats)
        yield Row("growth", name, "the same on half as much", timing, AIM, {"from": count})


class _Noise:
    """Images that lie in memory."""

    def __init__(self, count: int) -> None:
        self.pixels: NDArray[np.uint8] = np.zeros((count, SIZE, SIZE, 3), np.uint8)
        self.labels = np.arange(count) // EACH

    def gather(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.take(self.pixels, indices, axis=0)


def _epoch(count: int) -> Callable[[], object]:
    images = _Noise(count)

    def epoch() -> None:
        balanced_batches(images.labels, BATCH, seed=0, epoch=0)
        pk_batches(images.labels, BATCH // 4, 4, seed=0, epoch=0)
        plan = shuffled_batches(count, BATCH, seed=0, epoch=0)
        for _ in epoch_batches(images, plan, None, seed=0, epoch=0):
            pass

    return epoch


def _head(count: int) -> Callable[[], object]:
    loss = build_loss("arcface", dim=DIM, identities=count)
    z, y = torch.randn(BATCH, DIM, requires_grad=True), torch.arange(BATCH)
    return lambda: loss(z, y).backward()


def _figures(count: int) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    mated = rng.random(count) < 0.5
    scores = 0.1 * rng.standard_normal(count) + 0.4 * mated
    left, right = rng.integers(0, count // 2, (2, count))
    return lambda: verification(scores, mated, left=left, right=right, repeats=50, seed=0)
