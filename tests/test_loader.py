"""Batches are functions of (seed, epoch, position)."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from facever.config import Config, operations
from facever.data.loader import Batch, epoch_batches
from facever.data.sampler import shuffled_batches
from facever.transforms import Augment

torch.set_num_threads(1)

AUGMENT = Augment(**operations(Config().augment))
OPERATIONS = ("flip", "crop", "shift", "rescale", "photometric", "blur", "rotate", "erase")
PLAIN = Augment(**{**AUGMENT.recipe, **dict.fromkeys(OPERATIONS, 0.0)})


class Noise:
    """Images that lie in memory."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(0)
        self.pixels = rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
        self.labels = rng.integers(0, 5, count)

    def gather(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.pixels[indices]


IMAGES = Noise(30)
PLAN = shuffled_batches(30, 8, seed=0, epoch=0)


def batches(
    *, start: int = 0, workers: int = 0, seed: int = 0, epoch: int = 0, augment: Augment = AUGMENT
) -> list[Batch]:
    return list(
        epoch_batches(
            IMAGES, PLAN, augment, seed=seed, epoch=epoch, start=start, workers=workers
        )
    )  # fmt: skip


def assert_equal(left: Sequence[Batch], right: Sequence[Batch]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.indices, b.indices)


def test_batches_follow_the_plan() -> None:
    found = batches(augment=PLAIN)
    assert [batch.indices.tolist() for batch in found] == [indices.tolist() for indices in PLAN]
    for batch, indices in zip(found, PLAN, strict=True):
        assert batch.images.dtype == torch.uint8
        assert batch.labels.dtype == torch.int64
        assert np.array_equal(batch.images.numpy(), IMAGES.pixels[indices])
        assert np.array_equal(batch.labels.numpy(), IMAGES.labels[indices])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [0, 1, 3])
def test_batches_are_the_same_whatever_the_workers_and_from_any_start(
    start: int, workers: int
) -> None:
    assert_equal(batches(start=start, workers=workers), batches()[start:])


def test_an_epoch_that_is_at_its_end_gives_nothing() -> None:
    assert batches(start=len(PLAN)) == []


def test_other_seeds_and_epochs_augment_otherwise() -> None:
    first = batches()[0]
    for other in (batches(seed=1)[0], batches(epoch=1)[0], batches()[1]):
        assert first.images.shape == other.images.shape
        assert not torch.equal(first.images, other.images)


def test_one_image_looks_different_in_each_batch() -> None:
    plan = [np.array([0, 0]), np.array([0, 0])]
    one, two = epoch_batches(IMAGES, plan, AUGMENT, seed=0, epoch=0)
    views = {image.numpy().tobytes() for batch in (one, two) for image in batch.images}
    assert len(views) > 2


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_draws_nothing_from_the_generators_of_the_step(workers: int) -> None:
    """The step seeds torch's generator; what dropout draws must not depend on the loader."""
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    stream = epoch_batches(IMAGES, PLAN, AUGMENT, seed=0, epoch=0, workers=workers)
    next(stream)
    assert torch.equal(torch.rand(3), expected)
    stream.close()  # type: ignore[attr-defined]
