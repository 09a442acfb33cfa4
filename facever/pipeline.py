"""The story: train, finetune, evaluate, submit. Read this first.

Each function takes what the user asked for, resolves the configuration, and goes straight
through: data, encoder and loss, training, figures, files. The parts are made in `prepare`, the
loop is in `engine`, what is measured in `validate`.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import facever
from facever import checkpoint, distributed, runs
from facever.ask import Ask, Values, configuration, find_run, finetune_config, inherited, parents
from facever.competition import DEFAULT, profile
from facever.config import (
    Config,
    resolve,
)
from facever.data.datasets import ImagePairDataset
from facever.device import resolve_precision
from facever.engine import fit, stop_signals
from facever.environment import banner, describe
from facever.errors import ConfigError, DataError
from facever.loss_setup import check_parent, start_loss
from facever.metrics import paired_bootstrap, verification
from facever.optim import WeightAverage
from facever.prepare import (
    Embed,
    OpenData,
    Parts,
    batch_stream,
    build_parts,
    open_data,
    read_data,
    wants_pairs,
)
from facever.report import write_report
from facever.score import fuse, read_scores, write_scores
from facever.step import TrainState
from facever.submit import write_submission
from facever.tracking import Tracker, Untracked, note, progress
from facever.transforms import EvalTransform
from facever.validate import (
    Evaluated,
    checkpoint_dev_accuracy,
    choose_pairs,
    make_embed,
    make_validate,
    score_checkpoints,
)


class Watch(Protocol):
    """What looks at a training from outside, beside its validation; it changes nothing."""

    def begin(self, run: Path, state: TrainState, data: OpenData, embed: Embed) -> None:
        """See the encoder and the loss before the first step."""

    def epoch(self, state: TrainState, data: OpenData, embed: Embed) -> Mapping[str, float]:
        """Give further figures for the line of a validation."""

    def end(self, run: Path, state: TrainState, data: OpenData, embed: Embed) -> None:
        """See them after the last step, whichever epoch was the best."""


@dataclass(frozen=True)
class Trained:
    """How a training ended.

    Attributes:
        run: its folder; None after a dry run.
        config: the resolved configuration.
        facts: counts of data, parameters and steps.
        best: figures of the best validation, EER in percent.
    """

    run: Path | None
    config: Config
    facts: Values = field(default_factory=dict)
    best: Mapping[str, float] = field(default_factory=dict)


def train(ask: Ask, watch: Watch | None = None) -> Trained:
    """Train an encoder from scratch, on cross-entropy unless another loss is asked for."""
    config = configuration(ask)
    with distributed.process_group():
        run = distributed.from_leader(lambda: _known("train", ask, config, None))
        return _train("train", ask, config, run, None, watch)


def finetune(ask: Ask, watch: Watch | None = None) -> Trained:
    """Go on from a trained encoder with another loss and a fresh optimiser.

    The parent is `ask.parent`; else that of the run to be resumed; else the best checkpoint of
    the newest finished `train` run.
    """
    with distributed.process_group():
        run, config, parent = distributed.from_leader(lambda: _known_finetune(ask))
        return _train("finetune", ask, config, run, parent, watch)


def _known(verb: str, ask: Ask, config: Config, parent: Path | None) -> Path | None:
    return None if ask.fresh else find_run(verb, ask, config, parent)


def _known_finetune(ask: Ask) -> tuple[Path | None, Config, Path]:
    for parent in parents(ask):
        config = finetune_config(ask, parent)
        run = _known("finetune", ask, config, parent)
        if run:
            break
    return run, config, parent


def _train(
    verb: str,
    ask: Ask,
    config: Config,
    run: Path | None,
    parent: Path | None,
    watch: Watch | None,
) -> Trained:
    """Carry a run from where it stands to its end."""
    with ExitStack() as held:
        if run and not ask.dry_run and distributed.from_leader(lambda: _hold(run, held)):
            note(f"{run}: finished before; `--fresh` starts anew")
            best = checkpoint.load(run / "best.pt")["progress"]["best"]
            return Trained(run, config, best=best)
        return _carry(verb, ask, config, run, parent, watch, held)


def _hold(run: Path, held: ExitStack) -> bool:
    """Lock a run before it is read, for another process may still write; tell if it is finished."""
    held.enter_context(runs.locked(run))
    return runs.is_finished(run)


def _carry(
    verb: str,
    ask: Ask,
    config: Config,
    run: Path | None,
    parent: Path | None,
    watch: Watch | None,
    held: ExitStack,
) -> Trained:
    """Make the parts, put what was saved in place, train, measure; a new run is `held` too."""
    if parent is None and config.loss.init != "random":
        note(f"loss.init: {config.loss.init!r} has no effect in {verb}: there is no parent")
    data = open_data(config.data, pairs=wants_pairs(config))
    pairs = data.labelled_pairs()
    saved = runs.load_newest(run) if run else None
    begins_at = checkpoint.load(parent) if parent and not saved else None
    if begins_at:
        check_parent(config.loss.init, begins_at, data.manifest.identities)
    from_scratch = saved is None and parent is None
    parts = build_parts(config, data, pretrained=config.model.pretrained and from_scratch)
    environment = describe(verb, config, data, parts, parent)
    note(banner(config, environment))
    if ask.dry_run:
        return Trained(None, config, environment)
    if run is None:
        run = distributed.from_leader(lambda: _begin(verb, ask, config, environment, held))
    if saved:
        parts = _resume(parts, saved, data, run)
    elif begins_at:
        _start_from(begins_at, str(parent), config, data, parts)
    _fit(config, data, pairs, parts, run, environment, watch)
    _show(run, config, data)
    return Trained(run, config, environment, best=parts.state.best)


def _begin(verb: str, ask: Ask, config: Config, environment: Values, held: ExitStack) -> Path:
    """Make the folder of a new run and lock it."""
    run = runs.create_run(verb, ask.run, config.to_dict(), environment, root=ask.root)
    held.enter_context(runs.locked(run))
    return run


def _start_from(payload: Values, where: str, config: Config, data: OpenData, parts: Parts) -> None:
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


def _resume(parts: Parts, saved: Values, data: OpenData, run: Path) -> Parts:
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


def _fit(
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
    if config.engine.compile:
        state.encoder.compile()
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
        if distributed.is_leader():
            checkpoint.save_last(run, {**constant, **state.state_dict()}, best=best)

    paths = data.manifest.train.paths
    tracker = _tracker(run, state, config)
    embed = make_embed(config, recipe.device, recipe.precision)
    if watch and not state.seen:
        watch.begin(run, state, data, embed)
    seen = (lambda: watch.epoch(state, data, embed)) if watch else None
    with (
        stop_signals() as stopped,
        progress(run.name) as report,
    ):
        try:
            fit(
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
            )
        finally:
            tracker.close()
    if watch:
        watch.end(run, state, data, embed)


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


def _show(run: Path, config: Config, data: OpenData) -> None:
    """Score the validation pairs with the best checkpoint, report, and mark the run's end."""
    pairs = data.manifest.val_pairs
    assert pairs is not None
    path = run / "best.pt"
    (scores,) = score_checkpoints(config, [path], [checkpoint.load(path)], pairs)
    if distributed.is_leader():
        write_scores(run / "scores_val.csv", pairs.rows, scores, mated=pairs.mated)
        write_report(run)
        runs.mark_finished(run)


