"""Batches of training images, each a function of (seed, epoch, position) alone.

So neither the number of workers nor an interruption changes what the encoder sees.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from facever.transforms import Augment

Indices = NDArray[np.int64]


class Gather(Protocol):
    """Images that are fetched by index."""

    def gather(self, indices: Indices) -> NDArray[np.uint8]:
        """Fetch the images (B, S, S, 3)."""


class LabelledImages(Gather, Protocol):
    """Images with the label of each."""

    @property
    def labels(self) -> Indices:
        """Label of each image, (N,)."""


class Batch(NamedTuple):
    """What one step sees."""

    images: Tensor
    """(B, S, S, 3) uint8"""
    labels: Tensor
    """(B,) int64"""
    indices: Tensor
    """(B,) int64: which images of the data set these are"""


class _PlannedBatches(Dataset[Batch]):
    """The batches of one epoch, by position."""

    def __init__(
        self,
        images: LabelledImages,
        plan: Sequence[Indices],
        augment: Augment | None,
        seed: int,
        epoch: int,
    ) -> None:
        self.images, self.plan, self.augment = images, plan, augment
        self.seed, self.epoch = seed, epoch

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, position: int) -> Batch:
        indices = self.plan[position]
        pixels = self.images.gather(indices)
        if self.augment:
            pixels = self.augment(pixels, (self.seed, self.epoch, position))
        return Batch(
            torch.from_numpy(pixels),
            torch.from_numpy(self.images.labels[indices]),
            torch.from_numpy(indices),
        )


def epoch_batches(
    images: LabelledImages,
    plan: Sequence[Indices],
    augment: Augment | None,
    *,
    seed: int,
    epoch: int,
    start: int = 0,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Yield the planned batches of an epoch from position `start` on.

    Args:
        images: the training images.
        plan: indices of each batch; see `sampler`.
        augment: the recipe; None leaves the images as they are.
        seed, epoch: what, with the position, decides every random choice.
        start: batches already consumed.
        workers: processes that prepare batches ahead; 0 prepares them in this one.
        pin_memory: page-locked batches, for a GPU.
    """
    loader = DataLoader(
        _PlannedBatches(images, plan, augment, seed, epoch),
        batch_size=None,
        sampler=range(start, len(plan)),
        num_workers=workers,
        pin_memory=pin_memory,
        # torch would draw the workers' base seed from the global generator, which the step seeds.
        generator=torch.Generator(),
    )
    yield from loader
