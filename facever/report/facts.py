"""What a run's folder says in words and figures, as rows of text."""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

from facever.metrics import Verification
from facever.report.record import Record, flattened
from facever.settings import defaults
from facever.tracking import duration

Rows = list[tuple[str, ...]]
Facts = Iterable[tuple[str, str]]


def what(record: Record) -> str:
    """One line: encoder, loss and where it ran."""
    leaves = dict(flattened(record.config))
    keys = ("model.backbone", "loss.name", "optim.name")
    parts = [f"{key.split('.')[0]} {leaves[key]}" for key in keys if key in leaves]
    leaves = dict(flattened(record.environment))
    return ", ".join(parts + [leaves[key] for key in ("device", "precision") if key in leaves])


def training(record: Record) -> Facts:
    """How far it came, how long it took, and the best epoch."""
    lines = [*record.train, *record.validation]
    if lines:
        epochs = dict(flattened(record.config)).get("optim.epochs")
        done = max(line["epoch"] for line in lines)
        yield "epochs", f"{done:,}" + (f" of {epochs}" if epochs else "")
        yield "steps", f"{max(line['step'] for line in lines):,}"
    if (seconds := elapsed(record)) is not None:
        yield "time", duration(seconds)
    if (rate := speed(record)) is not None:
        yield "images a second", f"{rate:,.0f}"
    best = best_eer(record)
    if best is not None:
        yield "best EER while training", f"{best:.2f} %"


def elapsed(record: Record) -> float | None:
    """Seconds from the first line of metrics.jsonl to the last."""
    times = [
        line["time"] for line in (*record.train, *record.validation) if line.get("time") is not None
    ]
    return max(times) - min(times) if times else None


def speed(record: Record) -> float | None:
    """Median of the images a second while training."""
    rates = [line["images_per_s"] for line in record.train if line.get("images_per_s")]
    return float(np.median(rates)) if rates else None


def best_eer(record: Record) -> float | None:
    """The lowest EER of a validation, in percent."""
    return min((line["EER"] for line in record.validation if line.get("EER") is not None),
               default=None)  # fmt: skip


def verified(measured: Verification | None) -> Facts:
    """What the best checkpoint's scores of the validation pairs tell."""
    if measured is None:
        return
    yield "EER", f"{100 * measured.eer:.2f} %"
    yield "95 % interval", f"{100 * measured.eer_low:.2f} to {100 * measured.eer_high:.2f} %"
    yield "AUC", f"{measured.auc:.4f}"
    yield "best accuracy", f"{100 * measured.accuracy:.2f} %"
    yield "threshold at EER", f"{measured.threshold:.4f}"
    yield "pairs", f"{measured.n_mated:,} mated, {measured.n_non_mated:,} non-mated"
    for far, tar in measured.tar_at_far.items():
        yield f"TAR at FAR {far:g}", f"{100 * tar:.2f} %"


def circumstances(record: Record) -> Rows:
    """Command, data, parameters against the cap, machine and versions; what is known of them."""
    values = record.environment
    said = {
        "command": _command(values.get("command")),
        "started from": _text(values.get("parent")),
        "data": _data(values.get("data")),
        "parameters": _parameters(values.get("parameters"), values.get("competition")),
        "machine": _joined(values, ("device", "threads", "precision")),
        "versions": _joined(values, ("facever", "commit", "python", "torch", "timm")),
    }
    return [(name, text) for name, text in said.items() if text]


def changed_settings(record: Record) -> Rows:
    """Settings that are not what a run has that is asked for nothing, with what that has."""
    usual = dict(flattened(defaults()))
    return [
        (key, text, usual.get(key, ""))
        for key, text in flattened(record.config)
        if usual.get(key) != text
    ]


def parameters(record: Record) -> str:
    """The total in millions."""
    counts = record.environment.get("parameters")
    total = counts.get("total") if isinstance(counts, Mapping) else None
    return f"{total / 1e6:.2f} M" if isinstance(total, int | float) else ""


def _command(value: Any) -> str:
    if not isinstance(value, list) or not value:
        return _text(value)
    words = [str(word) for word in value]
    # `python -m facever` names a file.
    program = "facever" if "facever" in PurePath(words[0]).parts[-2:] else words[0]
    return f"{program} {shlex.join(words[1:])}".rstrip()


def _data(value: Any) -> str:
    if not isinstance(value, Mapping):
        return ""
    counts = [
        f"{value[key]:,} {words}"
        for key, words in (
            ("train", "training images"), ("identities", "identities"), ("dev", "dev images"),
            ("val_pairs", "validation pairs"), ("test_pairs", "test pairs"),
        )
        if isinstance(value.get(key), int | float)
    ]  # fmt: skip
    return ", ".join([_text(value.get("layout")), *counts]).removeprefix(", ")


def _parameters(value: Any, competition: Any) -> str:
    if not isinstance(value, Mapping) or not all(
        isinstance(value.get(key), int | float) for key in ("encoder", "classifier", "total")
    ):
        return ""
    encoder, classifier, total = (value[key] / 1e6 for key in ("encoder", "classifier", "total"))
    counted = f"{total:.2f} M = encoder {encoder:.2f} M + classifier {classifier:.2f} M"
    cap = competition.get("parameter_cap") if isinstance(competition, Mapping) else None
    if not isinstance(cap, int | float):
        return counted
    within = "within" if total <= cap / 1e6 else "ABOVE"
    return f"{counted}, {within} the cap of {cap / 1e6:.0f} M"


def _joined(values: Mapping[str, Any], keys: Iterable[str]) -> str:
    return ", ".join(f"{key} {_text(values[key])}" for key in keys if _text(values.get(key)))


def _text(value: Any) -> str:
    return "" if value is None else str(value)