def evaluate(
    checkpoints: Sequence[Path],
    ask: Ask,
    *,
    pairs: Path | None = None,
    images: Path | None = None,
    compare: bool = False,
) -> Evaluated:
    """Measure checkpoints on labelled pairs: the data's own, or a pair file's.

    Raises:
        ConfigError: `compare` without exactly two checkpoints.
        DataError: there are no labelled pairs.
    """
    if compare and len(checkpoints) != 2:
        raise ConfigError(f"--compare: {len(checkpoints)} checkpoints given; expected 2")
    payloads = [checkpoint.load(path) for path in checkpoints]
    config = resolve([inherited(payloads[0]), *ask.layers], ask.assignments)
    manifest = None if pairs else read_data(config.data)
    chosen = choose_pairs(manifest, pairs, images, "val_pairs")
    if not chosen.labelled:
        raise DataError(
            f"{chosen.source or chosen.root}: not every pair has a label\n"
            "  expected lines `left right 0|1`; `facever submit` scores pairs without labels"
        )
    measure = partial(
        verification,
        mated=chosen.mated,
        left=chosen.left,
        right=chosen.right,
        folds=chosen.fold if (chosen.fold >= 0).all() else None,
        repeats=config.eval.bootstrap,
        seed=config.engine.seed,
    )
    scores = score_checkpoints(config, checkpoints, payloads, chosen)
    comparison = None
    if compare:
        comparison = paired_bootstrap(
            scores[0], scores[1], chosen.mated, left=chosen.left, right=chosen.right
        )
    return Evaluated(
        [str(path) for path in checkpoints],
        [measure(each) for each in scores],
        ensemble=measure(fuse(scores)) if len(scores) > 1 else None,
        comparison=comparison,
        dev=checkpoint_dev_accuracy(config, manifest, checkpoints[0], payloads[0]),
    )


