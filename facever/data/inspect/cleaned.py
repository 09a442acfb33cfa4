"""A manifest CSV of the images to keep; the data itself is never touched.

Left out are unreadable images; all but one of those with the same bytes, and of these the ones to
train on where a copy is verified on; and every copy of an image that is labelled as several people,
for nobody knows whom it shows. `data.root=FILE.csv` then reads what is left.
"""

import csv
import io
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facever.data.inspect.duplicates import same_bytes
from facever.data.inspect.facts import identity_of, lists_of
from facever.data.inspect.looks import Look
from facever.data.lists import ImageList, Manifest, PairList
from facever.errors import DataError
from facever.storage import write_text

# Beside the manifest, where the reader of manifests looks for it.
_PAIRS = "val_pairs.csv"
# Of copies the one in the last of these splits stays: what is measured on is worth more.
_ORDER = ("train", "dev", "test")


def check_place(file: Path, data: Path) -> None:
    """Refuse to write over a file, or into the data.

    Raises:
        DataError: `file` or its pair list exists, or would lie in the data folder.
    """
    folder = data if data.is_dir() else data.parent
    if file.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{file}: lies in the data folder\n  expected a file outside {folder}")
    for target in (file, file.parent / _PAIRS):
        if target.exists():
            raise DataError(f"{target}: exists\n  expected a folder without it; give another name")


def write_cleaned(file: Path, manifest: Manifest, looks: Mapping[str, Look]) -> dict[str, Any]:
    """Write the manifest and, beside it, the validation pairs; tell what was left out and why.

    Raises:
        StorageError: a file cannot be written.
    """
    there = {split: images for split, images in lists_of(manifest).items() if split in _ORDER}
    unusable = {
        path: look.reason or "its name is not UTF-8"
        for path, look in looks.items()
        if look.reason or not _is_unicode(path)
    }
    surplus, conflicts = _surplus(manifest, there, looks)
    dropped = unusable | surplus | _strangers(manifest)
    name = _names(manifest.root, file)
    rows = [
        (name(path), manifest.identities[label] if label >= 0 else "", split)
        for split, images in there.items()
        for path, label in zip(images.paths, images.labels.tolist(), strict=True)
        if path not in dropped
    ]
    facts: dict[str, Any] = {
        "file": str(file),
        "images": {split: sum(row[2] == split for row in rows) for split in there},
        "dropped": dropped,
        "conflicts": conflicts,
    }
    if manifest.val_pairs is not None:
        # The truth of pairs from a file is not the labels'.
        gone = unusable if manifest.val_pairs.source else dropped
        facts |= _write_pairs(file.parent / _PAIRS, manifest.val_pairs, gone, name)
    write_text(file, _table(("path", "identity", "split"), rows))
    return facts


def _surplus(
    manifest: Manifest, there: Mapping[str, ImageList], looks: Mapping[str, Look]
) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Give the copies to leave out with the reason, and those that are labelled differently."""
    split_of = {path: split for split in _ORDER if split in there for path in there[split].paths}
    people = identity_of(manifest)
    surplus: dict[str, str] = {}
    conflicts = []
    for group in same_bytes(looks):
        listed = [path for path in group if path in split_of]
        named = sorted({people[path] for path in listed if path in people})
        if len(named) > 1:
            conflicts.append({"identities": named, "paths": listed})
            surplus |= dict.fromkeys(listed, f"labelled as {' and '.join(named)}")
            continue
        # A file that is in no split is in the pairs.
        in_pairs = [path for path in group if path not in split_of]
        kept = (in_pairs or sorted(listed, key=lambda path: -_ORDER.index(split_of[path])))[0]
        surplus |= {path: f"same bytes as {kept}" for path in listed if path != kept}
    return surplus, conflicts


def _strangers(manifest: Manifest) -> dict[str, str]:
    """Give the dev images of people that train lacks, whose names the manifest does not hold."""
    if manifest.dev is None:
        return {}
    strange = np.flatnonzero(manifest.dev.labels < 0)
    return dict.fromkeys((manifest.dev.paths[i] for i in strange), "train lacks its identity")


def _is_unicode(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _names(root: Path, file: Path) -> Callable[[str], str]:
    """Give how to name an image: from the manifest's folder where it lies below, else whole."""
    folder = file.parent.resolve()

    def name(path: str) -> str:
        whole = root / path
        return str(whole.relative_to(folder) if whole.is_relative_to(folder) else whole)

    return name


def _write_pairs(
    file: Path, pairs: PairList, gone: Collection[str], name: Callable[[str], str]
) -> dict[str, Any]:
    kept = pairs.without(i for i, path in enumerate(pairs.images) if path in gone)
    columns: dict[str, Sequence[Any]] = {
        "left": [name(kept.images[i]) for i in kept.left],
        "right": [name(kept.images[i]) for i in kept.right],
        "mated": kept.mated.tolist(),
    }
    if np.any(kept.fold >= 0):
        columns["fold"] = kept.fold.tolist()
    columns |= kept.columns
    write_text(file, _table(tuple(columns), zip(*columns.values(), strict=True)))
    return {"pairs_file": str(file), "pairs": len(kept), "pairs_dropped": len(pairs) - len(kept)}


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write a table that reads back as it was, whatever blanks and separators names hold."""
    stream = io.StringIO(newline="")
    # Tabs: a folder called `a;b` would make the reader take semicolons for the separator.
    writer = csv.writer(stream, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()
