"""What lies in the folder of a run: what can be read, and why the rest cannot."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from facever import checkpoint, runs
from facever.ask import Values
from facever.config import Config, resolve
from facever.data_setup import data_fingerprint, read_data
from facever.encoder import build_encoder
from facever.errors import CheckpointError, FaceverError
from facever.loss_setup import check_loss, saved_loss
from facever.plainyaml import load_yaml
from facever.tracking import read_metrics

CHECKPOINTS = ("last.pt", "previous.pt", "best.pt")


@dataclass(frozen=True)
class Found:
    """What lies in the folder: what can be read, and why the rest cannot."""

    run: Path
    config: Config | None
    payloads: dict[str, Values]
    damage: dict[str, str]
    lines: list[Values]
    """of metrics.jsonl, as far as they are whole"""
    data: str
    """why a resume has not the data that it needs; empty where it has, or needs none"""

    @property
    def newest(self) -> str | None:
        """The checkpoint that a resume goes on from."""
        return next((name for name in CHECKPOINTS[:2] if name in self.payloads), None)

    @property
    def complete(self) -> bool:
        """Whether every epoch was trained."""
        if self.config is None or self.newest is None:
            return False
        return bool(self.payloads[self.newest]["epoch"] >= self.epochs)

    @property
    def epochs(self) -> int:
        """Of the whole run, which a wall-clock limit may have shortened."""
        assert self.config is not None
        assert self.newest is not None
        return self.payloads[self.newest]["progress"]["epochs"] or self.config.optim.epochs


def look(run: Path) -> Found:
    """Read all of a run that can be read; nothing is changed."""
    damage: dict[str, str] = {}
    config = _attempt("config.yaml", damage, lambda: _read_config(run / "config.yaml"))
    payloads = {}
    for name in CHECKPOINTS:
        if (run / name).exists():
            payload = _attempt(name, damage, partial(_read_checkpoint, run / name))
            if payload is not None:
                payloads[name] = payload
    found = Found(run, config, payloads, damage, read_metrics(run), "")
    if config is None or runs.is_finished(run):
        return found
    return replace(found, data=_data_problem(found, config))


def _attempt(name: str, damage: dict[str, str], read: Callable[[], Any]) -> Any:
    """Read something, or note why it cannot be read."""
    try:
        return read()
    except FaceverError as error:
        damage[name] = str(error).splitlines()[0]
    except OSError as error:
        damage[name] = f"cannot be read: {error.strerror}"
    return None


def _read_config(path: Path) -> Config:
    return resolve([load_yaml(path)], check=check_loss)


def _read_checkpoint(path: Path) -> Values:
    """Load a checkpoint and try its weights on the encoder and the loss that it describes."""
    payload = checkpoint.load(path)
    try:
        config = resolve([payload["config"]])
        encoder = build_encoder(
            **config.model.model_dump() | {"pretrained": False}, image_size=config.data.image_size
        )
        checkpoint.load_weights(encoder, payload["encoder"], str(path))
        saved_loss(payload, str(path))
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: does not fit itself: {error}") from None
    return payload


def _data_problem(found: Found, config: Config) -> str:
    """Say why the data is not what a resume needs; empty where it is."""
    try:
        manifest = read_data(config.data)
    except FaceverError as error:
        return str(error).splitlines()[0]
    newest = found.newest
    if newest and found.payloads[newest]["lineage"]["data"] != data_fingerprint(manifest):
        return f"{config.data.root}: not the data that the run began with"
    return ""
