"""All that changes in a training, and what a checkpoint holds of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from facever.checkpoint import load_weights
from facever.device import to_host
from facever.encoder import Encoder
from facever.losses import Loss
from facever.optim import Plateau, WeightAverage
from facever.shards import own_moments, own_weights, whole_moments, whole_weights


class Outcome:
    """Loss and gradient norm of a step, on their way from the device."""

    def __init__(self, value: Tensor, norm: Tensor, lr: float) -> None:
        self._lr = lr
        self._pair = to_host(torch.stack((value, norm.to(value.dtype))))

    def read(self) -> tuple[float, float, float]:
        """Give loss, gradient norm and learning rate, once they have arrived."""
        loss, norm = self._pair().tolist()
        return loss, norm, self._lr


@dataclass
class TrainState:
    """All that changes in a training, and all that a checkpoint must hold to go on with it."""

    encoder: Encoder
    loss: Loss
    optimizer: torch.optim.Optimizer
    network: nn.Module | None = None
    """the encoder as the step calls it, where several processes train it"""
    scaler: torch.amp.GradScaler | None = None
    average: WeightAverage | None = None
    plateau: Plateau | None = None
    step: int = 0
    """optimiser steps taken"""
    epoch: int = 0
    """epochs completed"""
    epochs: int = 0
    """of the whole run, where a wall-clock limit shortened it; else 0"""
    position: int = 0
    """batches consumed of the present epoch"""
    seen: int = 0
    """images seen, of all epochs"""
    skipped: int = 0
    """non-finite steps in a row"""
    skipped_in_all: int = 0
    pieces: int = 1
    """micro-batches a batch must be cut into for the memory there is"""
    window: list[float] = field(default_factory=list)
    """losses since the last line of the log"""
    metrics: dict[str, float] = field(default_factory=dict)
    """of the last validation"""
    best: dict[str, float] = field(default_factory=dict)
    """of the validation with the best metric, the earliest of equal ones"""
    pending: "Outcome | None" = None
    """of a step that was taken but not counted yet"""

    @property
    def validated(self) -> nn.Module:
        """The network that validation, and later inference, looks at."""
        return self.average.encoder if self.average else self.encoder

    def state_dict(self) -> dict[str, Any]:
        """Give the changing parts under the keys of a checkpoint.

        All processes are to call it together; of a classifier that they have divided the leader
        alone is given the whole.
        """
        self.settle()
        return {
            "encoder": self.encoder.state_dict(),
            "loss": whole_weights(self.loss),
            "optimizer": whole_moments(self.optimizer, self.loss),
            "schedule": self.plateau.state_dict() if self.plateau else {},
            "scaler": self.scaler.state_dict() if self.scaler else {},
            "ema": self.average.state_dict() if self.average else {},
            "step": self.step,
            "epoch": self.epoch,
            "sampler": {"position": self.position},
            "progress": {
                "seen": self.seen,
                "skipped": self.skipped,
                "skipped_in_all": self.skipped_in_all,
                "pieces": self.pieces,
                "epochs": self.epochs,
                "window": self.window,
                "best": self.best,
            },
            "metrics": self.metrics,
        }

    def settle(self) -> dict[str, float]:
        """Count the step that is pending, and give its figures as `train_step` does."""
        if self.pending is None:
            return {}
        loss, norm, lr = self.pending.read()
        self.pending = None
        if math.isfinite(loss) and math.isfinite(norm):
            self.step += 1
            self.skipped = 0
            self.window.append(loss)
            return {"loss": loss, "grad_norm": norm, "lr": lr}
        self.skipped += 1
        self.skipped_in_all += 1
        if self.average:
            self.average.updates -= 1
        return {}

    def load_state_dict(self, payload: Mapping[str, Any], where: str) -> None:
        """Go on from a checkpoint's payload.

        Raises:
            CheckpointError: weights are missing, unknown or of another shape.
        """
        load_weights(self.encoder, payload["encoder"], where)
        load_weights(self.loss, own_weights(self.loss, payload["loss"]), where)
        self.optimizer.load_state_dict(own_moments(self.optimizer, self.loss, payload["optimizer"]))
        for part, key in (
            (self.plateau, "schedule"),
            (self.scaler, "scaler"),
            (self.average, "ema"),
        ):
            if part is not None and payload[key]:
                part.load_state_dict(payload[key])
        self.step, self.epoch = payload["step"], payload["epoch"]
        self.position = payload["sampler"]["position"]
        progress = payload["progress"]
        self.seen, self.skipped = progress["seen"], progress["skipped"]
        self.skipped_in_all, self.pieces = progress["skipped_in_all"], progress["pieces"]
        self.epochs = progress["epochs"]
        self.window, self.best = list(progress["window"]), dict(progress["best"])
        self.metrics = dict(payload["metrics"])
