"""A competition's rules, checked on what would be handed in: `facever check`.

Every rule is a line with a verdict. What no file can prove is for the staff to say, and so is what
the course has not said; it is never called a pass.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from facever import checkpoint, runs
from facever.ask import Values
from facever.backbones import BACKBONES
from facever.competition import DEFAULT, Profile, profile
from facever.competition import Verdict as Allowance
from facever.config import resolve
from facever.contest import choose, test_images
from facever.data.lists import PairList
from facever.data_setup import data_fingerprint, read_data
from facever.detect import Competition
from facever.embed import encoder_of
from facever.encoder import Encoder
from facever.errors import DataError, FaceverError
from facever.kaggle.log import read_log
from facever.loss_setup import saved_loss
from facever.losses import Loss, SumLoss
from facever.losses.softmax import MarginSoftmax
from facever.naming import lint_combined_file, lint_names_file
from facever.people import possible_people
from facever.submit import lint_file

Verdict = Literal["pass", "fail", "ask the staff"]


@dataclass(frozen=True)
class Line:
    """One rule, and whether it is kept."""

    rule: str
    verdict: Verdict
    why: str


@dataclass(frozen=True)
class Model:
    """A checkpoint, rebuilt."""

    path: Path
    payload: Values
    encoder: Encoder
    loss: Loss


@dataclass(frozen=True)
class Checked:
    """All rules of a competition, and the models that they were checked on."""

    paths: Sequence[Path]
    competition: Competition
    lines: Sequence[Line]
    models: Sequence[Model]

    @property
    def broken(self) -> list[Line]:
        """The rules that are not kept."""
        return [line for line in self.lines if line.verdict == "fail"]

    def to_json(self) -> Values:
        """Give all of it as primitives."""
        return {
            "paths": [str(path) for path in self.paths],
            "competition": self.competition.rules.name,
            "competition_why": self.competition.why,
            "kept": not self.broken,
            "rules": [vars(line) for line in self.lines],
        }

    def to_text(self) -> str:
        """Say it in lines for people."""
        width = max(len(line.rule) for line in self.lines)
        whose = f"{self.competition.rules.name}, {self.competition.why}"
        head = f"{', '.join(map(str, self.paths))}: rules of {whose}"
        return "\n".join(
            [head, *(f"  {ln.verdict:<13}  {ln.rule:<{width}}  {ln.why}" for ln in self.lines)]
        )


def check(
    paths: Sequence[Path], competition: str | None = None, sample: Path | None = None
) -> Checked:
    """Check checkpoints, several being an ensemble, or a run, or a submission with its models.

    Args:
        paths: checkpoints; or the folder of a run; or a CSV beside its side-car.
        competition: name of a profile; None: the one that the first model's data looks like.
        sample: the sample submission file, for `custom`.

    Raises:
        ConfigError: no such competition.
        DataError: a path is none of these.
        CheckpointError: a checkpoint cannot be read.
    """
    if competition is not None:
        # Refused before anything is read.
        profile(competition, sample)
    models = [_rebuilt(path) for path in _checkpoints(paths)]
    whose = _competition(models[0], competition, sample)
    rules = whose.rules
    lines = [
        _parameters(models, rules),
        *_architecture(models, rules),
        _pretrained(models, rules),
        *_data(models, rules),
        _smoothing(models, rules),
        _same_model(models, rules),
    ]
    for path in paths:
        if path.suffix == ".csv":
            lines.append(check_submission(path, rules))
        elif path.is_dir():
            lines.append(_secrets(path))
    return Checked(paths, whose, lines, models)


def _competition(model: Model, name: str | None, sample: Path | None) -> Competition:
    data, manifest = resolve([{"data": model.payload["config"]["data"]}]).data, None
    if name is None:
        with suppress(FaceverError):
            manifest = read_data(data)
    by_default = Competition(profile(DEFAULT), "by default: the data is not at hand")
    return choose(data, manifest, name, sample) or by_default


def _checkpoints(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield path / "best.pt"
        elif path.suffix == ".csv":
            yield from _members(path)
        else:
            yield path


def _members(csv: Path) -> Iterator[Path]:
    """Yield the checkpoints that a submission was made with."""
    for member in side_car(csv)["checkpoints"]:
        path = Path(member["path"])
        if path.exists() and checkpoint.file_digest(path) != member["sha256"]:
            raise DataError(
                f"{path}: is no longer the checkpoint that {csv} was made with\n"
                "  put that one back, or let `facever submit` write the CSV anew"
            )
        yield path


def side_car(csv: Path) -> Values:
    """Read what a submission was made of.

    Raises:
        DataError: there is no side-car, or none of `submit`.
    """
    try:
        values: Values = json.loads(csv.with_suffix(".json").read_text(encoding="utf-8"))
        return {
            "checkpoints": list(values["checkpoints"]),
            "pairs": dict(values.get("pairs", {})),
            "data": dict(values["config"]["data"]),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{csv}: no side-car {csv.with_suffix('.json').name} that says how it was made: {error}"
            "\n  expected a CSV that `facever submit` wrote"
        ) from None


def _rebuilt(path: Path) -> Model:
    payload = checkpoint.load(path)
    return Model(path, payload, encoder_of(payload, str(path)), saved_loss(payload, str(path)))


def count_parameters(models: Sequence[Model]) -> tuple[int, int]:
    """Count the parameters of all models with their classifiers, shared ones once.

    Returns:
        all of them, and those of them that are trainable.
    """
    modules = [module for model in models for module in (model.encoder, model.loss)]
    found = {id(p): p for module in modules for p in module.parameters()}.values()
    storages = {p.untyped_storage().data_ptr(): p.numel() for p in found}
    trainable = {p.untyped_storage().data_ptr(): p.numel() for p in found if p.requires_grad}
    return sum(storages.values()), sum(trainable.values())


def _parameters(models: Sequence[Model], rules: Profile) -> Line:
    (total, trainable), cap = count_parameters(models), rules.parameter_cap
    members = f" of {len(models)} models" if len(models) > 1 else ""
    why = f"{total:,}{members}, {trainable:,} of them trainable, classifier included"
    if cap is None:
        return Line("parameters", "ask the staff", f"{why}; no cap is known")
    return Line("parameters", "pass" if total <= cap else "fail", f"{why}; the cap is {cap:,}")


def _allowed(rule: str, allowance: Allowance, why: str) -> Line:
    """Judge something that was found by whether it is allowed."""
    verdicts: Mapping[Allowance, Verdict] = {"allowed": "pass", "forbidden": "fail"}
    said = {"unknown": "not known whether that is allowed"}.get(allowance, allowance)
    return Line(rule, verdicts.get(allowance, "ask the staff"), f"{why}; {said}")


# What is not made of convolutions, by the names that modules have; gates of channels apart.
_NOT_CNN = re.compile("attention|attn|transformer|lstm|gru|rnn|graph", re.IGNORECASE)
_GATES = re.compile("squeeze|^se(module|layer|block)?$|eca|cbam", re.IGNORECASE)


def _architecture(models: Sequence[Model], rules: Profile) -> Iterator[Line]:
    imported = sorted({_backbone(m) for m in models if _backbone(m) not in BACKBONES})
    if imported:
        why = f"{', '.join(imported)} is timm's"
        yield _allowed("architecture", rules.imported_architectures, why)
    else:
        names = ", ".join(sorted({_backbone(model) for model in models}))
        yield Line("architecture", "pass", f"{names} is built from basic operations")
    kinds = {type(module).__name__ for m in models for module in m.encoder.modules()}
    other = sorted(kind for kind in kinds if _NOT_CNN.search(kind))
    gates = sorted(kind for kind in kinds if _GATES.search(kind))
    if other:
        yield _allowed("convolutions only", rules.attention, f"has {', '.join(other)}")
    elif gates and rules.attention != "allowed":
        yield Line("convolutions only", "ask the staff", f"{', '.join(gates)} weighs channels")
    else:
        yield Line("convolutions only", "pass", "no attention, recurrence or graph in it")


def _backbone(model: Model) -> str:
    return str(model.payload["config"]["model"]["backbone"])


def _pretrained(models: Sequence[Model], rules: Profile) -> Line:
    """Follow each checkpoint to its parents, as far as they are at hand."""
    known = _known_checkpoints()
    waiting, seen, lost = [(str(m.path), m.payload) for m in models], 0, []
    while waiting:
        where, payload = waiting.pop()
        seen += 1
        if payload["config"]["model"]["pretrained"]:
            return _allowed("pretrained weights", rules.pretrained, f"{where} began with timm's")
        for digest in payload["lineage"]["parents"]:
            if digest in known:
                waiting.append((str(known[digest]), checkpoint.load(known[digest])))
            else:
                lost.append(digest[:12])
    if lost and rules.pretrained != "allowed":
        why = f"a parent with SHA-256 {lost[0]}... is not under {runs.CHECKPOINTS}/"
        return Line("pretrained weights", "ask the staff", why)
    return Line("pretrained weights", "pass", f"none in {seen} checkpoints, parents included")


def _known_checkpoints() -> dict[str, Path]:
    """Give the checkpoints of all runs by their SHA-256."""
    side_cars = runs.CHECKPOINTS.glob("*/*.pt.sha256")
    return {path.read_text().strip(): path.with_suffix("") for path in side_cars}


def _data(models: Sequence[Model], rules: Profile) -> Iterator[Line]:
    """Tell whether each model was trained on the competition's training images alone."""
    for model in models:
        config = resolve([{"data": model.payload["config"]["data"]}])
        lineage, where = model.payload["lineage"], f"{model.path}: "
        try:
            manifest = read_data(config.data)
        except FaceverError as error:
            problem = str(error).splitlines()[0]
            yield Line("training data", "ask the staff", f"{where}not at hand: {problem}")
            continue
        trained = f"{lineage['train_images']:,} images of {manifest.train.root}"
        if data_fingerprint(manifest) != lineage["data"]:
            yield Line("training data", "ask the staff", f"{where}{trained} have changed since")
        elif rules.layout in (manifest.layout, "auto") or rules.external_data == "allowed":
            yield Line("training data", "pass", where + trained)
        else:
            why = f"{where}{trained}, laid out as {manifest.layout}"
            yield Line("training data", "ask the staff", f"{why}; is that the competition's data?")


