"""What this machine reaches, as ratios to bare limits: `facever bench`.

A bench is a function from `Options` to rows; `harness` measures them all alike.
"""

import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from facever.bench import (
    eer,
    growth,
    heads,
    identify,
    load,
    save,
    start,
    step,
    submit,
    synth,
)
from facever.bench.harness import Options, Timing, compare
from facever.bench.memory import peak_bytes
from facever.bench.rows import Memory, Row, table
from facever.bench.trace import Trace, trace
from facever.config import nearest, resolve
from facever.errors import ConfigError
from facever.loss_setup import check_loss
from facever.losses import LOSSES
from facever.tracking import note

__all__ = [
    "BENCHES",
    "Measured",
    "Memory",
    "Options",
    "Row",
    "Timing",
    "Trace",
    "ask",
    "compare",
    "peak_bytes",
    "run",
    "table",
    "trace",
]

BENCHES: dict[str, Callable[[Options], Iterator[Row]]] = {
    "eer": eer.measure,
    "growth": growth.measure,
    "heads": heads.measure,
    "identify": identify.measure,
    "load": load.measure,
    "save": save.measure,
    "start": start.measure,
    "step": step.measure,
    "submit": submit.measure,
    "synth": synth.measure,
}


@dataclass(frozen=True)
class Measured:
    """The rows of a run of benches, and the machine that they hold for."""

    machine: dict[str, str | int]
    rows: list[Row]

    def to_json(self) -> dict[str, Any]:
        """Give everything as primitives."""
        return {"machine": self.machine, "rows": [row.to_json() for row in self.rows]}

    def to_text(self) -> str:
        """Give the tables, under a line about the machine."""
        about = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        return f"{about}\n\n{table(self.rows)}"


def ask(
    arguments: Iterable[str],
    *,
    repeats: int | None = None,
    identities: Iterable[int] | None = None,
    losses: str | None = None,
) -> tuple[list[str], Options]:
    """Tell the benches from the `key=value` settings; what is None keeps its default.

    Args:
        arguments: names of benches, and settings, in any order.
        repeats: of `Options`.
        identities: of `Options`.
        losses: of `Options`, with commas between them.
    """
    given = list(arguments)
    options = Options(assignments=tuple(text for text in given if "=" in text))
    if repeats is not None:
        options = replace(options, repeats=repeats)
    if identities:
        options = replace(options, identities=tuple(identities))
    if losses is not None:
        options = replace(options, losses=tuple(name.strip() for name in losses.split(",")))
    return [text for text in given if "=" not in text], options


def run(names: Iterable[str], options: Options) -> Measured:
    """Run the benches called `names`, or all where none is named; tell each row as it comes.

    Raises:
        ConfigError: a bench, a loss or a setting that is not known; nothing has run yet.
    """
    chosen = list(names) or list(BENCHES)
    _known("bench", chosen, BENCHES)
    _known("--losses", options.losses, LOSSES)
    resolve([], options.assignments, check=check_loss)
    rows = []
    for name in chosen:
        for row in BENCHES[name](options):
            note(f"{name}: {row.name}, {row.timing.ratio:.2f} of {row.floor}")
            rows.append(row)
    return Measured(_machine(), rows)


def _known(where: str, names: Iterable[str], known: Iterable[str]) -> None:
    words = list(known)
    unknown = [
        f"{where}: {name!r} is unknown{nearest(name, words)}" for name in names if name not in words
    ]
    if unknown:
        raise ConfigError("\n".join([*unknown, f"  expected among: {', '.join(words)}"]))


def _machine() -> dict[str, str | int]:
    machine: dict[str, str | int] = {
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return machine
