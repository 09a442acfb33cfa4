"""What competitions rank by besides the EER, with intervals. NumPy only.

Letters: N images or pairs, R replicates.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facever.competition import METRICS, NOBODY, Metric
from facever.detect import Competition
from facever.metrics import equal_error_rate, roc_auc
from facever.resample import Bootstrap, auc_replicates, eer_replicates

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# What `eval.metric` calls the figures that it can choose an epoch by.
CHOSEN_BY: Mapping[str, Metric] = {"eer": "EER", "auc": "AUC", "combined": "combined"}


@dataclass(frozen=True)
class Figure:
    """A metric's value on labelled data, with its 95 % interval where there is one."""

    metric: Metric
    value: float
    low: float | None = None
    high: float | None = None

    @property
    def higher_is_better(self) -> bool:
        """Direction of the metric."""
        return self.metric != "EER"

    def to_json(self) -> dict[str, Any]:
        """Give everything as primitives."""
        return {**asdict(self), "higher_is_better": self.higher_is_better}

    def to_text(self) -> str:
        """Say it in a line."""
        form = ".2%" if self.metric in ("EER", "accuracy") else ".4f"
        interval = ""
        if self.low is not None and self.high is not None:
            interval = f" (95 %: {self.low:{form}} to {self.high:{form}})"
        direction = "higher" if self.higher_is_better else "lower"
        return f"{METRICS[self.metric]}: {self.value:{form}}{interval}, {direction} is better"


@dataclass(frozen=True)
class Ranking:
    """What a competition would rank checkpoints by, measured on labelled data.

    Attributes:
        competition: which one, and why.
        figure: None where it cannot be measured; `basis` then says why.
        basis: what it was measured on.
        threshold: below it an image shows nobody known; None where nobody is asked for.
    """

    competition: Competition
    figure: Figure | None
    basis: str
    threshold: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Give everything as primitives."""
        rules = self.competition.rules
        return {
            "competition": rules.name,
            "terms": list(rules.terms),
            "why": self.competition.why,
            "metric": rules.metric,
            "higher_is_better": rules.higher_is_better,
            "measured": self.figure.to_json() if self.figure else None,
            "basis": self.basis,
            "threshold": self.threshold,
        }

    def to_text(self) -> str:
        """Say it in two lines."""
        said = self.figure.to_text() if self.figure else "not measured"
        limit = "" if self.threshold is None else f"; below {self.threshold:.4f} it is {NOBODY}"
        ranked = f"  ranked by         {said}, {self.basis}{limit}"
        return f"  competition       {self.competition}\n{ranked}"


def combined_score(eer: float, accuracy: float) -> float:
    """Score of verification and classification in one: (accuracy + 1 - EER) / 2, fractions."""
    return (accuracy + 1 - eer) / 2


def auc_figure(
    scores: ArrayLike,
    mated: ArrayLike,
    *,
    left: ArrayLike,
    right: ArrayLike,
    repeats: int,
    seed: int = 0,
) -> Figure:
    """AUC over resampled images or identities; arguments as `metrics.bootstrap_eer` has them."""
    values, truth = np.asarray(scores), np.asarray(mated) == 1
    auc = roc_auc(values, truth)
    found = auc_replicates(values, auc, Bootstrap(truth, left, right, repeats, seed))
    return Figure("AUC", auc, *_interval(found, auc))


def accuracy_figure(right: Bools, identities: ArrayLike, *, repeats: int, seed: int = 0) -> Figure:
    """Share of right answers over resampled identities, for a person's images err together.

    Args:
        right: whether each answer is right; shape (N,).
        identities: who is shown, or -1 for strangers, each of whom is drawn alone; shape (N,).
        repeats: number of replicates.
        seed: of the draws.
    """
    share = float(np.mean(right))
    found = _accuracy_replicates(right, np.asarray(identities), repeats, seed)
    return Figure("accuracy", share, *_interval(found, share))


def combined_figure(
    scores: ArrayLike,
    mated: ArrayLike,
    correct: Bools,
    identities: ArrayLike,
    *,
    left: ArrayLike,
    right: ArrayLike,
    repeats: int,
    seed: int = 0,
) -> Figure:
    """The combined score; pairs and dev images show different people and are drawn apart.

    Args:
        scores, mated, left, right, repeats, seed: as `auc_figure`.
        correct: whether each dev image was classified rightly; shape (N,).
        identities: of the dev images; shape (N,).
    """
    values, truth = np.asarray(scores), np.asarray(mated) == 1
    eer = equal_error_rate(values, truth)
    score = combined_score(eer, float(np.mean(correct)))
    eers = eer_replicates([values], [1.0], eer, Bootstrap(truth, left, right, repeats, seed))
    shares = _accuracy_replicates(correct, np.asarray(identities), repeats, seed + 1)
    # Replicates without both kinds of pairs are missing.
    found = (shares[: eers.size] + 1 - eers) / 2
    return Figure("combined", score, *_interval(found, score))


def _accuracy_replicates(right: Bools, identities: NDArray[Any], repeats: int, seed: int) -> Floats:
    alone = np.flatnonzero(identities < 0)
    units = identities.copy()
    units[alone] = identities.max(initial=0) + 1 + np.arange(alone.size)
    _, unit = np.unique(units, return_inverse=True)
    counts, hits = np.bincount(unit), np.bincount(unit, weights=right)
    rng = np.random.default_rng(seed)
    shares = np.empty(repeats)
    for i in range(repeats):
        drawn = rng.integers(counts.size, size=counts.size)
        shares[i] = hits[drawn].sum() / counts[drawn].sum()
    return shares


def _interval(replicates: Floats, estimate: float) -> tuple[float, float] | tuple[None, None]:
    if not replicates.size:
        return None, None
    low, high = np.quantile(replicates, (0.025, 0.975)).tolist()
    return min(low, estimate), max(high, estimate)


def nobody_threshold(scores: ArrayLike, right: ArrayLike, nobody: ArrayLike) -> float:
    """Score from which the closest known person is named, for the best accuracy on these images.

    Below it the answer is nobody. It lies half-way between two neighbouring scores; of several
    that are best, the middle one is taken.

    Args:
        scores: of the closest known person; shape (N,).
        right: whether that is who is shown; shape (N,).
        nobody: whether nobody known is shown; shape (N,).
    """
    values = np.asarray(scores, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    values = values[order]
    hits = np.concatenate(([0], np.cumsum(np.asarray(right, dtype=np.int64)[order])))
    strangers = np.concatenate(([0], np.cumsum(np.asarray(nobody, dtype=np.int64)[order])))
    # With k scores below the threshold.
    correct = strangers + hits[-1] - hits
    ends = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1], [True])))
    best = ends[correct[ends] == correct[ends].max()]
    k = int(best[best.size // 2])
    if k == values.size:
        return float(np.nextafter(values[-1], np.inf))
    return float(values[0]) if k == 0 else float((values[k - 1] + values[k]) / 2)
