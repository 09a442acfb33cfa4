"""The pictures of a run's report, as SVG that takes its text colour from the page."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facever.metrics import det_curve, eer_threshold, equal_error_rate
from facever.report.canvas import INK, LINE, MATED, NON_MATED, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Lines = Sequence[Mapping[str, Any]]

POINTS = 600  # of a curve: more cannot be seen at this size
DET_RATES = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4)
DET_RATES_NEAR_CHANCE = (*DET_RATES, 0.6, 0.8, 0.9, 0.95, 0.98)


def curve(lines: Lines, key: str, label: str, *, log: bool = False) -> str:
    """One value of metrics.jsonl over the steps; "" where no line holds it."""
    steps, values = _series(lines, key)
    if not steps.size:
        return ""

    def draw(axes: "Axes") -> None:
        axes.plot(*_thinned(steps, values), color=LINE, marker="." if steps.size == 1 else "")
        axes.set_yscale("log" if log and (values > 0).all() else "linear")
        axes.set(xlabel="step", ylabel=label)

    return _svg(label, draw)


def eer_curve(lines: Lines) -> str:
    """EER in percent over the steps, with its interval as a band and its best value marked."""
    steps, eer = _series(lines, "EER")
    if not steps.size:
        return ""

    def draw(axes: "Axes") -> None:
        low_steps, low = _series(lines, "EER_low")
        high_steps, high = _series(lines, "EER_high")
        if np.array_equal(low_steps, high_steps):
            axes.fill_between(low_steps, low, high, color=LINE, alpha=0.25, linewidth=0)
        axes.plot(steps, eer, color=LINE, marker=".")
        best = int(np.argmin(eer))
        axes.plot(steps[best], eer[best], "o", color=NON_MATED)
        axes.annotate(f"{eer[best]:.2f} %", (steps[best], eer[best]), (4, 6),
                      textcoords="offset points")  # fmt: skip
        axes.set(xlabel="step", ylabel="EER, %, with 95 % interval")

    return _svg("EER on the validation pairs", draw)


def score_histogram(scores: Floats, mated: NDArray[np.bool_]) -> str:
    """Density of mated and of non-mated scores, and the threshold at EER."""

    def draw(axes: "Axes") -> None:
        bins = np.histogram_bin_edges(scores, bins=min(60, max(10, scores.size // 20)))
        for kind, name, colour in ((mated, "mated", MATED), (~mated, "non-mated", NON_MATED)):
            axes.hist(
                scores[kind], bins=bins.tolist(), density=True, color=colour, alpha=0.6, label=name
            )
        threshold = eer_threshold(scores, mated)
        axes.axvline(threshold, color=INK, linestyle="--", label=f"threshold {threshold:.3f}")
        axes.set(xlabel="score (cosine)", ylabel="density")
        axes.legend(frameon=False)

    return _svg("scores of mated and non-mated pairs", draw)


def det(scores: Floats, mated: NDArray[np.bool_]) -> str:
    """FNMR against FMR on normal-deviate axes, where normal scores give straight lines."""
    fmr, fnmr, _ = det_curve(scores, mated)
    inside = (fmr > 0) & (fmr < 1) & (fnmr > 0) & (fnmr < 1)
    x, y = _thinned(_deviates(fmr[inside]), _deviates(fnmr[inside]), mean=False)
    eer = equal_error_rate(scores, mated)
    rates = DET_RATES if eer < 0.3 else DET_RATES_NEAR_CHANCE

    def draw(axes: "Axes") -> None:
        ticks = _deviates(np.array(rates))
        labels = [f"{100 * rate:g}" for rate in rates]
        axes.plot(ticks[[0, -1]], ticks[[0, -1]], color=INK, linewidth=0.5, linestyle=":")
        axes.plot(x, y, color=LINE)
        if 0 < eer < 1:
            place = NormalDist().inv_cdf(eer)
            axes.plot(place, place, "o", color=NON_MATED, label=f"EER {100 * eer:.2f} %")
            axes.legend(frameon=False)
        limits = (ticks[0], ticks[-1])
        axes.set(
            xticks=ticks,
            xticklabels=labels,
            yticks=ticks,
            yticklabels=labels,
            xlim=limits,
            ylim=limits,
            xlabel="FMR (FAR), %",
            ylabel="FNMR (FRR), %",
        )

    return _svg("DET curve on normal-deviate axes", draw)


def roc(scores: Floats, mated: NDArray[np.bool_]) -> str:
    """TAR against FMR on a logarithmic axis, which begins at one non-mated pair."""
    fmr, fnmr, _ = det_curve(scores, mated)
    seen = fmr > 0
    x, y = _thinned(fmr[seen], 1 - fnmr[seen], mean=False)

    def draw(axes: "Axes") -> None:
        axes.plot(x, y, color=LINE)
        axes.set(xscale="log", xlabel="FMR (FAR)", ylabel="TAR = 1 - FNMR", ylim=(None, 1.01))

    return _svg("ROC curve on a logarithmic axis", draw)


def _series(lines: Lines, key: str) -> tuple[Floats, Floats]:
    """Steps and finite values of a key, over the lines that hold one; JSON's null is none."""
    found = [
        (line["step"], line[key])
        for line in lines
        if isinstance(line.get(key), int | float) and math.isfinite(line[key])
    ]
    steps, values = zip(*found, strict=True) if found else ((), ())
    return np.array(steps, dtype=np.float64), np.array(values, dtype=np.float64)


def _thinned(x: Floats, y: Floats, *, mean: bool = True) -> tuple[Floats, Floats]:
    """At most `POINTS` points: means of neighbours, or every so many of a smooth curve."""
    if x.size <= POINTS:
        return x, y
    if not mean:
        kept = np.unique(np.linspace(0, x.size - 1, POINTS).astype(int))
        return x[kept], y[kept]
    starts = np.arange(0, x.size, math.ceil(x.size / POINTS))
    counts = np.diff(np.append(starts, x.size))
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def _deviates(rates: Floats) -> Floats:
    return np.array([NormalDist().inv_cdf(rate) for rate in rates.tolist()])


def _svg(title: str, draw: Callable[["Axes"], None]) -> str:
    """One pair of axes as an `<svg>` element."""

    def place(figure: "Figure") -> None:
        # Fixed margins: a layout engine would draw everything twice to measure the labels.
        figure.subplots_adjust(left=0.14, right=0.97, bottom=0.14, top=0.96)
        draw(figure.add_subplot())

    return svg(title, place)
