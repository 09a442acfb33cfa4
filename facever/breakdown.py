"""Where the errors are: by slices of the pairs, by identity, and which labels look wrong.

Letters: N pairs, M checkpoints. NumPy only.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facever.errors import DataError
from facever.metrics import bootstrap_eer, equal_error_rate

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

# A column of numbers with more distinct values than this is cut into terciles, and of a column of
# words only the most frequent so many are slices.
MOST_SLICES = 8
TERCILES = ("low", "middle", "high")


@dataclass(frozen=True)
class Slice:
    """A part of the pairs; rates are fractions in [0, 1], None where a kind of pair is absent.

    Attributes:
        by: what the pairs were sliced by, such as `quality`.
        name: of this slice.
        n_mated, n_non_mated: its pairs.
        eer, eer_low, eer_high: its own, with a 95 % interval.
        fmr, fnmr: at the threshold of all pairs.
    """

    by: str
    name: str
    n_mated: int
    n_non_mated: int
    eer: float | None
    eer_low: float | None
    eer_high: float | None
    fmr: float | None
    fnmr: float | None

    def to_json(self) -> dict[str, Any]:
        """Give everything as primitives."""
        return asdict(self)

    def to_text(self) -> str:
        """Say it in a line."""
        parts = [f"{self.by} {self.name}: {self.n_mated:,} + {self.n_non_mated:,} pairs"]
        if self.eer is not None:
            parts.append(f"EER {self.eer:.2%} (95 %: {self.eer_low:.2%} to {self.eer_high:.2%})")
        parts += [
            f"{name} {rate:.2%}"
            for name, rate in (("FMR", self.fmr), ("FNMR", self.fnmr))
            if rate is not None
        ]
        return ", ".join(parts)


def slice_pairs(
    scores: ArrayLike,
    mated: ArrayLike,
    by: Mapping[str, ArrayLike],
    *,
    threshold: float,
    left: ArrayLike | None = None,
    right: ArrayLike | None = None,
    repeats: int = 1000,
    seed: int = 0,
) -> list[Slice]:
    """Measure the pairs by each of several properties.

    Numbers are cut into terciles, unless they are few; text is taken as numbers where all of it
    is, else by value, of which the most frequent `MOST_SLICES` are slices.

    Args:
        scores, mated, left, right, repeats, seed: as `metrics.bootstrap_eer`.
        by: name to a value for each pair, numbers or text; shape (N,) each.
        threshold: at which FMR and FNMR are given.

    Raises:
        DataError: as `metrics.bootstrap_eer`, or a property has another shape.
    """
    values, truth = np.asarray(scores), np.asarray(mated).astype(bool)
    sides = [None if side is None else np.asarray(side) for side in (left, right)]
    slices = []
    for name, of_pairs in by.items():
        for part, rows in _parts(name, of_pairs, values.size):
            if not rows.any():
                continue
            lefts, rights = (None if side is None else side[rows] for side in sides)
            match = values[rows] >= threshold
            eer = low = high = None
            if truth[rows].any() and not truth[rows].all():
                eer = equal_error_rate(values[rows], truth[rows])
                low, high = bootstrap_eer(
                    values[rows],
                    truth[rows],
                    left=lefts,
                    right=rights,
                    repeats=repeats,
                    seed=seed,
                )
            slices.append(
                Slice(
                    by=name,
                    name=part,
                    n_mated=int(truth[rows].sum()),
                    n_non_mated=int((~truth[rows]).sum()),
                    eer=eer,
                    eer_low=low,
                    eer_high=high,
                    fmr=_share(match[~truth[rows]]),
                    fnmr=_share(~match[truth[rows]]),
                )
            )
    return slices


def _share(chosen: Bools) -> float | None:
    return float(chosen.mean()) if chosen.size else None


def _parts(name: str, of_pairs: ArrayLike, count: int) -> Iterator[tuple[str, Bools]]:
    """Cut pairs by a property into named slices, (N,) each."""
    column = np.asarray(of_pairs)
    if column.shape != (count,):
        raise DataError(f"slices by {name}: shape {column.shape}; expected one of {count} pairs")
    numbers = _as_numbers(column)
    if numbers is not None and np.unique(numbers).size > MOST_SLICES:
        edges = np.quantile(numbers, (1 / 3, 2 / 3))
        third = np.searchsorted(edges, numbers, "right")
        ends = (numbers.min(), *edges, numbers.max())
        for i, tercile in enumerate(TERCILES):
            yield f"{tercile} third ({ends[i]:.4g} to {ends[i + 1]:.4g})", third == i
        return
    kinds, counts = np.unique(column, return_counts=True)
    frequent = np.sort(np.argsort(-counts, kind="stable")[:MOST_SLICES])
    for kind in kinds[frequent]:
        yield f"{kind}", column == kind


def _as_numbers(column: NDArray[Any]) -> NDArray[np.float64] | None:
    try:
        numbers = column.astype(np.float64)
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


@dataclass(frozen=True)
class IdentityErrors:
    """How often an identity's pairs are decided wrongly; `pairs` are all that it is in."""

    identity: str
    pairs: int
    false_matches: int
    false_non_matches: int


