"""The story: train, finetune, evaluate, submit. Read this first.

Each function takes what the user asked for, resolves the configuration, and goes straight
through: data, encoder and loss, training, figures, files. The parts are made in `prepare` and put
to work in `training`, the loop is in `engine`, what is measured in `validate` and `measure`.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from facever import checkpoint, distributed, runs
from facever.ask import Ask, Values, configuration, find_run, finetune_config, parents
from facever.config import Config, resolve
from facever.contest import choose, name_classes, open_contest, rank
from facever.data_setup import open_data
from facever.detect import Competition
from facever.environment import banner, describe
from facever.errors import ConfigError
from facever.evaluated import Evaluated
from facever.loss_setup import check_parent
from facever.measure import LabelledPairs, Wanted, check_same_pairs, measure
from facever.naming import write_combined, write_names
from facever.people import tell_people
from facever.prepare import build_parts, wants_pairs
from facever.score import read_scores
from facever.scoring import Opened, Scorer, check_labelled, open_checkpoints, switches, validated
from facever.submit import write_submission
from facever.tracking import note
from facever.training import Watch, resume, run_loop, score_best, start_from
from facever.validate import check_metric, checkpoint_dev_accuracy


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


@dataclass(frozen=True)
class _Job:
    """A training that was asked for.

    Attributes:
        verb: `train` or `finetune`.
        ask: what was asked for.
        config: what that resolves to.
        run: the one to go on with; None begins a new one.
        parent: the checkpoint to start from.
        watch: looks on.
    """

    verb: str
    ask: Ask
    config: Config
    run: Path | None
    parent: Path | None
    watch: Watch | None


def train(ask: Ask, watch: Watch | None = None) -> Trained:
    """Train an encoder from scratch, on cross-entropy unless another loss is asked for."""
    config = configuration(ask)
    with distributed.process_group(config.engine.timeout_minutes):
        run = distributed.from_leader(lambda: _known("train", ask, config, None))
        return _train(_Job("train", ask, config, run, None, watch))


def finetune(ask: Ask, watch: Watch | None = None) -> Trained:
    """Go on from a trained encoder with another loss and a fresh optimiser.

    The parent is `ask.parent`; else that of the run to be resumed; else the best checkpoint of
    the newest finished `train` run.
    """
    # Nothing of this section comes from the parent, which the leader alone looks for.
    engine = resolve(ask.layers, ask.assignments).engine
    with distributed.process_group(engine.timeout_minutes):
        run, config, parent = distributed.from_leader(lambda: _known_finetune(ask))
        return _train(_Job("finetune", ask, config, run, parent, watch))


def _known(verb: str, ask: Ask, config: Config, parent: Path | None) -> Path | None:
    return None if ask.fresh else find_run(verb, ask, config, parent)


def _known_finetune(ask: Ask) -> tuple[Path | None, Config, Path]:
    for parent in parents(ask):
        config = finetune_config(ask, parent)
        run = _known("finetune", ask, config, parent)
        if run:
            break
    return run, config, parent


def _train(job: _Job) -> Trained:
    """Carry a run from where it stands to its end."""
    run, dry = job.run, job.ask.dry_run
    with ExitStack() as held:
        if run and not dry and distributed.from_leader(lambda: _hold(run, held)):
            note(f"{run}: finished before; `--fresh` starts anew")
            best = checkpoint.load(run / "best.pt")["progress"]["best"]
            return Trained(run, job.config, best=best)
        return _carry(job, held)


def _hold(run: Path, held: ExitStack) -> bool:
    """Lock a run before it is read, for another process may still write; tell if it is finished."""
    held.enter_context(runs.locked(run))
    return runs.is_finished(run)


def _carry(job: _Job, held: ExitStack) -> Trained:
    """Make the parts, put what was saved in place, train, measure; a new run is `held` too."""
    config, run, parent = job.config, job.run, job.parent
    if parent is None and config.loss.init != "random":
        note(f"loss.init: {config.loss.init!r} has no effect in {job.verb}: there is no parent")
    data = open_data(config.data, pairs=wants_pairs(config))
    pairs = data.labelled_pairs()
    saved = runs.load_newest(run) if run else None
    begins_at = checkpoint.load(parent) if parent and not saved else None
    if begins_at:
        check_parent(config.loss.init, begins_at, data.manifest.identities)
    from_scratch = saved is None and parent is None
    parts = build_parts(config, data, pretrained=config.model.pretrained and from_scratch)
    check_metric(config.eval.metric, data.dev, parts.state.loss)
    environment = describe(job.verb, config, data, parts, parent)
    note(banner(config, environment))
    if job.ask.dry_run:
        return Trained(None, config, environment)
    if run is None:
        run = distributed.from_leader(lambda: _begin(job, environment, held))
    if saved:
        parts = resume(parts, saved, data, run)
    elif begins_at:
        start_from(begins_at, str(parent), config, data, parts)
    run_loop(config, data, pairs, parts, run, environment, job.watch)
    score_best(run, config, data)
    return Trained(run, config, environment, best=parts.state.best)


def _begin(job: _Job, environment: Values, held: ExitStack) -> Path:
    """Make the folder of a new run and lock it."""
    ask = job.ask
    run = runs.create_run(job.verb, ask.run, job.config.to_dict(), environment, root=ask.root)
    held.enter_context(runs.locked(run))
    return run


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
    evaluated = measure(
        [str(path) for path in opened.checkpoints],
        scorings,
        joint,
        LabelledPairs.of_images(pairs, together, sharp),
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
    scorings = [table.scores for table in tables]
    return measure(
        [str(path) for path in paths], scorings, None, LabelledPairs.of_scores(tables[0]),
        compare=compare, wanted=wanted or Wanted(),
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
