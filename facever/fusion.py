"""What is made of embeddings and scores beyond the cosine: centring, AS-norm, calibration, fusion.

Plain functions of arrays. Nothing here looks at labels but `calibrate`, and nothing looks at other
images that are scored unless the caller passes them as the cohort.

Letters: N images, C identities of the cohort, D dimensions, P pairs, F features of a pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facever.errors import ConfigError, DataError
from facever.score import row_norms

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ROWS_AT_ONCE = 1024  # against a cohort of 8,631 in float64: 71 MB
FOLDS = 5

# What a calibration reads of a pair, in this order; each but the score as (lower, higher).
FEATURES = (
    "score", "log norm, lower", "log norm, higher", "sharpness, lower", "sharpness, higher",
)  # fmt: skip


def unit_rows(embeddings: NDArray[Any], names: Sequence[str] | None = None) -> Floats:
    """Scale raw embeddings (N, D) to unit length, in float64.

    Raises:
        DataError: an embedding is zero or not finite, and so has no direction.
    """
    return np.asarray(embeddings / row_norms(embeddings, names)[:, None], dtype=np.float64)


def identity_means(embeddings: NDArray[Any], labels: Ints) -> Floats:
    """Means of the identities' unit embeddings, themselves of unit length, (C, D).

    Args:
        embeddings: raw; shape (N, D).
        labels: identity of each image; shape (N,). The means are in the order of the labels.

    Raises:
        DataError: as `unit_rows`.
    """
    _, identity = np.unique(labels, return_inverse=True)
    sums = np.zeros((int(identity.max()) + 1, embeddings.shape[1]))
    np.add.at(sums, identity, unit_rows(embeddings))
    return unit_rows(sums)


def centred(embeddings: NDArray[Any], cohort: Floats) -> Floats:
    """Directions of embeddings (N, D) as seen from the mean of the cohort (C, D), unit rows."""
    return np.asarray(unit_rows(embeddings) - cohort.mean(axis=0))


def joined(embeddings: Sequence[NDArray[Any]], weights: Sequence[float] = ()) -> Floats:
    """Join the embeddings that several encoders have of the same images, (N, sum of D).

    Their cosine is the weighted mean of the encoders' cosines.

    Args:
        embeddings: raw; shape (N, D) each.
        weights: of the encoders; empty: all alike.

    Raises:
        ConfigError: the weights are not as many as the encoders.
        DataError: as `unit_rows`.
    """
    shares = np.sqrt(member_weights(len(embeddings), weights))
    return np.concatenate(
        [share * unit_rows(each) for share, each in zip(shares, embeddings, strict=True)], axis=1
    )


def member_weights(members: int, weights: Sequence[float] = ()) -> Floats:
    """Weights of an ensemble's members, which add up to 1.

    Raises:
        ConfigError: there are weights, and not as many as members.
    """
    if weights and len(weights) != members:
        raise ConfigError(
            f"eval.weights: {len(weights)} given for {members} checkpoints; expected one for each"
        )
    given = np.asarray(weights or [1.0] * members, dtype=np.float64)
    return np.asarray(given / given.sum())


def cohort_statistics(
    embeddings: NDArray[Any], cohort: Floats, top: int, *, own: bool = False
) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each image's `top` highest cosines with the cohort, (N,) each.

    Args:
        embeddings: raw; shape (N, D).
        cohort: unit rows; shape (C, D).
        top: K; of a smaller cohort all are taken.
        own: the cohort is these very images, in this order: each leaves itself out.

    Raises:
        DataError: the cohort has fewer than two others, or all of them are alike to an image.
    """
    count = min(top, len(cohort) - own)
    if count < 2:
        raise DataError(
            f"AS-norm: the {count} closest of a cohort of {len(cohort)} have no spread; expected "
            "eval.as_norm at least 2, and as many identities"
        )
    units = unit_rows(embeddings)
    mean, deviation = np.empty(len(units)), np.empty(len(units))
    for start in range(0, len(units), ROWS_AT_ONCE):
        block = slice(start, start + ROWS_AT_ONCE)
        cosines = units[block] @ cohort.T
        if own:
            rows = np.arange(len(cosines))
            cosines[rows, start + rows] = -np.inf
        highest = np.partition(cosines, -count, axis=1)[:, -count:]
        mean[block], deviation[block] = highest.mean(axis=1), highest.std(axis=1)
    if not deviation.all():
        raise DataError(
            f"AS-norm: the {count} closest of the cohort are equally close to "
            f"{int((deviation == 0).sum())} of {len(units)} images; has the encoder collapsed?"
        )
    return mean, deviation


