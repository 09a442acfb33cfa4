"""A contact sheet: some images of each split, and those that look like others."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facever.data.images import read_rgb
from facever.data.inspect.facts import lists_of
from facever.data.inspect.looks import Look
from facever.data.lists import Manifest
from facever.storage import make_folder, replacing
from facever.transforms import fit

if TYPE_CHECKING:
    from PIL import Image

_SIDE, _COLUMNS, _ROWS, _CAPTION, _GAP = 96, 12, 2, 18, 2
_INK, _PAPER = (32, 32, 32), (255, 255, 255)


def write_sheet(
    file: Path, manifest: Manifest, looks: Mapping[str, Look], facts: Mapping[str, Any]
) -> None:
    """Draw bands of up to 24 images, each with a caption, into a PNG file.

    Raises:
        StorageError: the file cannot be written.
    """
    from PIL import Image, ImageDraw

    bands = [(caption, paths) for caption, paths in _bands(manifest, looks, facts) if paths]
    heights = [_CAPTION + _SIDE * -(-len(paths) // _COLUMNS) for _, paths in bands]
    picture = Image.new("RGB", (_SIDE * _COLUMNS, max(sum(heights), 1)), _PAPER)
    pen, top = ImageDraw.Draw(picture), 0
    for (caption, paths), height in zip(bands, heights, strict=True):
        pen.text((_GAP, top + _GAP), caption, fill=_INK)
        for i, path in enumerate(paths):
            row, column = divmod(i, _COLUMNS)
            corner = (_SIDE * column, top + _CAPTION + _SIDE * row)
            picture.paste(_small(manifest.root / path), corner)
        top += height
    make_folder(file.parent)
    with replacing(file) as stream:
        picture.save(stream, "PNG")


def _bands(
    manifest: Manifest, looks: Mapping[str, Look], facts: Mapping[str, Any]
) -> Iterator[tuple[str, list[str]]]:
    lists: dict[str, Sequence[str]] = {
        **{split: images.paths for split, images in lists_of(manifest).items()},
        "validation pairs": manifest.val_pairs.images if manifest.val_pairs else (),
        "test pairs": manifest.test_pairs.images if manifest.test_pairs else (),
    }
    for name, paths in lists.items():
        whole = [path for path in paths if not looks[path].reason]
        yield f"{name}: {len(whole):,} images", _spread(whole)
    for name in ("duplicates", "near_duplicates"):
        groups = facts[name]
        # Those that would mislead a training most come first.
        order = sorted(groups, key=lambda g: (-len(g["identities"]), -len(g["splits"])))
        side_by_side = [path for group in order for path in group["paths"][:2]]
        caption = f"{name.replace('_', '-')}, two of each group: {len(groups):,} groups"
        yield caption, side_by_side[: _COLUMNS * _ROWS]


def _spread(paths: Sequence[str]) -> list[str]:
    """Choose images at equal distances: lists are in the order of identities."""
    count = min(len(paths), _COLUMNS * _ROWS)
    return [paths[i * len(paths) // count] for i in range(count)]


def _small(file: Path) -> "Image.Image":
    from PIL import Image

    return Image.fromarray(fit(read_rgb(file), _SIDE - _GAP))