def evaluate_scores(path: Path) -> Evaluated:
    """Measure a file of scores, of any tool: CSV with the columns `score` and `mated`.

    Raises:
        DataError: with the line that is no score, or the kind of pair that is absent.
    """
    table = read_scores(path)
    result = verification(
        table.scores, table.mated, left=table.left, right=table.right, folds=table.folds
    )
    return Evaluated([str(path)], [result])


@dataclass(frozen=True)
class Submitted:
    """Where a submission lies and what it rests on.

    Attributes:
        csv: the file to hand in; its side-car lies beside it.
        pairs: how many rows.
        eer: validation EER, a fraction; None where there are no labelled pairs.
    """

    csv: Path
    pairs: int
    eer: float | None


def submit(
    checkpoints: Sequence[Path],
    ask: Ask,
    *,
    pairs: Path | None = None,
    images: Path | None = None,
    output: Path | None = None,
    competition: str = DEFAULT,
    sample: Path | None = None,
) -> Submitted:
    """Score the test pairs and write the CSV, linted; several checkpoints are an ensemble.

    Raises:
        DataError: no test pairs, or images that are absent.
        CheckFailed: the competition would reject the file; nothing is written.
    """
    rules = profile(competition, sample)
    payloads = [checkpoint.load(path) for path in checkpoints]
    config = resolve([inherited(payloads[0]), *ask.layers], ask.assignments)
    manifest = None if pairs else read_data(config.data)
    test = choose_pairs(manifest, pairs, images, "test_pairs")
    measured = _validation(config, checkpoints, payloads, ask)
    scores = fuse(score_checkpoints(config, checkpoints, payloads, test))
    path = output or Path("submissions") / f"{checkpoints[0].resolve().parent.name}.csv"
    side_car = {
        "checkpoints": [
            {"path": str(path), "sha256": checkpoint.file_digest(path)} for path in checkpoints
        ],
        "config": config.to_dict(),
        "trained_with": [payload["config"] for payload in payloads],
        "validation": measured,
    }
    write_submission(path, scores, test, rules, side_car=side_car)
    return Submitted(path, len(test), measured["eer"] if measured else None)


def _validation(
    config: Config, checkpoints: Sequence[Path], payloads: Sequence[Values], ask: Ask
) -> Values | None:
    """Give the validation figures that a submission's side-car states.

    A checkpoint that was saved after a validation knows its figures; others, and ensembles, are
    measured now.
    """
    metrics = payloads[0]["metrics"]
    if len(payloads) == 1 and metrics.get("epoch") == payloads[0]["epoch"]:
        return {key.lower(): metrics[key] / 100 for key in ("EER", "EER_low", "EER_high")}
    pairs = read_data(config.data).val_pairs
    if pairs is None or not pairs.labelled:
        return None
    result = evaluate(checkpoints, ask).final
    return {"eer": result.eer, "eer_low": result.eer_low, "eer_high": result.eer_high}