def _smoothing(models: Sequence[Model], rules: Profile) -> Line:
    for model in models:
        terms = model.loss.losses() if isinstance(model.loss, SumLoss) else {"": model.loss}
        angular = [loss for loss in terms.values() if isinstance(loss, MarginSoftmax)]
        smoothed = any(getattr(loss, "label_smoothing", 0) > 0 for loss in terms.values())
        if angular and smoothed:
            why = f"{model.path}: {model.payload['config']['loss']['name']} with label smoothing"
            return _allowed("smoothing with a margin", rules.smoothing_with_margin, why)
    return Line("smoothing with a margin", "pass", "not both in one loss; no CutMix, no Mixup")


def _same_model(models: Sequence[Model], rules: Profile) -> Line:
    """Compare with the checkpoints of the best submission that was uploaded from here."""
    rule = "model of the best submission"
    if not rules.same_model:
        asked = "not asked for" if rules.same_model is False else "not known to be asked for"
        return Line(rule, "pass", asked)
    scored = [entry for entry in read_log() if isinstance(entry.get("score"), float)]
    if not scored:
        return Line(rule, "ask the staff", "no scored upload in submissions/log.jsonl")
    best = (max if rules.higher_is_better else min)(scored, key=lambda entry: entry["score"])
    own = sorted(checkpoint.file_digest(model.path) for model in models)
    try:
        its = sorted(member["sha256"] for member in side_car(Path(best["csv"]))["checkpoints"])
    except DataError as error:
        return Line(rule, "ask the staff", str(error).splitlines()[0])
    why = f"{best['csv']}, score {best['score']:g}"
    return Line(rule, "pass" if own == its else "fail", why)


