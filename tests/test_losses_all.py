"""What holds for every loss: order, extremes, precision, gradients, learning."""

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_oracles import (
    CHUNKED,
    CLASSIFIERS,
    DIM,
    EVERY,
    IDENTITIES,
    MARGINS,
    PAIRS,
    STATEFUL,
    VARIANTS,
    batch,
    build,
    images_of,
    look_and_compare,
    loss_and_gradients,
)
from torch import Tensor, multiprocessing

from facever.losses import Loss

# What every loss is put through by itself; `make fuzz` asks for more by its profile.
CASES = max(500, settings().max_examples)
NO_MARGIN_DRAWN: dict[str, dict[str, object]] = {"elasticface": {"std": 0.0}}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradients_are_finite_at_the_extremes(name: str, dtype: torch.dtype) -> None:
    """cos = 1 and -1, z = 0 and nearly 0, norms of 1e4, equal rows."""
    loss = build(name).to(dtype)
    z, y = batch(p=6, k=2)
    z = z.to(dtype)
    z[1] = z[0]
    z[2] = 0
    z[3] = 1e-20
    z[4] = -z[5]
    z[6] *= 1e4
    if loss.classifies:
        with torch.no_grad():
            loss.prototypes[y[0]] = z[0]
            loss.prototypes[y[5]] = z[4]
            loss.prototypes[y[7]] = 0
    for result in loss_and_gradients(loss, z, y):
        assert result.isfinite().all()
        assert result.abs().max() < 1e12


@pytest.mark.parametrize("name", EVERY)
def test_one_image_and_one_identity_are_enough(name: str) -> None:
    loss = build(name, identities=1)
    for size in (1, 3):
        results = loss_and_gradients(
            loss, torch.randn(size, DIM), torch.zeros(size, dtype=torch.int64)
        )
        assert all(result.isfinite().all() for result in results)
    if name in CLASSIFIERS and name != "magface":  # which has a penalty
        assert results[0].abs() < 1e-6


@pytest.mark.parametrize("name", EVERY)
def test_the_order_of_the_batch_does_not_matter(name: str) -> None:
    """N-pair takes the first two images of an identity: their order must stay."""
    z, y = batch()
    torch.manual_seed(2)
    order = torch.randperm(len(y)) if name != "npair" else (7 * y.max() - y).argsort(stable=True)
    loss = build(name, **NO_MARGIN_DRAWN.get(name, {})).double()
    twin = copy.deepcopy(loss)
    value, d_z, *rest = loss_and_gradients(loss, z, y)
    shuffled, d_shuffled, *others = loss_and_gradients(twin, z[order], y[order])
    torch.testing.assert_close(shuffled, value)
    torch.testing.assert_close(d_shuffled, d_z[order])
    for ours, theirs in zip(others, rest, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_does_not_reach_into_a_loss(name: str, dtype: torch.dtype) -> None:
    """Under bf16 autocast an encoder gives bf16 embeddings; the loss computes in float32."""
    z, y = batch()
    z = z.to(dtype)
    plain, cast = build(name), build(name)
    torch.manual_seed(0)
    wanted = loss_and_gradients(plain, z.float(), y)
    torch.manual_seed(0)
    leaf = z.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = look_and_compare(cast, leaf, y)
    got = [value, *torch.autograd.grad(value, [leaf, *cast.parameters()])]
    assert got[0].dtype == torch.float32
    assert got[1].dtype == dtype
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours.float(), theirs.to(ours.dtype).float())


# Slices of two, the last of one; and slices larger than the whole.
@pytest.mark.parametrize("chunk", [2, 100])
@pytest.mark.parametrize("name", CHUNKED)
def test_chunked_equals_dense(name: str, chunk: int) -> None:
    """Values, gradients and state over three batches, an identity more than the slices hold."""
    plain = build(name, identities=7).double()
    slices = build(name, identities=7, chunked=True, chunk=chunk).double()
    for seed in range(3):
        z, y = batch(seed=seed, length=15.0)
        torch.manual_seed(seed)
        wanted = loss_and_gradients(plain, z, y)
        torch.manual_seed(seed)
        for ours, dense in zip(loss_and_gradients(slices, z, y), wanted, strict=True):
            torch.testing.assert_close(ours, dense, rtol=1e-12, atol=1e-12)
        for ours, dense in zip(slices.buffers(), plain.buffers(), strict=True):
            assert torch.equal(ours, dense) or (ours - dense).abs() < 1e-12


# AdaFace's q and Circle's weights are without gradient by definition.
WITH_EVERY_GRADIENT: dict[str, dict[str, object]] = {
    "adaface": {"h": 0.0},
    "adaface by probability": {"h": 0.0},
    "adaface smoothed": {"h": 0.0},
    "circle": {"weighted": False},
}


@pytest.mark.parametrize("name", EVERY)
def test_the_gradient_is_that_of_the_value(name: str) -> None:
    loss = build(name, **WITH_EVERY_GRADIENT.get(name, {})).double().eval()
    z, y = batch(p=3, k=2)
    parameters = [parameter.detach().clone() for parameter in loss.parameters()]
    names = [key for key, _ in loss.named_parameters()]

    def function(z: Tensor, *values: Tensor) -> Tensor:
        loss.look(images_of(z))
        return torch.func.functional_call(loss, dict(zip(names, values, strict=True)), (z, y))

    inputs = [tensor.requires_grad_() for tensor in (z, *parameters)]
    assert torch.autograd.gradcheck(function, inputs, rtol=1e-4, fast_mode=True)


