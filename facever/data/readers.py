"""Folder trees -> identities and paths, one row of a table per layout.

A layout says where its splits and pair files lie; how a split folder is read depends on what
is in it (`labels.txt`, folders per identity, or images alone), not on the layout.
"""

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from facever.data.files import Finder, Problem, Source
from facever.data.lists import OpenSet, PairList
from facever.data.openset import read_open_set
from facever.data.pairfiles import load_pairs
from facever.data.tables import Table, read_table, visible
from facever.errors import DataError

# (identity, path relative to the root); the identity "" is unknown.
Labelled = list[tuple[str, str]]

_VAL_STEMS = ("val_pairs", "val_pair", "dev_pairs")
_TEST_STEMS = ("test_pairs", "test_pair")


def _files(folders: Sequence[str], stems: Sequence[str]) -> tuple[str, ...]:
    endings = (".txt", ".csv")
    return tuple(posixpath.join(f, s + e) for f, s, e in product(folders, stems, endings))


@dataclass(frozen=True)
class Layout:
    """Where things lie below the root, each as candidates of which the first present counts."""

    name: str
    terms: tuple[str, ...]
    train: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]
    val_images: tuple[str, ...]
    test_images: tuple[str, ...]
    val_pairs: tuple[str, ...]
    test_pairs: tuple[str, ...]
    known: tuple[str, ...] = ()  # people to identify; one must be there if any is named


# As the course's archives of F22 to S24 unpack, some of them into a folder more.
_ARCHIVES = tuple(f"11-785-{term}-hw2p2" for term in ("f22", "s23", "f23", "s24"))
_F22 = {
    kind: (
        "",
        f"{kind}/",
        *(f"{a}-{kind}/{below}" for a in _ARCHIVES for below in ("", f"{kind}/")),
    )
    for kind in ("classification", "verification")
}

LAYOUTS = (
    Layout(
        "hw2p2",
        terms=("f24", "s25", "f25", "s26", "f26"),
        train=("cls_data/train",),
        dev=("cls_data/dev", "cls_data/val"),
        test=("cls_data/test",),
        val_images=("ver_data",),
        test_images=("ver_data",),
        val_pairs=_files(("", "ver_data"), _VAL_STEMS),
        test_pairs=_files(("", "ver_data"), _TEST_STEMS),
    ),
    Layout(
        "f20",
        terms=("s20", "s21", "f21"),
        train=("train_data", "classification_data/train_data"),
        dev=("val_data", "classification_data/val_data"),
        test=("test_data", "classification_data/test_data"),
        val_images=("verification_data",),
        test_images=("verification_data",),
        val_pairs=_files(("",), ("verification_pairs_val",)),
        test_pairs=_files(("",), ("verification_pairs_test",)),
    ),
    Layout(
        "f22",
        terms=("s23", "f23", "s24"),
        train=tuple(f"{folder}train" for folder in _F22["classification"]),
        dev=tuple(f"{folder}dev" for folder in _F22["classification"]),
        test=tuple(f"{folder}test" for folder in _F22["classification"]),
        val_images=(),
        test_images=(),
        val_pairs=(),
        test_pairs=(),
        known=tuple(f"{folder}known" for folder in _F22["verification"]),
    ),
    Layout(
        "s22",
        terms=(),
        train=("classification/train", "classification/classification/train"),
        dev=("classification/dev", "classification/classification/dev"),
        test=("classification/test", "classification/classification/test"),
        val_images=("verification/dev", "verification/verification/dev"),
        test_images=("verification/test", "verification/verification/test"),
        val_pairs=_files(("", "verification", "verification/verification"), ("verification_dev",)),
        test_pairs=_files(
            ("", "verification", "verification/verification"), ("verification_test",)
        ),
    ),
    Layout(
        "folders",
        terms=("s19",),
        train=("train",),
        dev=("dev", "val", "valid", "validation"),
        test=("test",),
        val_images=("ver_data", "verification", "pairs", ""),
        test_images=("ver_data", "verification", "test_verification", "pairs", ""),
        val_pairs=_files(("", "ver_data", "verification"), _VAL_STEMS),
        test_pairs=_files(("", "ver_data", "verification"), (*_TEST_STEMS, "trials_test_new")),
    ),
)
LFW_PAIRS = ("pairs.txt", "pairsDevTest.txt", "pairsDevTrain.txt")
_SAMPLES = _files(("", "ver_data"), ("verification_sample_submission", "sample_submission"))
_TREE_VAL_PAIRS = (*_files(("",), _VAL_STEMS), *LFW_PAIRS)
_TREE_TEST_PAIRS = _files(("",), (*_TEST_STEMS, "trials_test_new"))
MANIFEST_FILE = "manifest.csv"

