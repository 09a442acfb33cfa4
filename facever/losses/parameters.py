"""What a loss's parameters may be: read from its signature, checked against its bounds.

A default and a type live once, in the `__init__` of the loss; a bound and its unit live
beside it, in `Loss.bounds`.
"""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin

SIZES = ("dim", "identities")


@dataclass(frozen=True)
class Bound:
    """The interval a number must lie in, and the unit it is read in.

    Args:
        low: smallest value.
        high: largest value.
        unit: what the number counts, for messages.
        strict: `low` and `high` themselves are out.
        angular: the parameter is a margin on the angle.
    """

    low: float
    high: float
    unit: str = ""
    strict: bool = False
    angular: bool = False

    def holds(self, value: float) -> bool:
        """Whether `value` lies inside; NaN and infinities never do."""
        # Not by math.isfinite, which fails on whole numbers that no float holds.
        if not -math.inf < value < math.inf:
            return False
        if self.strict:
            return self.low < value < self.high
        return self.low <= value <= self.high

    def __str__(self) -> str:
        ends = "()" if self.strict else "[]"
        unit = f" {self.unit}" if self.unit else ""
        return f"a number in {ends[0]}{self.low:.4g}, {self.high:.4g}{ends[1]}{unit}"


RADIANS = Bound(0.0, math.pi / 2, "radians", angular=True)
ANGLE_FACTOR = Bound(0.0, math.inf, "times the angle", strict=True, angular=True)
COSINE = Bound(-1.0, 1.0, "of cosine")
COSINE_MARGIN = Bound(0.0, 2.0, "of cosine")
SHARE = Bound(0.0, 1.0)
SMOOTHING = Bound(0.0, 0.999)
NOT_NEGATIVE = Bound(0.0, math.inf)
POSITIVE = Bound(0.0, math.inf, strict=True)
COUNT = Bound(1, math.inf)
RATE = Bound(1e-6, 1.0)
ANY = Bound(-math.inf, math.inf)


def keyword_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The parameters a loss can be given by name, `dim` and `identities` apart.

    `**head` in a constructor stands for the parameters of the parent class.
    """
    found: dict[str, inspect.Parameter] = {}
    for ancestor in cls.__mro__:
        if "__init__" not in vars(ancestor):
            continue
        own = inspect.signature(vars(ancestor)["__init__"]).parameters.values()
        for parameter in own:
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                found.setdefault(parameter.name, parameter)
        if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in own):
            break
    return found


def nearest(name: str, known: list[str]) -> str:
    """`"; did you mean 'arcface'?"`, or what is known where nothing is near."""
    close = get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(sorted(known))}" if known else "it takes none"


def type_problem(annotation: Any, value: object) -> str | None:
    """What `value` should have been, where it is not of the annotated kind."""
    literal = get_origin(annotation) is Literal
    kinds = (annotation,) if literal else get_args(annotation) or (annotation,)
    if value is None and type(None) in kinds:
        return None
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if choices:
        return None if value in choices else f"one of {', '.join(choices)}"
    if isinstance(value, bool):
        return None if bool in kinds else "a number"
    if float in kinds:
        return None if isinstance(value, int | float) else "a number"
    if int in kinds:
        return None if isinstance(value, int) else "a whole number"
    return "true or false"


def value_problem(annotation: Any, bound: Bound, value: object) -> str | None:
    """What `value` should have been, by its kind and by its bound."""
    expected = type_problem(annotation, value)
    if expected is not None:
        return f"expected {expected}"
    if isinstance(value, bool) or not isinstance(value, int | float) or bound.holds(value):
        return None
    hint = ""
    if bound is RADIANS and bound.high < value <= 360:
        hint = f"; {value:g} degrees are {math.radians(value):.4g} radians"
    return f"expected {bound}{hint}"


def parameter_problems(
    where: str, cls: type, bounds: Mapping[str, Bound], params: Mapping[str, object]
) -> list[str]:
    """Every problem with `params` for the loss `cls`, each as a message.

    Args:
        where: what the messages begin with: the name of the loss.
        cls: the loss.
        bounds: the intervals of its numbers, by parameter.
        params: what was given.
    """
    known = keyword_parameters(cls)
    problems = []
    for name, value in params.items():
        if name not in known:
            hint = nearest(str(name), list(known))
            problems.append(f"{where}.{name}: {where} has no such parameter; {hint}")
            continue
        expected = value_problem(known[name].annotation, bounds.get(name, ANY), value)
        if expected is not None:
            problems.append(f"{where}.{name}: {value!r}; {expected}")
    return problems


def small_margins(
    where: str, bounds: Mapping[str, Bound], params: Mapping[str, object]
) -> list[str]:
    """A line for each angular margin so small that degrees were probably meant."""
    return [
        f"{where}.{name}: {value:g} radians: a margin of {math.degrees(value):.2g} degrees? "
        "0.3 to 0.5 radians are usual"
        for name, value in params.items()
        if bounds.get(name) is RADIANS and isinstance(value, int | float) and 0 < value < 0.05
    ]
