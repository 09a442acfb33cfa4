"""Real processes: forked ones that share what is imported, and limits of the system."""

import os
import resource
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def forked(action: Callable[[], Any]) -> int:
    """Run `action` in a process of its own and give its id; it exits 0, or 1 if that raised.

    A fork costs nothing where a new interpreter would import torch again.
    """
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        action()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def outcome(process: int) -> int:
    """Wait for a process: its exit status, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed_at_rename(number: int, action: Callable[[], Any]) -> bool:
    """Run `action` in a process that is killed before its rename of that number, from 0 on.

    Returns:
        whether it came to that rename; if not, it ran to its end.
    """

    def run() -> None:
        real, left = Path.replace, [number]

        def replace(self: Path, target: Path) -> Path:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return real(self, target)

        Path.replace = replace  # type: ignore[assignment, method-assign]
        action()

    code = outcome(forked(run))
    assert code in (0, -signal.SIGKILL)
    return code != 0


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Let no file of this process grow beyond `limit` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
