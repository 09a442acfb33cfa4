"""Every knob of `config` as text: a table to read, and a commented file to start from."""

import textwrap
from collections.abc import Iterator
from typing import Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from facever.config import Config
from facever.plainyaml import dump_yaml

LEAST = 30  # columns for what a knob does, however narrow the terminal

_BOUNDS = {Ge: ("ge", ">="), Gt: ("gt", ">"), Le: ("le", "<="), Lt: ("lt", "<")}


def defaults() -> dict[str, Any]:
    """Give the whole configuration of a run that is asked for nothing."""
    return Config().to_dict()


def describe(width: int | None = None) -> str:
    """List each knob as it may be typed, at its default, with what it does and its bounds.

    Args:
        width: of the terminal, in which long lines are folded; None folds none.
    """
    rows = complete("")
    margin = max(len(typed) for typed, _ in rows) + 2
    room = max(width - margin, LEAST) if width else 10**6
    return "\n".join(
        f"{typed:<{margin}}"
        + f"\n{'':<{margin}}".join(textwrap.wrap(meaning, room, break_on_hyphens=False))
        for typed, meaning in rows
    )


def complete(typed: str) -> list[tuple[str, str]]:
    """What a shell may offer for the beginning of `key=value`: at the default, with its meaning."""
    offered = (
        (f"{name}.{knob}={_value(default)}", _meaning(field))
        for name, knob, field, default in _knobs()
    )
    return [(text, meaning) for text, meaning in offered if text.startswith(typed)]


def commented_yaml() -> str:
    """Write a configuration file with every knob at its default, and a comment on each."""
    lines: list[str] = []
    section = ""
    for name, knob, field, default in _knobs():
        if name != section:
            section = name
            purpose = (Config.model_fields[name].annotation.__doc__ or "").splitlines()[0]
            lines += ["", f"# {purpose}", f"{name}:"]
        lines.append(f"  {knob}: {_value(default)}  # {_meaning(field)}")
    return "\n".join(lines).lstrip() + "\n"


def _knobs() -> Iterator[tuple[str, str, FieldInfo, Any]]:
    config = Config()
    for name in Config.model_fields:
        section = getattr(config, name)
        for knob, field in type(section).model_fields.items():
            yield name, knob, field, section.model_dump(mode="json")[knob]


def _meaning(field: FieldInfo) -> str:
    bounds = _bounds(field)
    return f"{field.description}{f' ({bounds})' if bounds else ''}"


def _value(default: Any) -> str:
    """Write a value as YAML on one line."""
    text = dump_yaml({"x": default})
    return str(default) if isinstance(default, list) else text.removeprefix("x: ").strip()


def _bounds(field: FieldInfo) -> str:
    if getattr(field.annotation, "__args__", None) and "Literal" in str(field.annotation):
        return " | ".join(str(choice) for choice in field.annotation.__args__)  # type: ignore[union-attr]
    parts = []
    for rule in field.metadata:
        if type(rule) in _BOUNDS:
            attribute, sign = _BOUNDS[type(rule)]
            parts.append(f"{sign} {getattr(rule, attribute)}")
    return ", ".join(parts)
