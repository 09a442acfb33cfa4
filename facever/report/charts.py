"""Small charts as SVG, drawn in a millisecond, for pages that are written after every epoch.

A chart is `Axes` with marks on them. Its colours are classes of the page's style sheet, so that it
follows the light and the dark; its places are known, so that a script can move a mark.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# The view box and, inside it, where the axes lie. At this size the text of a figure that fills a
# phone is as large as that of three in a row on a desk.
WIDTH, HEIGHT = 400, 260
LEFT, RIGHT, TOP, BOTTOM = 50, 388, 26, 222
TICKS = 5
COLOURS = 6  # of the style sheet: c0 to c5, then again dashed, then dotted
POINTS = 500  # of a curve: more cannot be seen at this size
LOG_SPAN = 100  # values that differ by this factor are read off a logarithmic axis
ROOM = 0.05  # above and below a curve, of its range
RATES = (
    1e-6, 1e-5, 1e-4, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95,
    0.98, 0.99, 0.999,
)  # fmt: skip
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, eq=False)
class Scale:
    """Where the values of one axis lie.

    Attributes:
        low, high: at its two ends, after `bend`.
        ticks: values and what is written beside them.
        bend: values to what is evenly spaced on the axis.
    """

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    bend: Callable[[Floats], Floats] = np.asarray

    def __call__(self, values: ArrayLike) -> Floats:
        """Place of each value between the ends, 0 to 1; what lies beyond is at the nearer end."""
        with np.errstate(divide="ignore"):
            bent = self.bend(np.asarray(values, dtype=np.float64))
        return np.clip((bent - self.low) / (self.high - self.low), 0.0, 1.0)


def linear(
    values: ArrayLike, *, least: float | None = None, room: float = 0.0, whole: bool = False
) -> Scale:
    """An even axis over all the values, with round ticks.

    Args:
        values: what must lie on it.
        least: where it begins, if not at the lowest.
        room: left below and above them, as a share of their range.
        whole: ticks are whole numbers.
    """
    found = np.asarray(values, dtype=np.float64)
    low, high = float(found.min()), float(found.max())
    if not high - low > 1e-9 * max(abs(low), abs(high)):
        low, high = low - (abs(high) / 10 or 1.0), high + (abs(high) / 10 or 1.0)
    low, high = low - room * (high - low), high + room * (high - low)
    low = low if least is None else least
    step = max(_round_step((high - low) / TICKS), 1.0 if whole else 0.0)
    ticks = np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1) * step
    return Scale(low, high, [(tick, _number(tick, step)) for tick in ticks.tolist()])


def logarithmic(values: ArrayLike) -> Scale:
    """A logarithmic axis over values above 0, with ticks at powers of ten."""
    powers = np.log10(np.asarray(values, dtype=np.float64))
    high = float(powers.max())
    low = min(float(powers.min()), high - 1)
    first, last = math.ceil(low - 1e-9), math.floor(high + 1e-9)
    every = max(1, math.ceil((last - first) / TICKS))
    ticks = [(10.0**k, _power(k)) for k in range(first, last + 1, every)]
    return Scale(low, high, ticks, np.log10)


def fitting(values: ArrayLike) -> Scale:
    """A logarithmic axis where the values span decades and are above 0, else an even one."""
    found = np.asarray(values, dtype=np.float64)
    if found.min() > 0 and found.max() >= LOG_SPAN * found.min():
        return logarithmic(found)
    return linear(found, room=ROOM)


def deviate(low: float, high: float) -> Scale:
    """An axis of rates on which normal scores give straight lines, in percent.

    It goes from the tick below `low` to the one above `high`, both in (0, 1).
    """
    first = max([rate for rate in RATES if rate <= min(low, 0.1)], default=RATES[0])
    last = min([rate for rate in RATES if rate >= max(high, 0.4)], default=RATES[-1])
    inside = [rate for rate in RATES if first <= rate <= last]
    ends = _deviates(np.array([first, last]))
    shown = [(rate, f"{100 * rate:g}") for rate in inside]
    return Scale(float(ends[0]), float(ends[1]), shown, _deviates)


def _deviates(rates: Floats) -> Floats:
    """Normal deviates, infinite at 0 and 1."""
    inverse = NormalDist().inv_cdf
    flat = [inverse(rate) if 0 < rate < 1 else math.inf * (rate - 0.5) for rate in rates.flat]
    return np.array(flat).reshape(rates.shape)


@dataclass(frozen=True)
class Axes:
    """Two scales, and marks on them; `kind` is the class of a colour, such as `colour` gives."""

    x: Scale
    y: Scale

    def places(self, x: ArrayLike, y: ArrayLike) -> Floats:
        """Where points (N,) lie in the view box, (N, 2)."""
        across = LEFT + (RIGHT - LEFT) * self.x(x)
        return np.stack(np.broadcast_arrays(across, BOTTOM - (BOTTOM - TOP) * self.y(y)), axis=-1)

    def line(self, kind: str, x: ArrayLike, y: ArrayLike) -> str:
        """A line through points (N,), if there are any."""
        through = _joined(self.places(x, y))
        return f'<path class="line {kind}" d="M{through}"/>' if through else ""

    def area(self, kind: str, x: ArrayLike, low: ArrayLike, high: ArrayLike) -> str:
        """What lies between two curves over x (N,)."""
        there, back = self.places(x, low), self.places(x, high)[::-1]
        return f'<path class="area {kind}" d="M{_joined(np.concatenate([there, back]))}Z"/>'

    def bars(self, kind: str, edges: ArrayLike, heights: ArrayLike) -> str:
        """Bars of heights (N,) between edges (N + 1,), as one outline."""
        x = np.repeat(np.asarray(edges), 2)
        y = np.concatenate([[0], np.repeat(np.asarray(heights), 2), [0]])
        return self.area(kind, x, np.zeros_like(y), y)

    def points(self, kind: str, x: ArrayLike, y: ArrayLike) -> str:
        """Points (N,) as dots in one path."""
        dots = "".join(f"M{across:.1f} {up:.1f}h0" for across, up in self.places(x, y))
        return f'<path class="points {kind}" d="{dots}"/>'

    def dot(self, kind: str, x: float, y: float, more: str = "") -> str:
        """One larger dot; `more` are further attributes of it."""
        ((across, up),) = self.places([x], [y])
        place = f"translate({across:.1f} {up:.1f})"
        return f'<g transform="{place}"{more}><circle class="{kind}" r="4"/></g>'

    def upright(self, kind: str, x: float, more: str = "") -> str:
        """A line from the bottom to the top."""
        across = LEFT + (RIGHT - LEFT) * float(self.x([x])[0])
        return (
            f'<g transform="translate({across:.1f} 0)"{more}>'
            f'<path class="line {kind}" d="M0 {TOP}V{BOTTOM}"/></g>'
        )

    def text(self, x: float, y: float, words: str) -> str:
        """Words above a point, on the side of it that has more room."""
        ((across, up),) = self.places([x], [y])
        anchor = "end" if across > (LEFT + RIGHT) / 2 else "start"
        place = f'x="{across:.1f}" y="{up - 8:.1f}" text-anchor="{anchor}"'
        return f"<text {place}>{escape(words)}</text>"

    def svg(self, marks: Iterable[str], *, x: str, y: str, label: str) -> str:
        """The chart as an `<svg>` element.

        Args:
            marks: what the methods give, the lowest first.
            x, y: what the axes measure, with their units.
            label: what a screen reader says.
        """
        return (
            f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{escape(label)}">{self._frame(x, y)}{"".join(marks)}</svg>'
        )

    def _frame(self, x: str, y: str) -> str:
        columns = [(float(p), text) for p, text in self._ticks(self.x, LEFT, RIGHT)]
        rows = [(float(p), text) for p, text in self._ticks(self.y, BOTTOM, TOP)]
        rules = [f"M{LEFT} {place:.1f}H{RIGHT}" for place, _ in rows]
        rules += [f"M{place:.1f} {TOP}V{BOTTOM}" for place, _ in columns]
        return "".join(
            [
                f'<path class="rules" d="{"".join(rules)}"/>',
                f'<path class="axis" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>',
                *(
                    f'<text x="{place:.1f}" y="{BOTTOM + 15}" text-anchor="middle">{text}</text>'
                    for place, text in columns
                ),
                *(
                    f'<text x="{LEFT - 6}" y="{place + 4:.1f}" text-anchor="end">{text}</text>'
                    for place, text in rows
                ),
                f'<text x="{RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{escape(x)}</text>',
                f'<text x="4" y="14">{escape(y)}</text>',
            ]
        )

    @staticmethod
    def _ticks(scale: Scale, start: float, stop: float) -> Iterable[tuple[float, str]]:
        return ((start + (stop - start) * float(scale(value)), text) for value, text in scale.ticks)


def colour(i: int) -> str:
    """Class of the i-th of several series: a colour, and a kind of line when they repeat."""
    return f"c{i % COLOURS} d{i // COLOURS % 3}"


def thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """At most `POINTS` points, each the mean of neighbours."""
    if x.size <= POINTS:
        return x, y
    starts = np.arange(0, x.size, math.ceil(x.size / POINTS))
    counts = np.diff(np.append(starts, x.size))
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def every_so_many(*columns: Floats) -> list[Floats]:
    """At most `POINTS` rows of columns (N,), evenly spread, the first and the last among them."""
    kept = np.unique(np.linspace(0, max(columns[0].size - 1, 0), POINTS).astype(int))
    return [column[kept] if column.size else column for column in columns]


def _joined(places: NDArray[Any]) -> str:
    return "L".join(f"{across:.1f} {up:.1f}" for across, up in places.tolist())


def _round_step(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * 0.999)


def _number(value: float, step: float) -> str:
    """A tick with the decimals that its step needs."""
    if max(abs(value), step) >= 1e7 or step < 1e-6:
        return f"{value:.3g}"
    decimals = max(0, -math.floor(math.log10(step)))
    return f"{value if abs(value) > step / 2 else 0:,.{decimals}f}"


def _power(k: int) -> str:
    return f"{10.0**k:g}" if -4 < k < 5 else f"10{str(k).translate(SUPERSCRIPTS)}"
