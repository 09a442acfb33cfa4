"""What the commands share: their arguments, and how an answer is told."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facever.tracking import is_leader

if TYPE_CHECKING:
    from facever.ask import Ask


def _complete_setting(incomplete: str) -> list[tuple[str, str]]:
    """What Tab offers in the place of a setting."""
    from facever.settings import complete

    return complete(incomplete)


CompetitionName = Annotated[
    str | None,
    typer.Option("--competition", metavar="NAME", help="Whose rules; by default told by the data."),
]
Assignments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="key=value",
        help="Settings, e.g. data.root=data/hw2p2.",
        autocompletion=_complete_setting,
    ),
]
Mixed = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CKPT|key=value",
        help="Checkpoints (the newest best.pt where none) and settings.",
        autocompletion=_complete_setting,
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


def make_ask(assignments: list[str] | None, config: Path | None, **given: Any) -> "Ask":
    """Gather what was asked for; a file lies below `--loss`, and that below key=value."""
    from facever.ask import Ask
    from facever.plainyaml import load_yaml

    layers = [load_yaml(config)] if config else []
    if loss := given.pop("loss", None):
        layers.append({"loss": {"name": loss}})
    return Ask(layers=layers, assignments=assignments or [], **given)


def split_arguments(arguments: list[str] | None) -> tuple[list[Path], list[str]]:
    """Tell checkpoints from settings; without a checkpoint the newest best.pt is taken."""
    given = arguments or []
    assignments = [text for text in given if "=" in text and not Path(text).exists()]
    checkpoints = [Path(text) for text in given if text not in assignments]
    return checkpoints or [newest(None)], assignments


def newest(given: Path | None) -> Path:
    """Give the checkpoint that was named, or the newest best.pt, and say which."""
    from facever.runs import newest_best
    from facever.tracking import note

    if given is not None:
        return given
    path = newest_best()
    note(f"checkpoint: {path}, the newest best.pt")
    return path


def tell(answer: Mapping[str, Any], json_file: Path | None, text: str) -> None:
    """Print an answer for people, and write it as JSON where that was asked for."""
    if not is_leader():
        return
    from facever.storage import write_json

    if json_file is not None and str(json_file) == "-":
        print(json.dumps(answer, indent=2))
        return
    if json_file is not None:
        write_json(json_file, answer)
    print(text)


def table(facts: Mapping[str, Any]) -> str:
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
