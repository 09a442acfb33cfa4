"""A run's figures: metrics.jsonl, which is the truth, and the copies that follow it.

A copy that fails costs one warning and never the run.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from facever.errors import DataError, StorageError
from facever.storage import write_text
from facever.tracking.console import note
from facever.tracking.copies import Sink, TensorBoard, Wandb

# A run's figures, a JSON object a line.
METRICS = "metrics.jsonl"

# float32's largest number, in which a training counts; axes near float64's cannot be drawn.
_LARGEST = 3.4028235e38


class Tracker:
    """Writes `metrics.jsonl` in a run's folder and copies each line to the other sinks.

    Args:
        run: the run's folder.
        step, epoch: where the run goes on; lines past it, which a killed process left behind,
            are cut, for they will be written again.
        config: the resolved configuration, as W&B shows it.
        wandb: `off`, `offline` or `online`.
        tensorboard: write event files too.
        project, name: at W&B.
    """

    def __init__(
        self,
        run: Path,
        *,
        step: int,
        epoch: int,
        config: Mapping[str, Any],
        wandb: str = "off",
        tensorboard: bool = False,
        project: str = "facever",
        name: str | None = None,
    ) -> None:
        self.path = run / METRICS
        # A validation has the step of the batch before it, but a later epoch.
        lines = [
            line for line in read_metrics(run) if line["step"] <= step and line["epoch"] <= epoch
        ]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))
        self._file = self.path.open("a")
        self._sinks: dict[str, Sink] = {}
        if wandb != "off":
            self._add("W&B", lambda: Wandb(run, wandb, project, name or run.name, config))
        if tensorboard:
            self._add("TensorBoard", lambda: TensorBoard(run))
        for line in lines:
            self._copy(line)

    def log(self, step: int, epoch: int, values: Mapping[str, float | list[float]]) -> None:
        """Write one line; a number that is not finite becomes null, for JSON has none.

        Raises:
            StorageError: metrics.jsonl cannot be written.
        """
        line: dict[str, Any] = {"step": step, "epoch": epoch, "time": round(time.time(), 3)}
        line |= {key: _jsonable(value) for key, value in values.items()}
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            raise StorageError(f"{self.path}: could not be written: {error.strerror}") from error
        self._copy(line)

    def close(self) -> None:
        """Finish all sinks."""
        self._file.close()
        for name, sink in list(self._sinks.items()):
            self._try(name, sink.close)

    def _add(self, name: str, make: Callable[[], Sink]) -> None:
        def add() -> None:
            self._sinks[name] = make()

        self._try(name, add)

    def _copy(self, line: Mapping[str, Any]) -> None:
        for name, sink in list(self._sinks.items()):
            self._try(name, lambda sink=sink: sink.log(line))  # type: ignore[misc]

    def _try(self, name: str, action: Callable[[], None]) -> None:
        """Give a sink up, with one warning, when it fails: the run does not depend on it."""
        try:
            action()
        except Exception as error:
            self._sinks.pop(name, None)
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            note(f"warning: {name} is off for the rest of this run ({reason}); "
                 f"{self.path.name} is complete")  # fmt: skip


class Untracked:
    """Takes the lines of processes that are not the first."""

    def log(self, step: int, epoch: int, values: Mapping[str, float | list[float]]) -> None:
        """Forget them."""

    def close(self) -> None:
        """Do nothing."""


def _jsonable(value: float | list[float]) -> Any:
    if isinstance(value, list):
        return [_jsonable(item) for item in value]
    return value if math.isfinite(value) else None


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Read the lines of a run's metrics.jsonl.

    What no run writes is left out: a last line cut off by a kill, or a value that is no figure.

    Raises:
        DataError: the file cannot be read.
    """
    path = run / METRICS
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: not readable: {error.strerror}") from error
    return [line for line in map(_parse_line, text.splitlines()) if line]


def _parse_line(text: str) -> dict[str, Any]:
    """Give the figures of one line of metrics.jsonl; none where it is not such a line."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    figures = {key: value for key, value in values.items() if _is_figure(value)}
    counted = all(type(figures.get(key)) is int for key in ("step", "epoch"))
    return figures if counted else {}


def _is_figure(value: Any) -> bool:
    """Tell what `_jsonable` gives from everything else that JSON can hold."""
    return all(
        item is None or (isinstance(item, int | float) and abs(item) <= _LARGEST)
        for item in (value if isinstance(value, list) else [value])
    )
