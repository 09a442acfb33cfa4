"""What a command says while it works: notes and progress, on standard error."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Protocol

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
