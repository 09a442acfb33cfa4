"""Margin losses against loops from the papers and the authors' codes, and their psi."""

import copy
import math
from collections.abc import Callable
from functools import partial

import loss_oracles as oracles
import pytest
import torch
from loss_oracles import (
    CLASSIFIERS,
    DIM,
    IDENTITIES,
    MARGINS,
    Oracle,
    assert_same,
    batch,
    head,
    margin_softmax,
    value_and_gradients,
)
from pytorch_metric_learning import losses as metric_learning
from torch import Tensor, nn

from facever.losses.margin import Margin


def from_psi(s: float, psi: Callable[[Tensor], Tensor], smoothing: float = 0.0) -> Oracle:
    return lambda z, y, w: margin_softmax(z, y, w, s, lambda cos, norm: psi(cos), smoothing)


SMOOTHED = {"label_smoothing": 0.1, "allow_smoothing": True}

PAPERS: list[tuple[str, dict[str, object], Oracle]] = [
    ("normface", {}, from_psi(64, lambda cos: cos)),
    ("normface", {"s": 16.0}, from_psi(16, lambda cos: cos)),
    ("sphereface", {}, from_psi(30, lambda cos: oracles.psi_sphereface(cos, 1.7))),
    ("sphereface", {"m": 4, "s": 8}, from_psi(8, lambda cos: oracles.psi_sphereface(cos, 4))),
    ("cosface", {}, from_psi(64, lambda cos: cos - 0.35)),
    ("amsoftmax", {"m": 0.2, "s": 30}, from_psi(30, lambda cos: cos - 0.2)),
    ("arcface", {}, from_psi(64, lambda cos: oracles.psi_arcface(cos, 0.5))),
    ("arcface", {"m": 1.5, "s": 4}, from_psi(4, lambda cos: oracles.psi_arcface(cos, 1.5))),
    (
        "arcface",
        {"easy_margin": True},
        from_psi(64, lambda cos: oracles.psi_arcface(cos, 0.5, easy=True)),
    ),
    ("combined", {}, from_psi(64, lambda cos: oracles.psi_combined(cos, 1, 0.3, 0.2))),
    (
        "combined",
        {"m1": 1.8, "m2": 0.6, "m3": 0.1, "s": 4},
        from_psi(4, lambda cos: oracles.psi_combined(cos, 1.8, 0.6, 0.1)),
    ),
    ("normface", SMOOTHED, from_psi(64, lambda cos: cos, 0.1)),
    ("cosface", SMOOTHED, from_psi(64, lambda cos: cos - 0.35, 0.1)),
    ("arcface", SMOOTHED, from_psi(64, lambda cos: oracles.psi_arcface(cos, 0.5), 0.1)),
    ("elasticface", {"std": 0.0}, from_psi(64, lambda cos: oracles.psi_arcface(cos, 0.5))),
    ("elasticface", {"base": "cos", "std": 0.0}, from_psi(64, lambda cos: cos - 0.35)),
]


@pytest.mark.parametrize(("name", "params", "oracle"), PAPERS)
def test_value_and_gradients_are_those_of_a_loop_from_the_paper(
    name: str, params: dict[str, object], oracle: Oracle
) -> None:
    z, y = batch()
    assert_same(head(name, **params), oracle, z, y)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_a_loop_over_linear_logits(smoothing: float) -> None:
    loss = head("ce", label_smoothing=smoothing)

    def oracle(z: Tensor, y: Tensor, w: Tensor) -> Tensor:
        logits = [[row @ w[j] + loss.bias[j] for j in range(IDENTITIES)] for row in z]
        terms = [
            oracles.cross_entropy(row, identity, smoothing)
            for row, identity in zip(logits, y.tolist(), strict=True)
        ]
        return torch.stack(terms).mean()

    assert_same(loss, oracle, *batch())


def test_cross_entropy_smooths_by_a_tenth_and_no_other_loss_smooths() -> None:
    smoothing = {name: head(name).label_smoothing for name in CLASSIFIERS}
    assert smoothing.pop("ce") == 0.1
    assert set(smoothing.values()) == {0.0}


