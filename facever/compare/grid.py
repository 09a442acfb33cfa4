"""Which runs a comparison consists of: losses x swept values, each with every seed."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from facever.config import known_keys, nearest
from facever.errors import ConfigError
from facever.losses import LOSSES, loss_problems, loss_terms
from facever.losses.parameters import keyword_parameters
from facever.plainyaml import parse_yaml

PARAMS = "loss.params."


@dataclass(frozen=True)
class Cell:
    """One row of the table: a loss, and the values that a sweep gives it.

    Attributes:
        loss: its name, or a sum's.
        swept: dotted key to value.
        fixed: assignments `key=value` that this loss takes from the command line.
    """

    loss: str
    swept: Mapping[str, Any] = field(default_factory=dict)
    fixed: Sequence[str] = ()

    @property
    def label(self) -> str:
        """The row's name: `adaface h=0.22 m=0.4`."""
        values = [f"{key.removeprefix(PARAMS)}={value}" for key, value in self.swept.items()]
        return " ".join([self.loss, *values])

    @property
    def folder(self) -> str:
        """The label as the name of a folder."""
        return re.sub(r"[^A-Za-z0-9._=+-]", "-", self.label.replace("*", "x").replace(" ", ","))

    @property
    def assignments(self) -> list[str]:
        """What this row has over the other rows, as `key=value`."""
        return [*self.fixed, *(f"{key}={value}" for key, value in self.swept.items())]


def make_cells(
    losses: Sequence[str],
    sweeps: Sequence[str] = (),
    assignments: Sequence[str] = (),
    preset: Sequence[str] = (),
) -> list[Cell]:
    """Cross every loss with every combination of swept values.

    A parameter of a loss, swept or given, goes to those losses that have it.

    Args:
        losses: names, or sums of names.
        sweeps: `key=v1,v2`.
        assignments: `key=value`.
        preset: `key=value` below the assignments, for the losses that have the parameter.

    Raises:
        ConfigError: with every problem: a loss that is not known or named twice, a key that
            does not exist or that no loss has, a sweep without values.
    """
    problems = [line for loss in losses for line in loss_problems(loss, {})]
    problems += [f"--losses: {loss!r} occurs twice" for loss in _repeated(losses)]
    axes: dict[str, list[str]] = {}
    for text in sweeps:
        key, _, values = text.partition("=")
        problems += _sweep_problems(text, key, axes)
        axes[key] = _split_values(values)
    if problems:
        raise ConfigError("\n  ".join(["--losses, --sweep:", *problems]))
    given = [text.partition("=")[0] for text in assignments]
    keys = [*axes, *(key for key in given if key.startswith(PARAMS))]
    problems = [_unknown_key(key, losses) for key in keys if not _known(key, losses)]
    if problems:
        raise ConfigError("\n  ".join(["configuration:", *problems]))
    return [cell for loss in losses for cell in _rows(loss, axes, [*preset, *assignments])]


def is_sweep(text: str) -> bool:
    """Whether an argument `key=v1,v2` gives several values; a list in brackets is one."""
    _, equals, values = text.partition("=")
    return bool(equals) and len(_split_values(values)) > 1


def _rows(loss: str, axes: Mapping[str, list[str]], assignments: Sequence[str]) -> Iterator[Cell]:
    own = {key: values for key, values in axes.items() if _takes(loss, key)}
    fixed = tuple(text for text in assignments if _takes(loss, text.partition("=")[0]))
    for chosen in itertools.product(*own.values()):
        yield Cell(loss, dict(zip(own, chosen, strict=True)), fixed)


def _sweep_problems(text: str, key: str, earlier: Iterable[str]) -> list[str]:
    if "=" not in text or not all(_split_values(text.partition("=")[2])):
        return [f"--sweep: {text!r}; expected key=v1,v2, e.g. loss.params.m=0.3,0.5"]
    return [f"--sweep: {key} occurs twice"] if key in earlier else []


def _split_values(values: str) -> list[str]:
    """Split at commas outside brackets."""
    return [value.strip() for value in re.split(r",(?![^\[]*\])", values)]


def _repeated(losses: Sequence[str]) -> list[str]:
    return sorted({loss for loss in losses if losses.count(loss) > 1})


def _known(key: str, losses: Sequence[str]) -> bool:
    return any(_takes(loss, key) for loss in losses) and (
        key.startswith(PARAMS) or key in known_keys()
    )


def _takes(loss: str, key: str) -> bool:
    """Whether a key concerns this loss: a setting does, a parameter where the loss has it."""
    return not key.startswith(PARAMS) or key.removeprefix(PARAMS) in _parameters(loss)


def _parameters(loss: str) -> list[str]:
    """The parameters of a loss; of a sum, as `term.parameter`."""
    terms = loss_terms(loss)
    if terms == [loss]:
        return list(keyword_parameters(LOSSES[loss]))
    return [f"{term}.{name}" for term in terms for name in keyword_parameters(LOSSES[term])]


def _unknown_key(key: str, losses: Sequence[str]) -> str:
    if not key.startswith(PARAMS):
        return f"{key}: unknown key{nearest(key, known_keys())}"
    known = sorted({PARAMS + name for loss in losses for name in _parameters(loss)})
    return f"{key}: none of {', '.join(losses)} has it{nearest(key, known)}"


def number(value: Any) -> float | None:
    """A swept value as a number, for an axis; None for a word."""
    parsed = parse_yaml(str(value), "value")
    return None if isinstance(parsed, bool) or not isinstance(parsed, int | float) else parsed
