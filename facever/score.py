"""Embeddings x pairs -> cosine scores; ensembles; score files.

N images, D dimensions, P pairs. A score is a cosine in [-1, 1], higher is more alike.
"""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facever.data.lists import pair_people
from facever.data.tables import Table, fold_column, mated_column, read_table
from facever.errors import DataError
from facever.metrics import det_curve
from facever.storage import write_text

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PAIRS_AT_ONCE = 8192  # two gathered blocks of 512 dimensions in float64: 64 MB
# What a spreadsheet takes for a formula, and the apostrophe by which it is told not to.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "'")


def cosine_scores(
    embeddings: NDArray[Any],
    left: ArrayLike,
    right: ArrayLike,
    names: Sequence[str] | None = None,
) -> Floats:
    """Cosine of each pair, shape (P,), computed in float64.

    Args:
        embeddings: raw or of unit length; shape (N, D).
        left: row of each pair's left image; shape (P,).
        right: row of each pair's right image; shape (P,).
        names: of the N images, for the error message.

    Raises:
        DataError: an embedding is zero or not finite, and so has no direction.
    """
    lefts, rights = np.asarray(left), np.asarray(right)
    norms = row_norms(embeddings, names)
    scores = np.empty(lefts.size)
    for start in range(0, lefts.size, PAIRS_AT_ONCE):
        block = slice(start, start + PAIRS_AT_ONCE)
        a, b = lefts[block], rights[block]
        dots = np.einsum(
            "pd,pd->p", embeddings[a].astype(np.float64), embeddings[b].astype(np.float64)
        )
        scores[block] = dots / (norms[a] * norms[b])
    return np.clip(scores, -1.0, 1.0)


def row_norms(embeddings: NDArray[Any], names: Sequence[str] | None = None) -> Floats:
    """Length of each embedding (N, D), in float64, (N,).

    Raises:
        DataError: one is zero or not finite, and so has no direction; `names` are the images'.
    """
    norms = np.empty(len(embeddings))
    for start in range(0, len(embeddings), PAIRS_AT_ONCE):
        block = embeddings[start : start + PAIRS_AT_ONCE].astype(np.float64)
        norms[start : start + len(block)] = np.sqrt(np.einsum("nd,nd->n", block, block))
    bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if bad.size:
        first = int(bad[0])
        image = f"image {first}" if names is None else names[first]
        kind = "zero" if norms[first] == 0 else "not finite"
        raise DataError(
            f"{image}: its embedding is {kind} ({bad.size} of {len(norms)} images have none that "
            "can be compared)\n  expected finite vectors; is the checkpoint of a run that failed?"
        )
    return norms


def fuse(scorings: Sequence[ArrayLike], weights: Floats | None = None) -> Floats:
    """Score of an ensemble: the mean of its members' scores, shape (P,).

    Args:
        scorings: scores of each member; shape (P,).
        weights: of the members; None: all alike.

    Raises:
        DataError: there is no member, or they scored different numbers of pairs.
    """
    members = [np.asarray(scores, dtype=np.float64) for scores in scorings]
    shapes = {member.shape for member in members}
    if len(shapes) != 1:
        raise DataError(
            f"ensemble: members of shapes {sorted(shapes)}; "
            "expected at least one, all with scores of the same pairs"
        )
    return np.asarray(np.average(members, axis=0, weights=weights))


@dataclass(frozen=True, eq=False)
class Scores:
    """A labelled score file. Names and `folds` are None where it has no such columns.

    `columns` are the further ones, by name, as text.
    """

    left: tuple[str, ...] | None
    right: tuple[str, ...] | None
    scores: Floats
    mated: NDArray[np.bool_]
    folds: Ints | None
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def names(self) -> list[tuple[str, str]] | None:
        """Names of both images of each pair."""
        if self.left is None or self.right is None:
            return None
        return list(zip(self.left, self.right, strict=True))

    @property
    def people(self) -> tuple[Sequence[str], Sequence[str]] | None:
        """Who is on the left and on the right of each pair; None where that is not known."""
        if self.left is None or self.right is None:
            return None
        return pair_people(self.left, self.right, self.mated, self.columns)

    @property
    def units(self) -> tuple[ArrayLike | None, ArrayLike | None]:
        """What a bootstrap draws, of each side: people where they are known, else images."""
        return self.people or (self.left, self.right)


