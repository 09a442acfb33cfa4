"""Which images make which batch: pure functions of (seed, epoch), so that any epoch can be resumed.

B batch size, N images, P identities x K images. No batch ever holds a single image, which
batch norm could not normalise: a tail of one joins the batch before it. Where several processes
share a batch, so does one that has not two for each.
"""

import numpy as np
from numpy.typing import NDArray

from facever.errors import ConfigError, DataError

Int64 = NDArray[np.int64]


def shuffled_batches(
    n: int, batch_size: int, *, seed: int, epoch: int, least: int = 2
) -> list[Int64]:
    """Put each of `n` images into one batch, in random order; none has fewer than `least`.

    Raises:
        ConfigError: `batch_size` is below 2.
        DataError: there are fewer than 2 images.
    """
    _check(n, batch_size)
    return _cut(_generator(seed, epoch).permutation(n), batch_size, least)


def balanced_batches(
    labels: Int64, batch_size: int, *, seed: int, epoch: int, least: int = 2
) -> list[Int64]:
    """Draw as many images as there are, (N,) labels, with identities equally often (within 1).

    An identity's images are all used before one is repeated; no batch has fewer than `least`.

    Raises:
        ConfigError: `batch_size` is below 2.
        DataError: there are fewer than 2 images.
    """
    n = len(labels)
    _check(n, batch_size)
    rng = _generator(seed, epoch)
    order, starts, counts = _grouped(labels, rng)
    people = len(counts)
    rounds = -(-n // people)
    turns = np.concatenate([rng.permutation(people) for _ in range(rounds)])[:n]
    # The r-th turn of an identity shows its r-th image, in its own random order, cyclically.
    turn = np.repeat(np.arange(rounds), people)[:n]
    return _cut(order[starts[turns] + turn % counts[turns]], batch_size, least)


def pk_batches(labels: Int64, p: int, k: int, *, seed: int, epoch: int) -> list[Int64]:
    """Make batches of `p` identities x `k` images, as many as cover N images once.

    An identity with fewer than `k` images repeats its own; one with a single image makes no
    mated pair and is left out (`single_images` counts them). With fewer than `p` identities,
    a batch holds them all.

    Raises:
        ConfigError: `p` or `k` is below 2.
        DataError: fewer than 2 identities have 2 images.
    """
    if p < 2 or k < 2:
        raise ConfigError(f"batches of {p} identities x {k} images; expected at least 2 x 2")
    rng = _generator(seed, epoch)
    _, _, counts = _grouped(labels, rng)
    able = _able(counts)
    p = min(p, len(able))
    wanted = max(1, round(int(counts[able].sum()) / (p * k)))
    batches: list[Int64] = []
    while len(batches) < wanted:
        # Groups come in the order of the labels, so `able` stays true over new shuffles.
        order, starts, _ = _grouped(labels, rng)
        people = rng.permutation(able)
        people = people[: len(people) // p * p]
        count = counts[people][:, None]
        column = np.arange(k)
        again = np.floor(rng.random((len(people), k)) * count).astype(np.int64)
        picks = order[starts[people][:, None] + np.where(column < count, column, again)]
        batches.extend(picks.reshape(-1, p * k))
    return batches[:wanted]


def single_images(labels: Int64) -> int:
    """Count the identities with one image only, which `pk_batches` leaves out.

    Raises:
        DataError: fewer than 2 identities have 2 images.
    """
    counts = np.unique(labels, return_counts=True)[1]
    return len(counts) - len(_able(counts))


def _able(counts: Int64) -> Int64:
    """Find the identities that make a mated pair, from the number of images of each."""
    able = np.flatnonzero(counts > 1)
    if len(able) < 2:
        raise DataError(
            f"{len(able)} identities have two images or more; pairs within a batch need at least "
            "2\n  expected more images per identity, or a loss with a classifier"
        )
    return able


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng([seed, epoch])


def _check(n: int, batch_size: int) -> None:
    if batch_size < 2:
        raise ConfigError(f"optim.batch_size: {batch_size}; expected at least 2, for batch norm")
    if n < 2:
        raise DataError(f"{n} training images; expected at least 2, for batch norm")


def _cut(order: Int64, batch_size: int, least: int) -> list[Int64]:
    ends = np.arange(batch_size, len(order), batch_size)
    if len(ends) and len(order) - ends[-1] < least:
        ends = ends[:-1]
    return np.split(order, ends)


def _grouped(labels: Int64, rng: np.random.Generator) -> tuple[Int64, Int64, Int64]:
    """Group image positions by label, shuffled within: (N,) order, (C,) starts, (C,) counts."""
    order = np.lexsort((rng.random(len(labels)), labels))
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    return order, starts, counts
