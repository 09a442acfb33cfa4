"""Valid files with a few things wrong, and odd values that the grammars allow."""

import struct
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")

# What a mutation gets: the file, a place in it, a length, an odd word, another valid file.
Mutation = Callable[[bytes, int, int, bytes, bytes], bytes]

NUMBERS = (b"-1", b"-0", b"0", b"1", b"2", b"nan", b"-inf", b"1e999", b"1e-400", b"1_0", b"0x10",
           b"007", b"9" * 20, b"9" * 5000, "\u0663".encode(), "\u00b2".encode())  # fmt: skip
MARKS = (b'"', b"'", b'""', b"\0", b"\r", b"\n", b"\r\n", b"\t", b",", b";", b" ", b"\\", b"#",
         b"\xff", b"\xed\xa0\x80", b"\xc3", b"\xef\xbb\xbf", b"\xff\xfe", b"\x1a", b"\x85",
         *(text.encode() for text in ("\u00a0", "\u2028", "\u202e", "\U0001f600")))  # fmt: skip
PATHS = (b"../", b"..", b"/etc/passwd", b"/etc", b"~/.ssh", b"C:\\x.png", b"./A.png", b"a/b/c.png",
         b"//A.png", b"outside.png", b"loop.png", b"a" * 300, b"x/" * 2000, b"")  # fmt: skip
WORDS = (b"True", b"NA", b"null", b"=1+1", b"@x", b"<script>", b"%s%n{0}", b"x" * 140_000)
TEXT = (*NUMBERS, *MARKS, *PATHS, *WORDS)

_LONGEST = 1 << 18  # bytes of a mutated file: enough for what has a limit, and soon read

# Sizes that overflow something: bytes, 16, 31, 32, 63 and 64 bits.
SIZES = tuple(
    struct.pack(order + letter, number)
    for order in "<>"
    for letter, numbers in {
        "H": (0, 1, 0x7FFF, 0xFFFF),
        "I": (0, 1, 3, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF),
        "Q": (0, 1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1),
    }.items()
    for number in numbers
)


def _flip(data: bytes, at: int, length: int, word: bytes, other: bytes) -> bytes:
    return data[:at] + bytes(b ^ 1 << length % 8 for b in data[at : at + 1]) + data[at + 1 :]


def _cut(data: bytes, at: int, length: int, word: bytes, other: bytes) -> bytes:
    return data[:at]


def _delete(data: bytes, at: int, length: int, word: bytes, other: bytes) -> bytes:
    return data[:at] + data[at + length :]


def _repeat(data: bytes, at: int, length: int, word: bytes, other: bytes) -> bytes:
    return data[:at] + data[at : at + length] * (2 + length % 30) + data[at + length :]


def _insert(data: bytes, at: int, length: int, word: bytes, other: bytes) -> bytes:
    return data[:at] + word + data[at:]


def _overwrite(data: bytes, at: int, length: int, word: bytes, other: bytes) -> bytes:
    return data[:at] + word + data[at + len(word) :]


def _splice(data: bytes, at: int, length: int, word: bytes, other: bytes) -> bytes:
    return data[:at] + other[at % (len(other) + 1) :]


BYTES: tuple[Mutation, ...] = (_flip, _cut, _delete, _repeat, _insert, _overwrite, _splice)


def _lines(change: Callable[[list[bytes], int, bytes], list[bytes]]) -> Mutation:
    """Make a mutation out of a change of the lines, one of which is chosen."""

    def mutation(data: bytes, at: int, length: int, word: bytes, other: bytes) -> bytes:
        return b"\n".join(change(data.split(b"\n"), data.count(b"\n", 0, at), word))

    return mutation


