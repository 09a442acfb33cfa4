"""Parameter groups, schedules and weight averaging."""

import copy
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from training_helpers import tiny_encoder

from facever.config import Optim
from facever.losses import build_loss
from facever.optim import (
    Plateau,
    WeightAverage,
    build_optimizer,
    build_schedule,
    parameter_groups,
)

torch.set_num_threads(1)
NAMES = ("cosine", "step", "plateau", "onecycle", "constant")


def groups_of(**options: float) -> tuple[nn.Module, nn.Module, list[dict[str, Any]]]:
    encoder = tiny_encoder()
    loss = build_loss("ce", dim=8, identities=5)
    return encoder, loss, parameter_groups(encoder, loss, lr=0.1, **options)


def test_every_parameter_is_in_exactly_one_group() -> None:
    encoder, loss, groups = groups_of(weight_decay=1e-3)
    found = [id(p) for group in groups for p in group["params"]]
    assert len(found) == len(set(found))
    assert set(found) == {id(p) for m in (encoder, loss) for p in m.parameters()}


def test_vectors_are_not_decayed_and_matrices_are() -> None:
    _, _, groups = groups_of(weight_decay=1e-3)
    for group in groups:
        for p in group["params"]:
            assert group["weight_decay"] == (1e-3 if p.ndim > 1 else 0.0)
    assert {group["weight_decay"] for group in groups} == {0.0, 1e-3}


def test_the_encoder_has_its_share_of_the_learning_rate() -> None:
    encoder, _, groups = groups_of(encoder_lr_scale=0.1)
    own = {id(p) for p in encoder.parameters()}
    for group in groups:
        rate = 0.1 * (0.1 if id(group["params"][0]) in own else 1.0)
        assert group["lr"] == group["peak_lr"] == pytest.approx(rate)


def test_frozen_parameters_are_left_out() -> None:
    encoder, loss = nn.Linear(2, 3), nn.Linear(3, 4)
    encoder.requires_grad_(False)
    groups = parameter_groups(encoder, loss, lr=0.1)
    assert {p for group in groups for p in group["params"]} == set(loss.parameters())


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_optimiser_survives_a_checkpoint(name: str) -> None:
    """Two steps with a restart between them equal two without."""
    encoder = nn.Linear(3, 4)
    twin = copy.deepcopy(encoder)
    optimizers = [
        build_optimizer(name, parameter_groups(m, nn.Identity(), lr=0.1, weight_decay=0.01))
        for m in (encoder, twin)
    ]
    x = torch.arange(6.0).reshape(2, 3)
    for step in range(2):
        if step:
            fresh = build_optimizer(name, parameter_groups(twin, nn.Identity(), lr=0.7))
            fresh.load_state_dict(copy.deepcopy(optimizers[1].state_dict()))
            optimizers[1] = fresh
        for m, optimizer in zip((encoder, twin), optimizers, strict=True):
            optimizer.zero_grad()
            m(x).square().sum().backward()
            optimizer.step()
    assert torch.equal(encoder.weight, twin.weight)
    assert torch.equal(encoder.bias, twin.bias)


def test_sgd_is_nesterov_s() -> None:
    """v = mu v + g, w = w - lr (g + mu v), on the gradients 1, 1 (Sutskever et al., 2013)."""
    w = nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer("sgd", [{"params": [w], "lr": 0.1}], momentum=0.9)
    for _ in range(2):
        w.grad = torch.ones(1)
        optimizer.step()
    first = 1 + 0.9 * 1
    second = 1 + 0.9 * (0.9 + 1)
    assert w.item() == pytest.approx(-0.1 * (first + second))


def test_sgd_without_momentum_and_adamw_s_first_beta() -> None:
    w = nn.Parameter(torch.zeros(1))
    plain = build_optimizer("sgd", [{"params": [w], "lr": 0.1}], momentum=0.0)
    assert plain.param_groups[0]["nesterov"] is False
    adamw = build_optimizer("adamw", [{"params": [w], "lr": 0.1}], momentum=0.8)
    assert adamw.param_groups[0]["betas"] == (0.8, 0.999)


def test_every_schedule_of_the_configuration_can_be_built() -> None:
    choices = Optim.model_fields["schedule"].annotation.__args__  # type: ignore[union-attr]
    assert set(choices) == set(NAMES)
    for name in choices:
        assert build_schedule(name, total=10, warmup=2)(0) > 0


