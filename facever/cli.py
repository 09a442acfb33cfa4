"""Command line to command and configuration; prints the answers; exit codes. No logic.

Answers go to standard output, progress to standard error. What a user can mend is one
`error:` message and exit code 2 or 3; `--debug`, anywhere on the line, shows the traceback.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facever import __version__
from facever.errors import FaceverError

if TYPE_CHECKING:
    from facever.pipeline import Ask, Trained
    from facever.validate import Evaluated

app = typer.Typer(
    name="facever",
    help="A folder of face images in, a leaderboard score out.",
    epilog="First: `facever demo`. Then: `facever train data.root=DIR`, `facever finetune --loss "
    "adaface`, `facever evaluate`, `facever submit`. --debug shows tracebacks.",
    no_args_is_help=True,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(
    help="Look into a data set, decode it once, or make a synthetic one.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")

Assignments = Annotated[
    list[str] | None,
    typer.Argument(metavar="key=value", help="Settings, e.g. data.root=data/hw2p2."),
]
Mixed = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CKPT|key=value", help="Checkpoints (the newest best.pt where none) and settings."
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option("-c", "--config", metavar="FILE", help="YAML file of settings.")
]
RunName = Annotated[str | None, typer.Option("--run", metavar="NAME", help="Name of the run.")]
Resume = Annotated[
    bool, typer.Option("--resume/--fresh", help="Go on with an equal run, or start a new one.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print configuration, counts and steps; do nothing.")
]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write the answer as JSON (- for stdout)."),
]
PairsFile = Annotated[
    Path | None, typer.Option("--pairs", metavar="FILE", help="Pair file instead of the data's.")
]
ImagesDir = Annotated[
    Path | None, typer.Option("--images", metavar="DIR", help="Folder that its names refer to.")
]
From = Annotated[
    Path | None, typer.Option("--from", metavar="CKPT", help="Checkpoint to start from.")
]


def _examples(*lines: str) -> str:
    return "Examples: " + " · ".join(f"`{line}`" for line in lines)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"facever {__version__}")
        raise typer.Exit


@app.command(
    epilog=_examples(
        "facever train data.root=data/hw2p2",
        "facever train -c configs/train.yaml optim.epochs=30 --run long",
    )
)
def train(
    assignments: Assignments = None,
    config: ConfigFile = None,
    loss: Annotated[str | None, typer.Option(metavar="NAME", help="Loss; default ce.")] = None,
    run: RunName = None,
    resume: Resume = True,
    dry_run: DryRun = False,
    json_file: JsonFile = None,
) -> None:
    """Stage 1: train an encoder from scratch, with cross-entropy on identities."""
    from facever import pipeline

    ask = _ask(assignments, config, loss=loss, run=run, fresh=not resume, dry_run=dry_run)
    _tell_trained(pipeline.train(ask), json_file, following="facever finetune --loss adaface")


@app.command(
    epilog=_examples(
        "facever finetune --loss adaface",
        "facever finetune --loss ce+0.5*triplet --from checkpoints/train-1/best.pt optim.lr=0.01",
    )
)
def finetune(
    loss: Annotated[str, typer.Option(metavar="NAME", help="Loss, or a sum of losses.")],
    assignments: Assignments = None,
    config: ConfigFile = None,
    parent: From = None,
    run: RunName = None,
    resume: Resume = True,
    dry_run: DryRun = False,
    json_file: JsonFile = None,
) -> None:
    """Stage 2: go on from the newest trained encoder, with a margin or metric loss."""
    from facever import pipeline

    ask = _ask(
        assignments, config, loss=loss, run=run, fresh=not resume, dry_run=dry_run, parent=parent
    )
    _tell_trained(pipeline.finetune(ask), json_file, following="facever evaluate")


@app.command(
    epilog=_examples(
        "facever evaluate",
        "facever evaluate --compare checkpoints/train-1/best.pt checkpoints/finetune-1/best.pt",
    )
)
def evaluate(
    arguments: Mixed = None,
    config: ConfigFile = None,
    pairs: PairsFile = None,
    images: ImagesDir = None,
    scores: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Measure a CSV with score,mated instead.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Paired test of two checkpoints.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Measure EER and its interval on labelled pairs, and accuracy on dev images."""
    from facever import pipeline

    if scores is not None:
        _tell_evaluated(pipeline.evaluate_scores(scores), json_file)
        return
    checkpoints, assignments = _split_arguments(arguments)
    ask = _ask(assignments, config)
    answer = pipeline.evaluate(checkpoints, ask, pairs=pairs, images=images, compare=compare)
    _tell_evaluated(answer, json_file)