@pytest.mark.parametrize("ema", [0.01, 0.5, 1.0])
def test_adaface_follows_its_authors_over_several_steps(ema: float) -> None:
    """Norms from 0.0005 to 160 reach both clamps; the state must move before it is used."""
    loss = head("adaface", ema=ema)
    authors = oracles.AdaFaceByItsAuthors(ema)
    for step in range(4):
        z, y = batch(length=15.0, seed=step)
        z[0] *= 5e-4 / z[0].norm()
        z[1] *= 160 / z[1].norm()
        assert_same(loss, authors, z, y)
    assert loss.margin.mu.item() == pytest.approx(authors.mean, rel=1e-12)
    assert loss.margin.sigma.item() == pytest.approx(authors.std, rel=1e-12)


def test_adaface_follows_its_authors_where_cosines_are_clamped() -> None:
    """A prototype along an embedding, one against it: every cosine stays 1e-3 inside."""
    loss = head("adaface")
    z, y = batch()
    with torch.no_grad():
        loss.prototypes[0] = z[y == 0][0]
        loss.prototypes[1] = -z[y == 1][0]
        loss.prototypes[2] = z[y == 3][0] * 0.1
        loss.prototypes[4] = -z[y == 3][1]
    assert_same(loss, oracles.AdaFaceByItsAuthors(0.01), z, y)


def test_curricularface_follows_its_authors_over_several_steps() -> None:
    loss = head("curricularface", s=16)
    authors = oracles.CurricularFaceByItsAuthors(m=0.5, s=16)
    for step in range(4):
        assert_same(loss, authors, *batch(seed=step))
        with torch.no_grad():
            loss.prototypes += 0.1 * torch.randn_like(loss.prototypes)
    assert loss.margin.t.item() == pytest.approx(authors.t, rel=1e-12)
    assert authors.t != 0


@pytest.mark.parametrize("easy", [False, True])
def test_magface_follows_its_authors_and_its_gradient_flows_through_the_norm(easy: bool) -> None:
    """Norms below 10, between, and above 110; the authors' code has the easy margin."""
    z, y = batch(length=60.0)
    z[0] *= 4 / z[0].norm()
    z[1] *= 150 / z[1].norm()
    assert_same(head("magface", easy_margin=easy), partial(oracles.magface, easy=easy), z, y)


def test_subcentres_take_the_nearest_of_each_identity() -> None:
    loss = head("subcenter_arcface", k=3)
    z, y = batch()

    def oracle(z: Tensor, y: Tensor, w: Tensor) -> Tensor:
        terms = []
        for row, identity in zip(z, y.tolist(), strict=True):
            cosines = [max(oracles.cosine(row, centre) for centre in own) for own in w]
            logits = [64 * cos for cos in cosines]
            logits[identity] = 64 * oracles.psi_arcface(cosines[identity], 0.5)
            terms.append(oracles.cross_entropy(logits, identity))
        return torch.stack(terms).mean()

    assert_same(loss, oracle, z, y)


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("base", ["arc", "cos"])
def test_elasticface_is_a_loop_over_the_margins_it_draws(base: str, plus: bool) -> None:
    loss = head("elasticface", base=base, plus=plus, std=0.1)
    z, y = batch()
    torch.manual_seed(7)
    drawn = torch.normal(loss.margin.m, 0.1, y.shape, dtype=torch.float64).tolist()

    def oracle(z: Tensor, y: Tensor, w: Tensor) -> Tensor:
        cos = [oracles.cosine(z[i], w[y[i]]).item() for i in range(len(y))]
        harder = [sum(other > own for other in cos) for own in cos]
        margins = iter([sorted(drawn)[rank] for rank in harder] if plus else drawn)
        if base == "cos":
            return margin_softmax(z, y, w, 64, lambda cos, _: cos - next(margins))
        return margin_softmax(z, y, w, 64, lambda cos, _: oracles.psi_arcface(cos, next(margins)))

    torch.manual_seed(7)
    assert_same(loss, oracle, z, y)


def test_a_sum_is_the_sum_of_its_loops() -> None:
    loss = head("cosface+0.5*triplet", triplet={"m": 0.3})
    cosface = from_psi(64, lambda cos: cos - 0.35)
    assert_same(
        loss, lambda z, y, w: cosface(z, y, w) + 0.5 * oracles.triplet(z, y, m=0.3), *batch()
    )


