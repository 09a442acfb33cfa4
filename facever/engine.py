"""The training loop: step, log, validate, save.

It knows neither evaluation nor configuration: `validate`, `save` and `log` are functions it is
given. What a step does and changes is in `step`.
"""

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from facever import distributed
from facever.data.loader import Batch
from facever.deadline import Deadline
from facever.errors import TrainingError
from facever.optim import Multiplier
from facever.state import TrainState
from facever.step import Recipe, train_step
from facever.tracking import Report, note

# Non-finite steps in a row after which a training is given up.
PATIENCE = 10

# What the loop may have to do after a step, below the numbers of the signals.
GO_ON, SAVE, TIME_IS_OVER = -2, -1, 0


class Interrupted(Exception):
    """SIGINT or SIGTERM was received, or the time is over, and all is saved.

    Attributes:
        exit_code: 130 or 143, as a shell expects; 0 where it is the time that is over.
    """

    def __init__(self, number: int) -> None:
        what = signal.Signals(number).name if number else "unfinished when engine.max_time was over"
        super().__init__(f"{what}; saved, the same command goes on")
        self.exit_code = 128 + number if number else 0


@contextmanager
def stop_signals() -> Iterator[Callable[[], int | None]]:
    """Turn SIGINT and SIGTERM into a flag that the loop reads between two steps.

    A second signal acts at once, as if nobody had caught the first.

    Yields:
        a function that gives the signal received, or None.

    Raises:
        Interrupted: at the end, for a signal that nobody acted on.
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
    # One that came during the last validation: all is saved, but the command has more to do.
    if received:
        raise Interrupted(received[0])


def fit(
    state: TrainState,
    recipe: Recipe,
    *,
    batches: Callable[[int, int], Iterable[Batch]],
    schedule: Callable[[int], Multiplier],
    validate: Callable[[nn.Module], Mapping[str, float]],
    save: Callable[[TrainState, bool], None],
    log: Callable[[int, int, Mapping[str, Any]], None],
    report: Report,
    paths: Callable[[Tensor], list[str]],
    stopped: Callable[[], int | None],
    deadline: Deadline | None = None,
    remaining: Callable[[float], None] = lambda seconds: None,
) -> None:
    """Train until `recipe.epochs` epochs are completed, or as many as the time allows.

    Args:
        state: where the training stands; changed in place.
        recipe: how a step is carried out.
        batches: (epoch, position) to the batches of that epoch from there on.
        schedule: epochs of the run to the function from step to multiplier of the learning rates.
        validate: network to figures, of which `recipe.metric` decides what is best; `EER` is
            among them, in percent.
        save: writes a checkpoint, which is the best one or not.
        log: takes step, epoch and figures.
        report: takes how many images are done of how many, and a text, for the progress line.
        paths: indices of images to their paths, for errors.
        stopped: gives the signal that was received, or None.
        deadline: when the run must have been saved.
        remaining: takes after each epoch the seconds that the rest of the run will take.

    Raises:
        Interrupted: a signal was received, or the time is over; the state is saved.
        TrainingError: ten steps in a row were not finite.
    """
    deadline = deadline or Deadline()
    recipe = replace(recipe, epochs=state.epochs or recipe.epochs)
    multiplier = schedule(recipe.epochs)
    began = saved = time.monotonic()
    seen = state.seen
    while state.epoch < recipe.epochs:
        clock = _Clock()
        for batch in batches(state.epoch, state.position):
            figures = train_step(state, recipe, batch, multiplier)
            clock.images += len(batch.labels)
            state.seen += len(batch.labels)
            _check_skips(state, batch, paths)
            report(state.seen, recipe.images * recipe.epochs, _summary(state, recipe))
            if figures and state.step % recipe.log_every == 0:
                log(state.step, state.epoch, _log_line(state, figures, clock))
            wanted = _wanted(state, recipe, saved, stopped, deadline)
            if wanted >= SAVE:
                save(state, False)
                saved = time.monotonic()
            if wanted >= TIME_IS_OVER:
                raise Interrupted(wanted)
        state.settle()
        state.epoch, state.position = state.epoch + 1, 0
        best = _validate(state, recipe, validate, log)
        if state.epoch == 1:
            further = deadline.epochs((state.seen - seen) / recipe.images)
            if _shorten(state, recipe.epochs, further):
                recipe = replace(recipe, epochs=state.epochs)
                multiplier = schedule(state.epochs)
        save(state, best)
        saved = time.monotonic()
        remaining(_seconds_left(state, recipe, saved - began, state.seen - seen))


def _wanted(
    state: TrainState,
    recipe: Recipe,
    saved: float,
    stopped: Callable[[], int | None],
    deadline: Deadline,
) -> int:
    """Tell what to do after a step: a signal's number, GO_ON, SAVE or TIME_IS_OVER."""
    if state.pending and distributed.world_size() > 1:
        # To ask each other the processes would wait for their devices.
        return GO_ON
    due = time.monotonic() - saved >= recipe.checkpoint_seconds
    over = TIME_IS_OVER if deadline.passed() else SAVE if due else GO_ON
    # Signals and clocks reach processes at different steps; all must act at one.
    return distributed.largest(stopped() or over)


def _seconds_left(state: TrainState, recipe: Recipe, seconds: float, images: int) -> float:
    """Tell how long the rest of the run will take if `images` took `seconds`; 0 without any."""
    rest = recipe.images * (recipe.epochs - state.epoch)
    return rest * seconds / images if images else 0.0


def _shorten(state: TrainState, epochs: int, further: int | None) -> bool:
    """Shorten a run that will not end in time, so that the learning rates decay to their end.

    This is decided once, after the first epoch, and kept in the state: a resumed run must take
    the same steps. A limit in which not even two epochs fit only interrupts the run.
    """
    fitting = 1 + distributed.largest(epochs if further is None else further)
    if not 2 <= fitting < epochs:
        return False
    note(
        f"engine.max_time: {epochs} epochs would not end in time; shortened to {fitting}, "
        "with the whole course of the learning rate"
    )
    state.epochs = fitting
    return True


def _validate(
    state: TrainState,
    recipe: Recipe,
    validate: Callable[[nn.Module], Mapping[str, float]],
    log: Callable[[int, int, Mapping[str, Any]], None],
) -> bool:
    """Validate where it is due, and tell whether the encoder is the best so far."""
    if state.epoch % recipe.validate_every and state.epoch < recipe.epochs:
        return False
    distributed.share_buffers(state.validated)
    figures = validate(state.validated)
    state.metrics = {**figures, "epoch": float(state.epoch)}
    # Strictly better: of equal ones the earlier stays.
    sign = -1 if recipe.higher_is_better else 1
    best = sign * figures[recipe.metric] < sign * state.best.get(recipe.metric, sign * math.inf)
    if best:
        state.best = dict(state.metrics)
    if state.plateau:
        state.plateau.observe(best)
    log(state.step, state.epoch, figures)
    return best


def _check_skips(state: TrainState, batch: Batch, paths: Callable[[Tensor], list[str]]) -> None:
    if state.skipped < PATIENCE:
        return
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


def _summary(state: TrainState, recipe: Recipe) -> str:
    parts = [f"epoch {state.epoch + 1}/{recipe.epochs}"]
    if state.window:
        parts.append(f"loss {state.window[-1]:.3f}")
    if state.best:
        parts.append(f"best EER {state.best['EER']:.2f} %")
    return ", ".join(parts)
