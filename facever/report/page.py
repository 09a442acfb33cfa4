"""The report of a run."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facever.metrics import Verification, hardest_pairs, verification
from facever.report import facts, figures, markup, operating
from facever.report.exhibits import Exhibits
from facever.report.figures import Drawing, Lines
from facever.report.record import Record, flattened, read_record
from facever.score import Scores
from facever.storage import write_text

HARDEST = 6
# Title, key in metrics.jsonl, axis, and the factor by which it is shown.
CURVES = (
    ("Loss", "loss", "loss", 1),
    ("Accuracy on the validation pairs, at their best threshold", "accuracy", "accuracy, %", 100),
    ("AUC on the validation pairs", "AUC", "AUC", 1),
    ("The combined metric of the competition", "combined", "combined", 1),
    ("Learning rate", "lr", "learning rate", 1),
    ("Gradient norm", "grad_norm", "gradient norm", 1),
    ("Speed", "images_per_s", "images a second", 1),
)
# Of images that are told which identity they show: held out, or trained on.
IDENTIFICATION = ("dev_accuracy", "test_accuracy", "train_accuracy")


def write_report(
    run_dir: str | os.PathLike[str], out: str | os.PathLike[str] | None = None
) -> Path:
    """Write the page about a run's folder, as far as the folder goes.

    Args:
        run_dir: holds `config.yaml`, `environment.json`, `metrics.jsonl`, `scores_val.csv`,
            `exhibits.npz`.
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
    measured = None if scores is None else measure(scores)
    script = operating.SCRIPT.read_text(encoding="utf-8") if scores else ""
    return markup.page(
        record.name,
        paragraphs=(facts.what(record), *record.notes),
        facts=(*facts.training(record), *facts.verified(measured)),
        sections=_sections(record),
        script=script,
    )


def measure(scores: Scores) -> Verification:
    """Everything that a run's own scores of the validation pairs tell."""
    left, right = scores.units
    return verification(scores.scores, scores.mated, left=left, right=right)


def _sections(record: Record) -> Iterable[str]:
    yield _titled("What was run", facts.circumstances(record))
    changed = facts.changed_settings(record)
    yield _titled("Settings that differ from the defaults", changed, ("setting", "here", "default"))
    lines = {record.name: [*record.train, *record.validation]}
    yield figures_section("Training", training_figures(lines))
    if record.scores is not None:
        yield _verification(record.scores)
        yield _hardest(record.scores, record.exhibits)
    yield _data(record.exhibits)
    yield _embeddings(record.exhibits)
    for title, values in (("Environment", record.environment), ("All settings", record.config)):
        rows = list(flattened(values))
        yield markup.section(title, markup.details(rows)) if rows else ""


def training_figures(runs: Mapping[str, Lines]) -> list[tuple[str, Drawing]]:
    """The curves of runs over their steps, with captions; a drawing is empty without values."""
    known = _identification(runs)
    title = f"Accuracy on known identities{'' if len(known) > 1 else ', ' + ''.join(known)}"
    return [
        ("EER on the validation pairs, with its 95 % interval", figures.eer_curve(runs)),
        *((text, figures.curve(runs, key, label, factor)) for text, key, label, factor in CURVES),
        (title, figures.over_steps(known, "accuracy, %")),
    ]


def _identification(runs: Mapping[str, Lines]) -> figures.Curves:
    """Accuracies, in percent, on images of known identities, by the heads that gave them."""
    return {
        f"{name} {key}" if len(runs) > 1 else key: figures.series(lines, key, 100)
        for name, lines in runs.items()
        for key in sorted({key for line in lines for key in line if key.startswith(IDENTIFICATION)})
    }


def figures_section(title: str, drawn: Iterable[tuple[str, Drawing]]) -> str:
    """A section of the figures that have something to show."""
    shown = [markup.figure(each.svg, text, keys=each.keys) for text, each in drawn if each.svg]
    return markup.section(title, markup.figures(shown))


def _verification(scores: Scores) -> str:
    values, mated = scores.scores, scores.mated
    points = operating.operating_points(values, mated)
    run: Mapping[str, figures.Measured | None] = {"": (values, mated)}
    drawn = [
        ("Scores of the validation pairs", figures.score_histogram(values, mated, points)),
        ("DET: detection error trade-off", figures.det(run, points)),
        ("ROC: receiver operating characteristic", figures.roc(run, points)),
    ]
    shown = markup.figures(markup.figure(each.svg, text, keys=each.keys) for text, each in drawn)
    body = f"<div>{operating.slider(points)}{shown}</div>{operating.table(points)}"
    return markup.section("Verification: what a threshold costs", body)


def _hardest(scores: Scores, exhibits: Exhibits) -> str:
    """The pairs that are furthest on the wrong side, as pictures where those were kept."""
    if not len(exhibits.pairs) and scores.left is None:
        return ""
    misses, false_matches = hardest_pairs(scores.scores, scores.mated, HARDEST)
    kept = dict(zip(exhibits.pairs.tolist(), exhibits.pair_images, strict=True))
    parts = []
    for title, rows in (
        ("Hardest mated pairs: one person, least alike", misses),
        ("Hardest non-mated pairs: two people, most alike", false_matches),
    ):
        items = [_pair(scores, row, kept.get(row)) for row in rows.tolist()]
        parts.append(markup.section(title, markup.gallery(items)))
    return "".join(parts)


def _pair(scores: Scores, row: int, images: NDArray[np.uint8] | None) -> str:
    names = (side[row] for side in (scores.left, scores.right) if side)
    caption = " · ".join([f"{scores.scores[row]:.4f}", *names])
    return markup.picture([] if images is None else images, caption, caption)


def _data(exhibits: Exhibits) -> str:
    parts = []
    if len(exhibits.batch):
        shown = (markup.picture([pixels], "", "an augmented image") for pixels in exhibits.batch)
        title = "The first batch, augmented, as the encoder saw it"
        parts.append(markup.section(title, markup.gallery(shown, small=True)))
    if exhibits.sizes.size:
        drawn = figures.identity_sizes(exhibits.sizes)
        parts.append(figures_section("Training images", [("Images per identity", drawn)]))
    return "".join(parts)


def _embeddings(exhibits: Exhibits) -> str:
    drawn, source = [], str(exhibits.source)
    if exhibits.norms.size:
        quality, norms = (a.astype(np.float64) for a in (exhibits.sharpness, exhibits.norms))
        title = f"Norm of the embedding against the sharpness of the image: {source}"
        drawn.append((title, figures.norm_over_quality(quality, norms)))
    if len(exhibits.embeddings) > 1:
        chart, share = figures.embedding_map(
            exhibits.embeddings, exhibits.labels, exhibits.names.tolist()
        )
        title = f"Embeddings of some identities, {share:.0%} of their variance: {source}"
        drawn.append((title, chart))
    return figures_section("Embeddings", drawn) if drawn else ""


def _titled(title: str, rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    return markup.section(title, markup.table(rows, header)) if rows else ""
