"""The lines of metrics.jsonl, copied to W&B and TensorBoard."""

import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from facever.tracking.console import note


class Sink(Protocol):
    """A place that takes copies of the lines of metrics.jsonl."""

    def log(self, line: Mapping[str, Any]) -> None:
        """Take one line."""

    def close(self) -> None:
        """Finish."""


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


class Wandb:
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
        """Send one line; the lowest EER so far is the run's own."""
        values = {k: v for k, v in line.items() if k not in ("step", "time")}
        self.run.log(values | {"_timestamp": line["time"]}, step=line["step"])
        eer = line.get("EER")
        if eer is not None and eer < self.best:
            self.run.summary["EER"] = self.best = eer

    def close(self) -> None:
        """Send what is left."""
        self.run.finish()


def _remove_older_copies(folder: Path, own: Path) -> None:
    """Leave one offline record to `wandb sync`: the newest holds all lines of the others."""
    for older in folder.glob("offline-run-*"):
        if older.name != own.name:
            shutil.rmtree(older, ignore_errors=True)


class TensorBoard:
    """One set of event files per process: earlier lines are replayed into it."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Event files of earlier processes would draw every line again, and what a kill lost.
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, line: Mapping[str, Any]) -> None:
        """Draw one line's figures; TensorBoard has no lists."""
        for key, value in line.items():
            if key not in ("step", "time", "epoch") and isinstance(value, int | float):
                self.writer.add_scalar(key, value, line["step"], walltime=line["time"])

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()
