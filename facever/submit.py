"""Scores -> the competition's CSV, linted before it is written.

What Kaggle would reject, or rank last without a word, is refused here, and nothing is written.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

import facever
from facever.competition import Profile, read_csv_rows
from facever.data.lists import PairList
from facever.errors import CheckFailed, ConfigError
from facever.metrics import equal_error_rate
from facever.score import csv_text, parse_score
from facever.storage import write_json, write_text

Rows = Sequence[tuple[str, str]]


def write_submission(
    path: str | os.PathLike[str],
    scores: ArrayLike,
    pairs: PairList,
    profile: Profile,
    *,
    side_car: Mapping[str, Any],
) -> Path:
    """Write a submission that `lint` finds nothing wrong with, and its side-car `x.json`.

    The side-car is written first and holds the SHA-256 of the CSV, so that the two can be told
    to belong together whenever the process dies.

    Args:
        path: the CSV.
        scores: one for each pair, higher means more alike; shape (N,).
        pairs: as read from the pair file, in its order.
        profile: the competition.
        side_car: what the scores come from: `checkpoints`, each ensemble member with its SHA-256;
            `config`; and, where it is known, `validation`, `Verification.to_json()`, whose EER
            gives away a swapped sign.

    Raises:
        CheckFailed: `lint` found something; nothing is written.
        ConfigError: `path` ends with .json, where the side-car goes.
        StorageError: a file could not be written.
    """
    problems = lint(scores, pairs.rows, profile, validation_eer=validation_eer(side_car))
    rows = (
        [] if problems else zip(submission_ids(pairs.rows, profile), as_text(scores), strict=True)
    )
    return write_linted(
        path, list(rows), profile, problems, {**side_car, "pairs": source_of(pairs)}
    )


def write_linted(
    path: str | os.PathLike[str],
    rows: Sequence[Sequence[str]],
    profile: Profile,
    problems: Sequence[str],
    side_car: Mapping[str, Any],
) -> Path:
    """Write rows below the profile's header, unless there are problems; side-car first.

    Raises:
        CheckFailed: there are problems; nothing is written.
        ConfigError: `path` ends with .json, where the side-car goes.
        StorageError: a file could not be written.
    """
    target = Path(path)
    if target.suffix == ".json":
        raise ConfigError(f"{target}: the side-car goes there; name the submission .csv")
    if problems:
        raise CheckFailed(f"{target.name}: not written\n  " + "\n  ".join(problems))
    text = csv_text(profile.header, rows)
    about = {
        **side_car,
        "competition": profile.name,
        "metric": {"name": profile.metric, "higher_is_better": profile.higher_is_better},
        "rows": len(rows),
        "sha256": hashlib.sha256(text.encode("utf-8")).hexdigest(),
        "lint": list(problems),
        "facever": facever.__version__,
    }
    write_json(target.with_suffix(".json"), about)
    return write_text(target, text)


def as_text(scores: ArrayLike) -> list[str]:
    """Scores with nine digits, which tell any two float32 numbers apart."""
    # Adding zero turns -0 into 0.
    return [f"{score + 0.0:.9g}" for score in np.asarray(scores).tolist()]


def source_of(pairs: PairList) -> dict[str, str | None]:
    """Tell, for a side-car, which pairs were scored."""
    return {"file": _from_here(pairs.source), "sha256": pairs.sha256}


def validation_eer(side_car: Mapping[str, Any]) -> float | None:
    """EER of the labelled pairs, a fraction, where a side-car tells it."""
    found: float | None = (side_car.get("validation") or {}).get("eer")
    return found


def _from_here(path: Path | None) -> str | None:
    """Name a file from the current folder where it lies below: a side-car is handed on."""
    if path is None:
        return None
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def submission_ids(rows: Rows, profile: Profile) -> list[str]:
    """Id of each pair, in the order of the pair file; never escaped, for Kaggle keys on it.

    Ids of a sample file are recognised as indices from 0 or 1 or as joined names; ids of
    another kind are taken in the order of the sample.
    """
    if profile.id_rule == "sample":
        sample = list(profile.sample_ids)
        known = (ids for ids in _conventions(rows) if sorted(ids) == sorted(sample))
        return next(known, sample)
    rule = {"index": 0, "pair line": 2, "dashed pair": 3}[profile.id_rule]
    return _conventions(rows)[rule]


def _conventions(rows: Rows) -> list[list[str]]:
    indices = [[str(i + first) for i in range(len(rows))] for first in (0, 1)]
    return indices + [[f"{left}{sep}{right}" for left, right in rows] for sep in " -,_"]


def lint(
    scores: ArrayLike, rows: Rows, profile: Profile, *, validation_eer: float | None = None
) -> list[str]:
    """Problems of a submission before it is written, one line each; empty when it may be sent.

    Args:
        scores: one for each pair, higher means more alike; shape (N,).
        rows: both names of each pair as the pair file has them.
        profile: the competition.
        validation_eer: of the same model on labelled pairs, a fraction.
    """
    values = np.asarray(scores, dtype=np.float64).reshape(-1)
    ids = submission_ids(rows, profile)
    return [
        *_sample_problems(ids, rows),
        *_repeated_ids(ids),
        *score_problems(values, rows, validation_eer),
    ]


def score_problems(
    scores: ArrayLike, rows: Rows, eer: float | None, whose: str = "validation"
) -> list[str]:
    """Problems of the scores alone; arguments as `lint` has them."""
    values = np.asarray(scores, dtype=np.float64).reshape(-1)
    problems = []
    if values.size != len(rows):
        problems.append(f"scores: {values.size} of them; the pair file has {len(rows)} pairs")
    return [*problems, *_value_problems(values, rows), *_sign_problems(eer, whose)]


def lint_file(path: str | os.PathLike[str], pairs: PairList, profile: Profile) -> list[str]:
    """Problems of a CSV that exists, of whatever tool, one line each.

    A swapped sign shows where the pairs are labelled.

    Raises:
        DataError: the file cannot be read.
    """
    rows, problems = read_submission(path, profile)
    if problems:
        return problems
    found = [row[0] for row in rows]
    expected = submission_ids(pairs.rows, profile)
    if len(expected) != len(pairs):
        return _sample_problems(expected, pairs.rows)
    value_of = {row[0]: parse_score(row[1]) for row in rows}
    values = np.array([value_of[key] for key in expected if key in value_of])
    return [
        *id_problems(found, expected),
        *_value_problems(values, pairs.rows),
        *_sign_problems(_labelled_eer(value_of, expected, pairs), "these pairs'"),
    ]


def read_submission(
    path: str | os.PathLike[str], profile: Profile
) -> tuple[list[list[str]], list[str]]:
    """Rows of a CSV below the profile's header, and what is wrong with their form.

    Raises:
        DataError: the file cannot be read.
    """
    header, *rows = read_csv_rows(Path(path), "utf-8")
    if tuple(header) != profile.header:
        hint = "; it begins with an index column" if tuple(header[1:]) == profile.header else ""
        return rows, [f"header: {','.join(header)!r}{hint}; expected {','.join(profile.header)!r}"]
    width = len(profile.header)
    broken = [row for row in rows if len(row) != width]
    if broken:
        return rows, [f"rows: {len(broken)} have not {width} columns, the first is {broken[0]}"]
    return rows, []


def _sample_problems(ids: Sequence[str], rows: Rows) -> list[str]:
    if len(ids) == len(rows):
        return []
    return [f"sample file: {len(ids)} rows; the pair file has {len(rows)} pairs"]


def id_problems(found: Sequence[str], expected: Sequence[str]) -> list[str]:
    """Ids that are missing, unknown or repeated."""
    problems = []
    if len(found) != len(expected):
        problems.append(f"rows: {len(found)}; expected {len(expected)}, one for each")
    missing, unknown = set(expected) - set(found), set(found) - set(expected)
    if missing:
        problems.append(f"ids: {len(missing)} have no row, the first is {min(missing)!r}")
    if unknown:
        problems.append(f"ids: {len(unknown)} are not asked for, the first is {min(unknown)!r}")
    return problems + _repeated_ids(found)


def _repeated_ids(ids: Sequence[str]) -> list[str]:
    repeated = [key for key, count in Counter(ids).items() if count > 1]
    if not repeated:
        return []
    return [f"ids: {len(repeated)} appear more than once, the first is {repeated[0]!r}"]


def _value_problems(values: NDArray[np.float64], rows: Rows) -> list[str]:
    finite = values[np.isfinite(values)]
    problems = []
    if finite.size < values.size:
        first = int(np.argmin(np.isfinite(values)))
        count = values.size - finite.size
        problems.append(f"scores: {count} are no finite numbers, the first is that of pair {first}")
    distinct = np.unique(finite)
    different_pairs = len({frozenset(row) for row in rows})
    if finite.size < 2:
        return problems
    if distinct.size == 1:
        problems.append(f"scores: constant, all are {distinct[0]:g}; has the encoder collapsed?")
    elif np.isin(distinct, (-1, 0, 1)).all():
        problems.append("scores: binary; decisions cannot be ranked, submit the cosines")
    elif 2 * distinct.size < different_pairs:
        problems.append(
            f"scores: {distinct.size} distinct values for {different_pairs} different pairs; "
            "they look rounded, and ties cost rank: write 9 significant digits"
        )
    return problems


def _sign_problems(eer: float | None, whose: str) -> list[str]:
    if eer is None or eer < 0.5:
        return []
    return [
        f"scores: sign swapped: {whose} EER is {eer:.2%}, no better than chance; "
        "higher must mean more alike"
    ]


def _labelled_eer(
    value_of: Mapping[str, float], ids: Sequence[str], pairs: PairList
) -> float | None:
    """EER on the pairs that have both a label and a finite score; None without both kinds."""
    scores = np.array([value_of.get(key, np.nan) for key in ids])
    usable = np.isfinite(scores) & (pairs.mated >= 0)
    mated = pairs.mated[usable] == 1
    if not mated.any() or mated.all():
        return None
    return equal_error_rate(scores[usable], mated)
