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
from facever.ask import Ask, Values, configuration, find_run, finetune_config, parents
from facever.config import (
    Config,
    resolve,
)
from facever.contest import choose, name_classes, open_contest, rank
from facever.data.datasets import ImagePairDataset
from facever.deadline import Deadline
from facever.detect import Competition
from facever.device import resolve_precision
from facever.engine import fit, stop_signals
from facever.environment import banner, describe
from facever.errors import ConfigError, DataError
from facever.evaluated import (
    Evaluated,
    LabelledPairs,
    Wanted,
    check_same_pairs,
    image_paths,
    image_properties,
    measure,
)
from facever.illustrate import show_data, show_encoder
from facever.loss_setup import check_parent, start_loss
from facever.naming import write_combined, write_names
from facever.optim import WeightAverage
from facever.people import tell_people
from facever.prepare import (
    Embed,
    OpenData,
    Parts,
    batch_stream,
    build_parts,
    open_data,
    open_pairs,
    wants_pairs,
)
from facever.report import LivePage, write_report
from facever.saver import Saver
from facever.score import read_scores, write_scores
from facever.scoring import (
    Opened,
    Scorer,
    check_labelled,
    open_checkpoints,
    switches,
    validated,
)
from facever.step import TrainState
from facever.submit import write_submission
from facever.tracking import Tracker, Untracked, note, progress
from facever.transforms import EvalTransform
from facever.validate import (
    check_metric,
    checkpoint_dev_accuracy,
    make_embed,
    make_validate,
    score_pairs,
    scorer,
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
    with distributed.process_group(config.engine.timeout_minutes):
        run = distributed.from_leader(lambda: _known("train", ask, config, None))
        return _train("train", ask, config, run, None, watch)


def finetune(ask: Ask, watch: Watch | None = None) -> Trained:
    """Go on from a trained encoder with another loss and a fresh optimiser.

    The parent is `ask.parent`; else that of the run to be resumed; else the best checkpoint of
    the newest finished `train` run.
    """
    # Nothing of this section comes from the parent, which the leader alone looks for.
    engine = resolve(ask.layers, ask.assignments).engine
    with distributed.process_group(engine.timeout_minutes):
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
    check_metric(config.eval.metric, data.dev, parts.state.loss)
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
    with (
        stop_signals() as stopped,
        saver,
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
                deadline=deadline,
            )
            # Only then may the others read it; a disk that is full ends all.
            distributed.from_leader(saver.wait)
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
    encoder, embed = scorer(config, path, checkpoint.load(path))
    images = open_pairs(pairs, config.data)
    scores = score_pairs(embed, encoder, images)
    page = LivePage(run)
    page.attempt(lambda: show_encoder(run, data, images, scores, encoder, embed))
    if distributed.is_leader():
        write_scores(run / "scores_val.csv", pairs.rows, scores, mated=pairs.mated)
        page.attempt(lambda: write_report(run))
        runs.mark_finished(run)


def evaluate(
    checkpoints: Sequence[Path],
    ask: Ask,
    *,
    pairs: Path | None = None,
    images: Path | None = None,
    compare: bool = False,
    competition: str | None = None,
    wanted: Wanted | None = None,
) -> Evaluated:
    """Measure checkpoints on labelled pairs: the data's own, or a pair file's.

    What the competition ranks by is measured too, unless two checkpoints are compared; it is the
    one that the data looks like, unless it is named.

    Raises:
        ConfigError: `compare` without exactly two checkpoints; no such competition.
        DataError: there are no labelled pairs.
    """
    _check_compared(compare, len(checkpoints), "checkpoints")
    opened = open_checkpoints(checkpoints, ask, pairs, images, "val_pairs")
    check_labelled(opened.pairs)
    contest = None if compare else choose(opened.config.data, opened.manifest, competition)
    return _evaluate(opened, compare, wanted or Wanted(), contest)


def _check_compared(compare: bool, given: int, what: str) -> None:
    if compare and given != 2:
        raise ConfigError(f"--compare: {given} {what} given; expected 2")


def _evaluate(
    opened: Opened, compare: bool, wanted: Wanted, contest: Competition | None
) -> Evaluated:
    config, pairs = opened.config, opened.pairs
    all_of_them = Scorer(opened)
    members, together = all_of_them.score(pairs)
    sharp = all_of_them.sharpness(pairs) if config.eval.calibrate or wanted.slices else None
    scorings = [all_of_them.labelled(each, pairs, sharp) for each in members]
    joint = all_of_them.labelled(together, pairs, sharp) if len(members) > 1 else None
    given = LabelledPairs(
        names=image_paths(pairs),
        mated=pairs.mated == 1,
        units=pairs.units,
        people=pairs.people,
        folds=pairs.fold if (pairs.fold >= 0).all() else None,
        properties=image_properties(pairs, together, sharp) if sharp is not None else {},
    )
    evaluated = measure(
        [str(path) for path in opened.checkpoints],
        scorings,
        joint,
        given,
        compare=compare,
        wanted=wanted,
        repeats=config.eval.bootstrap,
        seed=config.engine.seed,
        switches=switches(config.eval),
        dev=checkpoint_dev_accuracy(
            config, opened.manifest, opened.checkpoints[0], opened.payloads[0]
        ),
    )
    if contest is None:
        return evaluated
    final = scorings[0] if joint is None else joint
    return replace(evaluated, ranking=rank(contest, opened, final, evaluated.final))


def evaluate_scores(
    paths: Sequence[Path], *, compare: bool = False, wanted: Wanted | None = None
) -> Evaluated:
    """Measure files of scores, of any tool: CSV with the columns `score` and `mated`.

    Raises:
        ConfigError: `compare` without exactly two files.
        DataError: with the line that is no score, or the kind of pair that is absent; the files
            are not about the same pairs.
    """
    _check_compared(compare, len(paths), "score files")
    tables = [read_scores(path) for path in paths]
    check_same_pairs(paths, tables)
    first = tables[0]
    given = LabelledPairs(
        names=first.names, mated=first.mated, units=first.units, people=first.people,
        folds=first.folds, properties=first.columns,
    )  # fmt: skip
    scorings = [table.scores for table in tables]
    return measure(
        [str(path) for path in paths], scorings, None, given, compare=compare,
        wanted=wanted or Wanted(),
    )  # fmt: skip


@dataclass(frozen=True)
class Submitted:
    """Where a submission lies and what it rests on.

    Attributes:
        csv: the file to hand in; its side-car lies beside it.
        competition: by whose rules it was linted.
        pairs: how many were scored.
        images: how many were named.
        eer: validation EER, a fraction; None where there are no labelled pairs.
    """

    csv: Path
    competition: Competition
    pairs: int
    images: int
    eer: float | None

    def to_text(self) -> str:
        """Say it in two lines."""
        counts = {"pairs": self.pairs, "images": self.images}
        answered = " and ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        eer = "" if self.eer is None else f", validation EER {self.eer:.2%}"
        return (
            f"{self.csv}: {answered}, linted for {self.competition.rules.title}{eer}\n"
            f"side-car: {self.csv.with_suffix('.json')}"
        )


def submit(
    checkpoints: Sequence[Path],
    ask: Ask,
    *,
    pairs: Path | None = None,
    images: Path | None = None,
    output: Path | None = None,
    competition: str | None = None,
    sample: Path | None = None,
) -> Submitted:
    """Score the test pairs, or name who is on images, and write the CSV, linted.

    Several checkpoints are an ensemble. The competition is the one that the data looks like,
    unless it is named.

    Raises:
        DataError: nothing to submit, or images that are absent.
        CheckFailed: the competition would reject the file; nothing is written.
    """
    opened, contest = open_contest(checkpoints, ask, pairs, images, competition, sample)
    config, test, rules = opened.config, opened.pairs, contest.rules
    note(f"competition {contest}")
    members = Scorer(opened)
    measured, calibration = validated(opened, members)
    path = output or Path("submissions") / f"{checkpoints[0].resolve().parent.name}.csv"
    side_car = {
        "checkpoints": [
            {"path": str(path), "sha256": checkpoint.file_digest(path)} for path in checkpoints
        ],
        "config": config.to_dict(),
        "switches": switches(config.eval),
        "transductive": config.eval.transductive,
        "calibration": calibration.to_json() if calibration else None,
        "trained_with": [payload["config"] for payload in opened.payloads],
        "validation": measured,
    }
    submitted = partial(Submitted, path, contest, eer=measured["eer"] if measured else None)
    if rules.task == "identification":
        people = tell_people(opened)
        named = people.name_test()
        write_names(path, named, rules, side_car={**side_car, **people.to_json()})
        return submitted(pairs=0, images=len(named.images))
    _, together = members.score(test)
    scores = together.scores
    if calibration:
        scores = calibration.apply(together.features(test, members.sharpness(test)))
    if rules.task == "both":
        named = name_classes(opened)
        write_combined(path, scores, test, named, rules, side_car=side_car)
        return submitted(pairs=len(test), images=len(named.images))
    write_submission(path, scores, test, rules, side_car=side_car)
    return submitted(pairs=len(test), images=0)
