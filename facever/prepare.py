"""From a configuration to the parts that the story in `pipeline` puts to work.

An encoder and a loss on their device, an optimiser with its schedule, batches of the data that
`data_setup` opened. Nothing here trains or writes results.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from facever import distributed
from facever.batch_augment import BatchAugment
from facever.config import Config, operations
from facever.config import Loss as LossConfig
from facever.data.datasets import ImageDataset
from facever.data.loader import Batch, LabelledImages, epoch_batches
from facever.data.resident import ResidentImages, has_room
from facever.data.sampler import balanced_batches, pk_batches, shuffled_batches
from facever.data_setup import OpenData
from facever.device import (
    compile_encoder,
    keep_memory,
    resolve_device,
    resolve_precision,
    set_determinism,
)
from facever.encoder import build_encoder, parameter_count
from facever.errors import ConfigError
from facever.loss_setup import make_loss
from facever.losses import Loss, needs_pairs
from facever.optim import (
    Multiplier,
    Plateau,
    WeightAverage,
    build_optimizer,
    build_schedule,
    parameter_groups,
)
from facever.ranking import CHOSEN_BY
from facever.state import TrainState
from facever.step import Recipe
from facever.tracking import note
from facever.transforms import Augment

Plan = Callable[[int], Sequence[NDArray[np.int64]]]

# Identities from which a whole classifier in each of eight processes costs a GPU about a quarter of
# an IR-18's step: 6 B C D FLOP in float32 for B = 1,024, D = 512.
MANY = 50_000


def check_batches(config: Config) -> None:
    """Refuse batches without pairs where they are needed, before any data is read.

    Raises:
        ConfigError: with the first setting that makes none.
    """
    size, k, kind = config.optim.batch_size, config.data.k, config.data.sampler
    if needs_pairs(config.loss.name) and kind in ("shuffle", "balanced"):
        raise ConfigError(
            f"data.sampler: {kind!r} with loss {config.loss.name!r}, which compares images of one "
            "identity within a batch; expected 'pk' or 'auto'"
        )
    if not wants_pairs(config):
        return
    if k < 2:
        raise ConfigError("data.k: 1 image an identity makes no pairs; expected at least 2")
    if size < 2 * k:
        raise ConfigError(
            f"optim.batch_size: {size} holds {size // k} identities of data.k={k} images; expected "
            f"at least {2 * k}"
        )


def wants_pairs(config: Config) -> bool:
    """Tell whether batches are made of identities with several images each."""
    return config.data.sampler == "pk" or needs_pairs(config.loss.name)


@dataclass(frozen=True)
class Parts:
    """What a training consists of."""

    state: TrainState
    recipe: Recipe
    schedule: Callable[[int], Multiplier]
    """epochs of the run to the function from step to multiplier"""
    plan: Plan
    """epoch to the indices of each of its batches"""
    steps_per_epoch: int
    resident: bool
    """the training images shall lie on the GPU"""


def build_parts(config: Config, data: OpenData, *, pretrained: bool) -> Parts:
    """Build encoder, loss, optimiser and schedule, all a function of the seed.

    Args:
        config: the resolved configuration.
        data: what is trained on.
        pretrained: start from timm's weights; not where a checkpoint's will take their place.

    Raises:
        ConfigError: a backbone, device or precision that cannot be had; P x K batches that the
            data cannot fill.
    """
    torch.manual_seed(config.engine.seed)
    set_determinism(config.engine.deterministic)
    device = resolve_device(config.engine.device)
    if device.type == "cpu":
        keep_memory()
    model = config.model.model_dump() | {"pretrained": pretrained}
    encoder = build_encoder(**model, image_size=config.data.image_size)
    loss = make_loss(config.loss, config.model.embedding_dim, len(data.manifest.identities))
    loss.expect_all()
    if divides(config.loss, loss, len(data.manifest.identities)):
        loss.shard()
        note(f"loss.sharded: the prototypes are divided over {distributed.world_size()} processes")
    encoder.to(device)
    loss.to(device)
    if config.engine.channels_last:
        encoder.to(memory_format=torch.channels_last)
    precision = resolve_precision(config.engine.precision, device, encoder)
    plan = _batch_plan(config, data.train.labels)
    steps = len(plan(0))
    state = TrainState(
        encoder,
        loss,
        network=distributed.wrap(encoder),
        optimizer=build_optimizer(
            config.optim.name,
            parameter_groups(
                encoder,
                loss,
                lr=config.optim.lr,
                encoder_lr_scale=config.optim.encoder_lr_scale,
                weight_decay=config.optim.weight_decay,
            ),
            momentum=config.optim.momentum,
        ),
        scaler=_scaler(device, precision),
        average=WeightAverage(encoder, config.optim.ema) if config.optim.ema else None,
        plateau=_plateau(config),
    )
    recipe = _recipe(config, device, precision, steps, images=sum(map(len, plan(0))))
    compile_encoder(encoder, config.engine.compile, device)
    resident = _resident(config, data.train, recipe)
    return Parts(state, recipe, partial(_schedule, config, steps), plan, steps, resident)


def divides(section: LossConfig, loss: Loss, identities: int) -> bool:
    """Tell whether each process takes its share of the prototypes.

    Raises:
        ConfigError: there are more processes than identities.
    """
    processes = distributed.world_size()
    wanted = {"auto": identities >= MANY, "on": True, "off": False}[section.sharded]
    if processes == 1 or not wanted:
        return False
    if not loss.classifies:
        if section.sharded == "on":
            note(f"loss.sharded: 'on' has no effect: {section.name} has no prototypes")
        return False
    if identities < processes:
        raise ConfigError(
            f"loss.sharded: {identities} identities for {processes} processes; expected at least "
            "one for each"
        )
    return True


def _batch_augment(config: Config, device: torch.device) -> BatchAugment | None:
    """Make the augmentation of whole batches, where it is asked for or pays.

    On a GPU it hides in the step; on a CPU albumentations is several times faster at 112 pixels,
    and half as fast at 28.
    """
    backend = config.augment.backend
    if backend == "batch" or (backend == "auto" and device.type != "cpu"):
        return BatchAugment(**operations(config.augment))
    return None


def _scaler(device: torch.device, precision: str) -> torch.amp.GradScaler | None:
    """Make a loss scaler for fp16, starting where few first steps overflow."""
    return torch.amp.GradScaler(device.type, init_scale=2.0**14) if precision == "fp16" else None


def _plateau(config: Config) -> Plateau | None:
    if config.optim.schedule != "plateau":
        return None
    return Plateau(config.optim.patience, config.optim.gamma)


def _recipe(
    config: Config, device: torch.device, precision: str, steps: int, images: int
) -> Recipe:
    warmup = _within(config.loss.margin_warmup, config.optim.epochs, "loss.margin_warmup")
    return Recipe(
        epochs=config.optim.epochs,
        device=device,
        precision=precision,
        seed=config.engine.seed,
        images=images,
        augment=_batch_augment(config, device),
        accumulate=config.optim.accumulate,
        synchronise_norms=config.engine.sync_batch_norm,
        clip_norm=config.optim.clip_norm,
        channels_last=config.engine.channels_last,
        margin_steps=round(warmup * steps),
        validate_every=config.eval.every,
        metric=CHOSEN_BY[config.eval.metric],
        higher_is_better=config.eval.metric != "eer",
        log_every=config.engine.log_every,
        checkpoint_seconds=60 * config.engine.checkpoint_minutes,
        pipelined=device.type == "cuda",
    )


def _schedule(config: Config, steps: int, epochs: int) -> Multiplier:
    warmup = _within(config.optim.warmup, epochs, "optim.warmup")
    return build_schedule(
        config.optim.schedule,
        total=epochs * steps,
        warmup=round(warmup * steps),
        milestones=config.optim.milestones,
        gamma=config.optim.gamma,
    )


def _within(epochs: float, run: int, key: str) -> float:
    """Shorten a phase that is longer than the run to half of it, and say so."""
    if epochs <= run:
        return epochs
    note(f"{key}: {epochs:g} epochs shortened to {run / 2:g}: the run has {run}")
    return run / 2


def _batch_plan(config: Config, labels: NDArray[np.int64]) -> Plan:
    size, seed, k = config.optim.batch_size, config.engine.seed, config.data.k
    kind, least = config.data.sampler, 2 * distributed.world_size()
    if size < least:
        raise ConfigError(
            f"optim.batch_size: {size} images for {distributed.world_size()} processes; expected "
            f"at least {least}, two for each"
        )
    if wants_pairs(config):
        p = size // k
        return lambda epoch: pk_batches(labels, p, k, seed=seed, epoch=epoch)
    if kind == "balanced":
        return lambda epoch: balanced_batches(labels, size, seed=seed, epoch=epoch, least=least)
    n = len(labels)
    return lambda epoch: shuffled_batches(n, size, seed=seed, epoch=epoch, least=least)


def batch_stream(
    config: Config, data: OpenData, parts: Parts
) -> Callable[[int, int], Iterator[Batch]]:
    """Make the function (epoch, position) to batches that `engine.fit` draws from."""
    # On batches, the step augments; see `_batch_augment`.
    augment = None if parts.recipe.augment else Augment(**operations(config.augment))
    device = parts.recipe.device
    images: LabelledImages = data.train
    workers = config.data.workers
    if workers is None:
        # A CPU that trains has no core to spare; a GPU needs all it can get.
        workers = 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)
    if parts.resident:
        images, workers = ResidentImages(data.train, device), 0
        note(f"data: {data.train.nbytes / 1e9:.1f} GB of training images lie on the GPU")

    def batches(epoch: int, position: int) -> Iterator[Batch]:
        return epoch_batches(
            images,
            parts.plan(epoch),
            augment,
            seed=config.engine.seed,
            epoch=epoch,
            start=position,
            workers=workers,
            pin_memory=device.type == "cuda" and images is data.train,
            rank=distributed.rank(),
            processes=distributed.world_size(),
        )

    return batches


def _resident(config: Config, images: ImageDataset, recipe: Recipe) -> bool:
    """Tell whether the training images go to the GPU, where `auto` wants room for them.

    Raises:
        ConfigError: they shall, and cannot.
    """
    possible = recipe.device.type == "cuda" and recipe.augment is not None
    if config.data.pack == "gpu" and not possible:
        raise ConfigError(
            f"data.pack: 'gpu' on a {recipe.device.type!r}, with augment.backend "
            f"{config.augment.backend!r}; expected a GPU, and augmentation on it"
        )
    wanted = {"auto": possible and has_room(images, recipe.device), "gpu": possible}
    return wanted.get(config.data.pack, False)


def budget(parts: Parts) -> dict[str, int]:
    """Count parameters: the encoder's, the classifier's in all processes, and both."""
    encoder, loss = parts.state.encoder, parts.state.loss
    elsewhere = sum((rows - len(p)) * p[0].numel() for p, rows in loss.shards().items())
    return {
        "encoder": parameter_count(encoder),
        "classifier": parameter_count(loss) + elsewhere,
        "total": parameter_count(encoder, loss) + elsewhere,
    }
