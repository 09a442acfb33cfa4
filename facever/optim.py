"""Parameter groups, optimisers, learning-rate schedules and weight averaging.

A schedule is a pure function from the step to a multiplier of the peak learning rate, so a
resumed run needs nothing but its step. `plateau` alone depends on what was measured; its
factor is the one number kept beside the step.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Multiplier = Callable[[int], float]


def parameter_groups(
    encoder: nn.Module,
    loss: nn.Module,
    *,
    lr: float,
    encoder_lr_scale: float = 1.0,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Group the parameters of encoder and loss by learning rate and weight decay.

    Vectors - biases, norms' scales and shifts - are not decayed (Goyal et al.,
    arXiv:1706.02677, 5.3). The loss's prototypes are parameters like any other. `peak_lr`
    holds the learning rate that a schedule multiplies.
    """
    groups = []
    for module, rate in ((encoder, lr * encoder_lr_scale), (loss, lr)):
        parameters = [p for p in module.parameters() if p.requires_grad]
        for decay, chosen in (
            (weight_decay, [p for p in parameters if p.ndim > 1]),
            (0.0, [p for p in parameters if p.ndim <= 1]),
        ):
            if chosen:
                groups.append(
                    {"params": chosen, "lr": rate, "peak_lr": rate, "weight_decay": decay}
                )
    return groups


def build_optimizer(
    name: str, groups: list[dict[str, Any]], *, momentum: float = 0.9
) -> torch.optim.Optimizer:
    """Build `sgd` (Nesterov, where there is momentum) or `adamw` over the groups.

    Both are fused: one pass over the memory in place of five, which leaves everything as it is
    where the optimiser's `found_inf`, a float32 tensor () on the device, is 1.
    """
    if name == "adamw":
        return torch.optim.AdamW(groups, betas=(momentum, 0.999), fused=True)
    optimizer = torch.optim.SGD(groups, momentum=momentum, nesterov=momentum > 0, fused=True)
    if momentum:
        # torch would take uninitialised memory for the momentum of a first step that is skipped.
        for group in groups:
            for p in group["params"]:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer


def build_schedule(
    name: str,
    *,
    total: int,
    warmup: int,
    milestones: tuple[float, ...] = (),
    gamma: float = 0.1,
) -> Multiplier:
    """Build the schedule: step in [0, total) to a multiplier of the peak learning rate.

    Args:
        name: `cosine` falls to 0; `step` drops by `gamma` at each milestone; `onecycle` rises
            and falls along cosines with its peak at the end of the warm-up (at least 30 % of
            the run; Smith, arXiv:1708.07120); `constant` and `plateau` stay.
        total: steps of the run.
        warmup: steps in which the rate grows linearly from 0.
        milestones: shares of the run, for `step`.
        gamma: factor of each drop.
    """
    if name == "onecycle":
        peak = max(warmup, round(0.3 * total), 1)
        return lambda step: _one_cycle(step, peak, total)
    after: dict[str, Multiplier] = {
        "cosine": lambda step: _half_cosine((step - warmup) / max(1, total - warmup)),
        "step": lambda step: gamma ** sum(step >= share * total for share in milestones),
        "plateau": lambda step: 1.0,
        "constant": lambda step: 1.0,
    }
    course = after[name]
    return lambda step: (step + 1) / (warmup + 1) if step < warmup else course(step)


def _half_cosine(progress: float) -> float:
    """Fall from 1 to 0 as `progress` goes from 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _one_cycle(step: int, peak: int, total: int, start: float = 1 / 25) -> float:
    if step < peak:
        return start + (1 - start) * (1 - _half_cosine(step / peak))
    return _half_cosine((step - peak) / max(1, total - peak))


@dataclass
class Plateau:
    """Lowers the learning rate when the EER has stopped falling.

    Attributes:
        factor: what the schedule's multiplier is multiplied by.
        waited: validations since the best one, or since the last drop.
    """

    patience: int
    gamma: float
    factor: float = 1.0
    waited: int = 0

    def observe(self, improved: bool) -> None:
        """Take note of a validation."""
        self.waited = 0 if improved else self.waited + 1
        if self.waited > self.patience:
            self.factor, self.waited = self.factor * self.gamma, 0

    def state_dict(self) -> dict[str, float]:
        """Give what a resumed run needs."""
        return {"factor": self.factor, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.factor, self.waited = float(state["factor"]), int(state["waited"])


class WeightAverage:
    """Exponential moving average of an encoder's weights and of its batch norms' statistics.

    The statistics are averaged with the same weights as the parameters, so that they belong to
    the averaged network. The decay grows as (1 + n) / (10 + n) over the first updates, or the
    random start would stay in the average for 1 / (1 - decay) steps (as TensorFlow's EMA).

    Attributes:
        encoder: the averaged network, in eval mode.
    """

    def __init__(self, encoder: nn.Module, decay: float) -> None:
        self.encoder = copy.deepcopy(encoder).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, encoder: nn.Module, unless: Tensor | None = None) -> None:
        """Move towards the encoder's present weights; stay where `unless`, () of bool, is true."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        source = encoder.state_dict()
        floating = {k: v for k, v in self.encoder.state_dict().items() if v.is_floating_point()}
        share = torch.tensor(1 - decay) if unless is None else (1 - decay) * ~unless
        shares = [share.to(v) for v in floating.values()]
        torch._foreach_lerp_(list(floating.values()), [source[k] for k in floating], shares)

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed run needs."""
        return {"updates": self.updates, "encoder": self.encoder.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.updates = int(state["updates"])
        self.encoder.load_state_dict(state["encoder"])
