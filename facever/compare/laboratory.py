"""The story of `facever compare`: the same data, encoder, budget and seeds for every loss.

Every run is an ordinary one of `pipeline`, in a folder of its own below the comparison's; a run
that was finished is read, not repeated. What is measured is the last epoch's encoder: the best
epoch would be chosen on the images that measure it.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from facever import pipeline, runs
from facever.ask import Ask, Values, configuration
from facever.compare.grid import Cell, is_sweep, make_cells
from facever.compare.pictures import make_sections
from facever.compare.presets import NONE, PRESETS
from facever.compare.probe import degrading, glance, look
from facever.compare.results import AFTER, BEFORE, HEADER, MEASURES, Row, Run, make_rows, read_run
from facever.config import FREE_AT_RESUME, Config, operations
from facever.data.benchmarks import prepare_benchmark
from facever.data_setup import OpenData, open_data
from facever.errors import ConfigError
from facever.report.laboratory import write_comparison, write_pictures
from facever.runs import CHECKPOINTS
from facever.state import TrainState
from facever.storage import write_text
from facever.tracking import note, progress
from facever.transforms import Augment
from facever.validate import Embed


@dataclass(frozen=True)
class Request:
    """What is to be compared.

    Attributes:
        data: `mnist`, `cifar10`, or a folder in any layout.
        losses: names, or sums of names; the first is what the others are held against.
        seeds: runs of each, with seeds 0, 1, ...
        sweeps: `key=v1,v2`.
        layers: given values, as of `ask.Ask`.
        assignments: `key=value`; one with several values is a sweep.
        parent: checkpoint that every run is finetuned from; None trains from scratch.
        out: folder of the comparison; None names it after the data.
    """

    data: str
    losses: Sequence[str]
    seeds: int = 1
    sweeps: Sequence[str] = ()
    layers: Sequence[Values] = ()
    assignments: Sequence[str] = ()
    parent: Path | None = None
    out: Path | None = None

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return self.out or CHECKPOINTS / f"compare-{Path(self.data).name}"


@dataclass(frozen=True)
class Comparison:
    """Where a comparison lies, and its table."""

    folder: Path
    rows: Sequence[Row]

    def to_json(self) -> Values:
        """Every row's figures: mean and standard deviation over seeds, and differences."""
        return {
            "folder": str(self.folder),
            "rows": [
                {
                    "loss": row.cell.loss,
                    "swept": dict(row.cell.swept),
                    "seeds": row.seeds,
                    "gap": row.gap,
                    **{key: vars(spread) for key, spread in row.figures.items()},
                    "accuracy_against_first": row.accuracy and vars(row.accuracy),
                    "eer_against_first": row.eer and vars(row.eer),
                }
                for row in self.rows
            ],
        }


def compare(request: Request) -> Comparison:
    """Train what was not trained before, measure all of it, and write table and pictures.

    Raises:
        ConfigError: before anything is loaded: losses, parameters, sweeps or settings that do
            not exist or do not go together; a run in the folder that had other settings.
        DataError: the data cannot be had or read.
    """
    planned = _plan(request)
    for _, ask in planned:
        _check_free(ask)
    runs = [read_run(cell, _train(cell, ask)) for cell, ask in planned]
    rows = make_rows(runs)
    out = request.folder
    _write_table(out, rows)
    _write_pictures(out, request, runs, rows, configuration(planned[0][1]))
    return Comparison(out, rows)


def _plan(request: Request) -> list[tuple[Cell, Ask]]:
    """List the trainings, a whole table for each seed, with the data found."""
    if request.seeds < 1 or not request.losses:
        raise ConfigError(
            f"--seeds {request.seeds}, --losses {','.join(request.losses)}: expected 1 or more"
        )
    swept = [text for text in request.assignments if is_sweep(text)]
    plain = [text for text in request.assignments if text not in swept]
    # A parent passes on its own settings, and its losses' scale is what it was trained for.
    preset = PRESETS.get(request.data, NONE) if request.parent is None else NONE
    cells = make_cells(request.losses, [*request.sweeps, *swept], plain, preset.assignments)
    layers = [preset.layer, *request.layers]
    if request.data not in PRESETS:
        layers.append({"data": {"root": request.data}})
    # Every row is resolved before the data is looked for.
    configs = [configuration(_ask(request, cell, 0, layers)) for cell in cells]
    if request.data in PRESETS:
        layers.append({"data": {"root": _benchmark(request.data, configs[0])}})
    return [
        (cell, _ask(request, cell, seed, layers)) for seed in range(request.seeds) for cell in cells
    ]


def _ask(request: Request, cell: Cell, seed: int, layers: Sequence[Values]) -> Ask:
    roots = [text for text in cell.assignments if text.startswith("data.root=")]
    own = [text for text in cell.assignments if text not in roots]
    return Ask(
        # A benchmark's root is where its files are looked for, and gives way to what was found.
        [{"data": {"root": roots[-1].partition("=")[2]}} if roots else {}, *layers,
         {"loss": {"name": cell.loss}}],
        [*own, f"engine.seed={seed}"],
        run=f"seed-{seed}",
        parent=request.parent,
        root=request.folder / cell.folder,
    )  # fmt: skip


