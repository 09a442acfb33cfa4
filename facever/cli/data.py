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
    layout: Annotated[str, typer.Option(metavar="NAME", help="Where it is not found.")] = "auto",
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw a contact sheet.")
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Write a manifest of what is whole, outside DIR."),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Tell what is in a folder, in which dialect, and what is broken."""
    from facever.data.inspect import inspect
    from facever.errors import CheckFailed
    from facever.tracking import progress

    with progress("reading") as advance:
        report = inspect(directory, layout=layout, sheet=sheet, fix=fix, progress=advance)
    tell(report.to_json(), json_file, report.to_text())
    if strict and report.problems:
        raise CheckFailed(f"{directory}: {len(report.problems)} problems, listed above")


def synth(
    out: Annotated[Path, typer.Argument(metavar="OUT")],
    layout: Annotated[str, typer.Option(metavar="NAME", help="Layout to write.")] = "S25",
    identities: Annotated[int, typer.Option(metavar="N", help="People.")] = 200,
    images: Annotated[int, typer.Option(metavar="K", help="Training images of each.")] = 20,
    size: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Side of an image. [the competition's]")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="SEED", help="Same seed, same bytes.")] = 0,
    json_file: JsonFile = None,
) -> None:
    """Make procedural faces with known identity and known quality."""
    from facever.demo import make_faces

    counts = make_faces(
        out, layout=layout, identities=identities, images=images, size=size, seed=seed
    )
    tell({"out": str(out), **counts}, json_file, f"{out}: " + ", ".join(
        f"{count:,} {name}" for name, count in counts.items() if count
    ) + f"\nnext: facever train data.root={out}")  # fmt: skip


def pack(
    source: Annotated[Path, typer.Argument(metavar="DIR|ARCHIVE")],
    assignments: Assignments = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Of an archive; default data/NAME."),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Decode every image once, as the first training would; an archive's without unpacking it.

    An archive becomes a folder with its labels and pairs, and one file for the images of each of
    its folders. The folder is a data.root, and the archive is no longer needed.
    """
    from facever.config import resolve
    from facever.data.archives import unpack_bundled
    from facever.data_setup import pack_all

    folder = unpack_bundled(source, output)
    config = resolve([{"data": {"root": str(folder)}}], assignments or [])
    facts = {"root": str(folder), **pack_all(config.data)}
    tell(facts, json_file, f"{table(facts)}\nnext: facever train data.root={folder}")


def fetch(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="kaggle.com/competitions/NAME, or `lfw`.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Default: data/NAME.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Download a Kaggle competition's data, or LFW, and unpack it; goes on where it was stopped."""
    from facever.data.lfw import NAME
    from facever.kaggle.fetch import fetch

    if name == NAME:
        _fetch_lfw(output, json_file)
        return
    fetched = fetch(name, output)
    folder = fetched.folder
    tell(
        {"slug": fetched.slug, "folder": str(folder), "files": fetched.files},
        json_file,
        f"{folder}: {fetched.files:,} files of {fetched.slug}\n"
        f"next: facever data inspect {folder}\n"
        f"      facever train data.root={folder}",
    )


def _fetch_lfw(output: Path | None, json_file: Path | None) -> None:
    from facever.data.lfw import NAME, fetch_lfw
    from facever.tracking import progress

    with progress("downloading", "kB") as downloading, progress("unpacking", "files") as unpacking:
        folder, files = fetch_lfw(output, downloading=downloading, unpacking=unpacking)
    tell(
        {"slug": NAME, "folder": str(folder), "files": files},
        json_file,
        f"{folder}: {f'{files:,} files of LFW' if files else 'fetched before'}\n"
        f"next: facever data inspect {folder}\n"
        f"      facever evaluate --pairs {folder}/pairs.txt --images {folder}/lfw_funneled",
    )