runs = st.integers(1, 300).flatmap(
    lambda total: st.tuples(st.just(total), st.integers(0, total // 2))
)


@given(st.sampled_from(NAMES), runs)
def test_multipliers_lie_in_0_to_1_rise_before_the_peak_and_fall_after_it(
    name: str, run: tuple[int, int]
) -> None:
    total, warmup = run
    schedule = build_schedule(name, total=total, warmup=warmup, milestones=(0.5, 0.75))
    values = [schedule(step) for step in range(total)]
    assert all(0 < value <= 1 for value in values)
    peak = values.index(max(values))
    assert all(a <= b for a, b in pairwise(values[: peak + 1]))
    assert all(a >= b for a, b in pairwise(values[peak:]))
    assert values == [schedule(step) for step in range(total)]


@given(st.sampled_from(["cosine", "step", "plateau", "constant"]), runs)
def test_the_warm_up_is_linear_and_ends_at_the_peak(name: str, run: tuple[int, int]) -> None:
    total, warmup = run
    schedule = build_schedule(name, total=total, warmup=warmup, milestones=(0.6,))
    for step in range(warmup):
        assert schedule(step) == pytest.approx((step + 1) / (warmup + 1))
    if warmup < 0.6 * total:
        assert schedule(warmup) == 1.0


def torch_schedule(make: Any, total: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_cosine_and_step_equal_torch_s() -> None:
    from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR

    cosine = build_schedule("cosine", total=40, warmup=0)
    expected = torch_schedule(lambda o: CosineAnnealingLR(o, 40), 40)
    assert [cosine(step) for step in range(40)] == pytest.approx(expected)
    step = build_schedule("step", total=40, warmup=0, milestones=(0.5, 0.75, 0.9), gamma=0.2)
    expected = torch_schedule(lambda o: MultiStepLR(o, [20, 30, 36], gamma=0.2), 40)
    assert [step(i) for i in range(40)] == pytest.approx(expected)


def test_one_cycle_peaks_where_it_says() -> None:
    schedule = build_schedule("onecycle", total=100, warmup=5)
    assert schedule(0) == pytest.approx(1 / 25)
    assert schedule(30) == 1.0
    assert schedule(100) == pytest.approx(0, abs=1e-12)
    assert build_schedule("onecycle", total=100, warmup=60)(60) == 1.0


def test_cosine_ends_at_0_and_halves_in_the_middle() -> None:
    schedule = build_schedule("cosine", total=110, warmup=10)
    assert schedule(60) == pytest.approx(0.5)
    assert schedule(110) == pytest.approx(0, abs=1e-12)
    assert schedule(500) == pytest.approx(0, abs=1e-12)


def test_constant_and_plateau_stay() -> None:
    for name in ("constant", "plateau"):
        schedule = build_schedule(name, total=10, warmup=2)
        assert {schedule(step) for step in range(2, 10)} == {1.0}


def test_a_plateau_drops_after_patience_and_again_after_as_many() -> None:
    plateau = Plateau(patience=2, gamma=0.5)
    seen = []
    for improved in (True, False, False, False, False, True, False, False, False):
        plateau.observe(improved)
        seen.append(plateau.factor)
    assert seen == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25]


@given(st.lists(st.booleans(), max_size=12), st.integers(0, 12), st.integers(0, 3))
def test_a_plateau_goes_on_from_its_state(
    history: list[bool], stop: int, patience: int
) -> None:  # fmt: skip
    whole, first = (Plateau(patience=patience, gamma=0.1) for _ in range(2))
    for improved in history:
        whole.observe(improved)
    for improved in history[:stop]:
        first.observe(improved)
    second = Plateau(patience=patience, gamma=0.1)
    second.load_state_dict(first.state_dict())
    for improved in history[stop:]:
        second.observe(improved)
    assert second == whole


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def drift(net: nn.Module, step: int) -> None:
    """Move weights and batch norm's statistics."""
    rng = torch.Generator().manual_seed(step)
    net.train()
    net(torch.randn(5, 3, generator=rng) + step)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, generator=rng))


def test_the_average_equals_a_loop_over_weights_and_statistics() -> None:
    net = small_net()
    average = WeightAverage(net, 0.9)
    expected = {key: value.double().clone() for key, value in net.state_dict().items()}
    for step in range(1, 31):
        drift(net, step)
        average.update(net)
        decay = min(0.9, (1 + step) / (10 + step))
        for key, value in net.state_dict().items():
            expected[key] = decay * expected[key] + (1 - decay) * value.double()
    for key, value in average.encoder.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[key], rtol=1e-4, atol=1e-5)
    assert "1.running_mean" in expected


def test_the_average_belongs_to_nobody_else() -> None:
    """It does not move with the encoder, takes no gradient, and is in eval mode."""
    net = small_net()
    average = WeightAverage(net, 0.9)
    before = {key: value.clone() for key, value in average.encoder.state_dict().items()}
    drift(net, 1)
    assert all(torch.equal(v, before[k]) for k, v in average.encoder.state_dict().items())
    assert not average.encoder.training
    assert not any(p.requires_grad for p in average.encoder.parameters())
    assert all(p.requires_grad for p in net.parameters())


def test_the_first_updates_forget_the_random_start() -> None:
    """At decay 0.999 a plain average would still hold 98 % of it after 20 steps."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    average = WeightAverage(net, 0.999)
    nn.init.ones_(net.weight)
    for _ in range(20):
        average.update(net)
    (weight,) = average.encoder.parameters()
    assert weight.item() > 0.99


def test_the_average_goes_on_from_its_state() -> None:
    net = small_net()
    whole, first = WeightAverage(net, 0.9), WeightAverage(net, 0.9)
    for step in range(3):
        drift(net, step)
        whole.update(net)
        first.update(net)
    second = WeightAverage(small_net(), 0.9)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    drift(net, 3)
    whole.update(net)
    second.update(net)
    pairs = zip(whole.encoder.state_dict().items(), second.encoder.state_dict().values(),
                strict=True)  # fmt: skip
    for (key, left), right in pairs:
        assert torch.equal(left, right), key
    assert not math.isnan(float(second.updates))
    assert second.updates == 4
