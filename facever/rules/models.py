"""Rules about models: what they are made of, began with and were trained on."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from facever import checkpoint, runs
from facever.ask import Values
from facever.backbones import BACKBONES
from facever.competition import Profile
from facever.competition import Verdict as Allowance
from facever.config import resolve
from facever.data_setup import data_fingerprint, read_data
from facever.encoder import Encoder
from facever.errors import FaceverError
from facever.losses import Loss, SumLoss
from facever.losses.softmax import MarginSoftmax

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


def model_lines(models: Sequence[Model], rules: Profile) -> Iterator[Line]:
    """Check each rule about models; several are an ensemble."""
    yield _parameters(models, rules)
    yield from _architecture(models, rules)
    yield _pretrained(models, rules)
    yield from _data(models, rules)
    yield _smoothing(models, rules)


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
