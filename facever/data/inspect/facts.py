"""What a manifest tells of a data set before any image is opened."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facever.data.files import Source
from facever.data.kinship import RELATIONS_FILE
from facever.data.lists import ImageList, Manifest, PairList
from facever.data.readers import LAYOUTS, LFW_PAIRS, MANIFEST_FILE

_DEPTH = 3
# More different counts than this become ranges, each twice as wide as the one before.
_BARS = 10


_REASONS = {
    "csv": f"{MANIFEST_FILE}, or a CSV that was named, lists the images",
    "lfw": f"{LFW_PAIRS[0]} or one of its relatives lies beside folders of images",
    "rfiw": f"{RELATIONS_FILE} tells who is related",
    "tree": "each identity has a folder of images",
}


def layout_reason(manifest: Manifest) -> str:
    """Say by what the layout was known."""
    for row in LAYOUTS:
        if row.name == manifest.layout:
            wanted = [paths for paths in (row.train, row.known) if paths]
            there = (next(p for p in paths if (manifest.root / p).is_dir()) for paths in wanted)
            return f"found by {' and '.join(f'{folder}/' for folder in there)}"
    return _REASONS[manifest.layout]


def lists_of(manifest: Manifest) -> dict[str, ImageList]:
    """Give the image lists that there are, by split."""
    lists = {"train": manifest.train, "dev": manifest.dev, "test": manifest.test}
    if manifest.open_set is not None:
        people = manifest.open_set
        lists |= {"known": people.known, "unknown_dev": people.dev, "unknown_test": people.test}
    return {split: images for split, images in lists.items() if images is not None}


def splits_of(manifest: Manifest) -> dict[str, list[str]]:
    """Map each path to the splits that it is in; pairs made from dev stay in dev."""
    lists: dict[str, Iterable[str]] = {
        **{split: images.paths for split, images in lists_of(manifest).items()},
        "val_pairs": manifest.val_pairs.images if manifest.val_pairs else (),
        "test_pairs": manifest.test_pairs.images if manifest.test_pairs else (),
    }
    splits: dict[str, list[str]] = {}
    made = manifest.val_pairs is not None and manifest.val_pairs.source is None
    for split, paths in lists.items():
        for path in paths:
            if not (split == "val_pairs" and made and path in splits):
                splits.setdefault(path, []).append(split)
    return splits


def identity_of(manifest: Manifest) -> dict[str, str]:
    """Map the paths of known people to their identity."""
    known = {}
    for split, images in lists_of(manifest).items():
        names = manifest.identities
        if manifest.open_set is not None and split.endswith(("known", "_dev", "_test")):
            names = manifest.open_set.identities
        for path, label in zip(images.paths, images.labels.tolist(), strict=True):
            if label >= 0:
                known[path] = names[label]
    return known


def counts(manifest: Manifest) -> dict[str, Any]:
    """Count images and identities by split, and the images of each identity."""
    there = lists_of(manifest)
    each = np.bincount(manifest.train.labels, minlength=len(manifest.identities))
    return {
        "layout": manifest.layout,
        "layout_reason": layout_reason(manifest),
        "root": str(manifest.root),
        "images": {split: len(images) for split, images in there.items()},
        "identities": len(manifest.identities),
        "identities_by_split": {
            split: len(set(images.labels.tolist()) - {-1}) for split, images in there.items()
        },
        "images_per_identity": _spread(each) if len(each) else None,
        "label_gaps": _label_gaps(manifest.identities),
    }


def _spread(each: NDArray[np.int64]) -> dict[str, Any]:
    return {
        "min": int(each.min()),
        "median": float(np.median(each)),
        "max": int(each.max()),
        "histogram": _histogram(each),
    }


def _histogram(each: NDArray[np.int64]) -> dict[str, int]:
    """Count identities by number of images, or by range of numbers where these are many."""
    values, times = np.unique(each, return_counts=True)
    if len(values) <= _BARS:
        return {str(value): int(count) for value, count in zip(values, times, strict=True)}
    ranges = np.unique(np.floor(np.log2(each)).astype(int), return_counts=True)
    return {
        f"{1 << power}-{(2 << power) - 1}" if power else "1": int(count)
        for power, count in zip(*(part.tolist() for part in ranges), strict=True)
    }


def _label_gaps(identities: Sequence[str]) -> list[int]:
    """List the numbers between the smallest and largest that no identity has."""
    if not identities or not all(identity.isdecimal() for identity in identities):
        return []
    numbers = {int(identity) for identity in identities}
    # Numbers like a telephone's are names, not labels.
    if max(numbers) - min(numbers) > 10 * len(numbers):
        return []
    return sorted(set(range(min(numbers), max(numbers))) - numbers)


def pairs(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """Tell of both pair lists how many pairs and images they hold, and how they are labelled."""
    both = {"val": manifest.val_pairs, "test": manifest.test_pairs}
    return {name: _pair_facts(listed) for name, listed in both.items() if listed is not None}


def _pair_facts(listed: PairList) -> dict[str, Any]:
    repeated, contradicting = listed.repeated()
    return {
        "file": str(listed.source) if listed.source else None,
        "pairs": len(listed),
        "mated": int((listed.mated == 1).sum()),
        "non_mated": int((listed.mated == 0).sum()),
        "unlabelled": int((listed.mated == -1).sum()),
        "images": len(listed.images),
        "folds": len(set(listed.fold.tolist()) - {-1}),
        "repeated": repeated,
        "contradicting": contradicting,
    }


def people_in_both(manifest: Manifest) -> list[str]:
    """List identities that are trained and verified on, where names give them away."""
    known, people = identity_of(manifest), set(manifest.identities)
    both: set[str] = set()
    for listed in (manifest.val_pairs, manifest.test_pairs):
        # Pairs that were made here from dev images show people of train, as their note says.
        if listed is None or listed.source is None:
            continue
        shown = {known.get(path, Path(path).parent.name) for path in listed.images}
        both |= shown & people
    return sorted(both)


def unused_images(manifest: Manifest, used: Collection[str]) -> list[str]:
    """List images that lie beside those of the pair files, but are in no pair."""
    files = Source(manifest.root, report=lambda problem: None)
    folders = {
        path.rpartition("/")[0]
        for listed in (manifest.val_pairs, manifest.test_pairs)
        if listed is not None and listed.source is not None
        for path in listed.images
    }
    beside = {path for folder in folders for path in files.images(folder)}
    return sorted(beside - set(used))


def folders(root: Path) -> dict[str, dict[str, int]]:
    """Count files by suffix in the folders of an unknown layout."""
    found = {}
    for folder, inner, files in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        if depth >= _DEPTH:
            inner.clear()
        inner.sort()
        suffixes = Counter(Path(file).suffix.lower() for file in files)
        found[Path(folder).relative_to(root).as_posix()] = dict(sorted(suffixes.items()))
    return found
