"""The training loop: forward, backward, step, log, validate, save.

It knows neither evaluation nor configuration: `validate`, `save` and `log` are functions it is
given. Read `fit`, then `train_step`.

Everything random in a step - dropout, margins drawn per sample - comes from a generator seeded
by (seed, epoch, position), and the batch is a function of the same three. A run that was
interrupted therefore ends with the weights of one that was not.

Letters: B images of a batch, D embedding dimension.
"""

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facever.checkpoint import load_weights
from facever.data.loader import Batch
from facever.device import autocast
from facever.encoder import Encoder
from facever.errors import TrainingError
from facever.losses import Loss
from facever.optim import Multiplier, Plateau, WeightAverage
from facever.tracking import Report

# Non-finite steps in a row after which a training is given up.
PATIENCE = 10


@dataclass(frozen=True)
class Recipe:
    """How the steps of a run are carried out."""

    epochs: int
    device: torch.device
    precision: str
    """`fp32`, `bf16` or `fp16`"""
    seed: int
    images: int
    """of an epoch"""
    augment: Callable[[Tensor, tuple[int, int, int]], Tensor] | None = None
    """uint8 images (B, S, S, 3) and (seed, epoch, position) to augmented ones, where the batches
    come without augmentation"""
    accumulate: int = 1
    """micro-batches a batch is cut into"""
    clip_norm: float | None = None
    channels_last: bool = True
    margin_steps: int = 0
    """steps in which the margin grows from 0 to whole"""
    validate_every: int = 1
    """epochs"""
    log_every: int = 20
    """steps"""
    checkpoint_seconds: float = 600.0


@dataclass
class TrainState:
    """All that changes in a training, and all that a checkpoint must hold to go on with it."""

    encoder: Encoder
    loss: Loss
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None = None
    average: WeightAverage | None = None
    plateau: Plateau | None = None
    step: int = 0
    """optimiser steps taken"""
    epoch: int = 0
    """epochs completed"""
    position: int = 0
    """batches consumed of the present epoch"""
    seen: int = 0
    """images seen, of all epochs"""
    skipped: int = 0
    """non-finite steps in a row"""
    skipped_in_all: int = 0
    window: list[float] = field(default_factory=list)
    """losses since the last line of the log"""
    metrics: dict[str, float] = field(default_factory=dict)
    """of the last validation"""
    best: dict[str, float] = field(default_factory=dict)
    """of the validation with the lowest EER"""

    @property
    def validated(self) -> nn.Module:
        """The network that validation, and later inference, looks at."""
        return self.average.encoder if self.average else self.encoder

    def state_dict(self) -> dict[str, Any]:
        """Give the changing parts under the keys of a checkpoint."""
        return {
            "encoder": self.encoder.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
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
                "window": self.window,
                "best": self.best,
            },
            "metrics": self.metrics,
        }

    def load_state_dict(self, payload: Mapping[str, Any], where: str) -> None:
        """Go on from a checkpoint's payload.

        Raises:
            CheckpointError: weights are missing, unknown or of another shape.
        """
        load_weights(self.encoder, payload["encoder"], where)
        load_weights(self.loss, payload["loss"], where)
        self.optimizer.load_state_dict(payload["optimizer"])
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
        self.skipped_in_all = progress["skipped_in_all"]
        self.window, self.best = list(progress["window"]), dict(progress["best"])
        self.metrics = dict(payload["metrics"])


