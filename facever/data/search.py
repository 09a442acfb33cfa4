"""Which layout is this folder in? At most three folders deep, links out of it not followed."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from facever.data import bundles
from facever.data.files import Source, leads_somewhere
from facever.data.images import is_image_name
from facever.data.kinship import RELATIONS_FILE, is_kinship, read_kinship
from facever.data.readers import (
    LAYOUTS,
    LFW_PAIRS,
    MANIFEST_FILE,
    NO_IDENTITY,
    Found,
    Layout,
    read_csv,
    read_layout,
    read_tree,
)
from facever.errors import ConfigError, DataError

_DEPTH = 3
_BY_NAME = {name: layout for layout in LAYOUTS for name in (layout.name, *layout.terms)}
Reader = Callable[[Source], Found]


def layout_names() -> tuple[str, ...]:
    """Names that `data.layout` takes besides `auto`; competition terms are names too."""
    return (*_BY_NAME, "rfiw", "tree", "lfw", "csv")


def find_layout(root: Path, name: str) -> tuple[Path, Reader]:
    """Find the one folder that a layout fits, the shallowest first, and what reads it.

    Raises:
        DataError: no such folder, nothing recognised, or several data sets side by side.
        ConfigError: no layout has that name.
    """
    name = name.casefold()
    if name not in ("auto", *layout_names()):
        raise ConfigError(f"data.layout: {name!r}; expected auto, {', '.join(layout_names())}")
    name = _BY_NAME[name].name if name in _BY_NAME else name
    if not root.is_dir():
        raise DataError(
            f"{root}: no such folder\n  expected a folder of face images; "
            f"`facever data synth {root}` makes one"
        )
    level, links, inside = [root], list[str](), root.resolve()
    for _ in range(_DEPTH + 1):
        readers = ((folder, _reader_for(folder, name, inside)) for folder in level)
        matches = [(folder, reader) for folder, reader in readers if reader]
        if len(matches) > 1:
            names = ", ".join(str(folder) for folder, _ in matches)
            raise DataError(f"{root}: several data sets: {names}\n  give one as data.root=...")
        if matches:
            return matches[0]
        level = [child for folder in level for child in _children(folder, inside, links)]
    raise _not_recognised(root, name, links)


def _reader_for(folder: Path, name: str, inside: Path) -> Reader | None:
    """Return what reads this folder, if a layout of that name (or any, for `auto`) fits."""
    if name in ("auto", "csv") and (folder / MANIFEST_FILE).is_file():
        return partial(read_csv, file=folder / MANIFEST_FILE, explicit=False)
    if name in ("auto", "rfiw") and is_kinship(folder):
        return read_kinship
    for layout in LAYOUTS:
        if name in ("auto", layout.name) and _fits(folder, layout):
            return partial(read_layout, layout=layout)
    return _tree_reader(folder, inside) if name in ("auto", "tree", "lfw") else None


def _tree_reader(folder: Path, inside: Path) -> Reader | None:
    if _identity_folders(folder, inside):
        return read_tree
    if any((folder / file).is_file() for file in LFW_PAIRS):
        for child in _children(folder, inside):
            if _identity_folders(child, inside):
                return partial(read_tree, folder=child.name)
    return None


def _fits(folder: Path, layout: Layout) -> bool:
    wanted = [layout.train, layout.known] if layout.known else [layout.train]
    return all(any((folder / path).is_dir() for path in paths) for paths in wanted)


def _identity_folders(folder: Path, inside: Path) -> bool:
    """Whether at least two folders here hold images directly, as folders of people do."""
    people = filter(_holds_images, _children(folder, inside))
    return next(people, None) is not None and next(people, None) is not None


def _holds_images(folder: Path) -> bool:
    if folder.name in NO_IDENTITY:
        return False
    with _entries(folder) as entries:
        return any(is_image_name(entry.name) or entry.name == bundles.NAME for entry in entries)


def _folders(folder: Path) -> Iterator[Path]:
    with _entries(folder) as entries:
        names = sorted(
            entry.name
            for entry in filter(leads_somewhere, entries)
            if entry.name[0] != "." and entry.name != "__MACOSX" and entry.is_dir()
        )
    return (folder / name for name in names)


@contextmanager
def _entries(folder: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
    try:
        with os.scandir(folder) as entries:
            yield entries
    except OSError as error:
        raise DataError(f"{folder}: not readable: {error.strerror}") from error


def _children(folder: Path, inside: Path, links: list[str] | None = None) -> Iterator[Path]:
    """Give the folders below; links that leave the root, `inside`, are noted, not followed."""
    for child in _folders(folder):
        if not child.is_symlink() or child.resolve().is_relative_to(inside):
            yield child
        elif links is not None:
            links.append(str(child))


def _not_recognised(root: Path, name: str, links: list[str]) -> DataError:
    looked_for = [
        " and ".join(f"{paths[0]}/" for paths in (layout.train, layout.known) if paths)
        + f" ({layout.name})"
        for layout in LAYOUTS
    ]
    looked_for += [f"{RELATIONS_FILE} (rfiw)", f"{MANIFEST_FILE} (csv)"]
    looked_for += ["<identity>/*.jpg (tree)", "pairs.txt (lfw)"]
    wanted = [text for text in looked_for if name == "auto" or text.endswith(f"({name})")]
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in root.iterdir())
    there = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    lines = [
        f"{root}: no data set found here or up to {_DEPTH} folders below",
        f"looked for: {', '.join(wanted)}",
        f"found: {there or 'nothing, the folder is empty'}",
        *(f"{link} leads out of {root}: give data.root={link}" for link in links[:1]),
        f"`facever data inspect {root}` tells more; `facever data synth DIR` makes an example",
    ]
    return DataError("\n  ".join(lines))
