"""Heads for very many identities: slices of prototypes, and a random share of them.

What `chunked` and `sample_rate` give is compared with the dense head, in float64.
"""

import copy
import math
import re
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from loss_oracles import (
    CHUNKED,
    DIM,
    batch,
    build,
    head,
    images_of,
    look_and_compare,
    loss_and_gradients,
)
from torch import Tensor

from facever.bench import peak_bytes
from facever.losses import Loss, build_loss, loss_problems
from facever.losses.sampled import draw
from facever.losses.similarity import target_and_rest, unit_rows
from facever.optim import build_optimizer, parameter_groups


def assert_alike(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-12) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@cache
def dense(name: str, identities: int) -> Loss:
    return build(name, identities).double()


@given(
    identities=st.integers(1, 12), images=st.integers(1, 6), chunk=st.integers(1, 14),
    seed=st.integers(0, 2**31), alone=st.booleans(), scale=st.sampled_from([1e-3, 1.0, 100.0]),
)  # fmt: skip
@example(identities=7, images=3, chunk=7, seed=0, alone=True, scale=1.0)
@settings(max_examples=max(20, settings().max_examples // 4), deadline=None)
def test_any_slices_give_what_the_whole_gives(
    identities: int, images: int, chunk: int, seed: int, alone: bool, scale: float
) -> None:
    """More slices than identities, fewer, one; a batch of one identity; any length of z."""
    generator = torch.Generator().manual_seed(seed)
    z = scale * torch.randn(images, DIM, generator=generator, dtype=torch.float64)
    y = torch.randint(1 if alone else identities, (images,), generator=generator)
    for name in ("ce", "arcface", "curricularface", "adaface smoothed", "subcenter_arcface"):
        plain = dense(name, identities)
        slices = copy.deepcopy(plain)
        slices.chunked, slices.chunk = True, chunk
        assert_alike(
            loss_and_gradients(slices, z, y),
            loss_and_gradients(plain, z, y),
            # A gradient counts in units of 1 / |z|, its rounding too.
            1e-12 * max(1, 1 / scale),
        )


@pytest.mark.parametrize("name", CHUNKED)
def test_training_by_slices_follows_the_dense_training(name: str) -> None:
    """Weights, momentum and state after four steps; the margins are drawn alike."""
    states = []
    for params in ({}, {"chunked": True, "chunk": 4}):
        loss = build(name, **params).double()
        optimizer = build_optimizer(
            "sgd", parameter_groups(torch.nn.Identity(), loss, lr=0.01, weight_decay=1e-3)
        )
        for seed in range(4):
            torch.manual_seed(seed)
            optimizer.zero_grad()
            look_and_compare(loss, *batch(seed=seed, length=15.0)).backward()
            optimizer.step()
        moments = [entry["momentum_buffer"] for entry in optimizer.state.values()]
        states.append([*loss.parameters(), *loss.buffers(), *moments])
    assert_alike(*states, tolerance=1e-10)


# The proxies and weights that are without gradient by definition.
STILL: dict[str, dict[str, Any]] = {
    name: {"h": 0.0} for name in CHUNKED if name.startswith("adaface")
}


@pytest.mark.parametrize("name", CHUNKED)
def test_the_gradient_by_slices_is_that_of_the_value(name: str) -> None:
    loss = head(name, chunked=True, chunk=4, **STILL.get(name, {})).eval()
    z, y = batch(p=3, k=2)
    names = [key for key, _ in loss.named_parameters()]

    def function(z: Tensor, *values: Tensor) -> Tensor:
        loss.look(images_of(z))
        return torch.func.functional_call(loss, dict(zip(names, values, strict=True)), (z, y))

    inputs = [tensor.detach().clone().requires_grad_() for tensor in (z, *loss.parameters())]
    assert torch.autograd.gradcheck(function, inputs, rtol=1e-4, fast_mode=True)


@pytest.mark.parametrize("name", CHUNKED)
def test_a_state_that_moves_before_the_backward_pass_changes_no_gradient(name: str) -> None:
    """The slices are computed once more in the backward pass, as they were in the forward one."""
    results = []
    for params in ({}, {"chunked": True, "chunk": 4}):
        loss = build(name, **params).double()
        z, y = batch(length=15.0)
        z.requires_grad_()
        torch.manual_seed(0)
        first = look_and_compare(loss, z, y)
        for seed in range(3):
            look_and_compare(loss, *batch(seed=seed, length=30.0))
        results.append(list(torch.autograd.grad(first, [z, *loss.parameters()])))
    assert_alike(*results)


@pytest.mark.parametrize("name", CHUNKED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_does_not_reach_into_the_slices(name: str, dtype: torch.dtype) -> None:
    z, y = batch()
    z = z.to(dtype)
    plain, slices = build(name), build(name, chunked=True, chunk=4)
    torch.manual_seed(0)
    wanted = loss_and_gradients(plain, z.float(), y)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = loss_and_gradients(slices, z, y)
    assert got[0].dtype == torch.float32
    assert got[1].dtype == dtype
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(
            ours.float(), theirs.to(ours.dtype).float(), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("product", ["bfloat16", "float16"])
def test_slices_of_a_low_precision_product_stay_within_its_rounding(product: str) -> None:
    z, y = batch()
    full = build("arcface", s=16)
    low = build("arcface", s=16, product=product, chunked=True, chunk=4)
    for ours, theirs in zip(
        loss_and_gradients(low, z.float(), y), loss_and_gradients(full, z.float(), y), strict=True
    ):
        assert (ours - theirs).norm() < 0.05 * theirs.norm()


def test_float32_slices_are_as_exact_as_the_whole() -> None:
    """A hundred slices: added up one by one, their logarithms would lose digits."""
    torch.manual_seed(0)
    z, y = 5 * torch.randn(32, 64), torch.randint(2000, (32,))
    plain = build_loss("arcface", dim=64, identities=2000)
    slices = copy.deepcopy(plain)
    slices.chunked, slices.chunk = True, 20
    exact = loss_and_gradients(copy.deepcopy(plain).double(), z.double(), y)
    by_slices, whole = (loss_and_gradients(loss, z, y) for loss in (slices, plain))
    for truth, ours, theirs in zip(exact, by_slices, whole, strict=True):
        assert (ours - truth).norm() < 2 * (theirs - truth).norm() + 1e-7 * truth.norm()


@pytest.mark.parametrize("name", ["ce", "curricularface", "subcenter_arcface"])
def test_no_matrix_of_all_logits_is_held(name: str) -> None:
    """Nor a second gradient of the prototypes: B is large enough that neither would hide."""
    images, identities, chunk = 64, 8000, 100
    loss = build(name, identities, chunked=True, chunk=chunk)
    z = torch.randn(images, DIM).requires_grad_()
    y = torch.randint(identities, (images,))
    peak = peak_bytes(lambda: loss(z, y), [z, *loss.parameters()])
    assert peak is not None
    rows = loss.prototypes.numel() // DIM
    # Six slices of logits, and two numbers for each slice and image.
    allowed = 6 * images * chunk * (rows / identities) + 2 * images * identities / chunk
    assert peak / 4 < allowed + 4096 < min(0.2 * images * rows, rows * DIM)


def test_memory_grows_with_the_slices_and_hardly_with_the_identities() -> None:
    def peak(identities: int, chunk: int) -> int:
        loss = build_loss("arcface", dim=16, identities=identities, chunked=True, chunk=chunk)
        z = torch.randn(64, 16).requires_grad_()
        y = torch.randint(identities, (64,))
        found = peak_bytes(lambda: loss(z, y), [z, loss.prototypes])
        assert found is not None
        return found

    small = peak(2000, 500)
    assert peak(8000, 500) < 1.2 * small
    assert peak(8000, 1000) > 1.7 * small


def test_every_identity_of_the_batch_is_drawn_and_the_share_is_kept() -> None:
    y = torch.tensor([17, 3, 3, 99, 0])
    for seed in range(20):
        torch.manual_seed(seed)
        chosen = draw(y, 100, 0.2)
        assert len(chosen) == 20
        assert torch.equal(chosen, chosen.unique())
        assert set(y.tolist()) <= set(chosen.tolist())


@given(
    identities=st.integers(1, 40), images=st.integers(1, 20),
    rate=st.floats(1e-6, 1), seed=st.integers(0, 2**31),
)  # fmt: skip
@settings(deadline=None)
def test_any_draw_holds_the_batch(identities: int, images: int, rate: float, seed: int) -> None:
    torch.manual_seed(seed)
    y = torch.randint(identities, (images,))
    chosen = draw(y, identities, rate)
    assert len(chosen) == min(identities, max(images, round(rate * identities)))
    assert torch.equal(chosen, chosen.unique())
    assert torch.equal(chosen[torch.searchsorted(chosen, y)], y)


def test_the_draw_is_that_of_the_generator_and_of_nothing_else() -> None:
    y = torch.tensor([5])
    torch.manual_seed(3)
    first, second = draw(y, 1000, 0.1), draw(y, 1000, 0.1)
    torch.manual_seed(3)
    assert torch.equal(draw(y, 1000, 0.1), first)
    assert not torch.equal(first, second)


def test_each_other_identity_is_drawn_equally_often() -> None:
    """1,000 draws of 9 among 90: the count of each is within five standard deviations."""
    torch.manual_seed(0)
    y = torch.arange(10)
    counts = sum(draw(y, 100, 0.19).bincount(minlength=100) for _ in range(1000))
    assert isinstance(counts, Tensor)
    assert counts[:10].eq(1000).all()
    deviation = math.sqrt(1000 * 0.1 * 0.9)
    assert (counts[10:] - 100).abs().max() < 5 * deviation


@pytest.mark.parametrize("chunked", [{}, {"chunked": True, "chunk": 4}])
@pytest.mark.parametrize("name", CHUNKED)
def test_a_sampled_loss_is_the_dense_loss_of_the_identities_drawn(
    name: str, chunked: dict[str, Any]
) -> None:
    """The rows that were not drawn have a gradient of zero."""
    z, y = batch(length=15.0)
    sampled = build(name, 30, sample_rate=0.3, **chunked).double()
    torch.manual_seed(4)
    chosen = draw(y, 30, 0.3)
    few = build(name, len(chosen)).double()
    with torch.no_grad():
        for ours, theirs in zip(few.parameters(), sampled.parameters(), strict=True):
            ours.copy_(theirs[chosen])
    # The margins come after the draw of the identities.
    torch.manual_seed(4)
    draw(y, 30, 0.3)
    value, d_z, *wanted = loss_and_gradients(few, z, torch.searchsorted(chosen, y))
    torch.manual_seed(4)
    got, d_ours, *gradients = loss_and_gradients(sampled, z, y)
    assert_alike([got, d_ours], [value, d_z])
    absent = torch.ones(30, dtype=torch.bool).index_fill_(0, chosen, False)
    for gradient, small in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient[chosen], small, rtol=1e-12, atol=1e-12)
        assert absent.any()
        assert (gradient[absent] == 0).all()


@pytest.mark.parametrize("name", CHUNKED)
def test_validation_looks_at_all_identities(name: str) -> None:
    z, y = batch()
    sampled, plain = build(name, 40, sample_rate=0.1).eval(), build(name, 40).eval()
    assert torch.equal(look_and_compare(sampled, z, y), look_and_compare(plain, z, y))
    assert torch.equal(sampled.logits(z), plain.logits(z))


def test_a_share_of_one_draws_nothing() -> None:
    """The margins of a step must not depend on a setting that is off."""
    z, y = batch()
    results = []
    for params in ({}, {"sample_rate": 1.0}):
        torch.manual_seed(0)
        loss = build("elasticface", **params)
        torch.manual_seed(0)
        results.append([*loss_and_gradients(loss, z, y), torch.rand(3)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_others_of_a_share_weigh_that_share_on_average() -> None:
    """As the paper has it: e^rest over r of the others is r of e^rest over all, on average.

    Everything is drawn but the batch's own identity; the tolerance is five standard errors.
    """
    torch.manual_seed(0)
    unit, _ = unit_rows(torch.randn(1, 16, dtype=torch.float64))
    prototypes = torch.randn(200, 16, dtype=torch.float64)
    y = torch.tensor([7])
    _, whole = target_and_rest(unit, prototypes, y, 4.0)
    weights = []
    for _ in range(1000):
        chosen = draw(y, 200, 0.2)
        _, rest = target_and_rest(unit, prototypes[chosen], torch.searchsorted(chosen, y), 4.0)
        weights.append(rest.exp())
    found = torch.cat(weights)
    error = found.std() / math.sqrt(len(found))
    assert abs(found.mean() - 39 / 199 * whole.exp()) < 5 * error


def test_a_row_that_is_not_drawn_follows_its_momentum_and_moves_as_far_in_all() -> None:
    """One gradient g moves it by lr g / (1 - momentum), whether it is drawn again or not."""
    loss = build("arcface", 30, sample_rate=0.3, s=1.0).double()
    groups = parameter_groups(torch.nn.Identity(), loss, lr=0.01)
    optimizer = build_optimizer("sgd", groups, momentum=0.5)
    start = loss.prototypes.detach().clone()
    look_and_compare(loss, *batch()).backward()
    gradient = loss.prototypes.grad
    assert gradient is not None
    gradient = gradient.clone()
    for _ in range(60):
        optimizer.step()
        loss.prototypes.grad = torch.zeros_like(start)
    moved = loss.prototypes.detach() - start
    torch.testing.assert_close(moved, -0.01 * gradient / (1 - 0.5))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"sample_rate": 0.0}, r"sample_rate: 0.0; expected a number in \[1e-06, 1\]"),
        ({"sample_rate": 1.5}, "sample_rate: 1.5; expected a number"),
        ({"chunked": True, "chunk": 0}, "chunk: 0; expected a number"),
        ({"chunked": True, "chunk": 0.5}, "expected a whole number"),
        ({"chunked": 1}, "expected true or false"),
        ({"chunk": 64}, "chunk 64 has no effect without chunked=true"),
    ],
)
@pytest.mark.parametrize("name", ["ce", "normface", "magface", "adaface"])
def test_what_cannot_be_is_said(name: str, params: dict[str, Any], message: str) -> None:
    (problem,) = loss_problems(name, params)
    assert problem.startswith(name)
    assert re.search(message, problem)


def test_a_loss_without_prototypes_has_nothing_to_slice() -> None:
    (problem,) = loss_problems("triplet", {"chunked": True})
    assert "triplet has no such parameter" in problem
