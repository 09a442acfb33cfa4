"""Every loss by its name: `build_loss("adaface", dim=512, identities=8631, m=0.4)`."""

import inspect
import re
import warnings
from collections.abc import Mapping
from typing import Any

from facever.errors import ConfigError
from facever.losses.base import Loss, SumLoss
from facever.losses.margin import Margin
from facever.losses.pairs import (
    Circle,
    Contrastive,
    MultiSimilarity,
    NPair,
    SupCon,
    Triplet,
)
from facever.losses.parameters import (
    SIZES,
    keyword_parameters,
    nearest,
    parameter_problems,
    small_margins,
)
from facever.losses.published import (
    AdaFace,
    ArcFace,
    Combined,
    CosFace,
    CurricularFace,
    ElasticFace,
    MagFace,
    SphereFace,
    SubcenterArcFace,
)
from facever.losses.softmax import CrossEntropy, MarginSoftmax, NormFace

__all__ = [
    "LOSSES",
    "Loss",
    "Margin",
    "MarginSoftmax",
    "SumLoss",
    "build_loss",
    "loss_problems",
    "loss_terms",
    "needs_pairs",
]

LOSSES: dict[str, type[Loss]] = {
    "ce": CrossEntropy,
    "normface": NormFace,
    "sphereface": SphereFace,
    "cosface": CosFace,
    "amsoftmax": CosFace,
    "arcface": ArcFace,
    "combined": Combined,
    "curricularface": CurricularFace,
    "magface": MagFace,
    "adaface": AdaFace,
    "elasticface": ElasticFace,
    "subcenter_arcface": SubcenterArcFace,
    "contrastive": Contrastive,
    "triplet": Triplet,
    "npair": NPair,
    "circle": Circle,
    "supcon": SupCon,
    "multisimilarity": MultiSimilarity,
}

# A plus ends a term, except in the exponent of a weight such as 1e+2.
PLUS = re.compile(r"(?<!\d[eE])\+")


def build_loss(
    name: str, *, dim: int, identities: int, allow_smoothing: bool = False, **params: Any
) -> Loss:
    """The loss called `name`, or the sum of losses it spells.

    Args:
        name: a key of `LOSSES`, or a sum such as `ce+0.5*triplet`.
        dim: dimension of the embeddings.
        identities: number of identities.
        allow_smoothing: allow label smoothing together with an angular margin.
        **params: of the loss; for a sum nested by name: `triplet={"m": 0.3}`.

    Raises:
        ConfigError: with every problem of `loss_problems`.
    """
    problems = loss_problems(name, params, allow_smoothing=allow_smoothing)
    sizes = {"dim": dim, "identities": identities}
    problems += [f"{key}: {size}; expected 1 or more" for key, size in sizes.items() if size < 1]
    if problems:
        raise ConfigError("\n".join(problems))
    weights = _weights(name)
    given = _by_term(name, params)
    if not allow_smoothing and _angular(given):
        # The smoothing that `ce` has by default is meant for `ce` without such a margin.
        given = {term: _unsmoothed(term) | given[term] for term in given}
    losses = {}
    for term, own in given.items():
        cls = LOSSES[term]
        for line in small_margins(term, cls.bounds_for(own), own):
            warnings.warn(line, stacklevel=2)
        wanted = inspect.signature(cls).parameters
        losses[term] = cls(**{key: sizes[key] for key in SIZES if key in wanted}, **own)
    return SumLoss(losses, weights) if _is_sum(name) else losses[name]


def loss_problems(
    name: str, params: Mapping[str, Any], *, allow_smoothing: bool = False
) -> list[str]:
    """Everything that would keep `build_loss` from building, each as a message.

    Args:
        name: as for `build_loss`.
        params: as for `build_loss`, in a mapping.
        allow_smoothing: as for `build_loss`.
    """
    problems = _name_problems(name) or _nesting_problems(name, params)
    if problems:
        return problems
    given = _by_term(name, params)
    for term, own in given.items():
        problems += _term_problems(term, own)
    return problems if allow_smoothing else problems + _smoothing_problems(given)


def loss_terms(name: str) -> list[str]:
    """The losses that a name spells: itself, or those of a sum without their weights."""
    return [term for _, term in _terms(name)]


def needs_pairs(name: str) -> bool:
    """Whether a loss, or one of a sum, compares images of one identity within a batch."""
    return any(LOSSES[term].needs_pairs for term in loss_terms(name))


def _is_sum(name: str) -> bool:
    return "+" in name or "*" in name


def _terms(name: str) -> list[tuple[str, str]]:
    """`(weight, name)` of each term as written; the weight is "1" where there is none."""
    if not _is_sum(name):
        return [("1", name)]
    parts = (part.rpartition("*") for part in PLUS.split(name))
    return [(weight.strip() if star else "1", term.strip()) for weight, star, term in parts]


def _weights(name: str) -> dict[str, float]:
    return {term: float(weight) for weight, term in _terms(name)}


def _by_term(name: str, params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    if not _is_sum(name):
        return {name: dict(params)}
    return {term: dict(params.get(term, {})) for term in _weights(name)}


def _name_problems(name: str) -> list[str]:
    problems = []
    seen = set()
    for weight, term in _terms(name):
        if term not in LOSSES:
            problems.append(f"loss {term!r} is not known; {nearest(term, list(LOSSES))}")
        elif term in seen:
            problems.append(f"loss {name!r}: {term} occurs twice; give it one weight")
        seen.add(term)
        if not re.fullmatch(r"\d*\.?\d+([eE][-+]?\d+)?", weight) or not float(weight) > 0:
            problems.append(f"loss {name!r}: weight {weight!r}; expected a number above 0")
    return problems


def _nesting_problems(name: str, params: Mapping[str, Any]) -> list[str]:
    """Parameters of a sum that are not under the name of one of its losses."""
    if not _is_sum(name):
        return []
    terms = list(_weights(name))
    strangers = [
        f"{key}: not one of the summed losses; {nearest(str(key), terms)}"
        for key in params
        if key not in terms
    ]
    return strangers + [
        f"{key}: {value!r}; expected the parameters of {key} by name"
        for key, value in params.items()
        if key in terms and not isinstance(value, Mapping)
    ]


def _term_problems(term: str, own: Mapping[str, Any]) -> list[str]:
    cls = LOSSES[term]
    problems = parameter_problems(term, cls, cls.bounds_for(own), own)
    if problems:
        return problems
    settled = {key: parameter.default for key, parameter in keyword_parameters(cls).items()}
    settled.update(own)
    return [f"{term}: {line}" for line in cls.contradictions(settled)]


def _angular(given: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The losses among `given` whose margin is on the angle."""
    return [
        term
        for term, own in given.items()
        if any(bound.angular for bound in LOSSES[term].bounds_for(own).values())
    ]


def _smoothing_problems(given: Mapping[str, Mapping[str, Any]]) -> list[str]:
    angular = _angular(given)
    smoothed = [term for term, own in given.items() if own.get("label_smoothing", 0)]
    if not angular:
        return []
    return [
        f"{term}.label_smoothing: {given[term]['label_smoothing']!r} together with the angular "
        f"margin of {', '.join(angular)}: the margin asks for more certainty about the true "
        "identity, smoothing for less; set it to 0, or loss.allow_smoothing=true"
        for term in smoothed
    ]


def _unsmoothed(term: str) -> dict[str, float]:
    return {"label_smoothing": 0.0} if "label_smoothing" in LOSSES[term].bounds else {}