def check_submission(csv: Path, rules: Profile) -> Line:
    """Lint a CSV by the pairs, or the images, that it answers."""
    if rules.task != "verification":
        problems, rows = _named_problems(csv, rules)
        return _linted(problems, rows, rules)
    about = side_car(csv)["pairs"]
    source = Path(about["file"] or "")
    if not source.is_file() or checkpoint.file_digest(source) != about["sha256"]:
        return Line("submission", "ask the staff", f"its pair file {source} is gone or changed")
    pairs = _pairs(source)
    return _linted(lint_file(csv, pairs, rules), len(pairs), rules)


def _linted(problems: Sequence[str], rows: int, rules: Profile) -> Line:
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return Line("submission", "fail", problems[0] + more)
    return Line("submission", "pass", f"{rows:,} rows, as {rules.name} wants them")


def _named_problems(csv: Path, rules: Profile) -> tuple[list[str], int]:
    """Lint a CSV of names by the data that it answers; give how many rows are wanted too."""
    manifest = read_data(resolve([{"data": side_car(csv)["data"]}]).data)
    if rules.task == "identification":
        open_set = manifest.open_set
        if open_set is None or open_set.test is None:
            raise DataError(f"{manifest.root}: no known/ and unknown_test/ that {csv} answers")
        images = open_set.test.paths
        return lint_names_file(csv, images, possible_people(open_set), rules), len(images)
    if manifest.test_pairs is None or manifest.sample is None:
        raise DataError(f"{manifest.root}: no test pairs or no sample submission for {csv}")
    answered = profile(rules.name, manifest.sample)
    images, possible = test_images(manifest).paths, frozenset(manifest.identities)
    problems = lint_combined_file(csv, manifest.test_pairs, images, possible, answered)
    return problems, len(answered.sample_rows)


