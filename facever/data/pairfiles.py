"""Pair files of every dialect -> `PairList`.

Two names and perhaps a label: `left right [0|1]`, with or without header, and LFW's own form
(`Name 1 4`, `Name 1 Other 2`).
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from facever.data.files import Finder, Problem, Source
from facever.data.images import SUFFIXES
from facever.data.lists import PairList
from facever.data.tables import (
    Table,
    fold_column,
    is_whole,
    mated_column,
    read_table,
    visible,
)
from facever.errors import DataError

COLUMNS = {
    "left": ("left", "img1", "image1", "file1", "path1", "imga", "image_1", "probe"),
    "right": ("right", "img2", "image2", "file2", "path2", "imgb", "image_2", "reference"),
    "mated": ("mated", "gt", "label", "same", "is_same", "issame", "is_related", "match"),
    "fold": ("fold",),
}
_DASHED = {"pair": ("img_pair",)}
_WORDS = frozenset(word for words in COLUMNS.values() for word in words)
_EXPECTED = "left, right and perhaps a label (0 or 1); quote names that hold blanks"


@dataclass(frozen=True)
class _Row:
    """A pair as written: both names, truth (-1 unknown), fold (-1 none), line in the file."""

    left: str
    right: str
    mated: int
    fold: int
    line: int


def read_pairs(file: str | os.PathLike[str], image_dir: str | os.PathLike[str]) -> PairList:
    """Read a pair file whose names are relative to `image_dir`, in any dialect.

    Raises:
        DataError: a row is not a pair (with its line), a label is not 0, 1, True, False or
            -1, a path leaves `image_dir`, or images are absent (count and first example).
    """
    source = Source(Path(image_dir))
    if not source.root.is_dir():
        raise DataError(f"{image_dir}: no such folder\n  expected the images of {file}")
    return load_pairs(Path(file), Finder(source, ""))


def load_pairs(file: Path, finder: Finder, name: str | None = None) -> PairList:
    """Read a pair file; `PairList.root` is the root of the finder's source.

    Pairs whose images are absent are reported to the source, and left out where it goes on.
    """
    table = read_table(file, name)
    rows = _lfw_rows(table, finder) if _is_lfw(table) else _plain_rows(table, finder)
    for row in rows:
        for side in (row.left, row.right):
            problem = finder.problem(side)
            if problem:
                raise DataError(
                    f"{table.name}, line {row.line}: {problem}\n"
                    f"  expected paths relative to {finder.shown} that stay inside it"
                )
    found, paths = _locate(rows, finder, table.name)
    return PairList.build(
        finder.source.root,
        paths,
        [row.mated for row in found],
        fold=[row.fold for row in found],
        rows=[(row.left, row.right) for row in found],
        source=file,
        sha256=table.sha256,
        columns=_further_columns(table, found),
    )


def _locate(
    rows: Sequence[_Row], finder: Finder, name: str
) -> tuple[list[_Row], list[tuple[str, str]]]:
    found: list[_Row] = []
    paths: list[tuple[str, str]] = []
    absent: list[tuple[str, int]] = []
    for row in rows:
        left, right = finder(row.left), finder(row.right)
        if left is None or right is None:
            absent.append((row.left if left is None else row.right, row.line))
        else:
            found.append(row)
            paths.append((left, right))
    if absent:
        first, line = absent[0]
        finder.source.report(
            Problem(
                f"{name}: {len(absent)} of {len(rows)} pairs name images that are not in "
                f"{finder.shown}\n  first: {visible(first)} (line {line})\n"
                f"  expected paths relative to {finder.shown}; "
                "`facever data inspect` lists them all",
                tuple(image for image, _ in absent),
            )
        )
    return found, paths


def _plain_rows(table: Table, finder: Finder) -> list[_Row]:
    table = _undashed(table.split_header(_WORDS | {"img_pair"}), finder)
    if not table.rows:
        raise DataError(f"{table.name}: a header and no pairs\n  expected {_EXPECTED}")
    table.check_width(_EXPECTED)
    columns = _columns(table)
    mated = mated_column(table, columns["mated"]) if "mated" in columns else [-1] * len(table.rows)
    folds = fold_column(table, columns["fold"]) if "fold" in columns else [-1] * len(table.rows)
    left, right = columns["left"], columns["right"]
    return [
        _Row(row[left], row[right], mated[i], folds[i], table.lines[i])
        for i, row in enumerate(table.rows)
    ]


def _further_columns(table: Table, rows: Sequence[_Row]) -> dict[str, list[str]]:
    """Give the columns that only the header explains, such as an age gap, for these rows."""
    table = table.split_header(_WORDS)
    named = table.columns(COLUMNS)
    if not {"left", "right"} <= named.keys():
        return {}
    place = {line: i for i, line in enumerate(table.lines)}
    others = table.other_columns(named.values())
    return {name: [fields[place[row.line]] for row in rows] for name, fields in others.items()}


def _undashed(table: Table, finder: Finder) -> Table:
    """Take `a-b` in a column `img_pair` apart, where there is one."""
    column = table.columns(_DASHED).get("pair")
    if column is None or table.header is None:
        return table
    table.check_width("as many as the header names")

    def apart(fields: Sequence[str], left: str, right: str) -> list[str]:
        return [left, right, *fields[:column], *fields[column + 1 :]]

    rows = [apart(row, *_halves(table, i, row[column], finder)) for i, row in enumerate(table.rows)]
    return replace(table, rows=rows, header=tuple(apart(table.header, "left", "right")))


def _halves(table: Table, row: int, pair: str, finder: Finder) -> tuple[str, str]:
    """Cut at the dash between two images; names may hold dashes themselves."""
    cuts = [(pair[:i], pair[i + 1 :]) for i, letter in enumerate(pair) if letter == "-"]
    there = [cut for cut in cuts if all(not finder.problem(side) and finder(side) for side in cut)]
    if not cuts:
        raise table.error(row, f"pair {pair!r}", "two names with a dash between them")
    return there[0] if there else cuts[len(cuts) // 2]


def _columns(table: Table) -> dict[str, int]:
    named = table.columns(COLUMNS)
    if "left" in named and "right" in named:
        return named
    width = len(table.rows[0])
    if width not in (2, 3):
        raise table.error(0, f"{width} columns", _EXPECTED)
    return {"left": 0, "right": 1} | ({"mated": 2} if width == 3 else {})


def _is_lfw(table: Table) -> bool:
    """LFW's files begin with counts: `N`, or the number of folds and N."""
    first = table.rows[0]
    return len(first) <= 2 and all(map(is_whole, first))


