"""Rows out of the text tables people have: labels, pairs, manifests.

Space, tab, comma or semicolon; quotes or none; UTF-8 with or without BOM; LF or CRLF; blank
lines anywhere. Every field stays a string: pandas would turn the identities `NA`, `0001`,
`1e5` and `True` into something else.
"""

import csv
import hashlib
import io
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from facever.data.images import is_image_name
from facever.errors import DataError

_MATED = {"0": 0, "1": 1, "true": 1, "false": 0, "-1": 0}
_SAMPLE_LINES = 100
_DIGITS = 9


@dataclass(frozen=True)
class Table:
    """Non-blank rows of a file with the line each begins on (from 1)."""

    name: str
    rows: list[list[str]]
    lines: list[int]
    sha256: str
    header: tuple[str, ...] | None = None

    def error(self, row: int, problem: str, expected: str) -> DataError:
        """Build the error that points at a row."""
        return DataError(f"{self.name}, line {self.lines[row]}: {problem}\n  expected {expected}")

    def split_header(self, words: Collection[str]) -> "Table":
        """Set the first row apart where it is a header, known by `words` or by its looks.

        No field of a header is called like an image; and one of them is among `words`, or
        the row below names an image.
        """
        first = tuple(field.strip().casefold() for field in self.rows[0])
        below = self.rows[1] if len(self.rows) > 1 else []
        named = any(map(is_image_name, first))
        if named or not (set(first) & set(words) or any(map(is_image_name, below))):
            return self
        return Table(self.name, self.rows[1:], self.lines[1:], self.sha256, first)

    def check_width(self, expected: str) -> None:
        """Refuse a row with more or fewer columns than the header or the first row.

        Raises:
            DataError: with the line number; `expected` describes the columns.
        """
        width = len(self.header or self.rows[0])
        for i, row in enumerate(self.rows):
            if len(row) != width:
                raise self.error(i, f"{len(row)} columns, the rows above have {width}", expected)

    def columns(self, aliases: Mapping[str, Collection[str]]) -> dict[str, int]:
        """Find columns by header: key -> position, for the keys that one of their names has."""
        header = self.header or ()
        return {
            key: next(i for i, title in enumerate(header) if title in names)
            for key, names in aliases.items()
            if any(title in names for title in header)
        }

    def other_columns(self, known: Collection[int]) -> dict[str, tuple[str, ...]]:
        """Give the columns that the header names and nobody knows: name -> fields."""
        return {
            title: tuple(row[i] for row in self.rows)
            for i, title in enumerate(self.header or ())
            if title and i not in known
        }


def read_table(path: Path, name: str | None = None) -> Table:
    """Read a table without knowing its dialect; `name` is what errors call the file.

    Raises:
        DataError: the file is absent, empty, not UTF-8, or its quotes do not close.
    """
    name = name or path.name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: not readable: {error.strerror}") from error
    text = _text(data, name)
    separator = _separator(text)
    rows_of = _delimited(text, separator, name) if separator else _blank_separated(text, name)
    numbered = list(rows_of)
    if not numbered:
        raise DataError(f"{name}: empty file\n  expected one row per image or pair")
    lines, rows = zip(*numbered, strict=True)
    return Table(name, list(rows), list(lines), hashlib.sha256(data).hexdigest())


def _text(data: bytes, name: str) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        bad = data[error.start : error.start + 1].hex()
        raise DataError(
            f"{name}, line {line}: byte 0x{bad} is not UTF-8\n  save it as UTF-8"
        ) from error


def _separator(text: str) -> str | None:
    """Tab, semicolon or comma where most of the first lines have it; None for blanks."""
    stream = io.StringIO(text)
    sample = [line for line in (stream.readline() for _ in range(_SAMPLE_LINES)) if line.strip()]
    for separator in "\t;,":
        if sample and 2 * sum(separator in line for line in sample) > len(sample):
            return separator
    return None


def _delimited(text: str, separator: str, name: str) -> Iterator[tuple[int, list[str]]]:
    # newline="" leaves a line end inside quotes as it is: it may be part of a file name.
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    quoted = '"' in text
    line = 1
    try:
        for row in reader:
            if any(row):
                yield line, row if quoted else [field.strip() for field in row]
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{name}, line {line}: {error}\n  expected quotes that close") from error


def _quoted(line: str, name: str, number: int) -> list[str]:
    try:
        fields = next(csv.reader([line.strip()], delimiter=" ", skipinitialspace=True))
    except csv.Error as error:
        raise DataError(f"{name}, line {number}: {error}\n  expected quotes that close") from error
    return [field for field in fields if field]


def _blank_separated(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(io.StringIO(text), 1):
        if '"' in line:
            row = _quoted(line, name, number)
        elif line.isascii():
            row = line.split()
        else:
            # split() would also cut file names at non-breaking spaces.
            row = [field for field in re.split(r"[ \t\r\n]", line) if field]
        if row:
            yield number, row


def mated_column(table: Table, column: int) -> list[int]:
    """Turn labels into 1 for the same person and 0 for two people.

    -1 stands for two people where the file has no 0; beside 0 it means nothing that could be known.

    Raises:
        DataError: another label, with its line.
    """
    written = [row[column].strip().casefold() for row in table.rows]
    allowed = _MATED.keys() - ({"-1"} if "0" in written else set())
    for i, label in enumerate(written):
        if label not in allowed:
            raise table.error(
                i,
                f"label {table.rows[i][column]!r}",
                "1 or True for the same person; 0, False or -1 for two people",
            )
    return [_MATED[label] for label in written]


def fold_column(table: Table, column: int) -> list[int]:
    """Turn a column into numbers of folds.

    Raises:
        DataError: a field is no whole number from 0, with its line.
    """
    written = [row[column].strip() for row in table.rows]
    for i, text in enumerate(written):
        if not is_whole(text):
            raise table.error(i, f"fold {text[:30]!r}", "a whole number from 0")
    return [int(text) for text in written]


def visible(name: str) -> str:
    """A name for a message: quoted and escaped where it holds what nobody could see."""
    return name if name.isprintable() else repr(name)


def is_whole(text: str) -> bool:
    """Whether a field is a whole number from 0, of so few digits that it counts something."""
    return text.isdecimal() and len(text) <= _DIGITS
