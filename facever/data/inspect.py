"""What is in a data folder, in which layout, and what is broken."""

import functools
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from facever.data.files import Problem, Source
from facever.data.images import decode_bytes
from facever.data.lists import Manifest, PairList
from facever.data.manifest import read_manifest
from facever.data.workers import Progress, run_all, usable_cores
from facever.errors import CheckFailed, DataError

_CHUNK = 128
_POOL_IMAGES = 5000
_DEPTH = 3


@dataclass
class Report:
    """Facts, ready for JSON, and problems, one message each; no problems means fit to train."""

    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def inspect(
    folder: str | os.PathLike[str],
    strict: bool = False,
    *,
    layout: str = "auto",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Read everything in a data folder, decode every image, and tell what was found.

    Args:
        folder: what `read_manifest` takes.
        strict: raise where there are problems.
        layout: as `read_manifest` takes it.
        workers: processes that decode; by default one per core.
        progress: hears of (done, total) images.

    Raises:
        DataError: there is no such folder.
        CheckFailed: `strict`, and something is wrong.
    """
    path = Path(folder)
    contradictions: list[Problem] = []
    try:
        manifest = read_manifest(path, layout=layout, report=contradictions.append)
    except DataError as error:
        if not path.exists():
            raise
        report = Report({"layout": None, "folders": _folders(path)}, [str(error)])
    else:
        report = _examine(manifest, workers, progress)
    report.facts["contradictions"] = [
        {"problem": problem.message, "items": list(problem.items)} for problem in contradictions
    ]
    report.problems[:0] = [problem.message for problem in contradictions]
    if strict and report.problems:
        raise CheckFailed("\n".join(report.problems))
    return report


def _examine(manifest: Manifest, workers: int | None, progress: Progress | None) -> Report:
    report = Report()
    report.facts.update(_counts(manifest), pairs=_pairs(manifest), notes=list(manifest.notes))
    splits = _splits(manifest)
    seen = _look(manifest.root, list(splits), workers, progress)
    _add_images(report, seen)
    _add_duplicates(report, seen, splits, _identity_of(manifest))
    _add_overlap(report, manifest)
    _add_unused(report, manifest, splits)
    for name, facts in report.facts["pairs"].items():
        count = facts["contradicting"]
        if count:
            report.problems.append(
                f"{name} pairs: {count} repeat an earlier pair with the other label"
            )
    return report


# --- without looking at pixels ----------------------------------------------------------------


def _splits(manifest: Manifest) -> dict[str, list[str]]:
    """Map each path to the splits that it is in; pairs made from dev stay in dev."""
    lists: dict[str, Iterable[str]] = {
        "train": manifest.train.paths,
        "dev": manifest.dev.paths if manifest.dev else (),
        "test": manifest.test.paths if manifest.test else (),
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


def _identity_of(manifest: Manifest) -> dict[str, str]:
    """Map the paths of known people to their identity."""
    known = {}
    for images in (manifest.train, manifest.dev, manifest.test):
        if images is not None:
            for path, label in zip(images.paths, images.labels.tolist(), strict=True):
                if label >= 0:
                    known[path] = manifest.identities[label]
    return known


def _counts(manifest: Manifest) -> dict[str, Any]:
    lists = {"train": manifest.train, "dev": manifest.dev, "test": manifest.test}
    per_identity = np.bincount(manifest.train.labels, minlength=len(manifest.identities))
    spread = None
    if len(per_identity):
        spread = {
            "min": int(per_identity.min()),
            "median": float(np.median(per_identity)),
            "max": int(per_identity.max()),
        }
    return {
        "layout": manifest.layout,
        "root": str(manifest.root),
        "images": {split: len(images) for split, images in lists.items() if images is not None},
        "identities": len(manifest.identities),
        "images_per_identity": spread,
        "label_gaps": _label_gaps(manifest.identities),
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


def _pairs(manifest: Manifest) -> dict[str, dict[str, Any]]:
    both = {"val": manifest.val_pairs, "test": manifest.test_pairs}
    return {name: _pair_facts(pairs) for name, pairs in both.items() if pairs is not None}


def _pair_facts(pairs: PairList) -> dict[str, Any]:
    repeated, contradicting = pairs.repeated()
    return {
        "file": str(pairs.source) if pairs.source else None,
        "pairs": len(pairs),
        "mated": int((pairs.mated == 1).sum()),
        "non_mated": int((pairs.mated == 0).sum()),
        "unlabelled": int((pairs.mated == -1).sum()),
        "images": len(pairs.images),
        "folds": len(set(pairs.fold.tolist()) - {-1}),
        "repeated": repeated,
        "contradicting": contradicting,
    }


def _add_overlap(report: Report, manifest: Manifest) -> None:
    """Tell identities that are both trained and verified on, where names give them away."""
    known, people = _identity_of(manifest), set(manifest.identities)
    both: set[str] = set()
    for pairs in (manifest.val_pairs, manifest.test_pairs):
        # Pairs that were made here from dev images show people of train, as their note says.
        if pairs is None or pairs.source is None:
            continue
        shown = {known.get(path, Path(path).parent.name) for path in pairs.images}
        both |= shown & people
    report.facts["identities_in_train_and_verification"] = sorted(both)
    if both:
        report.problems.append(
            f"{len(both)} identities are in both train and verification; first: {min(both)}\n"
            "  expected verification on people that training has not seen"
        )


def _add_unused(report: Report, manifest: Manifest, splits: dict[str, list[str]]) -> None:
    """Tell images that lie beside those of the pair files, but are in no pair."""
    files = Source(manifest.root, report=lambda problem: None)
    folders = {
        path.rpartition("/")[0]
        for pairs in (manifest.val_pairs, manifest.test_pairs)
        if pairs is not None and pairs.source is not None
        for path in pairs.images
    }
    beside = {path for folder in folders for path in files.images(folder)}
    report.facts["images_in_no_pair"] = sorted(beside - set(splits))


def _folders(root: Path) -> dict[str, dict[str, int]]:
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


# --- looking at every image -------------------------------------------------------------------


@dataclass(frozen=True)
class _Look:
    """What one file turned out to be: its size as `112x112`, or why it is unreadable."""

    sha256: str
    size: str
    reason: str


def _look_at(root: Path, paths: Sequence[str]) -> list[_Look]:
    looks = []
    for path in paths:
        try:
            data = (root / path).read_bytes()
        except OSError as error:
            looks.append(_Look("", "", f"not readable: {error.strerror}"))
            continue
        digest = hashlib.sha256(data).hexdigest()
        try:
            height, width = decode_bytes(data, path).shape[:2]
            looks.append(_Look(digest, f"{width}x{height}", ""))
        except DataError as error:
            looks.append(_Look(digest, "", str(error).removeprefix(f"{path}: ")))
    return looks


def _look(
    root: Path, paths: list[str], workers: int | None, progress: Progress | None
) -> dict[str, _Look]:
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    workers = usable_cores() if workers is None else workers
    if len(paths) < _POOL_IMAGES:
        workers = 1
    seen: dict[str, _Look] = {}
    look = functools.partial(_look_at, root)
    for chunk, looks in zip(chunks, run_all(look, chunks, workers=workers), strict=True):
        seen.update(zip(chunk, looks, strict=True))
        if progress:
            progress(len(seen), len(paths))
    return seen


def _add_images(report: Report, seen: dict[str, _Look]) -> None:
    unreadable = {path: look.reason for path, look in seen.items() if look.reason}
    sizes = Counter(look.size for look in seen.values() if look.size)
    report.facts["sizes"] = dict(sizes.most_common())
    report.facts["unreadable"] = unreadable
    if unreadable:
        path, reason = next(iter(unreadable.items()))
        report.problems.append(
            f"{len(unreadable)} of {len(seen)} images are unreadable\n  first: {path}: {reason}"
        )


def _add_duplicates(
    report: Report,
    seen: dict[str, _Look],
    splits: dict[str, list[str]],
    identity_of: dict[str, str],
) -> None:
    """Tell files with the same bytes; across splits or identities they are a problem."""
    groups: dict[str, list[str]] = defaultdict(list)
    for path, look in seen.items():
        if not look.reason:
            groups[look.sha256].append(path)
    duplicates = [
        {
            "paths": paths,
            "splits": sorted({split for path in paths for split in splits[path]}),
            "identities": sorted({identity_of[path] for path in paths if path in identity_of}),
        }
        for paths in groups.values()
        if len(paths) > 1
    ]
    report.facts["duplicates"] = duplicates
    for key, complaint in (("splits", "in several splits"), ("identities", "of several people")):
        wrong = [group for group in duplicates if len(group[key]) > 1]
        if wrong:
            first = wrong[0]
            report.problems.append(
                f"{len(wrong)} images are there under several names {complaint}\n"
                f"  first: {' = '.join(first['paths'])} ({', '.join(first[key])})"
            )
