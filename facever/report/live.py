"""A run's page while it trains: always a little behind, and never in the way."""

import math
import time
from collections.abc import Callable
from pathlib import Path

from facever.report.page import write_report
from facever.tracking import note

# Seconds of training for each second that the page takes.
PATIENCE = 100


class LivePage:
    """Refreshes a run's page in at most a hundredth of the training's time.

    What fails here costs one note, and all further refreshes, but never the run.
    """

    def __init__(self, run: Path) -> None:
        self.run, self.due = run, 0.0

    def refresh(self) -> None:
        """Write the page, if the last time is long enough ago."""
        start = time.monotonic()
        if start < self.due:
            return
        if not self.attempt(lambda: write_report(self.run)):
            self.due = math.inf
            return
        end = time.monotonic()
        self.due = end + PATIENCE * (end - start)

    def attempt(self, action: Callable[[], object]) -> bool:
        """Do something for the page, and tell whether it went well."""
        try:
            action()
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            note(
                f"warning: {self.run / 'report.html'} is not complete ({reason}); the run is, and "
                f"`facever report {self.run}` tries again"
            )
            return False
        return True
