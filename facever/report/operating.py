"""What a threshold costs: the operating points that a page's slider goes through."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facever.metrics import eer_threshold, error_counts, fmr_threshold
from facever.report import markup

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STEPS = 300  # of the slider, evenly from the lowest score to the highest
WANTED = (0.1, 0.01, 1e-3, 1e-4)  # FMRs that have a button, where the pairs resolve them
SCRIPT = Path(__file__).with_name("threshold.js")


@dataclass(frozen=True, eq=False)
class OperatingPoints:
    """Thresholds with the errors that they make on some pairs.

    Attributes:
        thresholds: ascending; shape (T,).
        false_matches: non-mated pairs that match; shape (T,).
        misses: mated pairs that do not; shape (T,).
        mated, non_mated: how many pairs there are of each kind.
        named: thresholds of special interest, as indices; the first is the EER's.
    """

    thresholds: Floats
    false_matches: Ints
    misses: Ints
    mated: int
    non_mated: int
    named: Mapping[str, int]

    @property
    def start(self) -> int:
        """Where the slider stands at first: at the EER."""
        return next(iter(self.named.values()))

    @property
    def fmr(self) -> Floats:
        """False match rate at each threshold, (T,)."""
        return self.false_matches / self.non_mated

    @property
    def fnmr(self) -> Floats:
        """False non-match rate at each threshold, (T,)."""
        return self.misses / self.mated

    def moving(self, places: Floats) -> str:
        """An attribute by which a mark of a chart follows the slider, from its places (T, 2)."""
        pairs = ";".join(f"{x:.1f} {y:.1f}" for x, y in places.tolist())
        return f' data-places="{pairs}"'


def operating_points(scores: Floats, mated: NDArray[np.bool_]) -> OperatingPoints:
    """Measure evenly spread thresholds, and those of the EER and of usual FMRs.

    Raises:
        DataError: as `metrics.equal_error_rate`.
    """
    non_mated = int((~mated).sum())
    named = {"EER": eer_threshold(scores, mated)}
    for fmr in WANTED:
        if fmr >= 1 / non_mated:
            named[f"FMR {100 * fmr:g} %"] = fmr_threshold(scores, mated, fmr)
    spread = np.linspace(scores.min(), scores.max(), STEPS).tolist()
    # Rounded before they are measured, so that what is shown is what was measured.
    even = [float(f"{threshold:.4g}") for threshold in spread]
    thresholds = np.unique([*even, *named.values()])
    false_matches, misses = error_counts(scores, mated, thresholds)
    return OperatingPoints(
        thresholds,
        false_matches,
        misses,
        mated.size - non_mated,
        non_mated,
        {name: int(np.searchsorted(thresholds, value)) for name, value in named.items()},
    )


def table(points: OperatingPoints) -> str:
    """What the named thresholds cost."""
    rows = [
        (
            name,
            f"{points.thresholds[i]:.6g}",
            f"{points.fmr[i]:.2%} ({points.false_matches[i]:,} of {points.non_mated:,})",
            f"{points.fnmr[i]:.2%} ({points.misses[i]:,} of {points.mated:,})",
        )
        for name, i in points.named.items()
    ]
    header = ("at", "threshold", "FMR: false matches", "FNMR: false non-matches")
    return markup.table(rows, header)


def slider(points: OperatingPoints) -> str:
    """A slider over all thresholds, which appears where scripts run."""
    values = {
        "threshold": [f"{threshold:.6g}" for threshold in points.thresholds.tolist()],
        "falseMatches": points.false_matches.tolist(),
        "misses": points.misses.tolist(),
        "mated": points.mated,
        "nonMated": points.non_mated,
    }
    buttons = "".join(
        f'<button type="button" value="{i}">{escape(name)}</button>'
        for name, i in points.named.items()
    )
    return (
        f'<div class="slider" id="threshold" hidden data-points="{escape(json.dumps(values))}">'
        f'<label for="slider">Threshold</label> <output id="at"></output><input id="slider" '
        f'type="range" min="0" max="{points.thresholds.size - 1}" value="{points.start}">'
        f'<p>{buttons}</p><p aria-live="polite">FMR <output id="fmr"></output>, '
        f'FNMR <output id="fnmr"></output></p></div>'
    )