@pytest.mark.parametrize("name", EVERY)
def test_two_steps_of_descent_lower_the_loss(name: str) -> None:
    loss = build(name, **NO_MARGIN_DRAWN.get(name, {}))
    z, y = batch(length=20.0)
    z = z.float().requires_grad_()
    look_and_compare(loss, z, y)  # which starts what starts from the data
    start = look_and_compare(loss.eval(), z, y).detach()
    loss.train()
    descent = torch.optim.SGD([z, *loss.parameters()], lr=0.02)
    for _ in range(2):
        descent.zero_grad()
        look_and_compare(loss, z, y).backward()
        descent.step()
    assert look_and_compare(loss.eval(), z, y) < start


@pytest.mark.parametrize("name", EVERY)
def test_a_loss_moves_to_its_dtype_and_is_copied_with_its_state(name: str) -> None:
    z, y = batch()
    loss = build(name)
    look_and_compare(loss, z.float(), y)
    loss = loss.double()
    twin = build(name).double()
    twin.load_state_dict(loss.state_dict())
    torch.manual_seed(0)
    value = look_and_compare(loss, z, y)
    torch.manual_seed(0)
    assert torch.equal(value, look_and_compare(twin, z, y))
    assert value.dtype == torch.float64


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Embeddings at any scale, with repeated, opposite, zero and tiny rows; any identities."""
    kinds = draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    fresh = torch.randn(len(kinds), DIM, generator=generator)
    before = fresh.roll(1, dims=0)
    old, new = torch.tensor([KINDS[kind] for kind in kinds]).t()[:, :, None]
    z = (old * before + new * fresh) * 10.0 ** draw(st.integers(-3, 3))
    y = torch.randint(draw(st.integers(1, IDENTITIES)), (len(kinds),), generator=generator)
    return z, y


# How a row is mixed from the row before it and a fresh one.
KINDS = {
    "fresh": (0.0, 1.0),
    "again": (1.0, 0.0),
    "nearly again": (1.0, 1e-4),
    "opposite": (-1.0, 0.0),
    "nearly opposite": (-1.0, 1e-4),
    "zero": (0.0, 0.0),
    "tiny": (0.0, 1e-9),
}


@cache
def kept(name: str) -> Loss:
    """One loss for all the cases of a name; its state may be anything that training made."""
    return build(name)


@pytest.mark.parametrize("names", [[*CLASSIFIERS, *VARIANTS], PAIRS], ids=["classifiers", "pairs"])
@given(case=batches())
@settings(max_examples=CASES, deadline=None)
def test_any_batch_has_a_finite_loss_and_finite_gradients(
    names: list[str], case: tuple[Tensor, Tensor]
) -> None:
    """The losses share the cases, for drawing one takes as long as two losses."""
    for name in names:
        value, *slopes = loss_and_gradients(kept(name).train(), *case)
        assert value >= 0, name
        assert value.isfinite(), name
        assert all(slope.isfinite().all() for slope in slopes), name


@given(case=batches())
@settings(deadline=None)
def test_any_batch_has_a_loss_that_ignores_its_order(case: tuple[Tensor, Tensor]) -> None:
    z, y = case
    for name in EVERY:
        if name != "npair":
            loss = kept(name).eval()
            with torch.no_grad():
                value = look_and_compare(loss, z, y)
                flipped = look_and_compare(loss, z.flip(0), y.flip(0))
            torch.testing.assert_close(flipped, value, rtol=1e-3, atol=1e-3, msg=name)


BELOW = [name for name in MARGINS if name not in ("adaface", "curricularface")]


@given(case=batches())
@settings(deadline=None)
def test_a_margin_never_lowers_the_loss(case: tuple[Tensor, Tensor]) -> None:
    """Psi <= cos(theta) at every angle, but for AdaFace with q = 1."""
    for name in BELOW:
        loss = kept(name).eval()
        with torch.no_grad():
            loss.set_margin(1.0)
            whole = loss(*case)
            loss.set_margin(0.0)
            assert whole >= loss(*case) - 1e-3, name
            loss.set_margin(1.0)


def step_in_a_world_of_two(rank: int, file: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=2
    )
    z, y = batch(length=15.0)
    mine = slice(0, 7) if rank == 0 else slice(7, None)
    state = {}
    for name in STATEFUL:
        loss = build(name).double()
        look_and_compare(loss, z[mine], y[mine])
        state[name] = loss.margin.state_dict()
    torch.save(state, f"{file}.{rank}")
    torch.distributed.destroy_process_group()


def test_state_is_the_same_on_every_rank_and_that_of_the_whole_batch(
    tmp_path: Path,
) -> None:
    """Two real processes with 7 and 5 of 12 embeddings against one with all of them."""
    file = f"{tmp_path}/state"
    # A fork has torch already, which a new interpreter takes seconds to import.
    multiprocessing.start_processes(step_in_a_world_of_two, (file,), nprocs=2, start_method="fork")
    first, second = (torch.load(f"{file}.{rank}") for rank in range(2))
    z, y = batch(length=15.0)
    for name in STATEFUL:
        loss = build(name).double()
        look_and_compare(loss, z, y)
        for key, value in loss.margin.state_dict().items():
            assert torch.equal(first[name][key], second[name][key])
            torch.testing.assert_close(first[name][key], value, rtol=1e-12, atol=0)