def _lfw_rows(table: Table, finder: Finder) -> list[_Row]:
    counts = [int(field) for field in table.rows[0]]
    folds, size = counts if len(counts) == 2 else (1, counts[0])
    total = folds * 2 * size
    if len(table.rows) - 1 != total or not total:
        raise table.error(
            0,
            f"{len(table.rows) - 1} pairs follow",
            f"{total or 'some'}: {folds} x ({size} mated + {size} non-mated), as this line says",
        )
    path_of = _lfw_paths(finder)
    rows = []
    for i, fields in enumerate(table.rows[1:]):
        mated = i % (2 * size) < size
        if len(fields) != (3 if mated else 4) or not _lfw_numbers(fields):
            raise table.error(
                i + 1,
                f"{len(fields)} columns",
                "`Name 1 4`, mated" if mated else "`Name 1 Other 2`, non-mated",
            )
        left = path_of(fields[0], int(fields[1]))
        right = path_of(fields[0] if mated else fields[2], int(fields[-1]))
        fold = i // (2 * size) if len(counts) == 2 else -1
        rows.append(_Row(left, right, int(mated), fold, table.lines[i + 1]))
    return rows


def _lfw_numbers(fields: Sequence[str]) -> bool:
    return is_whole(fields[1]) and is_whole(fields[-1])


def _lfw_paths(finder: Finder) -> Callable[[str, int], str]:
    """Name and number -> `Name/Name_0001.jpg`, or whatever image format the copy has."""
    suffixes = [".jpg", *sorted(SUFFIXES - {".jpg"})]

    def path_of(person: str, number: int) -> str:
        stem = f"{person}/{person}_{number:04d}"
        if finder.problem(stem):
            return stem
        return next((stem + s for s in suffixes if finder(stem + s)), stem + ".jpg")

    return path_of
