"""Where figures go while something runs: the console, metrics.jsonl, W&B, TensorBoard.

`metrics.jsonl` is the truth. The others are copies of it, and a copy that fails costs one
warning and never the run.
"""

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol

from facever.errors import DataError, StorageError
from facever.storage import write_text

# A run's figures, a JSON object a line.
METRICS = "metrics.jsonl"

# float32's largest number, in which a training counts; axes near float64's cannot be drawn.
_LARGEST = 3.4028235e38

# Seconds between two progress lines where the output is a file or a pipe.
PLAIN_INTERVAL = 30.0

# Seconds between two redraws of a terminal's line, and columns of its bar.
LIVE_INTERVAL = 0.1
BAR = 12


def is_leader() -> bool:
    """Tell whether this process speaks to the user: of those that `torchrun` started, the first."""
    return "WORLD_SIZE" not in os.environ or os.environ.get("RANK", "0") == "0"


def note(message: str) -> None:
    """Say something about the work on standard error."""
    if is_leader():
        _LiveLine.clear()
        print(message, file=sys.stderr, flush=True)


def is_interactive() -> bool:
    """Tell whether standard error is a terminal that may be redrawn."""
    return sys.stderr.isatty() and "NO_COLOR" not in os.environ and is_leader()


class Report(Protocol):
    """Takes how far a piece of work has come."""

    def __call__(self, done: int, total: int, text: str = "") -> None:
        """Note that `done` of `total` units are done; `text` ends the line."""


@contextmanager
def progress(label: str, unit: str = "images") -> Iterator[Report]:
    """Show how far a long piece of work has come, its rate and the time left.

    A terminal gets one line that is redrawn; a log gets a line every `PLAIN_INTERVAL` seconds.
    """
    if not is_interactive():
        yield _PlainLines(label, unit)
        return
    line = _LiveLine(label, unit)
    _LiveLine.nested.append(line)
    try:
        yield line
    finally:
        _LiveLine.nested.pop()
        _LiveLine.clear()


class _Pace:
    """How fast a piece of work goes; what an earlier process did must not count as speed."""

    def __init__(self, label: str, unit: str) -> None:
        self.label, self.unit = label, unit
        self.start = self.said = time.monotonic()
        self.before: int | None = None

    def due(self, done: int, interval: float) -> bool:
        """Tell whether so many seconds have passed since it was last so."""
        now = time.monotonic()
        if self.before is None:
            self.before, self.start = done, now
        if now - self.said < interval:
            return False
        self.said = now
        return True

    def rate(self, done: int) -> float:
        """Units a second since the first report."""
        return (done - (self.before or 0)) / max(self.said - self.start, 1e-9)


class _PlainLines(_Pace):
    """A line every `PLAIN_INTERVAL` seconds, for logs."""

    def __call__(self, done: int, total: int, text: str = "") -> None:
        if not self.due(done, PLAIN_INTERVAL):
            return
        rate = self.rate(done)
        left = f"{duration((total - done) / rate)} left" if rate > 0 else "time left unknown"
        note(
            f"{self.label}: {done:,} of {total:,} {self.unit}, {rate:,.0f}/s, {left}"
            + (f", {text}" if text else "")
        )


class _LiveLine(_Pace):
    """One line of a terminal, redrawn in one write and only when something is new: no flicker.

    Of work within other work the innermost has the line.
    """

    nested: ClassVar[list["_LiveLine"]] = []
    drawn: ClassVar[bool] = False

    def __call__(self, done: int, total: int, text: str = "") -> None:
        if self is not self.nested[-1] or not self.due(done, LIVE_INTERVAL):
            return
        rate, share = self.rate(done), min(done / total, 1) if total else 0
        bar = "━" * round(BAR * share)
        parts = [f"{self.label} {bar:╶<{BAR}} {share:4.0%}"]
        if rate > 0:
            parts += [f"{rate:,.0f} {self.unit}/s", f"{duration((total - done) / rate)} left"]
        line = "  ".join([*parts, text] if text else parts)
        # One column stays free, for the cursor; it waits at the left for whoever writes next.
        columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        sys.stderr.write(f"\r{line[: columns - 1]}\x1b[K\r")
        sys.stderr.flush()
        _LiveLine.drawn = True

    @classmethod
    def clear(cls) -> None:
        """Take the line away, for something else to be written."""
        if cls.drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            cls.drawn = False


def duration(seconds: float) -> str:
    """Write a duration as `h:mm:ss`, or `m:ss` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Sink(Protocol):
    """A place that takes copies of the lines of metrics.jsonl."""

    def log(self, line: Mapping[str, Any]) -> None:
        """Take one line."""

    def close(self) -> None:
        """Finish."""


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
            self._add("W&B", lambda: _Wandb(run, wandb, project, name or run.name, config))
        if tensorboard:
            self._add("TensorBoard", lambda: _TensorBoard(run))
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


# What a server that does not answer may cost a run, seconds.
_WANDB_PATIENCE = {"init_timeout": 30, "finish_timeout": 60, "finish_timeout_raises": True}


def _patience(settings: type) -> dict[str, Any]:
    """Give the limits that this version of W&B knows and its own environment leaves open."""
    known = getattr(settings, "model_fields", {})
    return {
        name: value
        for name, value in _WANDB_PATIENCE.items()
        if name in known and f"WANDB_{name.upper()}" not in os.environ
    }


class _Wandb:
    """One fresh W&B run per process: earlier lines are replayed into it.

    W&B ignores `resume` offline, and online drops lines at steps that it has seen, even where
    those were lost to a kill: replaying is the one way that gives a whole and clean curve.
    """

    def __init__(
        self, folder: Path, mode: str, project: str, name: str, config: Mapping[str, Any]
    ) -> None:
        import wandb

        # From its first word on: checking the key logs lines of its own.
        wandb.setup(settings=wandb.Settings(silent=True))
        if mode == "online" and not wandb.api.api_key:
            note("warning: W&B has no API key (`wandb login`); logging offline")
            mode = "offline"
        self.run = wandb.init(
            mode=mode,  # type: ignore[arg-type]
            project=project,
            name=name,
            dir=str(folder),
            config=dict(config),
            settings=wandb.Settings(silent=True, **_patience(wandb.Settings)),
        )
        # W&B's own minimum would be `EER.min`; runs are sorted by a figure called `EER`.
        self.run.define_metric("EER", summary="none")
        self.best = math.inf
        _remove_older_copies(folder / "wandb", Path(self.run.dir).parent)

    def log(self, line: Mapping[str, Any]) -> None:
        values = {k: v for k, v in line.items() if k not in ("step", "time")}
        self.run.log(values | {"_timestamp": line["time"]}, step=line["step"])
        eer = line.get("EER")
        if eer is not None and eer < self.best:
            self.run.summary["EER"] = self.best = eer

    def close(self) -> None:
        self.run.finish()


def _remove_older_copies(folder: Path, own: Path) -> None:
    """Leave one offline record to `wandb sync`: the newest holds all lines of the others."""
    for older in folder.glob("offline-run-*"):
        if older.name != own.name:
            shutil.rmtree(older, ignore_errors=True)


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Event files of earlier processes would draw every line again, and what a kill lost.
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, line: Mapping[str, Any]) -> None:
        for key, value in line.items():
            if key not in ("step", "time", "epoch") and isinstance(value, int | float):
                self.writer.add_scalar(key, value, line["step"], walltime=line["time"])

    def close(self) -> None:
        self.writer.close()
