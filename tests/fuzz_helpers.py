"""What every fuzzed case is held to, and how many cases came out how."""

import atexit
import os
import resource
import signal
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings

import facever
from facever.errors import FaceverError

# Cases of each reader; `make fuzz` asks for more by its profile.
CASES = max(2000, settings().max_examples)
FUZZ = settings(
    max_examples=CASES,
    deadline=None,  # a case has a limit of its own, in seconds of the processor
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

T = TypeVar("T")
Folders = tuple[str, ...]

CPU_SECONDS = 10  # of one case, on a machine however slow
GROWTH_MIB = 512  # of the process's largest size in memory, in one case

# Reader -> cases by how they came out.
TALLY: defaultdict[str, Counter[str]] = defaultdict(Counter)


def _inside(folder: Any) -> str:
    """What the paths of all that lies in a folder begin with."""
    return str(os.path.realpath(folder)).rstrip(os.sep) + os.sep


# What may be read besides the data: Python, its libraries, this repository.
_LIBRARIES = tuple(
    _inside(path)
    for path in (sys.prefix, sys.base_prefix, Path(facever.__file__).parents[1], *sys.path)
    if path
)
_LOOKS = frozenset(("os.listdir", "os.scandir"))
_CHANGES = frozenset(
    f"{module}.{name}"
    for module, names in {
        "os": "remove rename mkdir rmdir link symlink truncate chmod chown chflags utime setxattr",
        "shutil": "copyfile copymode copystat copytree move rmtree make_archive unpack_archive",
    }.items()
    for name in names.split()
)
_NEVER = (
    "os.exec", "os.fork", "os.kill", "os.posix_spawn", "os.putenv", "os.spawn", "os.startfile",
    "os.system", "pickle.", "socket.", "subprocess.", "urllib.", "webbrowser.",
)  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Crossed(BaseException):
    """A reader went where it must not; no `except Exception` hides it, and it did not get there."""


class TooLong(BaseException):
    """A reader does not come to an end."""


class _Fence:
    """Says of each of Python's audit events, while a case runs, whether it may be."""

    def __init__(self) -> None:
        self.reading: Folders | None = None
        self.writing: Folders = ()
        self.looking: Folders = ()

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.reading is None:
            return
        if event.startswith(_NEVER):
            raise Crossed(f"{event} {args}")
        if event in ("os.remove", "os.rmdir") and args[-1] >= 0:
            return  # a name in a folder that was opened before, as shutil.rmtree does
        if event in _CHANGES:
            self._check(event, args, self.writing)
        elif event in _LOOKS:
            self._check(event, args, (*self.reading, *self.looking, *_LIBRARIES))
        elif event == "open":
            self._check_open(*args)

    def _check_open(self, path: Any, mode: str | None, flags: int) -> None:
        writes = flags & _WRITING or any(letter in (mode or "") for letter in "wax+")
        compiled = f"{os.sep}__pycache__{os.sep}" in str(path)
        allowed = self.writing if writes and not compiled else (*(self.reading or ()), *_LIBRARIES)
        self._check("writes" if writes else "reads", (path,), allowed)

    def _check(self, what: str, args: tuple[Any, ...], allowed: Folders) -> None:
        for path in args:
            if isinstance(path, str | bytes | os.PathLike):
                real = _inside(os.fsdecode(path))
                if not real.startswith(allowed):
                    raise Crossed(f"{what} {real!r}")


_FENCE = _Fence()
sys.addaudithook(_FENCE)


@contextmanager
def _fenced(data: Path, writes: bool, looking: Folders) -> Iterator[None]:
    inside = (_inside(data),)
    _FENCE.writing, _FENCE.looking = (inside if writes else ()), looking
    _FENCE.reading = inside
    try:
        yield
    finally:
        _FENCE.reading = None


def _stop(_: int, frame: FrameType | None) -> None:
    raise TooLong(f"{CPU_SECONDS} s of CPU time")


@contextmanager
def _limited() -> Iterator[None]:
    """Bound the time and the memory of a case; time is the processor's, memory the most so far."""
    before = _largest_mib()
    old = signal.signal(signal.SIGPROF, _stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)
    grown = _largest_mib() - before
    assert grown < GROWTH_MIB, f"one case took {grown} MiB more memory than any before"


def _largest_mib() -> int:
    """The largest size in memory that this process had so far; a Mac counts it in bytes."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size >> (20 if sys.platform == "darwin" else 10)


def attempt(
    reader: str,
    read: Callable[[], T],
    data: Path,
    *,
    writes: bool = False,
    looking: Folders = (),
) -> T | None:
    """Run one case: what was read, or None where it was refused by a documented error.

    Args:
        reader: under what name it is counted.
        read: the case.
        data: the one folder that may be read, besides libraries.
        writes: whether that folder may be written too; nothing else ever may.
        looking: folders whose names may be listed.
    """
    TALLY[reader]["anything else"] += 1
    result: T | None = None
    ending, message = "read", "-"
    try:
        with _limited(), _fenced(data, writes, looking):
            try:
                result = read()
            except FaceverError as error:
                ending, message = "documented error", str(error)
    except (Crossed, TooLong) as fault:
        raise AssertionError(f"{type(fault).__name__}: {fault}") from fault
    assert message.strip(), "an error that says nothing"
    TALLY[reader]["anything else"] -= 1
    TALLY[reader][ending] += 1
    return result


def twice(reader: str, read: Callable[[], T], data: Path, **allowed: Any) -> T | None:
    """`attempt`, and the same again with the same input: the answers must be equal."""
    answers: list[str] = []

    def answer() -> T:
        try:
            result = read()
        except FaceverError as error:
            answers.append(str(error))
            raise
        answers.append(described(result))
        return result

    def both() -> T:
        with suppress(FaceverError):
            answer()
        return answer()

    result = attempt(reader, both, data, **allowed)
    assert answers[0] == answers[1], "read differently the second time"
    return result


def described(value: object) -> str:
    """Tell values apart by type and content, NaN included."""
    fields = getattr(value, "__dict__", None)
    return repr(value) if fields is None else repr({k: _plain(v) for k, v in fields.items()})


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def is_number(value: object) -> bool:
    """A finite number that a float can hold."""
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """Give a folder, in memory where there is such a place: on a disk a case takes a while."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder).resolve()


@atexit.register
def write_table() -> None:
    """Leave the table of all cases where `FUZZ_TABLE=FILE` asks for it."""
    if file := os.environ.get("FUZZ_TABLE"):
        Path(file).write_text(table())


def table() -> str:
    """All readers with their cases by outcome, and the sum, as a Markdown table."""
    endings = ("read", "documented error", "anything else")
    counts = {reader: [TALLY[reader][ending] for ending in endings] for reader in sorted(TALLY)}
    counts["all"] = [sum(column) for column in zip(*counts.values(), strict=True)]
    lines = [("reader", "cases", *endings), ("---", *["---:"] * 4)]
    lines += [
        (reader, *(f"{n:,}" for n in (sum(found), *found))) for reader, found in counts.items()
    ]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
