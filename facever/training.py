"""What the story of a training is made of: its start or resume, its loop, its last scores.

`pipeline` tells in which order; `engine.fit` is the loop itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

import facever
from facever import checkpoint, distributed, engine, runs
from facever.ask import Values
from facever.config import Config
from facever.data.datasets import ImagePairDataset
from facever.data_setup import OpenData, open_pairs
from facever.deadline import Deadline
from facever.device import compile_encoder, compiling_pays, resolve_precision
from facever.engine import stop_signals
from facever.errors import DataError
from facever.illustrate import show_data, show_encoder
from facever.loss_setup import start_loss
from facever.optim import WeightAverage
from facever.prepare import Parts, batch_stream
from facever.report import LivePage, write_report
from facever.saver import Saver
from facever.score import write_scores
from facever.state import TrainState
from facever.tracking import Tracker, Untracked, note, progress
from facever.transforms import EvalTransform
from facever.validate import Embed, make_embed, make_validate, score_pairs, scorer


class Watch(Protocol):
    """What looks at a training from outside, beside its validation; it changes nothing."""

    def begin(self, run: Path, state: TrainState, data: OpenData, embed: Embed) -> None:
        """See the encoder and the loss before the first step."""

    def epoch(self, state: TrainState, data: OpenData, embed: Embed) -> Mapping[str, float]:
        """Give further figures for the line of a validation."""

    def end(self, run: Path, state: TrainState, data: OpenData, embed: Embed) -> None:
        """See them after the last step, whichever epoch was the best."""


def start_from(payload: Values, where: str, config: Config, data: OpenData, parts: Parts) -> None:
    """Take the parent's encoder with its preprocessing, and start the loss on what it sees."""
    state, recipe = parts.state, parts.recipe
    # The weights that validation looked at: the average, where one was kept.
    weights = payload["ema"]["encoder"] if payload["ema"] else payload["encoder"]
    checkpoint.load_weights(state.encoder, weights, where)
    state.encoder.transform = EvalTransform.from_dict(payload["preprocess"])
    if state.average:
        state.average = WeightAverage(state.encoder, config.optim.ema)
    start_loss(
        state.loss,
        config.loss.init,
        parent=payload,
        images=data.train,
        identities=len(data.manifest.identities),
        embed=partial(make_embed(config, recipe.device, recipe.precision), state.encoder),
    )


def resume(parts: Parts, saved: Values, data: OpenData, run: Path) -> Parts:
    """Put the saved state in place.

    Raises:
        DataError: the training images are not those the run began with.
    """
    began = saved["lineage"]
    if began["data"] != data.fingerprint:
        raise DataError(
            f"{run}: the data has changed: {began['train_images']:,} training images of "
            f"{len(saved['identities']):,} identities when it began, now {len(data.train):,} of "
            f"{len(data.manifest.identities):,} (or their labels, or the validation pairs)\n"
            "  `--fresh` starts a new run; give it the same data to go on"
        )
    parts.state.load_state_dict(saved, str(run))
    parts.state.encoder.transform = EvalTransform.from_dict(saved["preprocess"])
    recipe = parts.recipe
    precision = resolve_precision(began["precision"], recipe.device, parts.state.encoder)
    note(f"{run}: going on from step {saved['step']:,} in epoch {saved['epoch'] + 1}")
    return replace(parts, recipe=replace(recipe, precision=precision))


def run_loop(
    config: Config,
    data: OpenData,
    pairs: ImagePairDataset,
    parts: Parts,
    run: Path,
    environment: Values,
    watch: Watch | None,
) -> None:
    """Run the loop, with everything that it calls back."""
    state, recipe = parts.state, parts.recipe
    constant = {
        "format": checkpoint.FORMAT,
        "facever": facever.__version__,
        "config": config.to_dict(),
        "identities": list(data.manifest.identities),
        "preprocess": state.encoder.transform.to_dict(),
        "rng": {"seed": config.engine.seed},
        "lineage": {
            "parents": [environment["parent_sha256"]] if environment["parent"] else [],
            "data": data.fingerprint,
            "train_images": len(data.train),
            "precision": recipe.precision,
        },
    }

    def save(state: TrainState, best: bool) -> None:
        changing = state.state_dict()
        if distributed.is_leader():
            saver({**constant, **changing}, best=best)
            page.refresh()

    saver, page = Saver(run), LivePage(run)
    if distributed.is_leader():
        page.attempt(lambda: show_data(run, config, data, parts))
    paths = data.manifest.train.paths
    tracker = _tracker(run, state, config)
    embed = make_embed(config, recipe.device, recipe.precision)
    if watch and not state.seen:
        watch.begin(run, state, data, embed)
    limit = config.engine.max_time
    deadline = Deadline(None if limit is None else 60 * limit, saving=lambda: saver.seconds)
    seen = (lambda: watch.epoch(state, data, embed)) if watch else None
    with stop_signals() as stopped, saver, progress(run.name) as report:
        try:
            engine.fit(
                state,
                recipe,
                batches=batch_stream(config, data, parts),
                schedule=parts.schedule,
                validate=make_validate(config, embed, pairs, data.dev, state.loss, seen),
                save=save,
                log=tracker.log,
                report=report,
                paths=lambda indices: [paths[i] for i in indices.tolist()],
                stopped=stopped,
                deadline=deadline,
                remaining=compiling_late(state.encoder, config.engine.compile, recipe.device),
            )
            # Only then may the others read it; a disk that is full ends all.
            distributed.from_leader(saver.wait)
        finally:
            tracker.close()
    if watch:
        watch.end(run, state, data, embed)


def compiling_late(encoder: nn.Module, how: str, device: torch.device) -> Callable[[float], None]:
    """Give a function that is told how long a training will still take, and compiles for it once.

    Only then is it known whether that pays; the first epoch is trained without.
    """
    wanted = how == "auto"

    def look(seconds: float) -> None:
        nonlocal wanted
        if wanted and compiling_pays(seconds, device):
            note(f"engine.compile: {seconds / 60:.0f} minutes are left; compiling the encoder")
            compile_encoder(encoder, "on", device)
            wanted = False

    return look


def _tracker(run: Path, state: TrainState, config: Config) -> Tracker | Untracked:
    if not distributed.is_leader():
        return Untracked()
    return Tracker(
        run,
        step=state.step,
        epoch=state.epoch,
        config=config.to_dict(),
        **config.track.model_dump(),
    )


def score_best(run: Path, config: Config, data: OpenData) -> None:
    """Score the validation pairs with the best checkpoint, report, and mark the run's end."""
    pairs = data.manifest.val_pairs
    assert pairs is not None
    path = run / "best.pt"
    encoder, embed = scorer(config, path, checkpoint.load(path))
    images = open_pairs(pairs, config.data)
    scores = score_pairs(embed, encoder, images)
    page = LivePage(run)
    page.attempt(lambda: show_encoder(run, data, images, scores, encoder, embed))
    if distributed.is_leader():
        write_scores(run / "scores_val.csv", pairs.rows, scores, mated=pairs.mated)
        page.attempt(lambda: write_report(run))
        runs.mark_finished(run)
