"""Scores x mated -> FMR, FNMR, EER, AUC, TAR@FAR.

A pair is matched when `score >= threshold`. FMR(t) is the share of non-mated pairs with
score >= t, FNMR(t) the share of mated pairs with score < t (ISO/IEC 19795-1; the competition
calls them FAR and FRR). Thresholds are the distinct scores and +inf, so that the two errors run
from (1, 0) to (0, 1) and cross exactly once.
"""

from bisect import bisect_right
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facever.errors import DataError

Array = NDArray[Any]
Floats = NDArray[np.float64]


def equal_error_rate(scores: ArrayLike, mated: ArrayLike) -> float:
    """EER in [0, 1]: where FMR and FNMR cross, linear between neighbouring thresholds.

    Equal scores form one threshold, so the value does not depend on row order. The crossing is
    computed in integers and divided once: the result is the exact value, rounded.

    Args:
        scores: similarity of each pair, higher means more alike; shape (N,).
        mated: True where both images show the same person; shape (N,).

    Raises:
        DataError: shapes differ, a score is not finite, or one kind of pair is absent.
    """
    mated_scores, non_mated_scores = _split(scores, mated)
    lower = _last_threshold_before_crossing(mated_scores, non_mated_scores)
    false, gap = _errors(mated_scores, non_mated_scores, lower, "left")
    next_false, next_gap = _errors(mated_scores, non_mated_scores, lower, "right")
    fall = gap - next_gap
    return (false * fall + gap * (next_false - false)) / (non_mated_scores.size * fall)


def eer_threshold(scores: ArrayLike, mated: ArrayLike) -> float:
    """Threshold at which FMR and FNMR are closest, in the units of the scores.

    It lies half-way between two neighbouring scores: every threshold between them decides these
    pairs alike, and the middle survives scores that are rounded when written.

    Raises:
        DataError: as `equal_error_rate`.
    """
    kinds = _split(scores, mated)
    chosen = _last_threshold_before_crossing(*kinds)
    if _errors(*kinds, chosen, "left")[1] > -_errors(*kinds, chosen, "right")[1]:
        ends = [np.searchsorted(kind, chosen, "right") for kind in kinds]
        chosen = min(kind[end] for kind, end in zip(kinds, ends, strict=True) if end < kind.size)
    starts = [np.searchsorted(kind, chosen, "left") for kind in kinds]
    below = [kind[start - 1] for kind, start in zip(kinds, starts, strict=True) if start]
    return _between(float(max(below, default=chosen)), float(chosen))


