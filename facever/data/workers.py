"""What this machine has, and work on pictures in several of its processes; threads do not help."""

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, current_process, get_context, parent_process
from pathlib import Path
from typing import IO, TypeVar

from facever.errors import FaceverError, StorageError

Task = TypeVar("Task")
Result = TypeVar("Result")

Progress = Callable[[int, int], None]
"""Hears of (done, total)."""


MAIN_GUARD = "`if __name__ == '__main__':`"


def refuse_unguarded() -> None:
    """Refuse work in a worker that is only importing its parent's script.

    A script without the guard is run again by each worker that it starts, and would there wait
    for what its parent holds.

    Raises:
        FaceverError: this is such a worker.
    """
    # The mark by which multiprocessing itself refuses to start processes there.
    if getattr(current_process(), "_inheriting", False):
        raise FaceverError(
            f"a worker runs the script that started it: put the script's code under {MAIN_GUARD}"
        )


def lock_file(stream: IO[bytes], *, exclusive: bool, wait: bool = True) -> None:
    """Lock an open file until it is closed, which the system does for a process that dies."""
    import fcntl

    if exclusive and wait:
        refuse_unguarded()
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    fcntl.flock(stream, kind if wait else kind | fcntl.LOCK_NB)


@contextmanager
def open_part(path: Path) -> Iterator[IO[bytes]]:
    """Open a download that was begun or will be, at its end, for this process alone.

    Raises:
        StorageError: it cannot be written, or another process has it open.
    """
    try:
        file = path.open("ab")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
    with file:
        try:
            lock_file(file, exclusive=True, wait=False)
        except OSError as error:
            raise StorageError(
                f"{path}: another process downloads it; wait for that one"
            ) from error
        yield file


def usable_cores() -> int:
    """Cores this process may run on, which a container can limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory() -> int | None:
    """Bytes of main memory that can be had; None where the system does not tell."""
    table = Path("/proc/meminfo")
    if not table.exists():
        return None
    # Not MemFree: what caches files is given back when it is asked for.
    found = re.search(r"^MemAvailable:\s+(\d+) kB", table.read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else None


def run_all(
    function: Callable[[Task], Result], tasks: Sequence[Task], *, workers: int
) -> Iterator[Result]:
    """Yield the result of each task in order; in this process where `workers` is below 2.

    Raises:
        FaceverError: a process died, most likely for want of memory.
    """
    if workers < 2 or len(tasks) < 2:
        yield from map(function, tasks)
        return
    # Spawned, not forked: a fork copies locks that torch's and BLAS's threads hold.
    pool = ProcessPoolExecutor(
        min(workers, len(tasks)), mp_context=get_context("spawn"), initializer=_obey_parent
    )
    try:
        yield from pool.map(function, tasks)
    except BrokenProcessPool as error:
        raise FaceverError(
            f"one of {workers} processes died, most likely for want of memory\n"
            "  expected room for all of them; lower data.workers. A script that calls facever "
            f"needs its code under {MAIN_GUARD}"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _obey_parent() -> None:
    """Leave Ctrl-C to the parent, and end with it even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
