"""A data folder of any known layout -> one `Manifest`."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facever.data.files import Report, Source, refuse
from facever.data.heldout import choose_identities, make_pairs
from facever.data.lists import ImageList, Manifest, PairList
from facever.data.pairfiles import read_pairs
from facever.data.readers import Found, Labelled, read_csv
from facever.data.search import find_layout, layout_names
from facever.errors import ConfigError, DataError

__all__ = ["ImageList", "Manifest", "PairList", "layout_names", "read_manifest", "read_pairs"]


def read_manifest(
    root: str | os.PathLike[str],
    *,
    layout: str = "auto",
    identities: int | None = None,
    seed: int = 0,
    report: Report = refuse,
) -> Manifest:
    """Find a data set at most three folders below `root` and read it.

    Identities are sorted as strings, images by (identity, file name): the same data gives
    the same labels and order in every layout. Where no labelled pair file is found, pairs are
    made by `seed` from dev images, else from identities held out of training.

    Args:
        root: a folder, or a CSV manifest with the columns path, identity and split.
        layout: `auto`, or one of `layout_names()`.
        identities: keep the first so many only; None keeps all.
        seed: of held-out identities and of pairs that are made.
        report: hears of contradictions between files; by default the first one stops.

    Raises:
        DataError: nothing is found, or files are damaged or contradict each other.
        ConfigError: `layout` is unknown or `identities` below 1.
    """
    if identities is not None and identities < 1:
        raise ConfigError(f"data.identities: {identities}; expected at least 1")
    path = Path(root)
    if path.is_file():
        source = Source(path.parent, report)
        found = read_csv(source, path, explicit=True)
    else:
        base, reader = find_layout(path, layout)
        source = Source(base, report)
        if base.resolve() != path.resolve():
            source.notes.append(f"found in {base.relative_to(path)}/")
        found = reader(source)
    return _assemble(source, found, identities, seed)


def _assemble(source: Source, found: Found, limit: int | None, seed: int) -> Manifest:
    train = found.splits.get("train", [])
    if not train and not found.val_pairs and not found.test_pairs:
        raise DataError(
            f"{source.root}: {found.layout} layout, but no training images in it\n"
            "  `facever data inspect` tells what there is; data.layout=NAME takes it for another"
        )
    if any(not identity for identity, _ in train):
        raise DataError(
            f"{source.root}: the training images have no labels\n"
            "  expected labels.txt beside images/, or a folder per identity"
        )
    dev, test = found.splits.get("dev"), found.splits.get("test")
    if found.layout == "folders" and dev is None and test and all(i for i, _ in test):
        dev, test = test, None
        source.notes.append("test/ serves as dev: there is no dev/ or val/")

    held_out: Labelled = []
    answered = found.open_set is not None and found.open_set.dev is not None
    if found.val_pairs is None and not _shows_someone_twice(dev) and not answered:
        chosen = choose_identities(Counter(identity for identity, _ in train), seed)
        held_out = [row for row in train if row[0] in chosen]
        train = [row for row in train if row[0] not in chosen]

    names = sorted({identity for identity, _ in train})[:limit]
    index = {identity: i for i, identity in enumerate(names)}
    manifest = Manifest(
        root=source.root,
        layout=found.layout,
        identities=tuple(names),
        train=_image_list(source, [row for row in train if row[0] in index], index),
        dev=_evaluated(source, "dev", dev, index, limit),
        test=_evaluated(source, "test", test, index, limit),
        val_pairs=found.val_pairs,
        test_pairs=found.test_pairs,
        notes=(),
        open_set=found.open_set,
        sample=found.sample,
    )
    return _with_pairs(source, manifest, held_out, seed)


def _shows_someone_twice(images: Labelled | None) -> bool:
    """Whether pairs of both kinds can be made of images."""
    counts = Counter(identity for identity, _ in images or () if identity)
    return len(counts) > 1 and max(counts.values()) > 1


def _image_list(
    source: Source, rows: Sequence[tuple[str, str]], index: dict[str, int]
) -> ImageList:
    ordered = sorted((identity, path.rpartition("/")[2], path) for identity, path in rows)
    labels = np.array([index.get(identity, -1) for identity, _, _ in ordered], dtype=np.int64)
    return ImageList(source.root, tuple(path for _, _, path in ordered), labels)


def _evaluated(
    source: Source, split: str, rows: Labelled | None, index: dict[str, int], limit: int | None
) -> ImageList | None:
    """Number a split's labels; people unknown to training stay, as -1, unless by `limit`."""
    if rows is None:
        return None
    if limit is not None:
        rows = [row for row in rows if row[0] in index or not row[0]]
    strangers = {identity for identity, _ in rows if identity and identity not in index}
    if strangers:
        count = sum(identity in strangers for identity, _ in rows)
        source.notes.append(
            f"{split}: {count:,} images of {len(strangers):,} identities that train lacks"
        )
    return _image_list(source, rows, index)


def _with_pairs(source: Source, manifest: Manifest, held_out: Labelled, seed: int) -> Manifest:
    """Make validation pairs where there is no file of them, and complete the notes."""
    val = manifest.val_pairs
    if val is None:
        val, note = _made_pairs(source, manifest, held_out, seed)
        source.notes.append(note)
    for name, pairs in (("val", val), ("test", manifest.test_pairs)):
        if pairs and pairs.source and (repeated := pairs.repeated())[0]:
            source.notes.append(
                f"{name} pairs: {repeated[0]:,} repeat an earlier pair"
                + (f", {repeated[1]:,} of them with the other label" if repeated[1] else "")
            )
    return Manifest(**{**vars(manifest), "val_pairs": val, "notes": tuple(source.notes)})


def _made_pairs(
    source: Source, manifest: Manifest, held_out: Labelled, seed: int
) -> tuple[PairList | None, str]:
    if manifest.open_set is not None and manifest.open_set.dev is not None:
        known, dev = manifest.open_set.known, manifest.open_set.dev
        labels = np.concatenate((known.labels, dev.labels))
        images = ImageList(source.root, known.paths + dev.paths, labels)
        origin = "known people and the labelled images of them"
    elif held_out:
        people = {identity: i for i, identity in enumerate(sorted({i for i, _ in held_out}))}
        images = _image_list(source, held_out, people)
        origin = f"{len(people):,} identities held out of training"
    else:
        images = manifest.dev or ImageList(source.root, (), np.empty(0, np.int64))
        origin = "dev images"
    pairs = make_pairs(source.root, images, seed)
    if pairs is None:
        return None, "no labelled pairs: too few identities with two images to make them from"
    return pairs, f"val pairs: {len(pairs):,} made from {origin} (seed {seed}): no pair file"
