"""Every knob of `config` as text: a table to read, and a commented file to start from."""

from collections.abc import Iterator
from typing import Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from facever.config import Config
from facever.plainyaml import dump_yaml

_BOUNDS = {Ge: ("ge", ">="), Gt: ("gt", ">"), Le: ("le", "<="), Lt: ("lt", "<")}


def describe() -> str:
    """List each knob with its default, its bounds and what it does."""
    rows = [
        (f"{name}.{knob}", _value(default), _bounds(field), field.description or "")
        for name, knob, field, default in _knobs()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[3]])
        for row in rows
    )


def commented_yaml() -> str:
    """Write a configuration file with every knob at its default, and a comment on each."""
    lines: list[str] = []
    section = ""
    for name, knob, field, default in _knobs():
        if name != section:
            section = name
            purpose = (Config.model_fields[name].annotation.__doc__ or "").splitlines()[0]
            lines += ["", f"# {purpose}", f"{name}:"]
        bounds = _bounds(field)
        comment = f"{field.description}{f' ({bounds})' if bounds else ''}"
        lines.append(f"  {knob}: {_value(default)}  # {comment}")
    return "\n".join(lines).lstrip() + "\n"


def _knobs() -> Iterator[tuple[str, str, FieldInfo, Any]]:
    config = Config()
    for name in Config.model_fields:
        section = getattr(config, name)
        for knob, field in type(section).model_fields.items():
            yield name, knob, field, section.model_dump(mode="json")[knob]


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
