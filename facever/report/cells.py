"""Pictures of all cells of a comparison on common axes: over training, and over a sweep."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from facever.report.canvas import SIZE, Picture, cut

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Array = NDArray[Any]
Floats = NDArray[np.float64]
Mark = Literal["min", "max"]
Seeds = Sequence[tuple[Array, Array]]
Sweep = Sequence[tuple[tuple[float, ...], Sequence[float]]]

# Okabe and Ito's colours but black and yellow, which one of the two backgrounds hides; with three
# kinds of line, eighteen cells.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
DASHES = ("solid", "dashed", "dotted")
LABEL = 40  # characters in a legend
NUMBERED = 6  # cells of which the picture says the values beside their marks; more would collide


@dataclass(frozen=True)
class Band:
    """Values over seeds where any seed has one: all shaped (E,), x ascending."""

    x: Floats
    mean: Floats
    low: Floats
    high: Floats

    def extreme(self, mark: Mark) -> int:
        """Index of the first smallest or largest mean."""
        return int(np.argmin(self.mean) if mark == "min" else np.argmax(self.mean))


def curves(
    name: str,
    caption: str,
    series: Mapping[str, Seeds],
    ylabel: str,
    mark: Mark,
    xlabel: str = "epoch",
    *,
    log: bool = False,
) -> Picture:
    """All cells over training: mean over seeds, their range as a band, the best mean marked.

    A cell keeps its colour over pictures whose `series` hold the same labels in the same order:
    give a cell that has nothing to show an empty sequence.

    Args:
        name: stem of the picture's file.
        caption: what is seen.
        series: of each cell and seed x (E,) and y (E,), finite; seeds may differ in length, and
            the mean at an x is over the seeds that have it.
        ylabel: what y is, with its unit.
        mark: which extreme of the mean gets a dot and its value.
        xlabel: what x is.
        log: y on a logarithmic axis, if all of it is positive.
    """
    styles = {label: _line_style(i) for i, label in enumerate(series)}
    bands = {label: _band(seeds) for label, seeds in series.items() if any(map(_filled, seeds))}
    whole = all((band.x % 1 == 0).all() for band in bands.values())
    positive = all((band.low > 0).all() for band in bands.values())

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.set(xlabel=xlabel, ylabel=ylabel)
        if log and positive:
            _logarithmic(axes)
        if whole:
            axes.locator_params(axis="x", integer=True)
        marks = []
        for label, band in bands.items():
            best, colour = band.extreme(mark), styles[label]["color"]
            place = band.x[best], band.mean[best]
            marks.append((colour, place))
            line = f"{cut(label, LABEL)}  {band.mean[best]:.4g}"
            axes.fill_between(band.x, band.low, band.high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(band.x, band.mean, label=line, **styles[label])
            axes.plot(*place, "o", color=colour, markersize=4)
        if 0 < len(bands) <= NUMBERED:
            _number(axes, marks)
        _legend(figure, title=f"{mark}imum of the mean")

    return Picture(name, caption, draw, _beside_legend(bands))


def sweep(
    name: str,
    caption: str,
    series: Mapping[str, Sweep],
    parameters: Sequence[str],
    measure: str,
    mark: Mark,
) -> Picture:
    """A measure over one parameter as points, or over two as a heat map for each loss.

    Points are means over seeds, their bars the range; the best mean is ringed.

    Args:
        name: stem of the picture's file.
        caption: what is seen.
        series: of each loss the points of its grid, each the values of the parameters in the
            order of `parameters` and the measure of every seed (at least one, finite).
        parameters: one name or two; the second is drawn upwards.
        measure: what was measured, with its unit.
        mark: which extreme is best.
    """
    assert len(parameters) in (1, 2), parameters
    if len(parameters) == 1:
        draw, size = _points(series, parameters[0], measure, mark), _beside_legend(series)
    else:
        draw = _heat_maps(series, parameters, measure, mark)
        columns, rows = (
            max(len({values[side] for values, _ in points}) for points in series.values())
            for side in (0, 1)
        )
        size = ((0.9 * columns + 0.8) * len(series) + 1, max(SIZE[1], 0.5 * rows + 1))
    return Picture(name, caption, draw, size)


def _points(
    series: Mapping[str, Sweep], parameter: str, measure: str, mark: Mark
) -> Callable[["Figure"], None]:
    bands = {label: _swept(points) for label, points in series.items()}
    values = np.unique(np.concatenate([band.x for band in bands.values()]))

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.set(xlabel=parameter, ylabel=measure)
        for i, (label, band) in enumerate(bands.items()):
            bars = (band.mean - band.low, band.high - band.mean)
            best, style = band.extreme(mark), _line_style(i)
            line = f"{cut(label, LABEL)}  {band.mean[best]:.4g} at {band.x[best]:g}"
            axes.errorbar(band.x, band.mean, bars, marker="o", capsize=3, label=line, **style)
            axes.plot(
                band.x[best], band.mean[best], "o", markersize=11, fillstyle="none",
                color=style["color"],
            )  # fmt: skip
        if values[0] > 0 and values[-1] / values[0] >= 20:
            axes.set_xscale("log")
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()
        _legend(figure, title=f"{mark}imum of the mean")

    return draw


def _heat_maps(
    series: Mapping[str, Sweep], parameters: Sequence[str], measure: str, mark: Mark
) -> Callable[["Figure"], None]:
    means = [float(np.mean(seeds)) for points in series.values() for _, seeds in points]
    bounds = min(means), max(means)

    def draw(figure: "Figure") -> None:
        grid = [figure.add_subplot(1, len(series), i + 1) for i in range(len(series))]
        for axes, (label, points) in zip(grid, series.items(), strict=True):
            axes.set(title=label, xlabel=parameters[0], ylabel=parameters[1])
            colours = _heat_map(axes, points, bounds, mark)
        figure.colorbar(colours, ax=grid, label=measure)

    return draw


def _heat_map(axes: "Axes", points: Sweep, bounds: tuple[float, float], mark: Mark) -> "AxesImage":
    """A field for each point with its mean and its range; points that are absent stay empty."""
    columns, rows = (sorted({values[side] for values, _ in points}) for side in (0, 1))
    table = np.full((len(rows), len(columns)), np.nan)
    means = [float(np.mean(seeds)) for _, seeds in points]
    best = (min if mark == "min" else max)(means)
    for ((x, y), seeds), mean in zip(points, means, strict=True):
        place = columns.index(x), rows.index(y)
        table[place[::-1]] = mean
        colour = "black" if mean > sum(bounds) / 2 else "white"
        ring = {"boxstyle": "round", "fill": False, "edgecolor": colour, "linewidth": 1.5}
        spread = f"\n{min(seeds):.4g} to {max(seeds):.4g}" if len(seeds) > 1 else ""
        axes.annotate(
            f"{mean:.4g}{spread}", place, ha="center", va="center", fontsize=7, color=colour,
            bbox=ring if mean == best else None,
        )  # fmt: skip
    axes.set_xticks(range(len(columns)), [f"{x:g}" for x in columns])
    axes.set_yticks(range(len(rows)), [f"{y:g}" for y in rows])
    low, high = bounds
    return axes.imshow(table, "cividis", vmin=low, vmax=high, origin="lower", aspect="auto")


def _line_style(i: int) -> dict[str, Any]:
    """Colour and kind of line of the i-th cell."""
    dashes = DASHES[i // len(COLOURS) % len(DASHES)]
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": dashes}


def _filled(seed: tuple[Array, Array]) -> bool:
    return len(seed[0]) > 0


def _band(seeds: Seeds) -> Band:
    """Mean and range over the seeds at each x that any of them has."""
    x = np.unique(np.concatenate([np.asarray(x, dtype=np.float64) for x, _ in seeds]))
    table = np.full((len(seeds), x.size), np.nan)
    for row, (places, values) in zip(table, seeds, strict=True):
        row[np.searchsorted(x, places)] = values
    return _over_seeds(x, table)


def _swept(points: Sweep) -> Band:
    """Mean and range over the seeds at each value of the one parameter."""
    ordered = sorted(points)
    table = np.full((max(len(seeds) for _, seeds in ordered), len(ordered)), np.nan)
    for column, (_, seeds) in zip(table.T, ordered, strict=True):
        column[: len(seeds)] = seeds
    return _over_seeds(np.array([value for (value,), _ in ordered], dtype=np.float64), table)


def _over_seeds(x: Floats, table: Floats) -> Band:
    """Of a table (seeds, E), NaN where a seed has no value."""
    return Band(x, np.nanmean(table, 0), np.nanmin(table, 0), np.nanmax(table, 0))


def _logarithmic(axes: "Axes") -> None:
    from matplotlib.ticker import NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _number(axes: "Axes", marks: Sequence[tuple[str, tuple[float, float]]]) -> None:
    """Write the value of each mark, (colour, (x, y)), on the right edge, no two at one height."""
    # The limits follow what is drawn only once they are asked for.
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    rising = sorted(marks, key=lambda mark: mark[1][1])
    heights = (axes.transScale + axes.transLimits).transform([at for _, at in rising])[:, 1]
    for (colour, at), height in zip(rising, _apart(heights, 0.06), strict=True):
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0}
        axes.annotate(
            f"{at[1]:.4g}", at, (1.02, height), textcoords="axes fraction", va="center",
            fontsize=7, arrowprops=leader,
        )  # fmt: skip


def _apart(heights: Floats, gap: float) -> Floats:
    """Ascending heights, each at least `gap` above the last, about the same mean, from 0 on."""
    moved = heights.copy()
    for i in range(1, moved.size):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    moved -= (moved - heights).mean()
    return np.asarray(moved + max(0.0, -moved[0]))


def _legend(figure: "Figure", title: str) -> None:
    figure.legend(
        loc="outside right upper", title=title, title_fontsize=7, fontsize=7, frameon=False,
        handlelength=3,
    )  # fmt: skip


def _beside_legend(labels: Collection[str]) -> tuple[float, float]:
    """Inches of one pair of axes and a legend of these labels and a value beside it."""
    longest = min(LABEL, max(map(len, labels), default=0))
    return SIZE[0] + 1 + 0.06 * longest, max(SIZE[1], 0.17 * len(labels) + 0.5)