def _pairs(source: Path) -> PairList:
    """Read a pair file as the data set that it belongs to has it."""
    for root in (source.parent, *source.parent.parents[:2]):
        try:
            found = read_data(resolve([{"data": {"root": str(root)}}]).data).test_pairs
        except FaceverError:
            continue
        if found is not None and found.source and found.source.samefile(source):
            return found
    raise DataError(f"{source}: no data set with these pairs around it")


# Keys as Kaggle, W&B and Hugging Face write them. A bare row of 40 hexadecimal digits may be a
# commit, and 64 are a hash.
_SECRET = re.compile(
    rb"hf_[A-Za-z0-9]{30,}|KGAT_[A-Za-z0-9]{16,}|wandb_v1_[A-Za-z0-9_]{20,}"
    rb"|(?i:(?:api|kaggle|wandb)[_-]?key)[\"']?\s*[:=]\s*[\"']?[0-9a-f]{32,40}\b"
    rb"|[\"']key[\"']\s*:\s*[\"'][0-9a-f]{32}[\"']"
)


def holds_key(data: bytes) -> bool:
    """Whether there is what looks like a key of Kaggle, W&B or Hugging Face."""
    return _SECRET.search(data) is not None


def _secrets(run: Path) -> Line:
    """Look for keys in everything that lies in the folder but checkpoints."""
    files = [path for path in sorted(run.rglob("*")) if path.is_file() and path.suffix != ".pt"]
    guilty = [path for path in files if holds_key(path.read_bytes())]
    if guilty:
        return Line("no secrets", "fail", f"{guilty[0]} holds what looks like a key")
    return Line("no secrets", "pass", f"no key in {len(files)} files of {run}")