def worst_identities(
    scores: ArrayLike,
    mated: ArrayLike,
    left: ArrayLike,
    right: ArrayLike,
    *,
    threshold: float,
    count: int,
) -> list[IdentityErrors]:
    """Find the identities with the most errors, the worst first; those without any are left out.

    Args:
        scores: similarity of each pair, higher means more alike; shape (N,).
        mated: True where both images show the same person; shape (N,).
        left: identity on the left of each pair, `right` on the right; shape (N,).
        threshold: a match is a score of at least this.
        count: how many, at most.
    """
    values, truth = np.asarray(scores), np.asarray(mated).astype(bool)
    names, units = np.unique(np.concatenate((left, right)), return_inverse=True)
    lefts, rights = units[: truth.size], units[truth.size :]
    match = values >= threshold

    def tally(rows: Bools) -> Ints:
        # Once where both sides are the same person.
        once = np.bincount(rights[rows & (lefts != rights)], minlength=names.size)
        return np.asarray(np.bincount(lefts[rows], minlength=names.size) + once)

    pairs, false, misses = (
        tally(rows) for rows in (np.full(truth.shape, True), match & ~truth, ~match & truth)
    )
    worst = [i for i in np.argsort(-(false + misses), kind="stable") if false[i] + misses[i]]
    return [
        IdentityErrors(str(names[i]), int(pairs[i]), int(false[i]), int(misses[i]))
        for i in worst[:count]
    ]


def suspect_labels(
    scorings: Sequence[ArrayLike], mated: ArrayLike, thresholds: Sequence[float]
) -> tuple[Ints, Ints]:
    """Rows that every checkpoint contradicts, the furthest beyond their thresholds first.

    Where encoders that were trained apart agree against a label, the label or the image is more
    likely wrong than all of them.

    Args:
        scorings: scores of each of M checkpoints; shape (N,) each.
        mated: what the labels say; shape (N,).
        thresholds: of each checkpoint; length M.

    Returns:
        Mated pairs that all reject, and non-mated pairs that all accept.
    """
    truth = np.asarray(mated).astype(bool)
    beyond = np.stack(
        [np.asarray(each) - threshold for each, threshold in zip(scorings, thresholds, strict=True)]
    )
    mean = beyond.mean(axis=0)
    rejected = np.flatnonzero(truth & (beyond < 0).all(axis=0))
    accepted = np.flatnonzero(~truth & (beyond >= 0).all(axis=0))
    return (
        rejected[np.argsort(mean[rejected], kind="stable")],
        accepted[np.argsort(-mean[accepted], kind="stable")],
    )
