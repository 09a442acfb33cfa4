"""Pair losses against loops from the papers and pytorch-metric-learning."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import loss_oracles as oracles
import pytest
import torch
from loss_oracles import PAIRS, batch
from pytorch_metric_learning import distances, losses, miners, reducers
from torch import Tensor

from facever.losses import build_loss

Oracle = Callable[[Tensor, Tensor], Tensor]


def pair_loss(name: str, **params: object) -> torch.nn.Module:
    return build_loss(name, dim=8, identities=4, **params)


def value_and_gradient(function: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    z = z.clone().requires_grad_()
    value = function(z)
    (gradient,) = torch.autograd.grad(value, z)
    return value.detach(), gradient


def assert_same(name: str, params: dict[str, object], oracle: Oracle, z: Tensor, y: Tensor) -> None:
    got = value_and_gradient(lambda z: pair_loss(name, **params)(z, y), z)
    wanted = value_and_gradient(lambda z: oracle(z, y), z)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)


def triplets() -> Iterator[dict[str, object]]:
    for metric, miner, reduction in product(
        ["cosine", "sqeuclidean", "euclidean"], ["all", "hard", "semihard"], ["active", "mean"]
    ):
        yield {"m": 0.3, "metric": metric, "miner": miner, "reduction": reduction}


PAPERS: list[tuple[str, dict[str, object], Oracle]] = [
    ("contrastive", {}, oracles.contrastive),
    (
        "contrastive",
        {"pos_margin": 0.8, "neg_margin": 0.2, "reduction": "mean"},
        partial(oracles.contrastive, pos=0.8, neg=0.2, reduction="mean"),
    ),
    ("triplet", {}, oracles.triplet),
    *(("triplet", params, partial(oracles.triplet, **params)) for params in triplets()),
    ("npair", {}, oracles.npair),
    ("npair", {"reg": 0.1}, partial(oracles.npair, reg=0.1)),
    ("circle", {}, oracles.circle),
    ("circle", {"m": 0.4, "gamma": 80}, partial(oracles.circle, m=0.4, gamma=80)),
    (
        "circle",
        {"weighted": False, "gamma": 32},
        partial(oracles.circle, weighted=False, gamma=32),
    ),
    ("supcon", {}, oracles.supcon),
    ("supcon", {"tau": 0.5}, partial(oracles.supcon, tau=0.5)),
    ("multisimilarity", {}, oracles.multisimilarity),
    (
        "multisimilarity",
        {"alpha": 5, "beta": 20, "base": 0.1},
        partial(oracles.multisimilarity, alpha=5, beta=20, base=0.1),
    ),
]


@pytest.mark.parametrize(("name", "params", "oracle"), PAPERS)
@pytest.mark.parametrize("alone", [False, True])
def test_value_and_gradient_are_those_of_a_loop_from_the_paper(
    name: str, params: dict[str, object], oracle: Oracle, alone: bool
) -> None:
    """With `alone`, one identity has a single image: an anchor without a positive."""
    z, y = batch(length=2.0)
    if alone:
        z, y = z[:-1], torch.where(y == 3, 2, y)[:-1]
        y[0] = 3
    assert_same(name, params, oracle, z, y)


@pytest.mark.parametrize(
    ("name", "params", "metric"),
    [
        ("contrastive", {}, losses.ContrastiveLoss(1, 0, distance=distances.CosineSimilarity())),
        (
            "triplet",
            {},
            losses.TripletMarginLoss(0.2, distance=distances.CosineSimilarity()),
        ),
        (
            "triplet",
            {"metric": "euclidean"},
            losses.TripletMarginLoss(0.2, distance=distances.LpDistance()),
        ),
        (
            "triplet",
            {"metric": "sqeuclidean", "reduction": "mean"},
            losses.TripletMarginLoss(
                0.2, distance=distances.LpDistance(power=2), reducer=reducers.MeanReducer()
            ),
        ),
        (
            "npair",
            {"reg": 0.0},
            losses.NPairsLoss(distance=distances.DotProductSimilarity(normalize_embeddings=False)),
        ),
        ("circle", {}, losses.CircleLoss(m=0.25, gamma=256)),
        ("supcon", {}, losses.SupConLoss(0.1)),
        ("multisimilarity", {}, losses.MultiSimilarityLoss(2, 50, 0.5)),
    ],
)
def test_pytorch_metric_learning_agrees(
    name: str, params: dict[str, object], metric: torch.nn.Module
) -> None:
    z, y = batch(p=6, k=4, length=2.0)
    assert_same(name, params, metric, z, y)


COSINE = distances.CosineSimilarity()


@pytest.mark.parametrize(
    ("miner", "theirs"),
    [
        ("hard", miners.BatchHardMiner(distance=COSINE)),
        ("semihard", miners.TripletMarginMiner(0.2, "semihard", distance=COSINE)),
    ],
)
def test_pytorch_metric_learning_mines_the_same_triplets(
    miner: str, theirs: torch.nn.Module
) -> None:
    loss = losses.TripletMarginLoss(0.2, distance=COSINE)
    z, y = batch(p=6, k=4, length=2.0)
    assert_same("triplet", {"miner": miner}, lambda z, y: loss(z, y, theirs(z, y)), z, y)


def test_npair_on_unit_vectors_scales_the_cosines() -> None:
    z, y = batch()
    unit = torch.nn.functional.normalize(z)
    got = pair_loss("npair", normalized=True, s=9.0, reg=0.0)(z, y)
    torch.testing.assert_close(got, pair_loss("npair", reg=0.0)(3 * unit, y))


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("size", [1, 6])
def test_a_batch_without_a_pair_costs_nothing_and_still_has_a_gradient(
    name: str, size: int
) -> None:
    z, _ = batch()
    value, gradient = value_and_gradient(lambda z: pair_loss(name)(z[:size], torch.arange(size)), z)
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(z))


@pytest.mark.parametrize("name", ["triplet", "circle"])
def test_a_batch_of_one_identity_leaves_nothing_to_tell_apart(name: str) -> None:
    z, y = batch()
    value, gradient = value_and_gradient(lambda z: pair_loss(name)(z, torch.zeros_like(y)), z)
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(z))


def test_the_share_of_active_triplets_is_counted() -> None:
    z, y = batch(p=3, k=3)
    loss = pair_loss("triplet", m=0.2, reduction="mean")
    loss(z, y)
    terms = []
    for a in range(len(y)):
        positives, negatives = oracles.neighbours(y, a)
        for p, n in product(positives, negatives):
            terms.append(oracles.cosine(z[a], z[n]) - oracles.cosine(z[a], z[p]) + 0.2 > 0)
    share = sum(bool(term) for term in terms) / len(terms)
    assert 0 < share < 1
    assert loss.stats()["active_share"].item() == pytest.approx(share)


@pytest.mark.parametrize("name", PAIRS)
def test_the_share_of_active_pairs_is_a_detached_fraction(name: str) -> None:
    loss = pair_loss(name)
    assert loss.stats() == {}
    z, y = batch()
    loss(z.requires_grad_(), y)
    share = loss.stats()["active_share"]
    assert not share.requires_grad
    assert 0 < share <= 1


@pytest.mark.parametrize("miner", ["all", "semihard", "hard"])
def test_triplets_of_a_thousand_images_need_no_cube(miner: str) -> None:
    """1,024^3 numbers would be 4 GiB; what is kept for the backward pass stays below 2^26."""
    z = torch.randn(1024, 32, requires_grad=True)
    y = torch.arange(1024) // 4
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = pair_loss("triplet", miner=miner)(z, y)
    value.backward()
    assert sum(kept.values()) < 2**25
    assert z.grad.isfinite().all()


def test_float32_triplets_agree_with_float64() -> None:
    """The terms are differences of prefix sums, which must not eat up the digits."""
    z, y = batch(p=32, k=8, dim=32)
    for miner in ("all", "semihard"):
        exact = pair_loss("triplet", miner=miner)(z, y)
        rounded = pair_loss("triplet", miner=miner)(z.float(), y)
        assert rounded.item() == pytest.approx(exact.item(), rel=1e-4)
