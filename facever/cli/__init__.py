"""Command line to command and configuration; prints the answers; exit codes. No logic.

Answers go to standard output, progress to standard error. What a user can mend is one
`error:` message and exit code 2 or 3; `--debug`, anywhere on the line, shows the traceback.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer

from facever import __version__
from facever.cli import data, photos, scoring, tools, training
from facever.errors import ConfigError, FaceverError

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
        "facever submit checkpoints/a/best.pt checkpoints/b/best.pt --upload --message both",
    ),
    scoring.average: (
        "facever average checkpoints/train-1 -o averaged.pt",
        "facever average checkpoints/a/best.pt checkpoints/b/best.pt --greedy -o soup.pt",
    ),
    training.demo: ("facever demo", "facever demo --quick --out /tmp/demo"),
    training.compare: (
        "facever compare --data mnist --losses ce,arcface,adaface --seeds 3",
        "facever compare --data data/hw2p2 --losses adaface --from checkpoints/train-1/best.pt "
        "--sweep loss.params.h=0.22,0.333,0.66",
    ),
    tools.report: (
        "facever report checkpoints/train-1",
        "facever report checkpoints/train-1 checkpoints/finetune-1 -o both.html",
    ),
    photos.verify: (
        "facever verify a.jpg b.jpg",
        "facever verify a.jpg b.jpg --fmr 0.001 --json -",
    ),
    photos.identify: (
        "facever identify who.jpg --gallery photos",
        "facever identify new --gallery photos.npz --top 3 --by mean --json who.json",
    ),
    photos.embed: (
        "facever embed photos -o photos.npz",
        "facever embed photos -o a.npz --from checkpoints/train-1/best.pt",
    ),
    scoring.export: (
        "facever export --to onnx -o encoder.onnx",
        "facever export checkpoints/train-1/best.pt --to hub-folder -o face-encoder",
    ),
    tools.check: (
        "facever check checkpoints/finetune-1 --competition S26",
        "facever check submissions/both.csv --competition F25 --json -",
    ),
    tools.handin: (
        "facever handin checkpoints/finetune-1 -o handin.zip --competition S26",
        "facever handin checkpoints/a checkpoints/b -o both.zip --submission submissions/both.csv",
    ),
    tools.fsck: (
        "facever fsck checkpoints/train-1",
        "facever fsck checkpoints/train-1 --repair --json -",
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
    data.pack: ("facever data pack data/hw2p2", "facever data pack faces.zip -o data/faces"),
    data.fetch: (
        "facever data fetch NAME -o data/hw2p2",
        "facever data fetch lfw",
    ),
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
    help="Look into a data set, decode it once, fetch one, or make a synthetic one.",
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
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        _main()
        return
    # So that `torchrun` shows the traceback of the process that failed first.
    from torch.distributed.elastic.multiprocessing.errors import record

    record(_main)()


def _main() -> None:
    debug = "--debug" in sys.argv
    arguments = [text for text in sys.argv[1:] if text != "--debug"]
    with _ctrl_c() as pressed:
        try:
            _check_processes(arguments)
            code = app(arguments, standalone_mode=False)
        except (KeyboardInterrupt, typer.Abort):
            code = 130
        except Exception as error:
            code = 130 if pressed() else _tell(error, debug)
    sys.exit(code)


def _check_processes(arguments: list[str]) -> None:
    """Refuse several processes for a command that would do everything as often.

    Raises:
        ConfigError: the command does not train.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1 and not {"train", "finetune"} & set(arguments[:1]):
        raise ConfigError(
            f"WORLD_SIZE: {processes} processes; only `train` and `finetune` share their work"
        )


def _tell(error: Exception, debug: bool) -> int:
    """Print what a user can mend, and give its exit code; anything else is a bug and goes on."""
    # FaceverError, Interrupted and typer's own usage errors know their exit code.
    code: int | None = getattr(error, "exit_code", None)
    if code is None or (debug and isinstance(error, FaceverError)):
        raise error
    message = error.format_message() if hasattr(error, "format_message") else error
    print(f"{'error' if 0 < code < 128 else 'stopped'}: {message}", file=sys.stderr)
    return code


@contextmanager
def _ctrl_c() -> Iterator[Callable[[], bool]]:
    """Remember a Ctrl-C: libraries in C may turn it into an error of their own.

    Yields:
        a function that tells whether there was one.
    """
    # In the background the shell has it ignored, and so it stays.
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    times: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        times.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield lambda: bool(times)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
