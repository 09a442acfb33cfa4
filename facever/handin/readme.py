"""README.txt and acknowledgement.txt, written from what the runs themselves recorded."""

import shlex
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import facever
from facever.backbones import BACKBONES
from facever.competition import Profile
from facever.config import Augment, Engine, Eval, Loss, Model, Optim
from facever.report.record import Record
from facever.rules.models import Model as Rebuilt

_WIDTH, _COLUMN = 96, 34
# Knobs that only these schedules read.
_ONLY_FOR = {"milestones": ("step",), "gamma": ("step", "plateau"), "patience": ("plateau",)}

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Told:
    """What a hand-in is about.

    Attributes:
        rules: of the competition.
        chains: each model's run with those that it started from, the first of them first.
        models: the checkpoints, rebuilt.
        digests: their SHA-256.
        parameters: in all, and trainable ones.
        submission: the CSV that they made, where it is known.
    """

    rules: Profile
    chains: Sequence[Sequence[tuple[Path, Record]]]
    models: Sequence[Rebuilt]
    digests: Sequence[str]
    parameters: tuple[int, int]
    submission: Path | None

    @property
    def stages(self) -> list[tuple[Path, Record]]:
        """Every run once, each after the one that it started from."""
        return list({run: (run, record) for chain in self.chains for run, record in chain}.values())


def readme(told: Told) -> str:
    """Tell architecture, training, augmentation and how to run it."""
    parts = [
        ("", _head(told)),
        ("ARCHITECTURE", _architecture(told)),
        ("TRAINING", _training(told)),
        ("AUGMENTATION", _augmentation(told)),
        ("RESULTS", _results(told)),
        ("HOW TO RUN", _commands(told)),
        ("FILES", _files(told)),
    ]
    text = "\n\n".join("\n".join([*([title] if title else []), *lines]) for title, lines in parts)
    return text + "\n"


def _head(told: Told) -> Iterator[str]:
    names = ", ".join(chain[-1][0].resolve().name for chain in told.chains)
    yield f"Face verification for {told.rules.title}: the run {names}"
    yield f"Written by facever {facever.__version__} from the run's own files."


def _architecture(told: Told) -> Iterator[str]:
    total, trainable = told.parameters
    cap = told.rules.parameter_cap
    limit = f"; the cap is {cap:,}" if cap else ""
    yield f"  {total:,} parameters, {trainable:,} trainable, classifier included{limit}"
    for model, digest in zip(told.models, told.digests, strict=True):
        config = model.payload["config"]["model"]
        origin = "facever's own" if config["backbone"] in BACKBONES else "timm's"
        seen = model.encoder.transform
        yield f"  backbone {config['backbone']} ({origin})"
        yield from _settings("model", Model, config, [k for k in config if k != "backbone"])
        pixels = f"(pixel / 255 - {seen.mean}) / {seen.std}"
        yield f"  sees {seen.image_size}x{seen.image_size} RGB, {pixels}"
        yield f"  classifier: {len(model.payload['identities']):,} identities, for training alone"
        yield f"  checkpoint: SHA-256 {digest}"


def _training(told: Told) -> Iterator[str]:
    for number, (run, record) in enumerate(told.stages, 1):
        yield f"  stage {number}, run {run.resolve().name}: {_about(record)}"
        yield from _settings("loss", Loss, record.config.get("loss", {}))
        yield from _settings("optim", Optim, record.config.get("optim", {}))
        engine = record.config.get("engine", {})
        yield from _settings("engine", Engine, engine, ("precision", "seed"))


def _about(record: Record) -> str:
    environment, data = record.environment, record.environment.get("data", {})
    start = "timm's weights" if record.config["model"]["pretrained"] else "random weights"
    parts = [
        f"{data['train']:,} images of {data['identities']:,} identities" if data else "",
        f"{environment['steps']:,} steps" if "steps" in environment else "",
        f"from {_parent(record) or start}",
        f"on {environment['device']}" if "device" in environment else "",
    ]
    return ", ".join(part for part in parts if part)


def _augmentation(told: Told) -> Iterator[str]:
    """Tell each operation that was used; where stages agree, once."""
    before: Values | None = None
    for run, record in told.stages:
        given = dict(record.config.get("augment", {}))
        if given == before:
            yield f"  {run.resolve().name}: the same"
            continue
        yield f"  {run.resolve().name}:"
        # What has probability 0 was not done, and neither was its strength.
        unused = [name for name, value in given.items() if value == 0]
        named = [
            name for name in given if not any(name == n or name.startswith(f"{n}_") for n in unused)
        ]
        yield from _settings("augment", Augment, given, named)
        before = given


