"""Names, sums, parameters and what is wrong with them."""

import math

import pytest
import torch
from loss_oracles import ALL, CLASSIFIERS, PAIRS, batch

from facever.errors import ConfigError
from facever.losses import LOSSES, Loss, SumLoss, build_loss, loss_problems
from facever.losses.parameters import RADIANS, keyword_parameters

ANGULAR = [name for name in CLASSIFIERS if name not in ("ce", "normface", "cosface", "amsoftmax")]


def build(name: str, **params: object) -> Loss:
    torch.manual_seed(0)
    return build_loss(name, dim=8, identities=5, **params)


def test_the_names_are_those_of_the_contract() -> None:
    assert set(LOSSES) == set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_every_loss_builds_with_its_defaults_spelt_out(name: str) -> None:
    params = {key: p.default for key, p in keyword_parameters(LOSSES[name]).items()}
    assert loss_problems(name, params) == (
        [] if params.get("label_smoothing", 0) == 0 else loss_problems(name, {})
    )
    assert type(build(name, **params)) is LOSSES[name]


@pytest.mark.parametrize("name", ALL)
def test_classifiers_have_prototypes_and_pair_losses_want_pairs(name: str) -> None:
    loss = build(name)
    assert loss.classifies == (name in CLASSIFIERS) == hasattr(loss, "prototypes")
    assert loss.needs_pairs == (name in PAIRS)
    if name in PAIRS:
        with pytest.raises(TypeError, match="no classifier"):
            loss.logits(torch.zeros(2, 8))


def test_the_call_of_the_contract_builds_adaface() -> None:
    loss = build_loss("adaface", dim=512, identities=86, m=0.4, h=0.333, s=64.0, ema=0.01)
    assert loss.prototypes.shape == (86, 512)
    assert (loss.s, loss.margin.m, loss.margin.h, loss.margin.ema) == (64.0, 0.4, 0.333, 0.01)


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("ce", {"label_smoothing": 0.1, "bias": True}),
        ("sphereface", {"m": 1.7, "s": 30}),
        ("cosface", {"m": 0.35, "s": 64}),
        ("arcface", {"m": 0.5, "s": 64, "detach_margin": False}),
        ("combined", {"m1": 1, "m2": 0.3, "m3": 0.2, "s": 64}),
        ("curricularface", {"m": 0.5, "s": 64, "ema": 0.01}),
        ("magface", {"l_a": 10, "u_a": 110, "l_m": 0.45, "u_m": 0.8, "lambda_g": 35, "s": 64}),
        ("adaface", {"m": 0.4, "h": 0.333, "s": 64, "ema": 0.01, "proxy": "norm"}),
        ("elasticface", {"s": 64, "base": "arc", "plus": False}),
        ("subcenter_arcface", {"m": 0.5, "k": 3, "s": 64}),
        ("contrastive", {"pos_margin": 1, "neg_margin": 0, "reduction": "active"}),
        ("triplet", {"m": 0.2, "metric": "cosine", "miner": "all", "reduction": "active"}),
        ("npair", {"reg": 0.02, "normalized": False}),
        ("circle", {"m": 0.25, "gamma": 256, "weighted": True, "reduction": "mean"}),
        ("supcon", {"tau": 0.1, "reduction": "mean"}),
        ("multisimilarity", {"alpha": 2, "beta": 50, "base": 0.5}),
    ],
)
def test_defaults_are_those_of_the_papers(name: str, defaults: dict[str, object]) -> None:
    known = keyword_parameters(LOSSES[name])
    assert {key: known[key].default for key in defaults} == defaults