@app.command(
    epilog=_examples(
        "facever submit",
        "facever submit checkpoints/a/best.pt checkpoints/b/best.pt -o submissions/both.csv",
    )
)
def submit(
    arguments: Mixed = None,
    config: ConfigFile = None,
    pairs: PairsFile = None,
    images: ImagesDir = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="The CSV.")
    ] = None,
    competition: Annotated[str, typer.Option(metavar="NAME", help="Whose rules.")] = "S25",
    sample: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Sample submission, for `custom`.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Score the test pairs and write the competition's CSV; several CKPT are an ensemble."""
    from facever import pipeline

    checkpoints, assignments = _split_arguments(arguments)
    answer = pipeline.submit(
        checkpoints,
        _ask(assignments, config),
        pairs=pairs,
        images=images,
        output=output,
        competition=competition,
        sample=sample,
    )
    eer = "" if answer.eer is None else f", validation EER {answer.eer:.2%}"
    _tell(
        {"csv": str(answer.csv), "pairs": answer.pairs, "validation_eer": answer.eer},
        json_file,
        f"{answer.csv}: {answer.pairs:,} pairs, linted for {competition}{eer}\n"
        f"side-car: {answer.csv.with_suffix('.json')}",
    )


@app.command(epilog=_examples("facever demo", "facever demo --quick --out /tmp/demo"))
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the demo.")] = Path("demo"),
    quick: Annotated[bool, typer.Option("--quick", help="A minute instead of five.")] = False,
) -> None:
    """The whole story on synthetic faces, in a few minutes on a laptop CPU."""
    from facever.demo import run_demo

    print(run_demo(out, quick=quick))


