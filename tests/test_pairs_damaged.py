"""Each competition's pair files, damaged in ten ways: read rightly, or refused with the line."""

import codecs
from pathlib import Path

import pytest
from data_helpers import save_image

from facever.data.files import Finder, Source
from facever.data.lists import PairList
from facever.data.pairfiles import load_pairs
from facever.errors import DataError

NAMES = ("A.png", "B.png", "C.png", "D.png")
PAIRS = (("A.png", "B.png", 1), ("A.png", "C.png", 0), ("C.png", "D.png", 1), ("B.png", "D.png", 0))


def lines(template, header=""):
    rows = [template.format(left=left, right=right, mated=mated) for left, right, mated in PAIRS]
    return [*([header] if header else []), *rows]


# Dialect -> (file name, its lines, separator).
DIALECTS = {
    "S25": ("val_pairs.txt", lines("{left} {right} {mated}"), " "),
    "F24": ("val_pairs.csv", lines("{left},{right},{mated}", "left,right,mated"), ","),
    "F20": ("verification_pairs_val.txt", lines("ver/{left} ver/{right} {mated}"), " "),
    "S22": ("verification_dev.csv", lines("ver/{left},ver/{right},{mated}", "img1,img2,gt"), ","),
    "S19": ("trials_test_new.txt", lines("{left} {right}"), " "),
    "RFIW": ("sample_submission.csv", lines("{left}-{right},0", "img_pair,is_related"), ","),
    "tabs": ("val_pairs.txt", lines("{left}\t{right}\t{mated}"), "\t"),
    "semicolons": ("val_pairs.csv", lines("{left};{right};{mated}", "left;right;mated"), ";"),
}
UNLABELLED = ("S19", "RFIW")
LAST = -1  # the row that is damaged, so that the lines above give the file its form


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("damaged")
    for i, name in enumerate(NAMES):
        save_image(root / "ver" / name, i)
    return root


def read(folder: Path, name: str, content: str | bytes) -> PairList:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_pairs(file, Finder(Source(folder), "ver"), name)


def expected(dialect, rows=PAIRS):
    labels = [-1 if dialect == "S19" else 0 if dialect == "RFIW" else row[2] for row in rows]
    return [(left, right, label) for (left, right, _), label in zip(rows, labels, strict=True)]


def content_of(pairs: PairList):
    paths = [path.removeprefix("ver/") for path in pairs.images]
    sides = zip(pairs.left, pairs.right, pairs.mated.tolist(), strict=True)
    return [(paths[left], paths[right], mated) for left, right, mated in sides]


def refused(folder, dialect, rows, line, words):
    name = DIALECTS[dialect][0]
    with pytest.raises(DataError, match=words) as caught:
        read(folder, name, "\n".join(rows) + "\n")
    assert name in str(caught.value)
    assert line is None or f"line {line}" in str(caught.value)


def changed(dialect, change):
    """Lines of a dialect with its last row changed, and the number of that line."""
    rows = [*DIALECTS[dialect][1]]
    rows[LAST] = change(rows[LAST], DIALECTS[dialect][2])
    return rows, len(rows)


all_dialects = pytest.mark.parametrize("dialect", DIALECTS)


@all_dialects
def test_a_whole_file_is_read(folder, dialect):
    name, rows, _ = DIALECTS[dialect]
    assert content_of(read(folder, name, "\n".join(rows))) == expected(dialect)


@all_dialects
def test_a_column_too_many(folder, dialect):
    rows, line = changed(dialect, lambda row, separator: row + separator + "x")
    refused(folder, dialect, rows, line, "columns, the rows above have")


@all_dialects
def test_a_column_too_few(folder, dialect):
    rows, line = changed(dialect, lambda row, separator: row.rpartition(separator)[0])
    refused(folder, dialect, rows, line, "columns, the rows above have")


@all_dialects
def test_an_empty_file_and_one_of_a_header(folder, dialect):
    refused(folder, dialect, [], None, "empty file")
    if dialect in ("F24", "S22", "RFIW", "semicolons"):
        refused(folder, dialect, DIALECTS[dialect][1][:1], None, "a header and no pairs")


@all_dialects
def test_an_image_that_is_not_there(folder, dialect):
    rows, line = changed(dialect, lambda row, _: row.replace("D.png", "Z.png"))
    refused(folder, dialect, rows, line, r"1 of 4 pairs name images .*\n  first: .*Z\.png")


@all_dialects
def test_a_label_that_is_none(folder, dialect):
    if dialect == "S19":
        return
    rows, line = changed(dialect, lambda row, _: row[:-1] + "2")
    refused(folder, dialect, rows, line, "label '2'")


@all_dialects
def test_another_separator_in_one_row(folder, dialect):
    other = ";" if DIALECTS[dialect][2] != ";" else ","
    rows, line = changed(dialect, lambda row, separator: row.replace(separator, other))
    refused(folder, dialect, rows, line, "1 columns, the rows above have")


@all_dialects
def test_quotes_around_names_are_taken_off_and_an_open_one_is_refused(folder, dialect):
    name, rows, separator = DIALECTS[dialect]
    header = len(rows) - len(PAIRS)
    quoted = [separator.join(f'"{field}"' for field in row.split(separator)) for row in rows]
    assert content_of(read(folder, name, "\n".join(quoted))) == expected(dialect)
    rows, line = changed(dialect, lambda row, _: f'"{row}')
    refused(folder, dialect, rows, line, "columns|quotes that close")
    assert header in (0, 1)


@all_dialects
def test_a_bom_is_read_at_the_beginning_and_refused_in_the_middle(folder, dialect):
    name, rows, _ = DIALECTS[dialect]
    content = codecs.BOM_UTF8 + "\n".join(rows).encode()
    assert content_of(read(folder, name, content)) == expected(dialect)
    rows, line = changed(dialect, lambda row, _: "\ufeff" + row)
    refused(folder, dialect, rows, line, r"first: '\\ufeff")


@all_dialects
def test_a_null_byte(folder, dialect):
    rows, line = changed(dialect, lambda row, _: row.replace("D.png", "D.p\0ng"))
    refused(folder, dialect, rows, line, r"first: '.*\\x00")


@all_dialects
def test_rows_that_repeat_are_kept_and_counted(folder, dialect):
    name, rows, _ = DIALECTS[dialect]
    pairs = read(folder, name, "\n".join([*rows, rows[LAST]]))
    assert content_of(pairs) == expected(dialect, [*PAIRS, PAIRS[LAST]])
    assert pairs.repeated() == (1, 0)


@all_dialects
def test_a_pair_of_an_image_with_itself_is_a_pair(folder, dialect):
    name, rows, _ = DIALECTS[dialect]
    rows, _ = changed(dialect, lambda row, _: row.replace("D.png", "B.png"))
    found = content_of(read(folder, name, "\n".join(rows)))
    assert found[LAST][:2] == ("B.png", "B.png")


@all_dialects
def test_a_path_that_leads_out_of_the_folder(folder, dialect):
    rows, line = changed(dialect, lambda row, _: row.replace("D.png", "../../etc/passwd"))
    refused(folder, dialect, rows, line, r"with '\.\.'")


@all_dialects
def test_carriage_returns_and_blank_lines_change_nothing(folder, dialect):
    name, rows, _ = DIALECTS[dialect]
    content = "\r\n".join([rows[0], "", *rows[1:], "", "  "])
    assert content_of(read(folder, name, content)) == expected(dialect)