@pytest.mark.parametrize(
    ("base", "plus", "m", "std"),
    [
        ("arc", False, 0.5, 0.05),
        ("arc", True, 0.5, 0.0175),
        ("cos", False, 0.35, 0.05),
        ("cos", True, 0.35, 0.02),
    ],
)
def test_elasticface_defaults_follow_its_base(base: str, plus: bool, m: float, std: float) -> None:
    margin = build("elasticface", base=base, plus=plus).margin
    assert (margin.m, margin.std) == (m, std)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("arcfase", {}, r"'arcfase' is not known; did you mean 'arcface'\?"),
        ("arcface", {"margin": 1}, "arcface.margin: arcface has no such parameter"),
        ("adaface", {"emma": 1}, r"did you mean 'ema'\?"),
        ("normface", {"detach_margin": True}, "normface has no such parameter"),
        ("arcface", {"m": 28.6}, r"28.6; expected .* radians; 28.6 degrees are 0.4992 radians"),
        ("arcface", {"m": -0.1}, "expected a number in"),
        ("arcface", {"m": math.nan}, "expected a number in"),
        ("arcface", {"m": "half"}, "'half'; expected a number"),
        ("arcface", {"m": True}, "True; expected a number"),
        ("arcface", {"easy_margin": 1}, "expected true or false"),
        ("magface", {"u_m": 1.6}, "radians"),
        ("magface", {"l_a": 120}, "l_a 120 is not below u_a 110"),
        ("combined", {"m2": 2}, "radians"),
        ("elasticface", {"m": 1.6}, "radians"),
        ("cosface", {"s": 0}, r"\(0, inf\)"),
        ("subcenter_arcface", {"k": 2.5}, "a whole number"),
        ("triplet", {"metric": "l2"}, "one of cosine, sqeuclidean, euclidean"),
        ("ce", {"label_smoothing": 1.0}, "expected a number in"),
        ("ce+triplet", {"m": 0.3}, "not one of the summed losses"),
        ("ce+triplet", {"triplet": 0.3}, "expected the parameters of triplet by name"),
        ("ce+triplet", {"triplet": {"n": 0.3}}, "triplet.n: triplet has no such parameter"),
        ("ce+0*triplet", {}, "weight '0'; expected a number above 0"),
        ("ce+x*triplet", {}, "weight 'x'; expected a number above 0"),
        ("ce+ce", {}, "occurs twice"),
        ("ce+", {}, "loss '' is not known"),
    ],
)
def test_a_mistake_is_one_message_that_says_what_was_expected(
    name: str, params: dict[str, object], message: str
) -> None:
    problems = loss_problems(name, params)
    assert len(problems) == 1
    with pytest.raises(ConfigError, match=message):
        build(name, **params)


IN_RADIANS = [
    (name, key)
    for name, cls in LOSSES.items()
    for key, bound in cls.bounds_for({}).items()
    if bound is RADIANS
]


@pytest.mark.parametrize(("name", "key"), IN_RADIANS)
def test_every_margin_on_the_angle_that_was_given_in_degrees_is_called_that(
    name: str, key: str
) -> None:
    (problem,) = loss_problems(name, {key: 28.6})
    assert problem.startswith(f"{name}.{key}: 28.6; expected a number in [0, 1.571] radians")
    assert problem.endswith("28.6 degrees are 0.4992 radians")
    (problem,) = loss_problems(f"triplet+{name}", {name: {key: 28.6}})
    assert "28.6 degrees are 0.4992 radians" in problem


@pytest.mark.parametrize("name", ALL)
def test_a_misspelt_loss_or_parameter_is_one_message_with_the_nearest_name(name: str) -> None:
    (problem,) = loss_problems(f"{name}x", {"m": 28.6})
    assert problem == f"loss '{name}x' is not known; did you mean '{name}'?"
    known = next(iter(keyword_parameters(LOSSES[name])))
    (problem,) = loss_problems(name, {f"{known}_": 1.0})
    assert problem == f"{name}.{known}_: {name} has no such parameter; did you mean '{known}'?"


def test_all_problems_come_at_once() -> None:
    problems = loss_problems("arcface", {"m": 30, "scale": 64, "s": -1})
    assert len(problems) == 3
    with pytest.raises(ConfigError) as caught:
        build("arcface", m=30, scale=64, s=-1)
    assert str(caught.value) == "\n".join(problems)


def test_a_head_without_identities_is_refused() -> None:
    with pytest.raises(ConfigError, match="identities: 0; expected 1 or more"):
        build_loss("arcface", dim=8, identities=0)


def test_a_multiplicative_or_additive_margin_may_exceed_half_a_turn() -> None:
    assert loss_problems("sphereface", {"m": 4}) == []
    assert loss_problems("elasticface", {"base": "cos", "m": 1.6}) == []