@data_app.command(
    "inspect",
    epilog=_examples("facever data inspect data/hw2p2", "facever data inspect data --json -"),
)
def data_inspect(
    directory: Annotated[Path, typer.Argument(metavar="DIR")],
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 3 where something is wrong.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Tell what is in a folder, in which dialect, and what is broken."""
    from facever.data.inspect import inspect
    from facever.errors import CheckFailed
    from facever.tracking import progress

    with progress("reading") as advance:
        report = inspect(directory, progress=advance)
    problems = [f"problem: {line}" for line in report.problems] or ["no problems"]
    _tell(
        {**report.facts, "problems": report.problems},
        json_file,
        "\n".join([_table(report.facts), *problems]),
    )
    if strict and report.problems:
        raise CheckFailed(f"{directory}: {len(report.problems)} problems, listed above")


@data_app.command(
    "synth",
    epilog=_examples(
        "facever data synth data/synth",
        "facever data synth data/lfw --layout LFW --identities 50 --seed 1",
    ),
)
def data_synth(
    out: Annotated[Path, typer.Argument(metavar="OUT")],
    layout: Annotated[str, typer.Option(metavar="NAME", help="Layout to write.")] = "S25",
    identities: Annotated[int, typer.Option(metavar="N", help="People.")] = 200,
    images: Annotated[int, typer.Option(metavar="K", help="Training images of each.")] = 20,
    size: Annotated[int, typer.Option(metavar="PIXELS", help="Side of an image.")] = 112,
    seed: Annotated[int, typer.Option(metavar="SEED", help="Same seed, same bytes.")] = 0,
    json_file: JsonFile = None,
) -> None:
    """Make procedural faces with known identity and known quality."""
    from facever.demo import make_faces

    counts = make_faces(
        out, layout=layout, identities=identities, images=images, size=size, seed=seed
    )
    _tell({"out": str(out), **counts}, json_file, f"{out}: " + ", ".join(
        f"{count:,} {name}" for name, count in counts.items()
    ) + f"\nnext: facever train data.root={out}")  # fmt: skip


@data_app.command(
    "pack",
    epilog=_examples("facever data pack data/hw2p2", "facever data pack data data.image_size=96"),
)
def data_pack(
    directory: Annotated[Path, typer.Argument(metavar="DIR")], assignments: Assignments = None
) -> None:
    """Decode every image once into a memory map, as the first training would."""
    from facever.config import resolve
    from facever.prepare import pack_all

    given = {"data": {"root": str(directory), "pack": "on"}}
    config = resolve([given], assignments or [])
    print(_table(pack_all(config.data)))


@app.command(epilog=_examples("facever report checkpoints/train-1", "facever report RUN -o a.html"))
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="The page.")
    ] = None,
) -> None:
    """Make the HTML page of a run."""
    from facever.report import write_report

    print(write_report(run, output))


@app.command(epilog=_examples("facever verify a.jpg b.jpg", "facever verify a.jpg b.jpg --json -"))
def verify(
    left: Annotated[Path, typer.Argument(metavar="A")],
    right: Annotated[Path, typer.Argument(metavar="B")],
    parent: From = None,
    json_file: JsonFile = None,
) -> None:
    """Tell whether two aligned face images show the same person."""
    from facever.embed import load_encoder

    path = _newest(parent)
    embedder = load_encoder(path)
    score, threshold = embedder.verify(left, right), embedder.metrics.get("threshold")
    match = None if threshold is None else score >= threshold
    decision = {True: "match", False: "no match", None: "no threshold in the checkpoint"}[match]
    answer = {"score": score, "threshold": threshold, "match": match, "checkpoint": str(path)}
    limit = "" if threshold is None else f", threshold at EER {threshold:.4f}"
    _tell(answer, json_file, f"{decision}: score {score:.4f}{limit}")


@app.command(
    epilog=_examples(
        "facever embed photos -o embeddings.npz",
        "facever embed photos -o a.npz --from checkpoints/train-1/best.pt",
    )
)
def embed(
    directory: Annotated[Path, typer.Argument(metavar="DIR")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="An .npz.")],
    parent: From = None,
) -> None:
    """Write the embeddings of every image in a folder: paths, embeddings, norms."""
    from facever.embed import embed_folder

    count = embed_folder(directory, output, _newest(parent))
    print(f"{output}: {count:,} embeddings")


@app.command(epilog=_examples("facever config --show", "facever config --init facever.yaml"))
def config(
    show: Annotated[bool, typer.Option("--show", help="List every setting.")] = False,
    init: Annotated[
        Path | None, typer.Option("--init", metavar="FILE", help="Write a commented file.")
    ] = None,
) -> None:
    """List every setting with its default, bounds and meaning, or write a starting file."""
    from facever.settings import commented_yaml, describe

    if init is not None:
        if init.exists():
            raise FaceverError(f"{init}: exists; expected a new file")
        init.write_text(commented_yaml())
        print(f"{init}: every setting with its default\nnext: facever train -c {init}")
    elif show:
        print(describe())
    else:
        raise typer.BadParameter("expected --show or --init FILE")


def _ask(assignments: list[str] | None, config: Path | None, **given: Any) -> "Ask":
    """Gather what was asked for; a file lies below `--loss`, and that below key=value."""
    from facever.pipeline import Ask
    from facever.plainyaml import load_yaml

    layers = [load_yaml(config)] if config else []
    if loss := given.pop("loss", None):
        layers.append({"loss": {"name": loss}})
    return Ask(layers=layers, assignments=assignments or [], **given)


def _split_arguments(arguments: list[str] | None) -> tuple[list[Path], list[str]]:
    """Tell checkpoints from settings; without a checkpoint the newest best.pt is taken."""
    given = arguments or []
    assignments = [text for text in given if "=" in text and not Path(text).exists()]
    checkpoints = [Path(text) for text in given if text not in assignments]
    return checkpoints or [_newest(None)], assignments


def _newest(given: Path | None) -> Path:
    from facever.runs import newest_best
    from facever.tracking import note

    if given is not None:
        return given
    path = newest_best()
    note(f"checkpoint: {path}, the newest best.pt")
    return path


def _tell(answer: Mapping[str, Any], json_file: Path | None, text: str) -> None:
    """Print an answer for people, and write it as JSON where that was asked for."""
    rendered = json.dumps(answer, indent=2)
    if json_file is not None and str(json_file) == "-":
        print(rendered)
        return
    if json_file is not None:
        json_file.write_text(rendered + "\n")
    print(text)


def _table(facts: Mapping[str, Any]) -> str:
    """Align names and values in two columns; nested ones get dotted names, empty ones none."""
    from facever.config import flatten

    rows = [(name, _shown(value)) for name, value in flatten(facts).items()]
    rows = [(name, text) for name, text in rows if text]
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list | dict):
        first = ", ".join(_shown(item) for item in value[:3]) if isinstance(value, list) else ""
        return f"{len(value):,}: {first}{', ...' if len(value) > 3 else ''}" if value else ""
    return "" if value is None else str(value)


def _tell_trained(answer: "Trained", json_file: Path | None, following: str) -> None:
    facts = {"config": answer.config.to_dict(), **answer.facts}
    if answer.run is None:
        from facever.plainyaml import dump_yaml

        _tell(facts, json_file, dump_yaml(facts))
        return
    best = answer.best
    line = f"{answer.run}: best EER {best['EER']:.2f} %"
    if "EER_low" in best:
        line += f" (95 %: {best['EER_low']:.2f} to {best['EER_high']:.2f})"
    _tell(
        {"run": str(answer.run), "best": dict(best), **facts},
        json_file,
        f"{line}, epoch {best['epoch']:.0f}\n"
        f"report: {answer.run / 'report.html'}\nnext: {following}",
    )


def _tell_evaluated(answer: "Evaluated", json_file: Path | None) -> None:
    _tell(answer.to_json(), json_file, answer.to_text())


def main() -> None:
    """Run the command line; the entry point of `facever` and of `python -m facever`."""
    debug = "--debug" in sys.argv
    arguments = [text for text in sys.argv[1:] if text != "--debug"]
    try:
        code = app(arguments, standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        # FaceverError, Interrupted and typer's own usage errors know their exit code.
        code = getattr(error, "exit_code", None)
        if code is None or (debug and isinstance(error, FaceverError)):
            raise
        message = error.format_message() if hasattr(error, "format_message") else error
        print(f"{'stopped' if code >= 128 else 'error'}: {message}", file=sys.stderr)
    sys.exit(code)
