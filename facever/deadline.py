"""A wall-clock limit: whether a training must stop now, and how many epochs end before it."""

import os
import time
from collections.abc import Callable
from pathlib import Path

# Of the time that is left, what the epochs may take: the rest is for scoring and reporting.
_SHARE = 0.97


class Deadline:
    """When the command must have ended, counted from the start of its process.

    Args:
        seconds: the limit; None for none.
        saving: tells how long the last checkpoint took to write.
        age: seconds since the process began.
        clock: gives seconds.
    """

    def __init__(
        self,
        seconds: float | None = None,
        *,
        saving: Callable[[], float] = lambda: 0.0,
        age: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.saving, self.clock = saving, clock
        self.start = self.last = clock()
        self.longest = 0.0
        ran = process_age() if age is None else age
        self.end = None if seconds is None else self.start - ran + seconds

    def passed(self) -> bool:
        """Tell, between two steps, whether another one and a save might end too late.

        What lies between two steps may be a validation, so the longest such time counts.
        """
        if self.end is None:
            return False
        now = self.clock()
        self.longest, self.last = max(self.longest, now - self.last), now
        return now + self.longest + 2 * self.saving() >= self.end

    def epochs(self, share: float) -> int | None:
        """Count the further epochs that fit, as `share` of one took the time up to now.

        None without a limit.
        """
        if self.end is None:
            return None
        now = self.clock()
        return max(0, int(_SHARE * (self.end - now) * share / (now - self.start)))


def process_age() -> float:
    """Seconds since this process began; 0 where the system does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    # Linux alone comes here. The 22nd field, the 20th behind the name: ticks since the boot.
    began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began)
