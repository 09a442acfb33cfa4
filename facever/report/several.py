"""The page of several runs: their curves on common axes, their figures, how they differ."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from facever.errors import DataError
from facever.metrics import paired_bootstrap
from facever.report import facts, figures, markup
from facever.report.page import figures_section, measure, training_figures
from facever.report.record import Record, flattened, read_record
from facever.score import Scores
from facever.storage import write_text

HEADER = (
    "run", "loss", "EER", "95 % interval", "difference from the first", "AUC", "TAR at FAR 0.01",
    "best EER while training", "epochs", "time", "images a second", "parameters",
)  # fmt: skip
ABSENT = "-"


def write_reports(
    run_dirs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str] | None = None
) -> Path:
    """Write one page about several runs.

    Args:
        run_dirs: folders of runs, at least two; the others are compared with the first.
        out: the page; `runs.html` in the folder that holds all of them by default.

    Raises:
        DataError: a folder is absent, or named twice.
        StorageError: the page could not be written.
    """
    folders = [Path(run) for run in run_dirs]
    resolved = [folder.resolve() for folder in folders]
    if twice := [str(f) for f, r in zip(folders, resolved, strict=True) if resolved.count(r) > 1]:
        raise DataError(f"{twice[0]}: is named twice; expected different runs")
    top = Path(os.path.commonpath([folder.parent for folder in resolved]))
    records = [read_record(folder) for folder in folders]
    names = [record.name for record in records]
    if len(set(names)) < len(names):
        names = [folder.relative_to(top).as_posix() for folder in resolved]
    page = render(dict(zip(names, records, strict=True)))
    return write_text(top / "runs.html" if out is None else out, page)


def render(records: Mapping[str, Record]) -> str:
    """The page as HTML; every text of the runs is escaped."""
    lines = {name: [*each.train, *each.validation] for name, each in records.items()}
    scored = {name: each.scores for name, each in records.items()}
    return markup.page(
        f"{len(records)} runs",
        paragraphs=_notes(records),
        facts=(),
        sections=(
            markup.section("Results", markup.table(_rows(records), HEADER)),
            _differences("How their settings differ", {n: r.config for n, r in records.items()}),
            figures_section("Training", training_figures(lines)),
            _verification(scored) if any(scored.values()) else "",
            _differences(
                "How their environments differ", {n: r.environment for n, r in records.items()}
            ),
        ),
    )


def _notes(records: Mapping[str, Record]) -> Iterable[str]:
    for name, record in records.items():
        yield from (f"{name}: {note}" for note in record.notes)
    scored = [record.scores for record in records.values() if record.scores]
    if any(not _same_pairs(scored[0], other) for other in scored[1:]):
        yield "not all runs were measured on the same pairs: their EERs cannot be compared"


def _rows(records: Mapping[str, Record]) -> Iterable[Sequence[str]]:
    first = next(iter(records.values())).scores
    for name, record in records.items():
        known = {**dict(facts.training(record)), "parameters": facts.parameters(record)}
        known["loss"] = dict(flattened(record.config)).get("loss.name", "")
        if record.scores:
            known |= dict(facts.verified(measure(record.scores)))
        if first and record.scores and record.scores is not first:
            known["difference from the first"] = _difference(record.scores, first)
        yield [name, *(known.get(column) or ABSENT for column in HEADER[1:])]


def _difference(scores: Scores, first: Scores) -> str:
    """EER minus the first run's in points, with its interval, where the pairs are the same."""
    if not _same_pairs(scores, first):
        return ""
    left, right = first.units
    found = paired_bootstrap(scores.scores, first.scores, first.mated, left=left, right=right)
    return (
        f"{100 * found.difference:+.2f} ({100 * found.low:+.2f} to {100 * found.high:+.2f}), "
        f"p = {found.p_value:.3f}"
    )


def _same_pairs(a: Scores, b: Scores) -> bool:
    return (a.left, a.right) == (b.left, b.right) and np.array_equal(a.mated, b.mated)


def _differences(title: str, tables: Mapping[str, Mapping[str, object]]) -> str:
    """The leaves that are not the same in all tables, a column for each."""
    leaves = {name: dict(flattened(values)) for name, values in tables.items()}
    keys = dict.fromkeys(key for values in leaves.values() for key in values)
    rows = [
        [key, *(values.get(key, ABSENT) for values in leaves.values())]
        for key in keys
        if len({values.get(key) for values in leaves.values()}) > 1
    ]
    if not rows:
        return markup.section(title, "<p>Not at all.</p>")
    return markup.section(title, markup.table(rows, ("setting", *leaves)))


def _verification(scored: Mapping[str, Scores | None]) -> str:
    runs = {
        name: (scores.scores, scores.mated) if scores else None for name, scores in scored.items()
    }
    drawn = [
        ("DET: detection error trade-off", figures.det(runs)),
        ("ROC: receiver operating characteristic", figures.roc(runs)),
    ]
    return figures_section("Verification", drawn)