@pytest.mark.parametrize("params", [{"m": 0.0087}, {"m": 0.04}])
def test_a_tiny_angular_margin_is_asked_about(params: dict[str, float]) -> None:
    with pytest.warns(UserWarning, match="degrees?"):
        build("arcface", **params)


def test_half_a_degree_is_called_that() -> None:
    with pytest.warns(UserWarning, match=r"0\.5 degrees\?"):
        build("ce+arcface", arcface={"m": math.radians(0.5)})


@pytest.mark.parametrize("name", ANGULAR)
def test_smoothing_with_an_angular_margin_needs_permission(name: str) -> None:
    params = {"label_smoothing": 0.1}
    (problem,) = loss_problems(name, params)
    assert "loss.allow_smoothing=true" in problem
    assert loss_problems(name, params, allow_smoothing=True) == []
    assert build(name, allow_smoothing=True, **params).label_smoothing == 0.1


def test_smoothing_in_a_sum_with_an_angular_margin_needs_permission() -> None:
    params = {"ce": {"label_smoothing": 0.1}}
    assert len(loss_problems("ce+arcface", params)) == 1
    assert loss_problems("ce+arcface", params, allow_smoothing=True) == []
    assert loss_problems("ce+cosface+triplet", params) == []


@pytest.mark.parametrize(
    ("name", "smoothing"), [("ce+arcface", 0.0), ("ce+triplet", 0.1), ("ce+cosface", 0.1)]
)
def test_the_smoothing_that_ce_has_by_default_yields_to_an_angular_margin(
    name: str, smoothing: float
) -> None:
    assert build(name).terms["ce"].label_smoothing == smoothing
    assert build(name, allow_smoothing=True).terms["ce"].label_smoothing == 0.1


def test_a_sum_adds_its_weighted_losses() -> None:
    z, y = batch()
    z = z.float()
    loss = build("ce + 0.5*triplet+1e+1*arcface", triplet={"m": 0.3}, arcface={"s": 16})
    assert isinstance(loss, SumLoss)
    ce, triplet, arcface = (loss.terms[name] for name in ("ce", "triplet", "arcface"))
    assert (triplet.m, arcface.s) == (0.3, 16)
    torch.testing.assert_close(loss(z, y), ce(z, y) + 0.5 * triplet(z, y) + 10 * arcface(z, y))


def test_a_sum_classifies_with_its_first_classifier() -> None:
    z, y = batch()
    z = z.float()
    loss = build("triplet+arcface+ce")
    arcface = loss.terms["arcface"]
    assert loss.needs_pairs
    assert loss.prototypes is arcface.prototypes
    assert loss.margin is arcface.margin
    assert torch.equal(loss.logits(z, y), arcface.logits(z, y))
    pairs_only = build("triplet+supcon")
    assert not pairs_only.classifies
    assert not hasattr(pairs_only, "prototypes")
    with pytest.raises(TypeError, match="none of triplet, supcon"):
        pairs_only.logits(z)


def test_a_sum_passes_everything_on() -> None:
    z, y = batch()
    z = z.float()
    loss = build("ce+adaface+triplet", adaface={"ema_init": "data"})
    loss.set_margin(0.25)
    loss.observe(torch.tensor([3.0, 5.0]))
    loss.initialise(torch.eye(5, 8))
    assert loss.terms["adaface"].margin.fraction == 0.25
    assert loss.terms["adaface"].margin.mu == 4
    torch.testing.assert_close(loss.terms["adaface"].prototypes.detach(), torch.eye(5, 8))
    assert loss.terms["ce"].bias.abs().max() == 0
    loss(z, y)
    assert {"ce.loss", "adaface.loss", "adaface.mu", "triplet.active_share"} <= set(loss.stats())
    assert set(loss.histograms()) == {"adaface.q"}


def test_the_state_of_a_sum_is_saved_under_the_names_of_its_losses() -> None:
    keys = set(build("ce+adaface").state_dict())
    assert {"terms.ce.prototypes", "terms.adaface.prototypes", "terms.adaface.margin.mu"} <= keys
