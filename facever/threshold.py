"""From which score on two images count as one person, and what that rests on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from facever.errors import ConfigError, DataError
from facever.metrics import bootstrap_fmr_threshold, fmr_threshold
from facever.score import read_scores

SCORES = "scores_val.csv"


@dataclass(frozen=True)
class Threshold:
    """A threshold with the errors that labelled pairs showed at it; rates are in [0, 1].

    Attributes:
        value: a match is a score of at least this, a cosine.
        low: lower end of its 95 % interval, `high` the upper one; None where it is unknown.
        wanted_fmr: the FMR that was asked for; None where it is the threshold at EER.
        fmr: share of non-mated pairs that reach it; the EER at EER.
        fnmr: share of mated pairs that do not.
        eer_low: lower end of the EER's 95 % interval, `eer_high` the upper one.
        n_mated: pairs that it was taken from, as `n_non_mated`; None where unknown.
        source: the file that it was taken from.
    """

    value: float
    low: float | None
    high: float | None
    wanted_fmr: float | None
    fmr: float | None
    fnmr: float | None
    eer_low: float | None
    eer_high: float | None
    n_mated: int | None
    n_non_mated: int | None
    source: str

    @property
    def name(self) -> str:
        """The operating point."""
        return "EER" if self.wanted_fmr is None else f"FMR {self.wanted_fmr:g}"

    def to_json(self) -> dict[str, Any]:
        """Give everything as primitives."""
        return {"at": self.name, **asdict(self)}

    def to_text(self) -> str:
        """Say in a line what it rests on."""
        pairs = "the run's validation pairs"
        if self.n_mated is not None and self.n_non_mated is not None:
            pairs = f"{self.n_mated:,} mated and {self.n_non_mated:,} non-mated validation pairs"
        return f"the threshold rests on {pairs}{self._rates()}"

    def _rates(self) -> str:
        if self.fmr is None or self.fnmr is None:
            return ""
        if self.wanted_fmr is not None:
            return f": FMR {self.fmr:.3%}, FNMR {self.fnmr:.2%}{self._interval()}"
        if self.eer_low is None or self.eer_high is None:
            return f": EER {self.fmr:.2%}"
        return f": EER {self.fmr:.2%} (95 %: {self.eer_low:.2%} to {self.eer_high:.2%})"

    def _interval(self) -> str:
        if self.low is None or self.high is None:
            return ""
        return f"; 95 % interval of the threshold: {self.low:.4f} to {self.high:.4f}"


def choose_threshold(
    checkpoint: Path, metrics: Mapping[str, Any], fmr: float | None = None
) -> Threshold | None:
    """Take the checkpoint's threshold at EER, or the lowest that keeps to an FMR.

    Args:
        checkpoint: the file; the run's scores of validation pairs are looked for beside it.
        metrics: that the checkpoint holds.
        fmr: share of non-mated pairs that may match, in (0, 1].

    Returns:
        None where no FMR is asked for and the checkpoint is from before its first validation.

    Raises:
        ConfigError: no FMR, or one that is finer than the pairs can show.
        DataError: there are no scores of this checkpoint beside it.
    """
    return _at_eer(checkpoint, metrics) if fmr is None else _at_fmr(checkpoint, fmr)


def _at_eer(checkpoint: Path, metrics: Mapping[str, Any]) -> Threshold | None:
    known = {name: value for name, value in metrics.items() if _is_number(value)}
    if "threshold" not in known:
        return None
    rates = {name: known[name] / 100 for name in ("EER", "EER_low", "EER_high") if name in known}
    counts = {name: int(known[name]) for name in ("n_mated", "n_non_mated") if name in known}
    return Threshold(
        value=float(known["threshold"]),
        low=None,
        high=None,
        wanted_fmr=None,
        fmr=rates.get("EER"),
        fnmr=rates.get("EER"),
        eer_low=rates.get("EER_low"),
        eer_high=rates.get("EER_high"),
        n_mated=counts.get("n_mated"),
        n_non_mated=counts.get("n_non_mated"),
        source=str(checkpoint),
    )


def _at_fmr(checkpoint: Path, fmr: float) -> Threshold:
    file = _scores_of(checkpoint)
    found = read_scores(file)
    left, right = found.units
    return threshold_at_fmr(
        found.scores, found.mated, fmr, left=left, right=right, source=str(file)
    )


def threshold_at_fmr(
    scores: ArrayLike,
    mated: ArrayLike,
    fmr: float,
    *,
    source: str,
    left: ArrayLike | None = None,
    right: ArrayLike | None = None,
    repeats: int = 1000,
    seed: int = 0,
) -> Threshold:
    """Take the lowest threshold that keeps to an FMR from labelled pairs, with its interval.

    Args:
        scores, mated, left, right, repeats, seed: as `metrics.bootstrap_eer` has them.
        fmr: share of non-mated pairs that may match, in (0, 1].
        source: where the scores are from.

    Raises:
        ConfigError: no FMR, or one that is finer than the pairs can show.
        DataError: one kind of pair is absent.
    """
    if not 0 < fmr <= 1:
        raise ConfigError(f"--fmr: {fmr:g}; expected a share above 0 and up to 1, such as 0.001")
    values, truth = np.asarray(scores), np.asarray(mated).astype(bool)
    mated_scores, non_mated = values[truth], values[~truth]
    if non_mated.size and fmr < 1 / non_mated.size:
        raise ConfigError(
            f"--fmr: {fmr:g}; the {non_mated.size:,} non-mated pairs of {source} cannot show an "
            f"FMR below 1/{non_mated.size}\n  expected at least {1 / non_mated.size:.3g}, or a run "
            "with more validation pairs"
        )
    threshold = fmr_threshold(values, truth, fmr)
    low, high = bootstrap_fmr_threshold(
        values, truth, fmr, left=left, right=right, repeats=repeats, seed=seed
    )
    return Threshold(
        value=threshold,
        low=low,
        high=high,
        wanted_fmr=fmr,
        fmr=float(np.mean(non_mated >= threshold)),
        fnmr=float(np.mean(mated_scores < threshold)),
        eer_low=None,
        eer_high=None,
        n_mated=mated_scores.size,
        n_non_mated=non_mated.size,
        source=source,
    )


def _scores_of(checkpoint: Path) -> Path:
    """Find the run's scores; they are its best checkpoint's, which others do not share."""
    file, best = checkpoint.with_name(SCORES), checkpoint.with_name("best.pt")
    if not file.is_file() or not best.is_file() or not best.samefile(checkpoint):
        raise DataError(
            f"{checkpoint}: no {SCORES} of this checkpoint beside it, where --fmr finds its "
            "threshold\n  expected the best.pt of a finished run; without --fmr the threshold "
            "at EER is taken, which is in the checkpoint"
        )
    return file


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and isfinite(value)
