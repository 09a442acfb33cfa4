"""How far a figure can be trusted, and whether two encoders differ: by bootstrap."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facever.metrics.rates import checked, equal_error_rate, fmr_threshold
from facever.resample import Bootstrap, eer_replicates, threshold_replicates

Floats = NDArray[np.float64]


def bootstrap_eer(
    scores: ArrayLike,
    mated: ArrayLike,
    *,
    left: ArrayLike | None = None,
    right: ArrayLike | None = None,
    confidence: float = 0.95,
    repeats: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval (low, high) of the EER over resampled images or identities.

    Pairs that share an image or a person err together; resampling pairs would overlook that
    and give intervals that are too narrow. How units are drawn: `resample.eer_replicates`.
    No interval ends below what N error-free pairs of the rarer kind can show,
    1 - ((1 - confidence) / 2)^(1/N) (Clopper & Pearson, Biometrika 26, 1934), or above its
    mirror: no error among 10 pairs does not prove an EER of 0.

    Args:
        scores: similarity of each pair, higher means more alike; shape (N,).
        mated: True where both images show the same person; shape (N,).
        left: image or identity on the left of each pair, numbers or text; shape (N,).
        right: the same for the right; without both, pairs are resampled.
        confidence: share of replicates inside the interval, in (0, 1).
        repeats: number of replicates.
        seed: of the draws; equal seeds give equal intervals.

    Raises:
        DataError: as `equal_error_rate`, or only one of `left` and `right` fits.
    """
    values, truth = checked(scores, mated)
    eer = equal_error_rate(values, truth)
    eers = eer_replicates([values], [1.0], eer, Bootstrap(truth, left, right, repeats, seed))
    low, high = _percentiles(eers, eer, confidence)
    rarer = min(int(truth.sum()), int((~truth).sum()))
    certain = ((1 - confidence) / 2) ** (1 / rarer)
    return min(low, certain), max(high, 1 - certain)


def bootstrap_fmr_threshold(
    scores: ArrayLike,
    mated: ArrayLike,
    fmr: float,
    *,
    left: ArrayLike | None = None,
    right: ArrayLike | None = None,
    confidence: float = 0.95,
    repeats: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval (low, high) of `fmr_threshold` over resampled images or identities.

    It rests on the few highest non-mated scores: no replicate is above the highest of them, so
    where `fmr` allows fewer than about ten false matches, the upper end is too low.

    Args:
        fmr: as `fmr_threshold`.
        scores, mated, left, right, confidence, repeats, seed: as `bootstrap_eer`.

    Raises:
        DataError: as `fmr_threshold` and `bootstrap_eer`.
    """
    values, truth = checked(scores, mated)
    threshold = fmr_threshold(values, truth, fmr)
    found = threshold_replicates(
        values, fmr, threshold, Bootstrap(truth, left, right, repeats, seed)
    )
    return _percentiles(found, threshold, confidence)


@dataclass(frozen=True)
class PairedDifference:
    """EER of a minus EER of b on the same pairs, with its interval and two-sided p-value."""

    difference: float
    low: float
    high: float
    p_value: float


def paired_bootstrap(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    mated: ArrayLike,
    *,
    left: ArrayLike | None = None,
    right: ArrayLike | None = None,
    confidence: float = 0.95,
    repeats: int = 1000,
    seed: int = 0,
) -> PairedDifference:
    """Whether two encoders differ in EER on the same pairs.

    Both are measured on the same replicates, so that what makes a replicate hard cancels. The
    p-value is twice the smaller share of replicates on either side of zero, counting the data
    themselves as one (Davison & Hinkley, Bootstrap Methods, 1997, section 4.2): never 0, and 1
    for equal scores.

    Args:
        scores_a: similarity of each pair by one encoder; shape (N,).
        scores_b: similarity of each pair by the other; shape (N,).
        mated, left, right, confidence, repeats, seed: as `bootstrap_eer`.

    Raises:
        DataError: as `bootstrap_eer`.
    """
    (first, truth), (second, _) = checked(scores_a, mated), checked(scores_b, mated)
    difference = equal_error_rate(first, truth) - equal_error_rate(second, truth)
    differences = eer_replicates(
        [first, second], [1, -1], difference, Bootstrap(truth, left, right, repeats, seed)
    )
    smaller_side = min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    p_value = min(1.0, 2 * (int(smaller_side) + 1) / (differences.size + 1))
    return PairedDifference(difference, *_percentiles(differences, difference, confidence), p_value)


def _percentiles(replicates: Floats, estimate: float, confidence: float) -> tuple[float, float]:
    """Interval of the replicates, widened to hold the estimate itself."""
    if not replicates.size:  # two or three pairs, and none of the draws kept both kinds
        return estimate, estimate
    tail = (1 - confidence) / 2
    low, high = np.quantile(replicates, (tail, 1 - tail))
    return min(float(low), estimate), max(float(high), estimate)
