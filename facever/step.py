"""One step of a training.

Everything random in a step - dropout, margins drawn per sample - comes from a generator seeded
by (seed, epoch, position), and the batch is a function of the same three.

Whether a step was finite is decided on the device, which then changes nothing. The host learns
of it on a GPU when the next step's passes are in the queue, so that neither waits for the other.

Letters: B images of a batch, S their side.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from facever import distributed
from facever.data.loader import Batch
from facever.device import autocast, first_line, free_cached_memory, is_out_of_memory
from facever.errors import TrainingError
from facever.optim import Multiplier
from facever.state import Outcome, TrainState
from facever.tracking import note


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
    synchronise_norms: bool = False
    """batch norms take their statistics over the images of all processes"""
    clip_norm: float | None = None
    channels_last: bool = True
    margin_steps: int = 0
    """steps in which the margin grows from 0 to whole"""
    validate_every: int = 1
    """epochs"""
    metric: str = "EER"
    """figure of a validation by which an epoch is the best"""
    higher_is_better: bool = False
    """of the metric"""
    log_every: int = 20
    """steps"""
    checkpoint_seconds: float = 600.0
    pipelined: bool = False
    """a step is counted when the next one's passes are in the device's queue"""


def train_step(
    state: TrainState, recipe: Recipe, batch: Batch, schedule: Multiplier
) -> dict[str, float]:
    """Take one optimiser step on a batch.

    A step whose loss or gradient is not finite changes nothing but its position: weights,
    averages, batch-norm statistics, losses' state and schedule stay.

    Returns:
        `loss`, `grad_norm` and `lr`; empty for a step that was not finite, and for one that is
        left pending (`TrainState.settle` counts it, and so does the next step).
    """
    place = (recipe.seed, state.epoch, state.position)
    state.position += 1
    state.encoder.train()
    state.loss.train()
    if recipe.margin_steps:
        if state.step < recipe.margin_steps:
            state.settle()
        state.loss.set_margin(min(1.0, (state.step + 1) / recipe.margin_steps))
    buffers = _Buffers(state)
    value = _gradient(state, recipe, batch, place, buffers)
    norm = _clip(state, recipe.clip_norm)
    state.settle()
    multiplier = schedule(state.step) * (state.plateau.factor if state.plateau else 1.0)
    for group in state.optimizer.param_groups:
        group["lr"] = group["peak_lr"] * multiplier
    _update(state, buffers, ~(torch.isfinite(value) & torch.isfinite(norm)))
    state.pending = Outcome(value, norm, group["lr"])
    return state.settle() if _is_waited_for(state, recipe) else {}


def _update(state: TrainState, buffers: "_Buffers", spoilt: Tensor) -> None:
    """Move weights and averages along the gradient, or nothing where it is `spoilt`, () of bool."""
    # What fused optimisers have for loss scalers: where it is 1 they leave everything as it is.
    state.optimizer.found_inf = spoilt.float()  # type: ignore[attr-defined] # torch sets it so too
    state.optimizer.step()
    if state.scaler:
        # It lowers its scale where a gradient was not finite.
        state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    buffers.restore(spoilt)
    if state.average:
        state.average.update(state.encoder, spoilt)


def _is_waited_for(state: TrainState, recipe: Recipe) -> bool:
    """Tell whether the pending step is counted at once.

    Anywhere but on a GPU that costs nothing. There it is for a line of the log, and after a step
    that was skipped, of which a row ends the run.
    """
    is_logged = (state.step + 1) % recipe.log_every == 0
    return not recipe.pipelined or is_logged or bool(state.skipped)


class _Buffers:
    """What a forward pass changes: statistics of batch norms, averages of losses."""

    def __init__(self, state: TrainState) -> None:
        self.now = [b for module in (state.encoder, state.loss) for b in module.buffers()]
        self.before = [b.clone() for b in self.now]

    def restore(self, where: Tensor | None = None) -> None:
        """Take all changes back; those of a step only where it is `where`, () of bool."""
        for buffer, old in zip(self.now, self.before, strict=True):
            buffer.copy_(old if where is None else torch.where(where, old, buffer))


def _gradient(
    state: TrainState, recipe: Recipe, batch: Batch, place: tuple[int, int, int], buffers: _Buffers
) -> Tensor:
    """Leave the gradient of the batch in the parameters and give the loss, ().

    Where memory runs out, the same images are taken again in micro-batches of half the size, and
    so are all later batches.

    Raises:
        TrainingError: memory runs out with two images.
    """
    images = len(batch.labels)
    while True:
        pieces = min(max(recipe.accumulate, state.pieces), images // 2) or 1
        try:
            return _backward(state, recipe, batch, place, pieces)
        except (RuntimeError, MemoryError) as error:
            # Of several processes the others would wait for this one within the pass.
            if not is_out_of_memory(error) or distributed.world_size() > 1:
                raise
            reason = first_line(error)
        # Not in the handler: its traceback would hold on to the tensors of the failed pass.
        buffers.restore()
        state.optimizer.zero_grad(set_to_none=True)
        free_cached_memory()
        if pieces >= images // 2:
            raise TrainingError(
                f"out of memory with {-(-images // pieces)} images at once: {reason}\n"
                "  a smaller data.image_size, model.backbone or loss helps; the last checkpoint "
                "is intact"
            )
        state.pieces = min(2 * pieces, images // 2)
        note(_smaller(state, -(-images // state.pieces)))


def _smaller(state: TrainState, images: int) -> str:
    """Say what micro-batches of `images` images change, which may be nothing."""
    text = f"warning: out of memory; from here on {images} images at once, gradients added up"
    if any(isinstance(module, _BatchNorm) for module in state.encoder.modules()):
        text += f"\n  batch norm now has the statistics of {images} images"
    if state.loss.needs_pairs:
        text += f"\n  {type(state.loss).__name__} now finds its pairs among {images} images"
    return text


def _backward(
    state: TrainState, recipe: Recipe, batch: Batch, place: tuple[int, int, int], pieces: int
) -> Tensor:
    """Add up the gradient of the batch, micro-batch by micro-batch; give the loss, ()."""
    whole = batch.images.to(recipe.device, non_blocking=True)
    if recipe.augment:
        whole = recipe.augment(whole, place)
    values = []
    cut = zip(whole.tensor_split(pieces), distributed.pieces(batch.labels, pieces), strict=True)
    for number, (pixels, labels) in enumerate(cut):
        share = sum(map(len, labels)) / len(batch.labels)
        with distributed.averaging(state.network or state.encoder, number == pieces - 1):
            value: Any = share * _loss(state, recipe, pixels, labels, (*place, number))
            (state.scaler.scale(value) if state.scaler else value).backward()
        values.append(value.detach())
    return torch.stack(values).sum()


def _loss(
    state: TrainState,
    recipe: Recipe,
    pixels: Tensor,
    labels: tuple[Tensor, ...],
    place: tuple[int, ...],
) -> Tensor:
    """Compute the mean loss, (), of this process's images and of those of all others.

    Args:
        state: of the training.
        recipe: how a step is carried out.
        pixels: this process's images (b, S, S, 3).
        labels: of the images of each process, (b,).
        place: decides all that is random: in the encoder by process, in the loss for all alike.
    """
    images = state.encoder.transform.batch(pixels)
    if not recipe.channels_last:
        images = images.contiguous()
    torch.manual_seed(_derive(*place, distributed.rank()))
    norms = distributed.SynchronisedBatchNorm() if recipe.synchronise_norms else nullcontext()
    with autocast(recipe.device, recipe.precision), norms:
        embeddings = (state.network or state.encoder)(images)
    sizes = [len(each) for each in labels]
    if state.loss.looks:
        state.loss.look(distributed.gather_rows(pixels, sizes))
    torch.manual_seed(_derive(*place))
    everyone = distributed.gather(embeddings, sizes)
    value: Tensor = state.loss(everyone, torch.cat(labels).to(recipe.device, non_blocking=True))
    return value


def _clip(state: TrainState, limit: float | None) -> Tensor:
    """Clip the gradient to a norm of `limit`; give the norm that it had, ()."""
    shards = state.loss.shards()
    if state.scaler:
        if shards:
            _share_overflow([p.grad for p in shards if p.grad is not None])
        state.scaler.unscale_(state.optimizer)
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    graded = [p for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in graded if p not in shards])
    if shards:
        # Each has the gradient of its share of the prototypes, and all have that of the rest.
        own = nn.utils.get_total_norm([p.grad for p in graded if p in shards])
        norm = torch.linalg.vector_norm(torch.cat([norm[None], distributed.stack(own)]))
    if limit is not None:
        nn.utils.clip_grads_with_norm_(graded, limit, norm)
    return norm


def _share_overflow(own: list[Tensor]) -> None:
    """Let what is not finite in one process's share of the gradient be so in all of them.

    Their loss scalers look at what is here, and would go on with different scales.
    """
    norms = distributed.stack(nn.utils.get_total_norm(own))
    own[0][0].add_(0 * norms.sum())


def _derive(*parts: int) -> int:
    """Mix integers into one seed."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
