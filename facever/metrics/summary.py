"""Everything that labelled pairs tell about an encoder, at once."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from facever.metrics.intervals import bootstrap_eer
from facever.metrics.rates import (
    accuracy,
    checked,
    eer_threshold,
    equal_error_rate,
    fold_accuracy,
    roc_auc,
    tar_at_far,
)

DEFINITION = (
    "EER: where FMR(t) = share of non-mated pairs with score >= t and FNMR(t) = share of mated "
    "pairs with score < t cross, linear between neighbouring thresholds; equal scores are one "
    "threshold"
)


@dataclass(frozen=True)
class Verification:
    """What is known about an encoder from labelled pairs; rates are fractions in [0, 1].

    `threshold` is the one at the EER. `tar_at_far` holds only the FARs that the non-mated pairs
    resolve, which is `far_resolution` and above. `folds` is None, or `{"count", "accuracy",
    "standard_error"}` of the fold protocol.
    """

    eer: float
    eer_low: float
    eer_high: float
    auc: float
    accuracy: float
    threshold: float
    n_mated: int
    n_non_mated: int
    definition: str
    tar_at_far: Mapping[float, float]
    folds: Mapping[str, float] | None

    def to_json(self) -> dict[str, Any]:
        """The fields as `json.dumps` takes them; FARs become text such as "0.001"."""
        tars = {f"{far:g}": tar for far, tar in self.tar_at_far.items()}
        return {**asdict(self), "tar_at_far": tars, "far_resolution": self.far_resolution}

    @property
    def far_resolution(self) -> float:
        """The lowest FAR above 0 that the non-mated pairs can show: one false match."""
        return 1 / self.n_non_mated


def verification(
    scores: ArrayLike,
    mated: ArrayLike,
    *,
    left: ArrayLike | None = None,
    right: ArrayLike | None = None,
    folds: ArrayLike | None = None,
    fars: Sequence[float] = (0.1, 0.01, 1e-3, 1e-4),
    repeats: int = 1000,
    seed: int = 0,
) -> Verification:
    """Everything that labelled pairs tell; the EER with its 95 % interval.

    Args:
        scores, mated, left, right, repeats, seed: as `bootstrap_eer`.
        folds: number of the fold of each pair, for protocols such as LFW's; shape (N,).
        fars: operating points for TAR; those finer than the pairs resolve are left out.

    Raises:
        DataError: as `bootstrap_eer` and `fold_accuracy`.
    """
    values, truth = checked(scores, mated)
    low, high = bootstrap_eer(values, truth, left=left, right=right, repeats=repeats, seed=seed)
    n_non_mated = int((~truth).sum())
    return Verification(
        eer=equal_error_rate(values, truth),
        eer_low=low,
        eer_high=high,
        auc=roc_auc(values, truth),
        accuracy=accuracy(values, truth),
        threshold=eer_threshold(values, truth),
        n_mated=int(truth.sum()),
        n_non_mated=n_non_mated,
        definition=DEFINITION,
        tar_at_far={far: tar_at_far(values, truth, far) for far in fars if far >= 1 / n_non_mated},
        folds=None if folds is None else _fold_summary(values, truth, folds),
    )


def _fold_summary(scores: ArrayLike, mated: ArrayLike, folds: ArrayLike) -> dict[str, float]:
    mean, standard_error = fold_accuracy(scores, mated, folds)
    count = int(np.unique(np.asarray(folds)).size)
    return {"count": count, "accuracy": mean, "standard_error": standard_error}
