"""What is in a data folder, in which layout, and what is broken: `facever data inspect`.

The manifest tells what should be there, a look at every file what is; the page, the contact sheet
and the cleaned manifest are made of these two.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from facever.data.files import Problem
from facever.data.inspect import facts
from facever.data.inspect.cleaned import check_place, write_cleaned
from facever.data.inspect.duplicates import is_blank, near_duplicates, same_bytes
from facever.data.inspect.looks import Look, look_at_all
from facever.data.inspect.page import page
from facever.data.inspect.sheet import write_sheet
from facever.data.lists import Manifest
from facever.data.manifest import read_manifest
from facever.data.workers import Progress
from facever.errors import CheckFailed, DataError


@dataclass
class Report:
    """Facts, ready for JSON, and problems, one message each; no problems means fit to train."""

    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Give all of it as primitives."""
        return {**self.facts, "problems": self.problems}

    def to_text(self) -> str:
        """Write it as a page for a terminal."""
        return page(self.facts, self.problems)


def inspect(
    folder: str | os.PathLike[str],
    strict: bool = False,
    *,
    layout: str = "auto",
    sheet: Path | None = None,
    fix: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Read everything in a data folder, decode every image, and tell what was found.

    What is learned of a file is remembered, so that a second call reads what has changed.

    Args:
        folder: what `read_manifest` takes.
        strict: raise where there are problems.
        layout: as `read_manifest` takes it.
        sheet: a PNG file, which will show some images of each split, and what is suspicious.
        fix: a CSV file outside the folder, which will list the images to keep; see `cleaned`.
        workers: processes that decode; by default one per core where it is worth it.
        progress: hears of (done, total) images.

    Raises:
        DataError: there is no such folder; or a sheet or CSV is wanted of what is no data set.
        CheckFailed: `strict`, and something is wrong.
        StorageError: the sheet or the CSV cannot be written.
    """
    path = Path(folder)
    if fix is not None:
        check_place(fix, path)
    contradictions: list[Problem] = []
    try:
        manifest = read_manifest(path, layout=layout, report=contradictions.append)
    except DataError as error:
        if not path.exists() or sheet or fix:
            raise
        report = Report({"layout": None, "folders": facts.folders(path)}, [str(error)])
    else:
        splits = facts.splits_of(manifest)
        looks = look_at_all(manifest.root, list(splits), workers=workers, progress=progress)
        report = _examine(manifest, splits, looks)
        if sheet is not None:
            report.facts["sheet"] = str(sheet)
            write_sheet(sheet, manifest, looks, report.facts)
        if fix is not None:
            report.facts["fixed"] = write_cleaned(fix, manifest, looks)
    report.facts["contradictions"] = [
        {"problem": problem.message, "items": list(problem.items)} for problem in contradictions
    ]
    report.problems[:0] = [problem.message for problem in contradictions]
    if strict and report.problems:
        raise CheckFailed("\n".join(report.problems))
    return report


def _examine(
    manifest: Manifest, splits: Mapping[str, Sequence[str]], looks: Mapping[str, Look]
) -> Report:
    report = Report(facts.counts(manifest))
    report.facts.update(pairs=facts.pairs(manifest), notes=list(manifest.notes))
    _add_images(report, manifest, looks)
    _add_duplicates(report, looks, splits, facts.identity_of(manifest))
    both = facts.people_in_both(manifest)
    report.facts["identities_in_train_and_verification"] = both
    if both:
        report.problems.append(
            f"{len(both)} identities are in both train and verification; first: {both[0]}\n"
            "  expected verification on people that training has not seen"
        )
    report.facts["images_in_no_pair"] = facts.unused_images(manifest, splits)
    for name, listed in report.facts["pairs"].items():
        if count := listed["contradicting"]:
            report.problems.append(
                f"{name} pairs: {count} repeat an earlier pair with the other label"
            )
    return report


def _add_images(report: Report, manifest: Manifest, looks: Mapping[str, Look]) -> None:
    unreadable = {path: look.reason for path, look in looks.items() if look.reason}
    sizes = Counter(f"{look.width}x{look.height}" for look in looks.values() if not look.reason)
    report.facts["sizes"] = dict(sizes.most_common())
    report.facts["pixels"] = _pixels([looks[path] for path in manifest.train.paths])
    report.facts["unreadable"] = unreadable
    report.facts["blank"] = [path for path, look in looks.items() if is_blank(look)]
    if unreadable:
        path, reason = next(iter(unreadable.items()))
        report.problems.append(
            f"{len(unreadable)} of {len(looks)} images are unreadable\n  first: {path}: {reason}"
        )


def _pixels(looks: Sequence[Look]) -> dict[str, list[float]] | None:
    """Mean and standard deviation of red, green, blue, in [0, 1], each pixel counting once."""
    count = sum(look.width * look.height for look in looks)
    if not count:
        return None
    # Sums of Python's integers: those of squares exceed 64 bits for large data.
    totals = [sum(column) for column in zip(*(look.sums for look in looks), strict=True)]
    mean, square = np.array([total / count for total in totals]).reshape(2, 3) / [[255], [255**2]]
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    return {"mean": mean.round(6).tolist(), "std": deviation.round(6).tolist()}


def _add_duplicates(
    report: Report,
    looks: Mapping[str, Look],
    splits: Mapping[str, Sequence[str]],
    identity_of: Mapping[str, str],
) -> None:
    """Tell files with the same bytes; across splits or identities they are a problem.

    Nearly the same pictures are told, but a hash is no proof.
    """

    def described(paths: Sequence[str]) -> dict[str, Any]:
        return {
            "paths": list(paths),
            "splits": sorted({split for path in paths for split in splits[path]}),
            "identities": sorted({identity_of[path] for path in paths if path in identity_of}),
        }

    duplicates = [described(paths) for paths in same_bytes(looks)]
    report.facts["duplicates"] = duplicates
    report.facts["near_duplicates"] = [described(paths) for paths in near_duplicates(looks)]
    for key, complaint in (("splits", "in several splits"), ("identities", "of several people")):
        wrong = [group for group in duplicates if len(group[key]) > 1]
        if wrong:
            first = wrong[0]
            report.problems.append(
                f"{len(wrong)} images are there under several names {complaint}\n"
                f"  first: {' = '.join(first['paths'])} ({', '.join(first[key])})"
            )
