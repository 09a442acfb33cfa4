"""The loss laboratory's page, its pictures as files, and by name all that draws them."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from facever.report import markup
from facever.report.canvas import SIZE, Picture
from facever.report.cells import curves, sweep
from facever.report.panels import (
    angle_histograms,
    augmented_share,
    embedding_maps,
    gradient_planes,
    quality_scatter,
    samples,
)
from facever.storage import make_folder, replacing, write_text

__all__ = [
    "Picture",
    "angle_histograms",
    "augmented_share",
    "curves",
    "embedding_maps",
    "gradient_planes",
    "quality_scatter",
    "samples",
    "sweep",
    "write_comparison",
    "write_pictures",
]


def write_pictures(pictures: Iterable[Picture], folder: str | os.PathLike[str]) -> list[Path]:
    """Write each picture as `<name>.png`, making the folder where it is absent.

    Raises:
        StorageError: the folder or a file could not be written.
    """
    target = Path(folder)
    make_folder(target)
    paths = []
    for picture in pictures:
        path = target / f"{picture.name}.png"
        with replacing(path) as file:
            file.write(picture.png())
        paths.append(path)
    return paths


def write_comparison(
    path: str | os.PathLike[str],
    *,
    title: str,
    facts: Iterable[tuple[str, str]],
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    notes: Iterable[str],
    sections: Iterable[tuple[str, Sequence[Picture]]],
) -> Path:
    """Write the page: what was compared, one table, then the pictures section by section.

    Args:
        path: the page.
        title: of the page.
        facts: name and value of what all cells share.
        header: of the table.
        rows: of the table, a cell of the grid each.
        notes: lines below the title.
        sections: title and pictures; one without pictures is left out.

    Raises:
        StorageError: the page could not be written.
    """
    shown = [(name, pictures) for name, pictures in sections if pictures]
    names = [picture.name for _, pictures in shown for picture in pictures]
    assert len(set(names)) == len(names), f"two pictures share a name: {names}"
    page = markup.page(
        title,
        paragraphs=notes,
        facts=facts,
        sections=[
            markup.section("Results", markup.table(rows, header)),
            *(
                markup.section(name, markup.figures(map(_figure, pictures)))
                for name, pictures in shown
            ),
        ],
    )
    return write_text(path, page)


def _figure(picture: Picture) -> str:
    """Wide pictures take a row of the page to themselves, and scroll on a phone."""
    return markup.figure(picture.svg(), picture.caption, columns=picture.size[0] / SIZE[0])
