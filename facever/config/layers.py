"""Layers of given values, laid over the defaults -> a configuration.

The parent checkpoint's values, a YAML file's, `--loss`, `key=value`: nested values, which are
joined, compared and written as dotted keys here. All that is wrong with them is said in one
`ConfigError`.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from facever.config.sections import Config, Loss, Values
from facever.errors import ConfigError
from facever.plainyaml import parse_yaml

# Parts of a key: loss.params.triplet.m has four.
_DEEPEST = 8


def resolve(
    layers: Iterable[Values],
    assignments: Iterable[str] = (),
    *,
    check: Callable[[Loss], list[str]] | None = None,
) -> Config:
    """Lay `layers` and then the `key=value` assignments over the defaults.

    Args:
        layers: nested values, each over the one before; a layer that names another loss drops
            the parameters given for the earlier one.
        assignments: `section.key=value`, as on the command line.
        check: says what is wrong with the section `loss`, which only the losses know.

    Raises:
        ConfigError: with every problem found, one a line.
    """
    values: Values = {"loss": {"name": Loss().name}}
    for layer in layers:
        values = merge(values, layer)
    given, problems = _parse_assignments(assignments)
    values = merge(values, given)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        problems += [_explain(item) for item in error.errors()]
        raise _config_error(problems + _loss_problems(values, check)) from None
    problems += check(config.loss) if check else []
    if problems:
        raise _config_error(problems)
    return config


def merge(below: Values, above: Mapping[str, Any]) -> Values:
    """Lay nested values over others; another loss name drops the earlier one's parameters."""
    merged = dict(below)
    named = "name" in below and "params" in below
    if named and above.get("name", below["name"]) != below["name"]:
        merged["params"] = {}
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(dict(merged[key]), value)
        else:
            merged[key] = value
    return merged


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested values into dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], free: Iterable[str] = ()
) -> list[str]:
    """List `key: old -> new` for every dotted key that differs, but for those under `free`."""
    a, b = flatten(old), flatten(new)
    absent = "(absent)"
    return [
        f"{key}: {a.get(key, absent)} -> {b.get(key, absent)}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key, absent) != b.get(key, absent)
        and not any(key == f or key.startswith(f + ".") for f in free)
    ]


def known_keys() -> list[str]:
    """List every dotted key, `section.knob`."""
    return [
        f"{name}.{knob}"
        for name, section in Config.model_fields.items()
        for knob in _section(section.annotation)
    ]


def _section(annotation: Any) -> Iterable[str]:
    model: type[BaseModel] = annotation
    return model.model_fields


def _parse_assignments(assignments: Iterable[str]) -> tuple[Values, list[str]]:
    values: Values = {}
    problems: list[str] = []
    for text in assignments:
        key, equals, raw = text.partition("=")
        parts = key.strip().split(".")
        if not equals or not 2 <= len(parts) <= _DEEPEST or not all(parts):
            problems.append(f"{text!r}: expected section.key=value, e.g. optim.lr=0.05")
            continue
        try:
            values = merge(values, _nest(parts, _typed(parts, raw)))
        except ConfigError as error:
            problems.append(f"{key}: {error}")
    return values, problems


def _nest(parts: list[str], value: Any) -> Values:
    return {parts[0]: value if len(parts) == 1 else _nest(parts[1:], value)}


def _typed(parts: list[str], raw: str) -> Any:
    """Type a value given as text; where a field has a type, that type decides later.

    `data.root=0001` must stay text, while a loss's parameters, which have no field here, are
    read as YAML would.
    """
    if raw == "null":
        return None
    if parts[:2] == ["loss", "params"] or raw.startswith("["):
        return parse_yaml(raw, "value")
    return raw


def _explain(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown key{nearest(key, [*known_keys(), *Config.model_fields])}"
    if item["type"] in ("model_type", "model_attributes_type"):
        return f"{key}: {item['input']!r} given; expected a section of keys"
    return f"{key}: {item['input']!r} given; {_expected(item)}"


def _expected(item: Any) -> str:
    """Say what pydantic expected in the words `expected ...`."""
    message = re.sub(r"^(Input should be |Value error, expected )", "expected ", item["msg"])
    return re.sub(r",? unable to (parse|interpret).*", "", message)


def nearest(word: str, known: Iterable[str]) -> str:
    """Say `; nearest is X`, or nothing where no known word is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; nearest is {close[0]}" if close else ""


def _loss_problems(values: Values, check: Callable[[Loss], list[str]] | None) -> list[str]:
    """Check the section `loss` though another section is wrong, so that all is said at once."""
    try:
        loss = Loss.model_validate(values.get("loss", {}))
    except ValidationError:
        return []
    return check(loss) if check else []


def _config_error(problems: list[str]) -> ConfigError:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return ConfigError("\n  ".join([f"configuration: {count}", *problems]))