DEGREES = math.degrees(0.5)
METRIC_LEARNING: list[tuple[str, dict[str, object], type[nn.Module], dict[str, float]]] = [
    ("normface", {}, metric_learning.NormalizedSoftmaxLoss, {"temperature": 1 / 64}),
    ("cosface", {}, metric_learning.CosFaceLoss, {"margin": 0.35}),
    ("amsoftmax", {"m": 0.2, "s": 30}, metric_learning.CosFaceLoss, {"margin": 0.2, "scale": 30}),
    ("sphereface", {"m": 4}, metric_learning.SphereFaceLoss, {"margin": 4, "scale": 30}),
    ("arcface", {}, metric_learning.ArcFaceLoss, {"margin": DEGREES}),
    (
        "subcenter_arcface",
        {"k": 3},
        metric_learning.SubCenterArcFaceLoss,
        {"margin": DEGREES, "sub_centers": 3},
    ),
]


@pytest.mark.parametrize(("name", "params", "kind", "theirs"), METRIC_LEARNING)
def test_pytorch_metric_learning_agrees(
    name: str, params: dict[str, object], kind: type[nn.Module], theirs: dict[str, float]
) -> None:
    """Its margins are degrees, its SphereFace keeps the norm, so it is shown unit rows; its
    ArcFace jumps beyond pi - m, where no image of this batch is."""
    z, y = batch()
    loss = head(name, **params)
    other = kind(num_classes=IDENTITIES, embedding_size=DIM, **theirs)
    other.W = nn.Parameter(loss.prototypes.detach().reshape(-1, DIM).t().clone())
    own = loss.logits(z).gather(1, y[:, None]) / loss.s
    assert own.min() > -math.cos(0.5)
    got = value_and_gradients(lambda z: loss(z, y), z, loss.prototypes)
    wanted = value_and_gradients(lambda z: other(nn.functional.normalize(z), y), z, other.W)
    for ours, expected in zip(got[:2], wanted[:2], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-11)
    torch.testing.assert_close(got[2].reshape(-1, DIM), wanted[2].t(), rtol=1e-8, atol=1e-11)


def test_insightface_agrees_wherever_its_target_has_not_turned_up_again() -> None:
    """Its code has cos theta - m sin m beyond pi - m, which jumps; before that it is ArcFace."""
    cos = torch.linspace(-math.cos(0.5) + 1e-6, 1 - 1e-9, 1001, dtype=torch.float64)
    insightface = cos * math.cos(0.5) - (1 - cos**2).sqrt() * math.sin(0.5)
    ours = head("arcface").margin.target(cos, torch.ones_like(cos))
    torch.testing.assert_close(ours, insightface, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["arcface", "cosface", "sphereface", "adaface"])
def test_detached_margin_keeps_the_value_and_gives_the_gradient_of_the_cosine(name: str) -> None:
    z, y = batch()
    plain, detached = head(name), head(name, detach_margin=True)
    torch.testing.assert_close(plain(z, y), detached(z, y))
    plain.eval()
    detached.eval()
    cos = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64, requires_grad=True)
    shift = (plain.margin.target(cos, cos) - cos).detach()
    torch.testing.assert_close(detached._psi(cos, cos.detach()), cos + shift)
    (slope,) = torch.autograd.grad(detached._psi(cos, cos.detach()).sum(), cos)
    torch.testing.assert_close(slope, torch.ones_like(slope))


WITHOUT_MARGIN = [
    ("sphereface", {"m": 1.0}),
    ("cosface", {"m": 0.0}),
    ("amsoftmax", {"m": 0.0}),
    ("arcface", {"m": 0.0}),
    ("combined", {"m1": 1.0, "m2": 0.0, "m3": 0.0}),
    ("magface", {"l_m": 0.0, "u_m": 0.0, "lambda_g": 0.0}),
    ("adaface", {"m": 0.0}),
    ("elasticface", {"m": 0.0, "std": 0.0}),
    ("subcenter_arcface", {"m": 0.0, "k": 1}),
]


@pytest.mark.parametrize(("name", "params"), WITHOUT_MARGIN)
def test_without_a_margin_every_loss_is_the_softmax(name: str, params: dict[str, float]) -> None:
    z, y = batch()
    loss, softmax = head(name, s=64.0, **params), head("normface")
    softmax.prototypes.data = loss.prototypes.detach().reshape(IDENTITIES, DIM)
    got = value_and_gradients(lambda z: loss(z, y), z, loss.prototypes)
    wanted = value_and_gradients(lambda z: softmax(z, y), z, softmax.prototypes)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours.view_as(theirs), theirs, rtol=1e-8, atol=1e-11)


