"""What a run's folder holds, as far as it is there."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facever.errors import DataError, FaceverError
from facever.plainyaml import load_yaml
from facever.report.exhibits import Exhibits
from facever.score import Scores, read_scores
from facever.tracking import read_metrics

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Record:
    """A run. What is missing is empty, or None; `notes` say what could not be read.

    `train` and `validation` are the lines of metrics.jsonl that hold `loss` and `EER`.
    """

    name: str
    config: Values
    environment: Values
    train: list[Values]
    validation: list[Values]
    scores: Scores | None
    exhibits: Exhibits
    notes: tuple[str, ...]


def read_record(run: Path) -> Record:
    """Read a run's folder.

    Raises:
        DataError: there is no such folder.
    """
    if not run.is_dir():
        raise DataError(f"{run}: no such run; expected a folder such as checkpoints/train-1")
    notes: list[str] = []
    lines = [_numbers(line) for line in read_metrics(run)]
    return Record(
        name=run.resolve().name,
        config=_mapping(run / "config.yaml", load_yaml, notes),
        environment=_mapping(run / "environment.json", _load_json, notes),
        train=[line for line in lines if "loss" in line],
        validation=[line for line in lines if "EER" in line],
        scores=_scores(run / "scores_val.csv", notes),
        exhibits=_exhibits(run, notes),
        notes=tuple(notes),
    )


def flattened(values: Values, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and text of each leaf, in the order of the file."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flattened(value, f"{name}.")
        elif isinstance(value, list):
            yield name, " ".join(map(str, value))
        else:
            yield name, str(value)


def _numbers(line: Values) -> Values:
    """Leave out lists, which no curve shows."""
    return {key: value for key, value in line.items() if not isinstance(value, list)}


def _load_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _mapping(path: Path, load: Any, notes: list[str]) -> Values:
    if not path.exists():
        notes.append(f"{path.name} is missing")
        return {}
    try:
        values = load(path)
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"{path.name} could not be read: {error}")
        return {}
    if not isinstance(values, Mapping):
        notes.append(f"{path.name} holds no table of names and values")
        return {}
    return values


def _scores(path: Path, notes: list[str]) -> Scores | None:
    if not path.exists():
        return None
    try:
        scores = read_scores(path)
    except FaceverError as error:
        notes.append(str(error))
        return None
    if scores.mated.all() or not scores.mated.any():
        notes.append(f"{path.name}: pairs of one kind only, which have no error rates")
        return None
    return scores


def _exhibits(run: Path, notes: list[str]) -> Exhibits:
    try:
        return Exhibits.read(run)
    except DataError as error:
        notes.append(str(error))
        return Exhibits.of()