def _benchmark(name: str, config: Config) -> str:
    """Find or fetch MNIST or CIFAR-10, and give the root to read it from."""
    given = config.data.root
    root = None if given == Config().data.root else given
    with progress(f"preparing {name}") as report:
        prepared = prepare_benchmark(name, root, progress=report)
    for line in prepared.notes:
        note(f"data: {line}")
    return str(prepared.root)


def _check_free(ask: Ask) -> None:
    """Refuse a folder in which a run had other settings."""
    assert ask.run is not None
    run = ask.root / ask.run
    if not (run / "config.yaml").exists():
        return
    changed = runs.changes(run, configuration(ask).to_dict(), FREE_AT_RESUME, ask.parent)
    if changed:
        raise ConfigError(
            f"{run}: was trained with other settings:\n  "
            + "\n  ".join(changed)
            + "\n  `--out DIR` makes another comparison"
        )


def _train(cell: Cell, ask: Ask) -> Path:
    """Train a run to its end, unless that was done before; give its folder."""
    note(f"{cell.label}, {ask.run}")
    watch = _Watcher(degrading(operations(configuration(ask).augment)))
    trained = pipeline.finetune(ask, watch) if ask.parent else pipeline.train(ask, watch)
    assert trained.run is not None
    return trained.run


@dataclass(frozen=True)
class _Watcher:
    """Keeps what the encoder and the loss make of held-out images, before, while and after."""

    augment: Augment

    def begin(self, run: Path, state: TrainState, data: OpenData, embed: Embed) -> None:
        look(state, data, embed, self.augment).save(run / BEFORE)

    def epoch(self, state: TrainState, data: OpenData, embed: Embed) -> Mapping[str, float]:
        return glance(state, data, embed)

    def end(self, run: Path, state: TrainState, data: OpenData, embed: Embed) -> None:
        look(state, data, embed, self.augment).save(run / AFTER)


def _write_table(out: Path, rows: Sequence[Row]) -> None:
    """Write `table.csv`, with every number, and `table.md`, for people."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [f"{measure}{suffix}" for measure in MEASURES for suffix in ("", "_sd")]
    tests = [f"{kind}_{field}" for kind in ("accuracy", "eer") for field in ("difference", "p")]
    writer.writerow(["loss", "seeds", "gap", *names, *tests])
    for row in rows:
        spreads = [row.figures[measure] for measure in MEASURES]
        values = [value for spread in spreads for value in (spread.mean, spread.sd)]
        differences = [
            value
            for found in (row.accuracy, row.eer)
            for value in ((found.points, found.p_value) if found else ("", ""))
        ]
        writer.writerow([row.cell.label, row.seeds, row.gap, *values, *differences])
    write_text(out / "table.csv", buffer.getvalue())
    write_text(out / "table.md", markdown(rows) + "\n")


def markdown(rows: Sequence[Row]) -> str:
    """The table, aligned, in Markdown."""
    lines = [HEADER, *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    text = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([text[0], rule, *text[1:]])


def _write_pictures(
    out: Path, request: Request, runs: Sequence[Run], rows: Sequence[Row], config: Config
) -> None:
    data = open_data(config.data)
    sections = make_sections(runs, data)
    write_pictures([picture for _, pictures in sections for picture in pictures], out / "figures")
    write_comparison(
        out / "report.html",
        title=f"{', '.join(dict.fromkeys(row.cell.loss for row in rows))} on {request.data}",
        facts=_facts(request, config, data),
        header=HEADER,
        rows=[row.cells() for row in rows],
        notes=_notes(rows, data),
        sections=sections,
    )


def _facts(request: Request, config: Config, data: OpenData) -> list[tuple[str, str]]:
    model, optim = config.model, config.optim
    return [
        ("data", f"{request.data}: {len(data.train):,} training images of "
                 f"{len(data.manifest.identities):,} identities"),
        ("held out", f"{len(data.dev):,} images" if data.dev else "none: training images"),
        ("encoder", f"{model.backbone}, {model.neck}, {model.embedding_dim}-d"),
        ("budget", f"{optim.epochs} epochs, batch {optim.batch_size}, {optim.name} {optim.lr:g}"),
        ("seeds", f"{request.seeds}"),
        ("start", str(request.parent) if request.parent else "from scratch"),
    ]  # fmt: skip


def _notes(rows: Sequence[Row], data: OpenData) -> list[str]:
    methods = {found.method for row in rows for found in (row.accuracy, row.eer) if found}
    lines = [
        "Figures are of the last epoch; mean ± standard deviation over seeds. "
        "Accuracy of losses without a classifier is that of the nearest class mean."
    ]
    if methods:
        lines.append(f"Differences are against the first row; p by {', '.join(sorted(methods))}.")
    return [*lines, *data.manifest.notes]
