"""Command line to command and configuration; prints the answers; exit codes. No logic.

Answers go to standard output, progress to standard error. What a user can mend is one
`error:` message and exit code 2 or 3; `--debug`, anywhere on the line, shows the traceback.
"""

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from facever import __version__
from facever.cli import data, scoring, tools, training
from facever.errors import FaceverError

# Each command with its two examples, in the order in which `facever --help` lists them.
COMMANDS: dict[Callable[..., None], tuple[str, str]] = {
    training.train: (
        "facever train data.root=data/hw2p2",
        "facever train -c configs/train.yaml optim.epochs=30 --run long",
    ),
    training.finetune: (
        "facever finetune --loss adaface",
        "facever finetune --loss ce+0.5*triplet --from checkpoints/train-1/best.pt optim.lr=0.01",
    ),
    scoring.evaluate: (
        "facever evaluate",
        "facever evaluate --compare checkpoints/train-1/best.pt checkpoints/finetune-1/best.pt",
    ),
    scoring.submit: (
        "facever submit",
        "facever submit checkpoints/a/best.pt checkpoints/b/best.pt -o submissions/both.csv",
    ),
    training.demo: ("facever demo", "facever demo --quick --out /tmp/demo"),
    training.compare: (
        "facever compare --data mnist --losses ce,arcface,adaface --seeds 3",
        "facever compare --data data/hw2p2 --losses adaface --from checkpoints/train-1/best.pt "
        "--sweep loss.params.h=0.22,0.333,0.66",
    ),
    tools.report: ("facever report checkpoints/train-1", "facever report RUN -o a.html"),
    scoring.verify: ("facever verify a.jpg b.jpg", "facever verify a.jpg b.jpg --json -"),
    scoring.embed: (
        "facever embed photos -o embeddings.npz",
        "facever embed photos -o a.npz --from checkpoints/train-1/best.pt",
    ),
    tools.bench: (
        "facever bench heads --losses arcface,adaface",
        "facever bench step data.root=data/hw2p2 --json step.json",
    ),
    tools.config: ("facever config --show", "facever config --init facever.yaml"),
}
DATA_COMMANDS: dict[Callable[..., None], tuple[str, str]] = {
    data.inspect: ("facever data inspect data/hw2p2", "facever data inspect data --json -"),
    data.synth: (
        "facever data synth data/synth",
        "facever data synth data/lfw --layout LFW --identities 50 --seed 1",
    ),
    data.pack: ("facever data pack data/hw2p2", "facever data pack data data.image_size=96"),
}

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
for group, commands in ((app, COMMANDS), (data_app, DATA_COMMANDS)):
    for command, lines in commands.items():
        shown = " · ".join(f"`{line}`" for line in lines)
        group.command(epilog=f"Examples: {shown}")(command)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"facever {__version__}")
        raise typer.Exit


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