def det_curve(scores: ArrayLike, mated: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """FMR, FNMR and their thresholds, each of shape (distinct scores + 1,).

    Thresholds rise and end with +inf; FMR falls from 1 to 0, FNMR rises from 0 to 1.

    Raises:
        DataError: as `equal_error_rate`.
    """
    mated_scores, non_mated_scores = _split(scores, mated)
    thresholds, false, misses = _counts(mated_scores, non_mated_scores)
    return false / non_mated_scores.size, misses / mated_scores.size, thresholds


def roc_auc(scores: ArrayLike, mated: ArrayLike) -> float:
    """Chance that a mated pair scores above a non-mated one; equal scores count half.

    Raises:
        DataError: as `equal_error_rate`.
    """
    mated_scores, non_mated_scores = _split(scores, mated)
    below = np.searchsorted(non_mated_scores, mated_scores, "left").sum(dtype=np.int64)
    not_above = np.searchsorted(non_mated_scores, mated_scores, "right").sum(dtype=np.int64)
    return (int(below) + int(not_above)) / (2 * mated_scores.size * non_mated_scores.size)


def tar_at_far(scores: ArrayLike, mated: ArrayLike, far: float) -> float:
    """TAR = 1 - FNMR at the largest FMR that does not exceed `far`; nothing is interpolated.

    Args:
        scores: similarity of each pair, higher means more alike; shape (N,).
        mated: True where both images show the same person; shape (N,).
        far: false accept rate (FMR) in (0, 1], at least one non-mated pair's worth.

    Raises:
        DataError: as `equal_error_rate`, or `far` is finer than the non-mated pairs resolve.
    """
    mated_scores, non_mated_scores = _split(scores, mated)
    barred = _highest_barred(non_mated_scores, far, "tar_at_far: far")
    misses = 0 if barred is None else int(np.searchsorted(mated_scores, barred, "right"))
    return 1 - misses / mated_scores.size


def fmr_threshold(scores: ArrayLike, mated: ArrayLike, fmr: float) -> float:
    """Lowest threshold at which the FMR does not exceed `fmr`, in the units of the scores.

    It lies half-way between two neighbouring scores, as `eer_threshold` does. The TAR there is
    `tar_at_far`.

    Args:
        scores: similarity of each pair, higher means more alike; shape (N,).
        mated: True where both images show the same person; shape (N,).
        fmr: false match rate in (0, 1], at least one non-mated pair's worth.

    Raises:
        DataError: as `tar_at_far`.
    """
    kinds = _split(scores, mated)
    barred = _highest_barred(kinds[1], fmr, "fmr_threshold: fmr")
    if barred is None:
        return float(min(kind[0] for kind in kinds))
    starts = [int(np.searchsorted(kind, barred, "right")) for kind in kinds]
    above = [kind[start] for kind, start in zip(kinds, starts, strict=True) if start < kind.size]
    return _between(float(barred), float(min(above, default=np.nextafter(barred, np.inf))))


def hardest_pairs(
    scores: ArrayLike, mated: ArrayLike, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the mated pairs that score lowest and of the non-mated that score highest.

    Args:
        scores: similarity of each pair, higher means more alike; shape (N,).
        mated: True where both images show the same person; shape (N,).
        count: how many of each kind, at most; the hardest first, of equal ones the earlier.

    Raises:
        DataError: as `equal_error_rate`, but one kind may be absent.
    """
    values, truth = checked(scores, mated)
    kinds = np.flatnonzero(truth), np.flatnonzero(~truth)
    misses = kinds[0][np.argsort(values[kinds[0]], kind="stable")[:count]]
    false = kinds[1][np.argsort(-values[kinds[1]].astype(np.float64), kind="stable")[:count]]
    return misses, false


def error_counts(
    scores: ArrayLike, mated: ArrayLike, thresholds: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Non-mated pairs that match and mated pairs that do not, at each threshold; (T,) each.

    Raises:
        DataError: as `equal_error_rate`.
    """
    mated_scores, non_mated_scores = _split(scores, mated)
    false = non_mated_scores.size - np.searchsorted(non_mated_scores, thresholds, "left")
    return false, np.searchsorted(mated_scores, thresholds, "left")


def accuracy(scores: ArrayLike, mated: ArrayLike) -> float:
    """Share of pairs decided rightly at the best threshold, chosen on these very pairs.

    Raises:
        DataError: as `equal_error_rate`.
    """
    return _best_threshold(scores, mated)[0]


def fold_accuracy(scores: ArrayLike, mated: ArrayLike, folds: ArrayLike) -> tuple[float, float]:
    """Mean accuracy over folds and its standard error, thresholds from the other folds.

    Huang et al., Labeled Faces in the Wild, 2007, "View 2": ten folds, and the standard error
    is the unbiased standard deviation over folds divided by sqrt(10).

    Args:
        scores: similarity of each pair, higher means more alike; shape (N,).
        mated: True where both images show the same person; shape (N,).
        folds: number of the fold of each pair, none negative; shape (N,).

    Raises:
        DataError: as `equal_error_rate`, a pair without a fold, or fewer than two folds.
    """
    values, truth = checked(scores, mated)
    fold_of = np.asarray(folds)
    numbers = np.unique(fold_of)
    if fold_of.shape != values.shape or numbers.size < 2 or numbers[0] < 0:
        raise DataError(
            f"folds: shape {fold_of.shape} with values {numbers[:3].tolist()}...; expected one "
            f"fold number from 0 for each of {values.size} pairs, and at least two folds"
        )
    shares = []
    for number in numbers:
        held_out = fold_of == number
        threshold = _best_threshold(values[~held_out], truth[~held_out])[1]
        shares.append(np.mean((values[held_out] >= threshold) == truth[held_out]))
    return float(np.mean(shares)), float(np.std(shares, ddof=1) / np.sqrt(len(shares)))


def _split(scores: ArrayLike, mated: ArrayLike) -> tuple[Array, Array]:
    """Sorted scores of the mated and of the non-mated pairs, neither of them empty."""
    values, truth = checked(scores, mated)
    # compress is four times as fast as a mask in brackets, and two sorts of values are an
    # order of magnitude faster than one argsort.
    kinds = values.compress(truth), values.compress(~truth)
    for name, kind in zip(("mated", "non-mated"), kinds, strict=True):
        if not kind.size:
            raise DataError(
                f"mated: none of {values.size} pairs is {name}; expected both kinds, "
                "without which no error rate is defined"
            )
        kind.sort()
    return kinds


def checked(scores: ArrayLike, mated: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
    """Finite scores and the truth as bool, both of shape (N,), N >= 1."""
    values, truth = np.asarray(scores), np.asarray(mated)
    if values.dtype.kind not in "fiu" and values.size:
        raise DataError(f"scores: of type {values.dtype}; expected real numbers")
    if values.ndim != 1 or truth.shape != values.shape or not values.size:
        raise DataError(
            f"scores: shape {values.shape}, and mated: shape {truth.shape}; "
            "expected both (N,) with at least one pair"
        )
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        first = int(np.argmin(finite))
        raise DataError(
            f"scores: {values.size - int(finite.sum())} of {values.size} are not finite, the "
            f"first at index {first} with {values[first]}; expected finite similarities"
        )
    return values, _as_truth(truth)


def _as_truth(mated: Array) -> NDArray[np.bool_]:
    if mated.dtype == np.bool_:
        return mated
    known = (mated == 0) | (mated == 1)
    if not np.all(known):
        first = int(np.argmin(known))
        raise DataError(
            f"mated: {mated[first]} at index {first}; expected True or False, 1 or 0; "
            "leave out the pairs whose truth is unknown"
        )
    return np.asarray(mated == 1)


def _errors(mated: Array, non_mated: Array, threshold: Any, side: Any) -> tuple[int, int]:
    """False matches and (FMR - FNMR) * M * N, at `threshold` or ("right") at the one above.

    Whole numbers, because the crossing is where their sign changes. The threshold must be of the
    arrays' own type: a Python float would make searchsorted copy a float32 array.
    """
    false = non_mated.size - int(np.searchsorted(non_mated, threshold, side))
    misses = int(np.searchsorted(mated, threshold, side))
    return false, false * mated.size - misses * non_mated.size


def _highest_barred(non_mated: Array, fmr: float, name: str) -> Any:
    """Highest score that may match no more for the FMR to keep to `fmr`; None where all may."""
    count = non_mated.size
    if not 1 / count <= fmr <= 1:
        raise DataError(
            f"{name} is {fmr:g}, but {count} non-mated pairs resolve steps of "
            f"{1 / count:.3g}; expected one in [{1 / count:.3g}, 1]; "
            "give more non-mated pairs or a larger one"
        )
    allowed = int(fmr * count)
    allowed += (allowed + 1) / count <= fmr  # 0.00029 * 100_000 is 28.999999999999996
    return non_mated[count - allowed - 1] if allowed < count else None


def _last_threshold_before_crossing(mated: Array, non_mated: Array) -> Any:
    """Highest score at which FMR >= FNMR; the lowest score of all has FMR 1 and FNMR 0."""

    def crossed(threshold: Any) -> bool:
        return _errors(mated, non_mated, threshold, "left")[1] < 0

    # `crossed` turns from False to True once along each sorted half: two bisections find the
    # place without merging the halves.
    ends = [bisect_right(kind, False, key=crossed) for kind in (mated, non_mated)]
    return max(k[end - 1] for k, end in zip((mated, non_mated), ends, strict=True) if end)


def _counts(mated: Array, non_mated: Array) -> tuple[Floats, Array, Array]:
    """Thresholds with +inf (K,), false matches (K,) and false non-matches (K,) at each."""
    distinct = np.unique(np.concatenate((mated, non_mated)))
    false = np.append(non_mated.size - np.searchsorted(non_mated, distinct, "left"), 0)
    misses = np.append(np.searchsorted(mated, distinct, "left"), mated.size)
    return np.append(distinct.astype(np.float64), np.inf), false, misses


def _best_threshold(scores: ArrayLike, mated: ArrayLike) -> tuple[float, float]:
    """Highest share of right decisions, and the lowest threshold that reaches it."""
    mated_scores, non_mated_scores = _split(scores, mated)
    thresholds, false, misses = _counts(mated_scores, non_mated_scores)
    wrong = false + misses
    best = int(np.argmin(wrong))
    share = 1 - int(wrong[best]) / (mated_scores.size + non_mated_scores.size)
    return share, _between(float(thresholds[max(best - 1, 0)]), float(thresholds[best]))


def _between(low: float, high: float) -> float:
    """A threshold in (low, high], half-way where the numbers in between allow it."""
    middle = low / 2 + high / 2
    return middle if low < middle < high else high
