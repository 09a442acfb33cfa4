"""What a bench found: a row for each ratio, as JSON and as an aligned table."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

from facever.bench.harness import Timing


@dataclass(frozen=True)
class Memory:
    """The most that was held at once, beyond inputs, prototypes and gradients."""

    buffers: float
    floor_buffers: float
    unit: str
    """what a buffer is, such as `B x C floats`"""
    aim: float | None = None
    """most buffers"""

    @property
    def verdict(self) -> str:
        """Whether the aim is met, for memory has no spread; empty without an aim."""
        if self.aim is None:
            return ""
        return "met" if self.buffers <= self.aim else "missed"


@dataclass(frozen=True)
class Row:
    """A subject measured by a floor."""

    bench: str
    name: str
    floor: str
    """what the subject is measured by"""
    timing: Timing
    aim: float | None = None
    """largest ratio of the times"""
    conditions: Mapping[str, int | str] = field(default_factory=dict)
    images: int | None = None
    """that a call works on"""
    memory: Memory | None = None

    @property
    def verdict(self) -> str:
        """Of the times."""
        return self.timing.verdict(self.aim)

    def to_json(self) -> dict[str, Any]:
        """Give all fields, and the verdicts, as primitives."""
        values = asdict(self) | {"verdict": self.verdict}
        if self.memory is not None:
            values["memory"]["verdict"] = self.memory.verdict
        return values

    def cells(self) -> dict[str, str]:
        """Give the row's columns of the table, by heading."""
        cells = {
            "": self.name,
            "conditions": ", ".join(_condition(*item) for item in self.conditions.items()),
            "floor": _seconds(self.timing.floor_seconds),
            "time / floor": f"{self.timing.ratio:.2f} ({_spread(self.timing)})",
            "verdict": _verdict(self.verdict, self.aim),
        }
        if self.images is not None:
            cells["images/s"] = f"{self.images / self.timing.seconds:,.0f}"
            cells["floor's images/s"] = f"{self.images / self.timing.floor_seconds:,.0f}"
        if self.memory is not None:
            memory = self.memory
            cells["memory"] = f"{memory.buffers:.2f}"
            cells["floor's memory"] = f"{memory.floor_buffers:.2f} {memory.unit}"
            cells["verdict on memory"] = _verdict(memory.verdict, memory.aim)
        return cells


def table(rows: Iterable[Row]) -> str:
    """Align the rows in columns, under a line for each bench and floor."""
    parts = []
    for (bench, floor), group in groupby(rows, key=lambda row: (row.bench, row.floor)):
        parts.append(f"{bench}, against {floor}\n{_aligned([row.cells() for row in group])}")
    return "\n\n".join(parts)


def _aligned(rows: Sequence[Mapping[str, str]]) -> str:
    headings = [name for name in rows[0] if any(row[name] for row in rows)]
    lines = [headings, *([row[name] for name in headings] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _condition(name: str, value: int | str) -> str:
    return f"{name} {value:,}" if isinstance(value, int) else str(value)


def _spread(timing: Timing) -> str:
    return f"{timing.low:.2f} to {timing.high:.2f}"


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def _verdict(verdict: str, aim: float | None) -> str:
    return verdict if aim is None else f"at most {aim:.3g}: {verdict}"