# Folders of images that are not one person each.
NO_IDENTITY = frozenset(
    ("images", "ver_data", "verification_data", "known", "unknown_dev", "unknown_test")
)
_LABEL_COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "image", "img", "name"),
    "identity": ("identity", "label", "class", "person", "subject"),
    "split": ("split",),
}
_LABEL_WORDS = frozenset(word for words in _LABEL_COLUMNS.values() for word in words)
_SPLITS = {"train": "train", "dev": "dev", "val": "dev", "test": "test"}


@dataclass
class Found:
    """What a reader found, before identities are numbered."""

    layout: str
    splits: dict[str, Labelled] = field(default_factory=dict)
    val_pairs: PairList | None = None
    test_pairs: PairList | None = None
    open_set: OpenSet | None = None
    sample: Path | None = None


def read_layout(source: Source, layout: Layout) -> Found:
    """Read the splits and pair files of a layout that is described by a table row."""
    found = Found(layout.name)
    for split, candidates in (
        ("train", layout.train),
        ("dev", layout.dev),
        ("test", layout.test),
    ):
        folder = source.first_folder(candidates)
        if folder is not None:
            found.splits[split] = _read_split(source, folder)
    found.val_pairs = _read_pairs(source, layout.val_pairs, layout.val_images)
    found.test_pairs = _read_pairs(source, layout.test_pairs, layout.test_images)
    known = source.first_folder(layout.known)
    found.open_set = None if known is None else read_open_set(source, known)
    sample = source.first_file(_SAMPLES)
    if sample is not None:
        found.sample = source.root / sample
        source.notes.append(f"{sample}: a sample submission, `submit` can take its columns")
    return found


def read_tree(source: Source, folder: str = "") -> Found:
    """Read `<identity>/*` below a folder, LFW among them.

    Identities that the pair files show are left out of training: EER is measured on people
    the encoder has not seen.
    """
    found = Found("tree")
    images = _read_identities(source, folder)
    found.val_pairs = _read_pairs(source, _TREE_VAL_PAIRS, ("ver_data", folder))
    found.test_pairs = _read_pairs(source, _TREE_TEST_PAIRS, ("ver_data", folder))
    lfw = [file for file in LFW_PAIRS if source.has_file(file)]
    if lfw:
        found.layout = "lfw"
        unused = [f for f in lfw if found.val_pairs and f != _name(found.val_pairs)]
        if unused:
            source.notes.append(f"{', '.join(unused)}: not used; evaluate with --pairs")
    shown = {identity for identity, _ in images} & {
        posixpath.basename(posixpath.dirname(path))
        for pairs in (found.val_pairs, found.test_pairs)
        for path in (pairs.images if pairs else ())
    }
    if shown:
        kept = [(identity, path) for identity, path in images if identity not in shown]
        source.notes.append(
            f"{len(images) - len(kept):,} images of {len(shown):,} identities in the pair files "
            "are left out of training"
        )
        images = kept
    found.splits["train"] = images
    return found


def read_csv(source: Source, file: Path, *, explicit: bool) -> Found:
    """Read a manifest with the columns path, identity and, if it is there, split.

    `explicit` says that the user named the file itself: its paths may then be absolute.
    """
    found = Found("csv")
    if not explicit and not source.has_file(file.name):
        raise DataError(
            f"{file}: links out of the data folder to {os.path.realpath(file)}\n"
            "  expected the file itself; give data.root=... as the file that it links to"
        )
    table = read_table(file).split_header(_LABEL_WORDS)
    columns = table.columns(_LABEL_COLUMNS)
    expected = "a header with path, identity and perhaps split (train, dev, test)"
    if "path" not in columns or "identity" not in columns:
        raise DataError(f"{table.name}: columns {table.header}\n  expected {expected}")
    table.check_width(expected)
    finder = Finder(source, "", absolute=explicit)
    rows = _labelled_rows(table, columns["path"], columns["identity"], finder)
    for i, identity, path in rows:
        written = table.rows[i][columns["split"]].strip() if "split" in columns else "train"
        split = _SPLITS.get(written.casefold())
        if split is None:
            raise table.error(i, f"split {written!r}", "train, dev or test")
        if not identity and split != "test":
            raise table.error(i, "no identity", "one for every image of train and dev")
        found.splits.setdefault(split, []).append((identity, path))
    for attribute, stems in (("val_pairs", _VAL_STEMS), ("test_pairs", _TEST_STEMS)):
        candidate = source.first_file(_files(("",), stems))
        if candidate:
            setattr(found, attribute, load_pairs(source.root / candidate, finder, candidate))
    return found