class Interrupted(Exception):
    """SIGINT or SIGTERM was received, and all is saved.

    Attributes:
        exit_code: 130 or 143, as a shell expects.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"{signal.Signals(number).name}; saved, the same command goes on")
        self.exit_code = 128 + number


@contextmanager
def stop_signals() -> Iterator[Callable[[], int | None]]:
    """Turn SIGINT and SIGTERM into a flag that the loop reads between two steps.

    A second signal acts at once, as if nobody had caught the first.

    Yields:
        a function that gives the signal received, or None.
    """
    received: list[int] = []
    handlers: dict[int, Any] = {}

    def remember(number: int, _: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, handlers[number])

    for caught in (signal.SIGINT, signal.SIGTERM):
        handlers[caught] = signal.signal(caught, remember)
    try:
        yield lambda: received[0] if received else None
    finally:
        for wanted, handler in handlers.items():
            signal.signal(wanted, handler)


def fit(
    state: TrainState,
    recipe: Recipe,
    *,
    batches: Callable[[int, int], Iterable[Batch]],
    schedule: Multiplier,
    validate: Callable[[nn.Module], Mapping[str, float]],
    save: Callable[[TrainState, bool], None],
    log: Callable[[int, int, Mapping[str, Any]], None],
    report: Report,
    paths: Callable[[Tensor], list[str]],
    stopped: Callable[[], int | None],
) -> None:
    """Train until `recipe.epochs` epochs are completed.

    Args:
        state: where the training stands; changed in place.
        recipe: how a step is carried out.
        batches: (epoch, position) to the batches of that epoch from there on.
        schedule: step to multiplier of the peak learning rates.
        validate: network to figures; `EER`, in percent, decides what is best.
        save: writes a checkpoint, which is the best one or not.
        log: takes step, epoch and figures.
        report: takes how many images are done of how many, and a text, for the progress line.
        paths: indices of images to their paths, for errors.
        stopped: gives the signal that was received, or None.

    Raises:
        Interrupted: a signal was received; the state is saved.
        TrainingError: ten steps in a row were not finite.
    """
    saved = time.monotonic()
    while state.epoch < recipe.epochs:
        clock = _Clock()
        for batch in batches(state.epoch, state.position):
            figures = train_step(state, recipe, batch, schedule)
            clock.images += len(batch.labels)
            state.seen += len(batch.labels)
            _count_skips(state, batch, figures, paths)
            report(state.seen, recipe.images * recipe.epochs, _summary(state, recipe, figures))
            if figures and state.step % recipe.log_every == 0:
                log(state.step, state.epoch, _log_line(state, figures, clock))
            due = time.monotonic() - saved >= recipe.checkpoint_seconds
            received = stopped()
            if due or received:
                save(state, False)
                saved = time.monotonic()
            if received:
                raise Interrupted(received)
        state.epoch, state.position = state.epoch + 1, 0
        save(state, _validate(state, recipe, validate, log))
        saved = time.monotonic()


def _validate(
    state: TrainState,
    recipe: Recipe,
    validate: Callable[[nn.Module], Mapping[str, float]],
    log: Callable[[int, int, Mapping[str, Any]], None],
) -> bool:
    """Validate where it is due, and tell whether the encoder is the best so far."""
    if state.epoch % recipe.validate_every and state.epoch < recipe.epochs:
        return False
    figures = validate(state.validated)
    state.metrics = {**figures, "epoch": float(state.epoch)}
    # Strictly below: of equal ones the earlier stays.
    best = figures["EER"] < state.best.get("EER", math.inf)
    if best:
        state.best = dict(state.metrics)
    if state.plateau:
        state.plateau.observe(best)
    log(state.step, state.epoch, figures)
    return best


def train_step(
    state: TrainState, recipe: Recipe, batch: Batch, schedule: Multiplier
) -> dict[str, float]:
    """Take one optimiser step on a batch.

    A step whose loss or gradient is not finite changes nothing but its position: weights,
    averages, batch-norm statistics, losses' state and schedule stay.

    Returns:
        `loss`, `grad_norm` and `lr`; empty for a step that was not finite.
    """
    place = (recipe.seed, state.epoch, state.position)
    torch.manual_seed(_derive(*place))
    state.position += 1
    state.encoder.train()
    state.loss.train()
    multiplier = schedule(state.step) * (state.plateau.factor if state.plateau else 1.0)
    for group in state.optimizer.param_groups:
        group["lr"] = group["peak_lr"] * multiplier
    if recipe.margin_steps:
        state.loss.set_margin(min(1.0, (state.step + 1) / recipe.margin_steps))
    buffers = [b for m in (state.encoder, state.loss) for b in m.buffers()]
    before = [b.clone() for b in buffers]

    value = _backward(state, recipe, batch, place)
    norm = _clip(state, recipe.clip_norm)
    finite = bool(torch.isfinite(value) & torch.isfinite(norm))
    if state.scaler:
        # It skips the step itself where a gradient is not finite, and lowers its scale.
        state.scaler.step(state.optimizer)
        state.scaler.update()
    elif finite:
        state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    if not finite:
        for buffer, old in zip(buffers, before, strict=True):
            buffer.copy_(old)
        return {}
    if state.average:
        state.average.update(state.encoder)
    state.step += 1
    return {"loss": value.item(), "grad_norm": norm.item(), "lr": group["lr"]}


def _backward(
    state: TrainState, recipe: Recipe, batch: Batch, place: tuple[int, int, int]
) -> Tensor:
    """Accumulate the gradient of the batch, micro-batch by micro-batch; give the loss, ()."""
    whole = batch.images.to(recipe.device, non_blocking=True)
    if recipe.augment:
        whole = recipe.augment(whole, place)
    pieces = min(recipe.accumulate, len(batch.labels) // 2) or 1
    total = torch.zeros((), device=recipe.device)
    for pixels, labels in zip(
        whole.tensor_split(pieces), batch.labels.tensor_split(pieces), strict=True
    ):
        labels = labels.to(recipe.device, non_blocking=True)
        images = state.encoder.transform.batch(pixels)
        if not recipe.channels_last:
            images = images.contiguous()
        with autocast(recipe.device, recipe.precision):
            embeddings = state.encoder(images)
        state.loss.look(pixels)
        value = state.loss(embeddings, labels) * (len(labels) / len(batch.labels))
        (state.scaler.scale(value) if state.scaler else value).backward()
        total += value.detach()
    return total


def _clip(state: TrainState, limit: float | None) -> Tensor:
    """Clip the gradient to a norm of `limit`; give the norm that it had, ()."""
    if state.scaler:
        state.scaler.unscale_(state.optimizer)
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    return nn.utils.clip_grad_norm_(parameters, limit if limit is not None else math.inf)


def _derive(*parts: int) -> int:
    """Mix integers into one seed."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _count_skips(
    state: TrainState,
    batch: Batch,
    figures: Mapping[str, float],
    paths: Callable[[Tensor], list[str]],
) -> None:
    if figures:
        state.skipped = 0
        state.window.append(figures["loss"])
        return
    state.skipped += 1
    state.skipped_in_all += 1
    if state.skipped >= PATIENCE:
        names = paths(batch.indices)
        raise TrainingError(
            f"epoch {state.epoch + 1}, step {state.step}: {PATIENCE} steps in a row gave a loss "
            "or gradient that is not finite\n"
            f"  images of the last batch: {', '.join(names[:8])}"
            f"{f' and {len(names) - 8} more' if len(names) > 8 else ''}\n"
            "  a lower optim.lr or engine.precision=fp32 helps most often; the last checkpoint "
            "is intact"
        )


