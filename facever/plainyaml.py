"""YAML as people mean it: words, numbers, lists and mappings, and nothing that can hurt.

`1e-3` is a number, `no`, `off` and `0001` are words, a key stands once. Tags build objects
and aliases fill the memory in ten lines; nothing here needs either, so both are refused.
"""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from facever.errors import ConfigError


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a configuration file into nested values.

    Raises:
        ConfigError: unreadable, not YAML, or with a tag, an alias, a duplicate key or a root
            that is no mapping; the message gives the line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a configuration file: {error}") from None
    values = parse_yaml(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: line 1: a {type(values).__name__} at the root; expected sections, e.g.\n"
            "  optim:\n    lr: 0.05"
        )
    return values


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML of primitives, lists and mappings.

    Raises:
        ConfigError: `where`, the line, and what is wrong.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader with less in it)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}:" if mark else ""
        raise ConfigError(f"{where}:{line} {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{where}: not YAML: {error}") from None


def dump_yaml(values: Mapping[str, Any]) -> str:
    """Write nested values so that `load_yaml` reads the same."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """The safe loader, less aliases, duplicate keys and YAML 1.1's words for true and false."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            problem = "an alias (*name); expected the value itself"
        elif event.tag is not None:
            problem = f"a tag ({event.tag}); expected a plain value"
        else:
            return super().compose_node(parent, index)
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r}; expected a word", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"duplicate key {key!r}", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _number(kind: type[int] | type[float], limit: float) -> Callable[[_Loader, Any], float]:
    """Make the constructor of numbers of a kind that are below a limit."""

    def construct(loader: _Loader, node: Any) -> float:
        if not abs(float(node.value)) < limit:
            raise yaml.MarkedYAMLError(
                problem=f"{node.value[:30]}: expected a number that 64 bits hold",
                problem_mark=node.start_mark,
            )
        return kind(node.value)

    return construct


_Loader.add_constructor("tag:yaml.org,2002:int", _number(int, 2.0**63))
_Loader.add_constructor("tag:yaml.org,2002:float", _number(float, math.inf))


class _Dumper(yaml.SafeDumper):
    """Quotes exactly the strings that `_Loader` would read as something else."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        """Write a value that stands twice twice: `_Loader` reads no aliases."""
        return True


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:bool", re.compile(r"^(?:true|false|True|False)$"), list("tfTF")
    )
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:null", re.compile(r"^(?:null|Null|NULL|~|)$"), ["n", "N", "~", ""]
    )
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789")
    )
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
        list("-+.0123456789"),
    )