def read_scores(path: str | os.PathLike[str]) -> Scores:
    """Read a CSV with the columns `score` and `mated`, of any tool; further columns may be there.

    `mated` is 0/1, True/False or -1/1; `left`, `right` and `fold` are taken where they are.

    Raises:
        DataError: a column is missing, a score is not a finite number or a label not of these
            dialects (with the line), or the file is empty.
    """
    table = read_table(Path(path)).split_header(("score", "mated"))
    columns = table.columns({name: (name,) for name in ("score", "mated", "left", "right", "fold")})
    missing = [name for name in ("score", "mated") if name not in columns]
    if missing:
        found = ", ".join(table.header or table.rows[0])
        raise DataError(
            f"{table.name}: no column {' and no column '.join(missing)} in its header ({found})\n"
            "  expected a first line such as left,right,score,mated"
        )
    if not table.rows:
        raise DataError(f"{table.name}: a header and no scores\n  expected one row for each pair")
    table.check_width("as many as the header names")
    named = {"left", "right"} <= columns.keys()
    return Scores(
        left=_names(table, columns["left"]) if named else None,
        right=_names(table, columns["right"]) if named else None,
        scores=_numbers(table, columns["score"]),
        mated=np.array(mated_column(table, columns["mated"])) == 1,
        folds=np.array(fold_column(table, columns["fold"])) if "fold" in columns else None,
        columns=table.other_columns(columns.values()),
    )


def write_scores(
    path: str | os.PathLike[str],
    rows: Sequence[tuple[str, str]],
    scores: ArrayLike,
    *,
    mated: ArrayLike | None = None,
    folds: ArrayLike | None = None,
) -> Path:
    """Write `left,right,score[,mated][,fold]`; the file appears whole or not at all.

    A name that a spreadsheet would run as a formula gets an apostrophe in front, which
    `read_scores` takes off again. Scores are written with as many digits as tell them apart.

    Args:
        path: the CSV.
        rows: names of each pair's left and right image, `PairList.rows`; length N.
        scores: higher means more alike; shape (N,).
        mated: 1 same person, 0 two people; shape (N,).
        folds: of the protocol; shape (N,).

    Raises:
        StorageError: the file could not be written.
    """
    columns: dict[str, Sequence[object]] = {
        "left": [_inert(left) for left, _ in rows],
        "right": [_inert(right) for _, right in rows],
        "score": np.asarray(scores).tolist(),
    }
    if mated is not None:
        columns["mated"] = np.asarray(mated).astype(int).tolist()
    if folds is not None:
        columns["fold"] = np.asarray(folds).tolist()
    return write_text(path, csv_text(list(columns), list(zip(*columns.values(), strict=True))))


def write_det(path: str | os.PathLike[str], scores: ArrayLike, mated: ArrayLike) -> Path:
    """Write `fmr,fnmr,threshold` of every threshold, rising; the ROC is 1 - fnmr over fmr.

    Raises:
        DataError: as `metrics.det_curve`.
        StorageError: the file could not be written.
    """
    columns = [column.tolist() for column in det_curve(scores, mated)]
    rows = list(zip(*columns, strict=True))
    return write_text(path, csv_text(("fmr", "fnmr", "threshold"), rows))


def csv_text(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The table as CSV with LF line ends, every field as it is."""
    # Readers, ours included, take blanks at the ends of a field for padding unless it is quoted,
    # and csv leaves a lone CR bare.
    fragile = any(_is_fragile(field) for row in rows for field in row)
    text = io.StringIO(newline="")
    writer = csv.writer(
        text, lineterminator="\n", quoting=csv.QUOTE_ALL if fragile else csv.QUOTE_MINIMAL
    )
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _is_fragile(field: object) -> bool:
    return isinstance(field, str) and (field != field.strip() or "\r" in field)


def _names(table: Table, column: int) -> tuple[str, ...]:
    names = (row[column] for row in table.rows)
    return tuple(name[1:] if _is_escaped(name) else name for name in names)


def _is_escaped(name: str) -> bool:
    return name[:1] == "'" and name[1:].startswith(FORMULA_STARTS)


def _inert(name: str) -> str:
    return f"'{name}" if name.startswith(FORMULA_STARTS) else name


def _numbers(table: Table, column: int) -> Floats:
    numbers = np.empty(len(table.rows))
    for i, row in enumerate(table.rows):
        numbers[i] = parse_score(row[column])
    # The largest numbers of float64 have differences that are not finite.
    wrong = np.flatnonzero(~(np.abs(numbers) <= np.finfo(np.float32).max))
    if wrong.size:
        first = int(wrong[0])
        raise table.error(first, f"score {table.rows[first][column]!r}", "a finite number")
    return numbers


def parse_score(text: str) -> float:
    """The number that a field holds, NaN where it holds none."""
    try:
        # 1_0 is ten to Python alone.
        return float("nan" if "_" in text else text)
    except ValueError:
        return float("nan")
