"""The report of a run."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from facever.metrics import Verification, verification
from facever.report import figures, markup
from facever.report.record import Record, flattened, read_record
from facever.score import Scores
from facever.storage import write_text
from facever.tracking import duration

HARDEST = 5


def write_report(
    run_dir: str | os.PathLike[str], out: str | os.PathLike[str] | None = None
) -> Path:
    """Write the page about a run's folder, as far as the folder goes.

    Args:
        run_dir: holds `config.yaml`, `environment.json`, `metrics.jsonl`, `scores_val.csv`.
        out: the page; `report.html` in the folder by default.

    Raises:
        DataError: there is no such folder.
        StorageError: the page could not be written.
    """
    run = Path(run_dir)
    page = render(read_record(run))
    return write_text(run / "report.html" if out is None else out, page)


def render(record: Record) -> str:
    """The page as HTML; every text of the run is escaped."""
    scores = record.scores
    measured = None if scores is None else _measure(scores)
    return markup.page(
        record.name,
        paragraphs=(_what(record), *record.notes),
        facts=(*_training_facts(record), *_verification_facts(measured)),
        sections=_sections(record),
    )


def _measure(scores: Scores) -> Verification:
    return verification(scores.scores, scores.mated, left=scores.left, right=scores.right)


def _what(record: Record) -> str:
    """One line: encoder, loss and where it ran."""
    leaves = dict(flattened(record.config))
    keys = ("model.backbone", "loss.name", "optim.name")
    parts = [f"{key.split('.')[0]} {leaves[key]}" for key in keys if key in leaves]
    leaves = dict(flattened(record.environment))
    return ", ".join(parts + [leaves[key] for key in ("device", "precision") if key in leaves])


def _training_facts(record: Record) -> Iterable[tuple[str, str]]:
    lines = [*record.train, *record.validation]
    if lines:
        yield "steps", f"{max(line['step'] for line in lines):,}"
    times = [line["time"] for line in lines if line.get("time") is not None]
    if times:
        yield "time", duration(max(times) - min(times))
    rates = [line["images_per_s"] for line in record.train if line.get("images_per_s")]
    if rates:
        yield "images a second", f"{np.median(rates):,.0f}"
    best = min(
        (line["EER"] for line in record.validation if line.get("EER") is not None), default=None
    )
    if best is not None:
        yield "best EER while training", f"{best:.2f} %"


def _verification_facts(measured: Verification | None) -> Iterable[tuple[str, str]]:
    if measured is None:
        return
    yield "EER", f"{100 * measured.eer:.2f} %"
    yield "95 % interval", f"{100 * measured.eer_low:.2f} to {100 * measured.eer_high:.2f} %"
    yield "AUC", f"{measured.auc:.4f}"
    yield "best accuracy", f"{measured.accuracy:.2%}"
    yield "threshold at EER", f"{measured.threshold:.4f}"
    yield "pairs", f"{measured.n_mated:,} mated, {measured.n_non_mated:,} non-mated"
    for far, tar in measured.tar_at_far.items():
        yield f"TAR at FAR {far:g}", f"{tar:.2%}"


def _sections(record: Record) -> Iterable[str]:
    yield _figures("Training", _training_figures(record))
    if record.scores is not None:
        yield _figures("Verification", _verification_figures(record.scores))
        yield _hardest(record.scores)
    for title, values in (("What was run", record.environment), ("Settings", record.config)):
        yield _details(title, list(flattened(values)))


def _training_figures(record: Record) -> list[tuple[str, str]]:
    return [
        ("EER on the validation pairs", figures.eer_curve(record.validation)),
        ("Loss", figures.curve(record.train, "loss", "loss")),
        ("Learning rate", figures.curve(record.train, "lr", "learning rate", log=True)),
        ("Gradient norm", figures.curve(record.train, "grad_norm", "gradient norm", log=True)),
        ("Speed", figures.curve(record.train, "images_per_s", "images a second")),
    ]


def _verification_figures(scores: Scores) -> list[tuple[str, str]]:
    values, mated = scores.scores, scores.mated
    return [
        ("Scores of the validation pairs", figures.score_histogram(values, mated)),
        ("DET: detection error trade-off", figures.det(values, mated)),
        ("ROC", figures.roc(values, mated)),
    ]


def _figures(title: str, pictures: Iterable[tuple[str, str]]) -> str:
    drawn = (markup.figure(svg, caption) for caption, svg in pictures if svg)
    return markup.section(title, markup.figures(drawn))


def _hardest(scores: Scores) -> str:
    """Mated pairs that look least alike and non-mated pairs that look most alike, by name."""
    if scores.left is None or scores.right is None:
        return ""
    ascending = np.argsort(scores.scores, kind="stable")
    mated = ascending[scores.mated[ascending]][:HARDEST]
    non_mated = ascending[~scores.mated[ascending]][::-1][:HARDEST]
    rows = [
        (kind, f"{scores.scores[i]:.4f}", scores.left[i], scores.right[i])
        for kind, chosen in (("mated", mated), ("non-mated", non_mated))
        for i in chosen
    ]
    table = markup.table(rows, ("pair", "score", "left", "right"))
    return markup.section("Hardest pairs", table)


def _details(title: str, rows: Sequence[tuple[str, str]]) -> str:
    return markup.section(title, markup.details(rows)) if rows else ""
