"""The charts of runs: over training, over thresholds, over data and embeddings.

Several runs share the axes of a chart; each keeps its colour over all charts. Letters: N pairs or
images, D embedding dimension.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facever.metrics import det_curve, equal_error_rate
from facever.report import charts
from facever.report.charts import Axes, colour
from facever.report.operating import OperatingPoints

Floats = NDArray[np.float64]
Truth = NDArray[np.bool_]
Lines = Sequence[Mapping[str, Any]]
Curves = Mapping[str, tuple[Floats, Floats]]
Measured = tuple[Floats, Truth]
"""Scores and which pairs are mated, (N,) each."""

MATED, NON_MATED, LINE = "mated", "non-mated", "c0"


@dataclass(frozen=True)
class Drawing:
    """A chart, and what its colours stand for: class and name."""

    svg: str
    keys: Sequence[tuple[str, str]] = ()


def curve(runs: Mapping[str, Lines], key: str, label: str, factor: float = 1) -> Drawing:
    """One value of metrics.jsonl over the steps."""
    found = {name: series(lines, key, factor) for name, lines in runs.items()}
    return over_steps(found, label)


def over_steps(curves: Curves, label: str) -> Drawing:
    """Several values over the steps; nothing where none has a point."""
    shown = {
        name: (charts.thinned(*points), colour(i))
        for i, (name, points) in enumerate(curves.items())
        if points[0].size
    }
    if not shown:
        return Drawing("")
    axes = Axes(
        charts.linear(np.concatenate([x for (x, _), _ in shown.values()])),
        charts.fitting(np.concatenate([y for (_, y), _ in shown.values()])),
    )
    marks = [
        axes.line(kind, x, y) if x.size > 1 else axes.points(kind, x, y)
        for (x, y), kind in shown.values()
    ]
    keys = [(kind, name) for name, (_, kind) in shown.items()] if len(curves) > 1 else []
    return Drawing(axes.svg(marks, x="step", y=label, label=f"{label} over steps"), keys)


def eer_curve(runs: Mapping[str, Lines]) -> Drawing:
    """EER in percent over the steps, its interval as a band, the best value with its number."""
    found = {name: series(lines, "EER") for name, lines in runs.items()}
    shown = {name: points for name, points in found.items() if points[0].size}
    if not shown:
        return Drawing("")
    bands = {name: _band(runs[name]) for name in shown}
    heights = [*(y for _, y in shown.values()), *(band[1:].ravel() for band in bands.values())]
    axes = Axes(
        charts.linear(np.concatenate([x for x, _ in shown.values()])),
        charts.linear(np.concatenate(heights), room=charts.ROOM),
    )
    kinds = {name: colour(i) for i, name in enumerate(found)}
    marks = [axes.area(kinds[name], *bands[name]) for name in shown if bands[name].size]
    for name, (x, y) in shown.items():
        best = int(np.argmin(y))
        marks += [
            axes.line(kinds[name], x, y),
            axes.points(kinds[name], x, y),
            axes.dot(kinds[name], x[best], y[best]),
            axes.text(x[best], y[best], f"{y[best]:.2f} %"),
        ]
    keys = [(kinds[name], name) for name in shown] if len(runs) > 1 else []
    return Drawing(axes.svg(marks, x="step", y="EER, %", label="EER over steps, percent"), keys)


def _band(lines: Lines) -> Floats:
    """Steps and both ends of the interval, (3, E); empty where they are not all there."""
    (steps, low), (others, high) = series(lines, "EER_low"), series(lines, "EER_high")
    return np.array([steps, low, high]) if np.array_equal(steps, others) else np.empty((3, 0))


def score_histogram(scores: Floats, mated: Truth, points: OperatingPoints) -> Drawing:
    """Density of mated and of non-mated scores, and a threshold that can be moved."""
    edges = np.histogram_bin_edges(scores, bins=min(60, max(10, scores.size // 20)))
    heights = {
        kind: np.histogram(scores[chosen], edges, density=True)[0]
        for kind, chosen in ((MATED, mated), (NON_MATED, ~mated))
    }
    axes = Axes(charts.linear(edges), charts.linear([*heights.values()], least=0, room=charts.ROOM))
    places = axes.places(points.thresholds, 0)
    places[:, 1] = 0  # the line spans the whole height wherever it is
    marks = [axes.bars(kind, edges, values) for kind, values in heights.items()]
    marks.append(axes.upright("ink", points.thresholds[points.start], points.moving(places)))
    svg = axes.svg(
        marks, x="score (cosine)", y="density", label="scores of mated and of non-mated pairs"
    )
    return Drawing(svg, [(kind, kind) for kind in heights] + [("ink", "threshold")])


def det(runs: Mapping[str, Measured | None], points: OperatingPoints | None = None) -> Drawing:
    """FNMR against FMR on normal-deviate axes, where normal scores give straight lines."""
    measured = [run for run in runs.values() if run]
    counts = [(int((~mated).sum()), int(mated.sum())) for _, mated in measured]
    high = max(1.3 * equal_error_rate(*run) for run in measured)
    axes = Axes(*(charts.deviate(1 / max(column), high) for column in zip(*counts, strict=True)))

    def inside(run: Measured) -> Sequence[Floats]:
        fmr, fnmr, _ = det_curve(*run)
        x, y = axes.x(fmr), axes.y(fnmr)
        kept = (x > 0) & (x < 1) & (y > 0) & (y < 1)
        return charts.every_so_many(fmr[kept], fnmr[kept])

    both = sorted(dict(axes.x.ticks).keys() & dict(axes.y.ticks).keys())
    marks = [axes.line("rules", both, both), *_lines(axes, runs, inside)]
    if points:
        marks.append(_moving_dot(axes, points, points.fnmr))
    svg = axes.svg(marks, x="FMR (FAR), %", y="FNMR (FRR), %", label="DET curve")
    return Drawing(svg, _names(runs))


def roc(runs: Mapping[str, Measured | None], points: OperatingPoints | None = None) -> Drawing:
    """TAR against FMR on a logarithmic axis, which begins at one non-mated pair."""

    def seen(run: Measured) -> Sequence[Floats]:
        fmr, fnmr, _ = det_curve(*run)
        return charts.every_so_many(fmr[fmr > 0], 1 - fnmr[fmr > 0])

    found = [seen(run) for run in runs.values() if run]
    axes = Axes(
        charts.logarithmic(np.concatenate([fmr for fmr, _ in found])),
        charts.linear(np.concatenate([tar for _, tar in found])),
    )
    marks = _lines(axes, runs, seen)
    if points:
        marks.append(_moving_dot(axes, points, 1 - points.fnmr))
    return Drawing(axes.svg(marks, x="FMR (FAR)", y="TAR = 1 - FNMR", label="ROC"), _names(runs))


def _lines(
    axes: Axes,
    runs: Mapping[str, Measured | None],
    points: Callable[[Measured], Sequence[Floats]],
) -> list[str]:
    return [axes.line(colour(i), *points(run)) for i, run in enumerate(runs.values()) if run]


def _names(runs: Mapping[str, Measured | None]) -> list[tuple[str, str]]:
    """What the colours of several runs stand for."""
    kinds = [(colour(i), name) for i, (name, run) in enumerate(runs.items()) if run]
    return kinds if len(runs) > 1 else []


def _moving_dot(axes: Axes, points: OperatingPoints, heights: Floats) -> str:
    """The point of a curve that goes with the threshold of the slider."""
    moving = points.moving(axes.places(points.fmr, heights))
    return axes.dot("ink", points.fmr[points.start], heights[points.start], moving)


def identity_sizes(counts: NDArray[np.int64]) -> Drawing:
    """How many identities have how many images."""
    low, high = int(counts.min()), int(counts.max())
    width = max(1, math.ceil((high - low + 1) / 40))
    edges = np.arange(low, high + width + 1, width) - 0.5
    heights = np.histogram(counts, edges)[0]
    axes = Axes(
        charts.linear(edges, whole=True),
        charts.linear(heights, least=0, room=charts.ROOM, whole=True),
    )
    return Drawing(
        axes.svg(
            [axes.bars(LINE, edges, heights)],
            x="images of an identity", y="identities", label="images per identity",
        )
    )  # fmt: skip


def norm_over_quality(quality: Floats, norms: Floats) -> Drawing:
    """Norm of each embedding over the sharpness of its image, (N,) each."""
    axes = Axes(*(charts.linear(values, room=charts.ROOM) for values in (quality, norms)))
    return Drawing(
        axes.svg(
            [axes.points(LINE, quality, norms)],
            x="sharpness, log(1 + variance of the Laplacian)", y="norm of the embedding",
            label="norms of embeddings over the sharpness of their images",
        )
    )  # fmt: skip


def embedding_map(
    embeddings: NDArray[np.float32], labels: NDArray[np.int64], names: Sequence[str]
) -> tuple[Drawing, float]:
    """Unit embeddings (N, D) on their two principal components, and their share of variance.

    Args:
        embeddings: raw.
        labels: of each, an index into `names`; (N,).
        names: of the identities.
    """
    z = embeddings.astype(np.float64)
    z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    z -= z.mean(0)
    _, lengths, components = np.linalg.svd(z, full_matrices=False)
    flat = np.zeros((len(z), 2))
    flat[:, : min(2, len(components))] = z @ components[:2].T
    share = float((lengths[:2] ** 2).sum() / max((lengths**2).sum(), np.finfo(np.float64).tiny))
    axes = Axes(*(charts.linear(values, room=charts.ROOM) for values in flat.T))
    kinds = {k: f"k{k % 10}" for k in range(len(names))}
    marks = [axes.points(kind, *flat[labels == k].T) for k, kind in kinds.items()]
    svg = axes.svg(
        marks, x="first principal component", y="second", label="embeddings of some identities"
    )
    return Drawing(svg, [(kind, names[k]) for k, kind in kinds.items()]), share


def series(lines: Lines, key: str, factor: float = 1) -> tuple[Floats, Floats]:
    """Steps and finite values of a key, over the lines that hold one; JSON's null is none."""
    found = [
        (line["step"], factor * line[key])
        for line in lines
        if isinstance(line.get(key), int | float) and math.isfinite(line[key])
    ]
    steps, values = zip(*found, strict=True) if found else ((), ())
    return np.array(steps, dtype=np.float64), np.array(values, dtype=np.float64)
