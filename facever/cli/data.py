"""`data inspect`, `synth`, `pack`, `fetch`: the commands about data sets."""

from pathlib import Path
from typing import Annotated

import typer

from facever.cli.common import (
    Assignments,
    JsonFile,
    table,
    tell,
)


def inspect(
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
    tell(
        {**report.facts, "problems": report.problems},
        json_file,
        "\n".join([table(report.facts), *problems]),
    )
    if strict and report.problems:
        raise CheckFailed(f"{directory}: {len(report.problems)} problems, listed above")


def synth(
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
    tell({"out": str(out), **counts}, json_file, f"{out}: " + ", ".join(
        f"{count:,} {name}" for name, count in counts.items()
    ) + f"\nnext: facever train data.root={out}")  # fmt: skip


def pack(
    directory: Annotated[Path, typer.Argument(metavar="DIR")], assignments: Assignments = None
) -> None:
    """Decode every image once into a memory map, as the first training would."""
    from facever.config import resolve
    from facever.prepare import pack_all

    given = {"data": {"root": str(directory), "pack": "on"}}
    config = resolve([given], assignments or [])
    print(table(pack_all(config.data)))


def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="kaggle.com/competitions/NAME.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Default: data/NAME.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Download a Kaggle competition's data and unpack it; goes on where it was stopped."""
    from facever.kaggle.fetch import fetch

    fetched = fetch(name, output)
    folder = fetched.folder
    tell(
        {"slug": fetched.slug, "folder": str(folder), "files": fetched.files},
        json_file,
        f"{folder}: {fetched.files:,} files of {fetched.slug}\n"
        f"next: facever data inspect {folder}\n"
        f"      facever train data.root={folder}",
    )
