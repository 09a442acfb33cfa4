"""Where figures go while something runs: the console, metrics.jsonl, W&B, TensorBoard."""

from facever.tracking.console import (
    Report,
    duration,
    is_leader,
    note,
    progress,
)
from facever.tracking.lines import METRICS, Tracker, Untracked, read_metrics

__all__ = [
    "METRICS",
    "Report",
    "Tracker",
    "Untracked",
    "duration",
    "is_leader",
    "note",
    "progress",
    "read_metrics",
]