def test_curricularface_without_margin_and_hard_negatives_is_the_softmax() -> None:
    """Its negatives above cos(theta_y) are weighted whatever the margin."""
    z, y = batch(p=IDENTITIES, k=1)
    loss, softmax = head("curricularface", m=0.0, s=16.0), head("normface", s=16.0)
    with torch.no_grad():
        loss.prototypes[y] = z + torch.randn_like(z)
        softmax.prototypes.copy_(loss.prototypes)
    assert torch.equal(softmax.logits(z).argmax(1), y)
    torch.testing.assert_close(loss(z, y), softmax(z, y), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", [name for name in MARGINS if name != "curricularface"])
def test_a_margin_that_has_not_warmed_up_is_no_margin(name: str) -> None:
    z, y = batch()
    loss = head(name)
    loss.set_margin(0.0)
    cos = torch.linspace(-0.99, 0.99, 21, dtype=torch.float64)
    torch.testing.assert_close(loss.margin.target(cos, 20 * torch.ones_like(cos)), cos)
    cold = loss(z, y)
    loss.set_margin(0.5)
    half = loss(z, y)
    loss.set_margin(1.0)
    assert cold < half < loss(z, y)


def psi_of(name: str, theta: Tensor, norm: float = 20.0, **params: object) -> Tensor:
    margin = head(name, **params).eval().margin
    assert isinstance(margin, Margin)
    return margin.target(theta.cos(), torch.full_like(theta, norm))


FALLING = [
    ("sphereface", {}),
    ("sphereface", {"m": 4.0}),
    ("cosface", {}),
    ("amsoftmax", {}),
    ("arcface", {}),
    ("arcface", {"m": math.pi / 2}),
    ("combined", {}),
    ("combined", {"m1": 2.3, "m2": 0.4, "m3": 0.1}),
    ("combined", {"m1": 0.8, "m2": 0.1, "m3": 0.1}),
    ("curricularface", {}),
    ("magface", {}),
    ("magface", {"norm": 5.0}),
    ("magface", {"norm": 150.0}),
    ("adaface", {}),
    ("adaface", {"norm": 1.0, "h": 1e4}),
    ("adaface", {"norm": 90.0, "h": 1e4}),
    ("elasticface", {}),
    ("elasticface", {"base": "cos"}),
    ("subcenter_arcface", {}),
]


@pytest.mark.parametrize(("name", "params"), FALLING)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_psi_is_continuous_and_never_rises_with_the_angle(
    name: str, params: dict[str, float], dtype: torch.dtype
) -> None:
    theta = torch.linspace(0, math.pi, 20001, dtype=torch.float64)
    psi = psi_of(name, theta.to(dtype), **params)
    step = psi.diff()
    rounding = 2e-3 if dtype == torch.float32 else 1e-7
    assert step.max() <= rounding
    assert step.min() > -4.0 * math.pi / 20000 - 2 * rounding


def test_adaface_is_arcface_at_low_and_cosface_at_medium_quality() -> None:
    """mu = 20 and sigma = 100: a norm of 20 has q = 0, h = 1e4 drives q to its ends."""
    theta = torch.linspace(0.5, 2.5, 101, dtype=torch.float64)
    low = psi_of("adaface", theta, norm=1.0, h=1e4)
    medium = psi_of("adaface", theta, norm=20.0, h=1e4)
    high = psi_of("adaface", theta, norm=90.0, h=1e4)
    torch.testing.assert_close(low, torch.cos(theta + 0.4))
    torch.testing.assert_close(medium, torch.cos(theta) - 0.4)
    torch.testing.assert_close(high, torch.cos(theta - 0.4) - 0.8)


def test_asking_psi_moves_no_state() -> None:
    for name in ("adaface", "curricularface"):
        loss = head(name)
        before = copy.deepcopy(loss.state_dict())
        loss.margin.target(torch.rand(5).double(), 30 * torch.rand(5).double())
        assert all(torch.equal(before[key], now) for key, now in loss.state_dict().items())
