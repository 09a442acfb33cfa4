"""Names for images -> the competition's CSV, alone or together with scores of pairs.

Linted before they are written, as everything in `submit` is.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from numpy.typing import ArrayLike

from facever.competition import NOBODY, Profile, answer_columns
from facever.data.lists import PairList
from facever.score import parse_score
from facever.submit import (
    as_text,
    id_problems,
    read_submission,
    score_problems,
    source_of,
    submission_ids,
    validation_eer,
    write_linted,
)


@dataclass(frozen=True)
class Named:
    """Who is on each image.

    Attributes:
        images: paths, in the order that ids count; length N.
        names: who that is; length N.
        possible: names that may be given.
    """

    images: Sequence[str]
    names: Sequence[str]
    possible: frozenset[str]


def write_names(
    path: str | os.PathLike[str], named: Named, profile: Profile, *, side_car: Mapping[str, Any]
) -> Path:
    """Write `id,label`: the place of each image, and who it is.

    Raises:
        FaceverError: as `submit.write_linted`.
    """
    rows = [(str(i), name) for i, name in enumerate(named.names)]
    return write_linted(path, rows, profile, lint_names(named), side_car)


def lint_names(named: Named) -> list[str]:
    """Problems of names, one line each."""
    problems = []
    if len(named.names) != len(named.images):
        problems.append(f"names: {len(named.names)} of them for {len(named.images)} images")
    unknown = [name for name in named.names if name not in named.possible]
    if unknown:
        problems.append(f"names: {len(unknown)} are nobody's, the first is {unknown[0]!r}")
    counts = Counter(named.names)
    if len(counts) == 1 and len(named.names) > 1:
        who = "nobody known" if NOBODY in counts else repr(next(iter(counts)))
        problems.append(f"names: constant, all are {who}; has the encoder collapsed?")
    return problems


def lint_names_file(
    path: str | os.PathLike[str], images: Sequence[str], possible: frozenset[str], profile: Profile
) -> list[str]:
    """Problems of a CSV that exists, of whatever tool, one line each.

    Raises:
        DataError: the file cannot be read.
    """
    rows, problems = read_submission(path, profile)
    if problems:
        return problems
    ids = [str(i) for i in range(len(images))]
    found = id_problems([row[0] for row in rows], ids)
    return found or lint_names(Named(images, [row[1] for row in rows], possible))


def write_combined(
    path: str | os.PathLike[str],
    scores: ArrayLike,
    pairs: PairList,
    named: Named,
    profile: Profile,
    *,
    side_car: Mapping[str, Any],
) -> Path:
    """Write classes of images and scores of pairs into the cells where the sample has them.

    Args:
        path: the CSV.
        scores: one for each pair, higher means more alike; shape (N,).
        pairs: as read from the pair file, in its order.
        named: the images to classify.
        profile: with the rows of the sample submission.
        side_car: as `submit.write_submission` has it.

    Raises:
        FaceverError: as `submit.write_linted`.
    """
    problems = [
        *score_problems(scores, pairs.rows, validation_eer(side_car)),
        *lint_names(named),
    ]
    cells, misfits = answer_cells(profile, named.images, pairs)
    problems += misfits
    rows = [list(row) for row in profile.sample_rows]
    if not problems:
        answers = [*named.names, *as_text(scores)]
        for (row, column), answer in zip(cells, answers, strict=True):
            rows[row][column] = answer
    return write_linted(path, rows, profile, problems, {**side_car, "pairs": source_of(pairs)})


Cell = tuple[int, int]


def answer_cells(
    profile: Profile, images: Sequence[str], pairs: PairList
) -> tuple[list[Cell], list[str]]:
    """Row and column of the answer for each image and then for each pair, and what does not fit.

    Ids that are names of images, or names of pairs joined, say themselves what a row is about.
    Other rows are taken in their order: the images first, then the pairs; or, where there are as
    many rows as of the larger kind and a column for each, both from the first row on.
    """
    of_class, of_score = answer_columns(profile.header)
    ids, count = profile.sample_ids, len(images) + len(pairs)
    rows = _rows_by_name(profile, images, pairs)
    if rows is None and len(ids) == count:
        rows = [*range(count)]
    elif rows is None and of_class != of_score and len(ids) == max(len(images), len(pairs)):
        rows = [*range(len(images)), *range(len(pairs))]
    if rows is None:
        return [], [
            f"sample file: {len(ids)} rows; expected {count}, for {len(images)} test images and "
            f"{len(pairs)} pairs"
        ]
    columns = [of_class] * len(images) + [of_score] * len(pairs)
    return list(zip(rows, columns, strict=True)), []


def _rows_by_name(profile: Profile, images: Sequence[str], pairs: PairList) -> list[int] | None:
    """Row of each image and then of each pair, where the ids name the images."""
    place = {key: row for row, key in enumerate(profile.sample_ids)}
    paths = [PurePosixPath(image) for image in images]
    for names in ([path.name for path in paths], [path.stem for path in paths]):
        if not all(name in place for name in names):
            continue
        images_of = {*names}
        of_pairs = tuple(row for row in profile.sample_rows if row[0] not in images_of)
        joined = submission_ids(pairs.rows, replace(profile, sample_rows=of_pairs))
        if len(joined) == len(pairs) and all(key in place for key in joined):
            return [place[key] for key in (*names, *joined)]
    return None


def lint_combined_file(
    path: str | os.PathLike[str],
    pairs: PairList,
    images: Sequence[str],
    possible: frozenset[str],
    profile: Profile,
) -> list[str]:
    """Problems of a CSV that answers both tasks, of whatever tool, one line each.

    Raises:
        DataError: the file cannot be read.
    """
    rows, problems = read_submission(path, profile)
    cells, misfits = answer_cells(profile, images, pairs)
    problems += misfits or (
        [] if problems else id_problems([r[0] for r in rows], profile.sample_ids)
    )
    if problems:
        return problems
    by_id = {row[0]: row for row in rows}
    answers = [by_id[profile.sample_ids[row]][column] for row, column in cells]
    named = Named(images, answers[: len(images)], possible)
    scores = [parse_score(text) for text in answers[len(images) :]]
    return [*lint_names(named), *score_problems(scores, pairs.rows, None)]