def _name(pairs: PairList) -> str:
    return pairs.source.name if pairs.source else ""


def _read_pairs(
    source: Source, files: tuple[str, ...], folders: tuple[str, ...]
) -> PairList | None:
    file = source.first_file(files)
    if file is None:
        return None
    folder = source.first_folder(folders)
    if folder is None:
        raise DataError(
            f"{file}: there is no {folders[0]}/ with its images\n  looked in {source.root}"
        )
    return load_pairs(source.root / file, Finder(source, folder), file)


def _read_split(source: Source, folder: str) -> Labelled:
    labels = source.first_file(_files((folder,), ("labels",)))
    inner = posixpath.join(folder, "images")
    has_inner = "images" in source.listing(folder).folders
    if labels:
        return _read_labels(source, labels, inner if has_inner else folder)
    folders = [f for f in source.listing(folder).folders if f not in NO_IDENTITY]
    if folders:
        return _read_identities(source, folder)
    return [("", path) for path in source.images(inner if has_inner else folder)]


def _read_identities(source: Source, folder: str) -> Labelled:
    return [
        (identity, path)
        for identity in source.listing(folder).folders
        if identity not in NO_IDENTITY
        for path in source.images(posixpath.join(folder, identity))
    ]


def _read_labels(source: Source, file: str, folder: str) -> Labelled:
    """Read `file label` rows; every image of the folder must have one, and the reverse."""
    expected = "two columns, file and label; quote names that hold blanks"
    table = read_table(source.root / file, file).split_header(_LABEL_WORDS)
    if not table.rows:
        raise DataError(f"{file}: a header and no images\n  expected {expected}")
    table.check_width(expected)
    columns = table.columns(_LABEL_COLUMNS)
    if len(columns) < 2 and len(table.rows[0]) != 2:
        raise table.error(0, f"{len(table.rows[0])} columns", expected)
    name, identity = columns.get("path", 0), columns.get("identity", 1)
    rows = _labelled_rows(table, name, identity, Finder(source, folder))
    labelled = [(identity, path) for _, identity, path in rows]
    known = {path for _, path in labelled}
    unlabelled = tuple(sorted(set(source.images(folder)) - known))
    if unlabelled:
        total = len(known) + len(unlabelled)
        source.report(
            Problem(
                f"{file}: {len(unlabelled)} of {total} images have no label\n"
                f"  first: {posixpath.basename(unlabelled[0])} in {folder}/\n"
                "  expected a row for every image; `facever data inspect` lists them all",
                unlabelled,
            )
        )
    return labelled


def _labelled_rows(
    table: Table, name: int, identity: int, finder: Finder
) -> list[tuple[int, str, str]]:
    """Return (row, identity, path) of the images that exist, each once."""
    found: dict[str, tuple[int, str, str]] = {}
    absent: list[tuple[str, int]] = []
    for i, row in enumerate(table.rows):
        problem = finder.problem(row[name])
        if problem:
            raise table.error(i, problem, f"paths relative to {finder.shown} that stay inside it")
        path = finder(row[name])
        if path is None:
            absent.append((row[name], table.lines[i]))
        elif found.setdefault(path, (i, row[identity], path))[1] != row[identity]:
            first = table.lines[found[path][0]]
            raise table.error(
                i,
                f"{row[name]} is {row[identity]!r}, but {found[path][1]!r} in line {first}",
                "one identity per image",
            )
    if absent:
        first_name, line = absent[0]
        finder.source.report(
            Problem(
                f"{table.name}: {len(absent)} of {len(table.rows)} rows name images that are not "
                f"in {finder.shown}\n  first: {visible(first_name)} (line {line})\n  expected "
                f"paths relative to {finder.shown}; `facever data inspect` lists them all",
                tuple(image for image, _ in absent),
            )
        )
    return list(found.values())
