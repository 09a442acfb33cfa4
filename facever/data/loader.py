"""Batches of training images, each a function of (seed, epoch, position) alone.

So neither the number of workers nor an interruption changes what the encoder sees.

What goes wrong in a worker is raised between two steps, as one message: torch would raise a
worker's death from a signal handler, wherever the step or a save then is, would make an error's
traceback its message, and would wait for ever for a batch that found no shared memory.
"""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from facever.distributed import share_of
from facever.errors import FaceverError, TrainingError
from facever.transforms import Augment

Indices = NDArray[np.int64]


class Gather(Protocol):
    """Images that are fetched by index."""

    def gather(self, indices: Indices) -> NDArray[np.uint8]:
        """Fetch the images (B, S, S, 3)."""


class LabelledImages(Protocol):
    """Images with the label of each."""

    @property
    def labels(self) -> Indices:
        """Label of each image, (N,)."""

    def gather(self, indices: Indices) -> NDArray[np.uint8] | Tensor:
        """Fetch the images (B, S, S, 3), as a tensor where they are resident on a device."""


class Batch(NamedTuple):
    """What one step sees."""

    images: Tensor
    """(B, S, S, 3) uint8; of several processes each has its share"""
    labels: Tensor
    """(B,) int64"""
    indices: Tensor
    """(B,) int64: which images of the data set these are"""


class _PlannedBatches(Dataset[Batch | FaceverError]):
    """The batches of one epoch, by position; a worker hands an error over in the batch's place."""

    def __init__(
        self,
        images: LabelledImages,
        plan: Sequence[Indices],
        augment: Augment | None,
        seed: int,
        epoch: int,
        rank: int,
        processes: int,
    ) -> None:
        self.images, self.plan, self.augment = images, plan, augment
        self.seed, self.epoch = seed, epoch
        self.rank, self.processes = rank, processes

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, position: int) -> Batch | FaceverError:
        if get_worker_info() is None:
            return self._make(position)
        try:
            return _shared(self._make(position))
        except FaceverError as error:
            return error

    def _make(self, position: int) -> Batch:
        indices = self.plan[position]
        pixels = self.images.gather(indices[share_of(len(indices), self.rank, self.processes)])
        if self.augment:
            assert isinstance(pixels, np.ndarray), "resident images are augmented in the step"
            # The first of several processes draws what a single one would.
            apart = (self.rank,) if self.rank else ()
            pixels = self.augment(pixels, (self.seed, self.epoch, position, *apart))
        return Batch(
            torch.as_tensor(pixels),
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
    rank: int = 0,
    processes: int = 1,
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
        rank, processes: which of several training processes asks; it gets its share of the images
            of a batch, and all labels and indices.

    Raises:
        DataError: an image can no longer be read.
        TrainingError: a worker died, or found no shared memory.
    """
    loader = DataLoader(
        _PlannedBatches(images, plan, augment, seed, epoch, rank, processes),
        batch_size=None,
        sampler=range(start, len(plan)),
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_leave_signals_to_parent,
        # torch would draw the workers' base seed from the global generator, which the step seeds.
        generator=torch.Generator(),
    )
    try:
        for batch in _started(loader):
            if isinstance(batch, FaceverError):
                raise batch
            yield batch
    except (RuntimeError, OSError, EOFError) as error:
        if not workers or not _is_death(error):
            raise
        raise TrainingError(
            f"one of {workers} loader processes died or could not start, most likely for want of "
            f"memory\n  {_LESS}"
        ) from error


def _is_death(error: Exception) -> bool:
    """Tell a worker's death from an exception in a worker, which is a bug."""
    text = str(error)
    if isinstance(error, RuntimeError):
        return text.startswith("DataLoader worker (pid")
    # The pixels of a batch are fetched from the worker that made it, if it still answers.
    return "in DataLoader worker process" not in text


_LESS = (
    "lower data.workers, where 0 needs none, or optim.batch_size; the same command goes on from "
    "the last checkpoint"
)


def _started(loader: DataLoader[Batch | FaceverError]) -> Iterator[Batch | FaceverError]:
    """Start the workers without torch's handler for their deaths, which raises anywhere.

    The iterator finds a death by itself, within five seconds of waiting for the batch.
    """
    before = signal.getsignal(signal.SIGCHLD)
    iterator = iter(loader)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
    return iterator


def _leave_signals_to_parent(_: int) -> None:
    """Leave the parent's group: what a terminal or `timeout` sends to all is the parent's to obey.

    Otherwise its workers would be dead before it could finish the step and save.
    """
    os.setpgid(0, 0)


def _shared(batch: Batch) -> Batch:
    """Move a batch to shared memory here, where a failure can be told."""
    try:
        for tensor in batch:
            tensor.untyped_storage().share_memory_()
    except RuntimeError as error:
        size = sum(tensor.nbytes for tensor in batch)
        raise TrainingError(
            f"no shared memory for a batch of {size:,} bytes: {error}\n  {_LESS}; or give /dev/shm "
            "more room, in a container with --shm-size"
        ) from error
    return batch