def _settings(
    name: str, section: type[BaseModel], values: Values, knobs: Iterable[str] | None = None
) -> Iterator[str]:
    """Give each setting with its meaning, as `config --show` has it."""
    fields = section.model_fields
    for knob in fields if knobs is None else knobs:
        schedules = _ONLY_FOR.get(knob)
        if values.get(knob) in (None, {}) or (schedules and values["schedule"] not in schedules):
            continue
        meaning = fields[knob].description or "" if knob in fields else ""
        given = f"    {name}.{knob} = {values[knob]}"
        indent = " " * (_COLUMN + 2)
        yield from textwrap.wrap(
            meaning, _WIDTH, initial_indent=f"{given:<{_COLUMN}}  ", subsequent_indent=indent
        ) or [given]


def _results(told: Told) -> Iterator[str]:
    for run, record in told.stages:
        scored = [line for line in record.validation if line["EER"] is not None]
        if scored:
            best = min(scored, key=lambda line: line["EER"])
            low, high = best.get("EER_low"), best.get("EER_high")
            span = f" (95 %: {low:.2f} to {high:.2f})" if low is not None and high else ""
            pairs = record.environment.get("data", {}).get("val_pairs")
            on = f" on {pairs:,} validation pairs" if pairs else ""
            eer, epoch = f"EER {best['EER']:.2f} %", f"epoch {best['epoch']}"
            yield f"  {run.resolve().name}: {eer}{span}{on}, {epoch}"
    yield "  runs.csv lists the best runs by EER, in percent; runs/*/metrics.jsonl has the curves."


def _commands(told: Told) -> Iterator[str]:
    yield "  Python 3.11 or newer. DIR is the folder of the competition's data."
    yield "    pip install -r code/requirements.txt"
    yield "    export PYTHONPATH=$PWD/code"
    for run, record in told.stages:
        name = run.resolve().name
        verb = record.environment.get("verb") or ("finetune" if _parent(record) else "train")
        parent = f" --from {shlex.quote(_parent(record))}" if _parent(record) else ""
        yield (
            f"    python -m facever {verb} -c runs/{name}/config.yaml --run {name}{parent} "
            "data.root=DIR"
        )
    checkpoints = " ".join(f"checkpoints/{c[-1][0].resolve().name}/best.pt" for c in told.chains)
    yield f"    python -m facever evaluate {checkpoints}"
    yield f"    python -m facever submit {checkpoints} --competition {told.rules.name}"
    yield "  Embeddings of flipped images are averaged." if _flips(told) else "  No flip averaging."


def _parent(record: Record) -> str:
    return str(record.environment.get("parent") or "")


def _flips(told: Told) -> bool:
    return all(
        model.payload["config"].get("eval", {}).get("flip", Eval().flip) for model in told.models
    )


def _files(told: Told) -> Iterator[str]:
    yield "  acknowledgement.txt    what this work rests on"
    yield "  model_metadata_*.json  trainable parameters, classifier included, and the modules"
    yield "  runs.csv               the best runs"
    yield "  runs/                  configuration, environment and figures of each stage"
    if told.submission is not None:
        yield "  submission/            the CSV that was sent, and what it was made of"
    yield "  code/                  the source of facever, and the packages that it ran with"


def acknowledgement(told: Told, words: str) -> str:
    """Say what the work rests on: software, data, weights; one's own words come first."""
    backbones = {model.payload["config"]["model"]["backbone"] for model in told.models}
    imported = sorted(backbones - BACKBONES.keys())
    pretrained = any(record.config.get("model", {}).get("pretrained") for _, record in told.stages)
    data = {
        f"{about['train']:,} images of {about['identities']:,} identities, laid out as "
        f"{about['layout']}, fingerprint {about['fingerprint']}"
        for _, record in told.stages
        if (about := record.environment.get("data"))
    }
    lines = [
        f"Software: facever {facever.__version__} trained, measured and wrote the submission; it "
        "stands on PyTorch, torchvision, timm, albumentations, NumPy and the packages listed in "
        "code/requirements.txt.",
        f"Architecture: {', '.join(sorted(backbones))}; "
        + (f"{', '.join(imported)} from timm." if imported else "built from torch's operations."),
        "Weights: " + ("began with timm's pretrained ones." if pretrained else "begun at random."),
        *(f"Training data: {text}." for text in sorted(data)),
    ]
    paragraphs = [*([words.strip()] if words.strip() else []), *(
        textwrap.fill(line, _WIDTH) for line in lines
    )]  # fmt: skip
    return "\n\n".join(paragraphs) + "\n"


def requirements() -> str:
    """List the packages that facever needs, with the versions that are installed here."""
    try:
        needed = metadata.requires("facever") or []
    except metadata.PackageNotFoundError:
        needed = []
    names = sorted(text.split(";")[0].split(" ")[0] for text in needed if "extra ==" not in text)
    stems = [name[: next((i for i, c in enumerate(name) if c in "<>=!~["), None)] for name in names]
    # `+cu128` and the like name a build that an index may lack.
    return "".join(f"{name}=={metadata.version(name).split('+')[0]}\n" for name in stems)