def _columns(change: Callable[[list[bytes], int, bytes], list[bytes]]) -> Mutation:
    """Make a mutation out of a change of every line's fields, at one chosen column."""

    def mutation(data: bytes, at: int, length: int, word: bytes, other: bytes) -> bytes:
        separator = max(b" ,;\t", key=data.count)
        mark = bytes([separator])
        rows = (line.split(mark) for line in data.split(b"\n"))
        return b"\n".join(mark.join(change(row, length % len(row), word)) for row in rows)

    return mutation


def _whole(change: Callable[[bytes, bytes], bytes]) -> Mutation:
    def mutation(data: bytes, at: int, length: int, word: bytes, other: bytes) -> bytes:
        return change(data, word)

    return mutation


def _recoded(encoding: str) -> Mutation:
    return _whole(lambda data, _: data.decode("utf-8", "replace").encode(encoding, "replace"))


TEXTUAL: tuple[Mutation, ...] = (
    *BYTES,
    _lines(lambda lines, i, _: lines[:i] + lines[i + 1 :]),
    _lines(lambda lines, i, _: lines[:i] + [lines[i]] * 2 + lines[i + 1 :]),
    _lines(lambda lines, i, _: lines[i:] + lines[:i]),
    _lines(lambda lines, i, word: [*lines[:i], word, *lines[i + 1 :]]),
    _lines(lambda lines, i, word: [*lines[:i], lines[i] + b"," + word, *lines[i + 1 :]]),
    _columns(lambda row, i, _: row[:i] + row[i + 1 :]),
    _columns(lambda row, i, _: row[:i] + [row[i]] * 2 + row[i + 1 :]),
    _columns(lambda row, i, word: [*row[:i], word, *row[i + 1 :]]),
    _columns(lambda row, i, _: [b'"' + field + b'"' for field in row]),
    _whole(lambda data, word: data.replace(b",", word[:1] or b" ")),
    _whole(lambda data, word: data.replace(b" ", word[:1] or b",")),
    _whole(lambda data, _: data.replace(b"\n", b"\r\n")),
    _whole(lambda data, _: b"\xef\xbb\xbf" + data),
    _whole(lambda data, word: data + word * 50),
    _recoded("utf-16"),
    _recoded("utf-16-be"),
    _recoded("latin-1"),
)


def mutated(
    files: Sequence[bytes],
    words: Sequence[bytes] = TEXT,
    mutations: Sequence[Mutation] = TEXTUAL,
) -> st.SearchStrategy[bytes]:
    """One of the valid `files` after at most four mutations.

    All of a case is drawn as one string of bytes, six for each mutation: a draw for each choice
    would cost more than the reading.
    """

    def made(code: bytes) -> bytes:
        data = files[code[0] % len(files)]
        for i in range(1, len(code) - 5, 6):
            kind, odd, place, length, wide, other = code[i : i + 6]
            change = mutations[kind % len(mutations)]
            # Places are drawn all over the file and, half of the time, among its first bytes.
            at = place if wide % 2 else place * len(data) >> 8
            word = words[odd % len(words)]
            data = change(data, min(at, len(data)), length % 64, word, files[other % len(files)])
            data = data[:_LONGEST]
        return data

    return st.binary(min_size=1, max_size=25).map(made)


def chunks(size: int, most: int) -> st.SearchStrategy[list[bytes]]:
    """At most so many groups of bytes, each of which chooses something; see `mutated`."""
    return st.binary(max_size=size * most).map(
        lambda code: [code[i : i + size] for i in range(0, len(code) - size + 1, size)]
    )


def picked(choices: Sequence[T], code: int) -> T:
    """The choice that a byte stands for."""
    return choices[code % len(choices)]


# What a field of JSON, YAML or a checkpoint can hold that nobody expects there.
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 10**9, 2**63, 10**400, 0.0, -0.0, 1e308, float("inf"), float("nan"),
    "", "x", "\0", "\ud800", "\udcff", "/etc/passwd", "../..", "<script>", "1e5", "x" * 5000,
    [], [None], [1, "a"], [[[]]], {}, {"a": 1}, {"": None},
)  # fmt: skip