def as_norm(scores: Floats, left: Ints, right: Ints, mean: Floats, deviation: Floats) -> Floats:
    """Adaptive s-norm: the mean of the two scores that are normalised by either image's cohort.

    s' = ((s - mean_l) / deviation_l + (s - mean_r) / deviation_r) / 2, with the statistics of the
    K members of the cohort that are closest to that image. Matejka et al., "Analysis of score
    normalization in multilingual speaker recognition", Interspeech 2017: adaptive S-norm1.

    Args:
        scores: cosines; shape (P,).
        left: image on the left of each pair, `right` on the right; shape (P,).
        mean: of `cohort_statistics`, as `deviation`; shape (N,).
    """
    sides = [(scores - mean[side]) / deviation[side] for side in (left, right)]
    return np.asarray((sides[0] + sides[1]) / 2)


def pair_features(
    scores: Floats, left: Ints, right: Ints, log_norms: Floats, sharpness: Floats
) -> Floats:
    """What `calibrate` reads of each pair, (P, F), named in `FEATURES`; the sides do not matter.

    Args:
        scores: of the pairs; shape (P,).
        left: image on the left of each pair, `right` on the right; shape (P,).
        log_norms: logarithms of the embeddings' norms; shape (N,).
        sharpness: of the images, `losses.quality.sharpness`; shape (N,).
    """
    columns = [scores]
    for values in (log_norms, sharpness):
        columns += [
            np.minimum(values[left], values[right]),
            np.maximum(values[left], values[right]),
        ]
    return np.stack(columns, axis=1)


@dataclass(frozen=True)
class Calibration:
    """Log-likelihood ratio of a pair: `features @ weights + bias`; weights (F,)."""

    weights: tuple[float, ...]
    bias: float

    def apply(self, features: Floats) -> Floats:
        """Give the log-likelihood ratios (P,) of features (P, F); above 0: mated."""
        return np.asarray(features @ np.array(self.weights) + self.bias)

    def to_json(self) -> dict[str, Any]:
        """Give the weights by what they weigh, and the bias."""
        return {**dict(zip(FEATURES, self.weights, strict=True)), "bias": self.bias}


def calibrate(features: Floats, mated: ArrayLike) -> Calibration:
    """Fit logistic regression to labelled pairs, both kinds counting alike.

    The score shifted by quality measures: Thienpondt, Desplanques & Demuynck, "The IDLab VoxSRC-20
    submission", ICASSP 2021 (arXiv:2010.11255). Features are standardised for the L2 penalty, 1/2.

    Args:
        features: of `pair_features`; shape (P, F).
        mated: True where both images show the same person; shape (P,).

    Raises:
        DataError: one kind of pair is absent.
    """
    from sklearn.linear_model import LogisticRegression

    truth = np.asarray(mated).astype(bool)
    if truth.all() or not truth.any():
        raise DataError(
            f"calibration: {int(truth.sum())} of {truth.size} pairs are mated; expected both kinds"
        )
    centre, spread = features.mean(axis=0), features.std(axis=0)
    spread[spread == 0] = 1.0
    fitted = LogisticRegression(class_weight="balanced", max_iter=1000)
    fitted.fit((features - centre) / spread, truth)
    weights = fitted.coef_[0] / spread
    bias = float(fitted.intercept_[0] - weights @ centre)
    return Calibration(tuple(weights.tolist()), bias)


def cross_calibrated(features: Floats, mated: ArrayLike, *, seed: int = 0) -> Floats:
    """Log-likelihood ratio of each labelled pair (P,), by a calibration that did not see it.

    The pairs are dealt into `FOLDS` folds with as many of either kind, and each fold is scored by
    what was fitted to the others. An image may be in pairs of several folds; F + 1 numbers fitted
    to hundreds of pairs do not remember it.

    Raises:
        DataError: fewer than two pairs of a kind.
    """
    truth = np.asarray(mated).astype(bool)
    rarer = min(int(truth.sum()), int((~truth).sum()))
    if rarer < 2:
        raise DataError(
            f"calibration: {rarer} pairs of the rarer kind; expected at least 2 mated and 2 "
            "non-mated ones to fit it to some and look at the others"
        )
    rng = np.random.default_rng(seed)
    fold = np.empty(truth.size, dtype=np.int64)
    for kind in (truth, ~truth):
        fold[kind] = rng.permutation(int(kind.sum())) % min(FOLDS, rarer)
    ratios = np.empty(truth.size)
    for number in range(min(FOLDS, rarer)):
        held_out = fold == number
        ratios[held_out] = calibrate(features[~held_out], truth[~held_out]).apply(
            features[held_out]
        )
    return ratios