@dataclass
class _Clock:
    """Images and seconds since the last line of the log."""

    images: int = 0
    start: float = field(default_factory=time.monotonic)

    def rate(self) -> float:
        """Give images per second and start again."""
        now = time.monotonic()
        rate = self.images / max(now - self.start, 1e-9)
        self.images, self.start = 0, now
        return rate


def _log_line(state: TrainState, figures: Mapping[str, float], clock: _Clock) -> dict[str, Any]:
    line: dict[str, Any] = {
        "loss": sum(state.window) / len(state.window),
        "lr": figures["lr"],
        "grad_norm": figures["grad_norm"],
        "images_per_s": clock.rate(),
        "skipped_steps": float(state.skipped_in_all),
    }
    state.window.clear()
    line |= {key: float(value) for key, value in state.loss.stats().items()}
    for key, values in state.loss.histograms().items():
        # A distribution in eleven numbers whose range need not be known: least, deciles, most.
        deciles = torch.quantile(values.float(), torch.linspace(0, 1, 11, device=values.device))
        line[f"{key}_deciles"] = deciles.tolist()
    return line


def _summary(state: TrainState, recipe: Recipe, figures: Mapping[str, float]) -> str:
    parts = [f"epoch {state.epoch + 1}/{recipe.epochs}"]
    if figures:
        parts.append(f"loss {figures['loss']:.3f}")
    if state.best:
        parts.append(f"best EER {state.best['EER']:.2f} %")
    return ", ".join(parts)
