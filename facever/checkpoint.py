"""What a checkpoint holds, and how it is written, read and found again.

A checkpoint is one dict of tensors and primitives that torch's safe loader reads. It describes
itself: the encoder is rebuilt from it with no other file.

Write order: a temporary in the same folder, flush, fsync, rename, fsync the folder, then the
SHA-256 in a side-car. Killed anywhere, there is a whole `last.pt`, old or new.
"""

import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch

import facever
from facever.errors import CheckpointError
from facever.storage import replacing, write_text

FORMAT = 2

# Every key and what it holds; interfaces.md, section 5, with `preprocess`, the encoder's
# transform, and `progress`, the loop's counts and its best figures.
KEYS: Mapping[str, type] = {
    "format": int, "facever": str, "config": dict, "identities": list, "preprocess": dict,
    "encoder": dict, "loss": dict, "optimizer": dict, "schedule": dict, "scaler": dict,
    "ema": dict, "step": int, "epoch": int, "sampler": dict, "rng": dict, "progress": dict,
    "metrics": dict, "lineage": dict,
}  # fmt: skip


def save(path: Path, payload: Mapping[str, Any]) -> str:
    """Write a checkpoint so that a kill at any moment leaves the old one or the new one.

    Returns:
        SHA-256 of the file.

    Raises:
        StorageError: no space, no permission or no folder; the old checkpoint is intact.
    """
    assert payload.keys() == KEYS.keys(), payload.keys() ^ KEYS.keys()
    with replacing(path) as file:
        hashing = _HashingWriter(file)
        torch.save(dict(payload), hashing)  # type: ignore[arg-type] # it needs only `write`
        # Killed between the two renames, the file has no side-car, which is no contradiction.
        _side_car(path).unlink(missing_ok=True)
    digest = hashing.digest.hexdigest()
    write_text(_side_car(path), digest + "\n")
    return digest


class _HashingWriter:
    """A file that hashes what passes through, so that no second read is needed."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _side_car(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def save_last(run: Path, payload: Mapping[str, Any], *, best: bool) -> None:
    """Write `last.pt`, keep the one before as `previous.pt`, and link `best.pt` to it if best."""
    last, new = run / "last.pt", run / ".last.pt.new"
    save(new, payload)
    if best:
        # Before `last.pt`: a run killed here goes on from the older one and gets here again.
        _link(new, run / "best.pt")
    if last.exists():
        _link(last, run / "previous.pt")
    _link(new, last)
    for path in (new, _side_car(new)):
        path.unlink()


def _link(source: Path, target: Path) -> None:
    """Give a checkpoint and its side-car a second name; a copy where links do not work."""
    _side_car(target).unlink(missing_ok=True)
    for old, new in ((source, target), (_side_car(source), _side_car(target))):
        if not old.exists():
            continue
        temporary = new.with_name(f".{new.name}.tmp")
        temporary.unlink(missing_ok=True)
        try:
            os.link(old, temporary)
        except OSError:
            shutil.copyfile(old, temporary)
        temporary.replace(new)


def load(path: Path | str) -> dict[str, Any]:
    """Read a checkpoint, every part of it or none.

    Raises:
        CheckpointError: no such file, damaged, not a checkpoint of facever, holding objects
            that are no tensors or primitives (which are never run), or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    _verify_digest(path)
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path}: refused: {_reason(path, error)}\n  expected a checkpoint written by facever"
        ) from None
    return _validated(path, payload)


def _verify_digest(path: Path) -> None:
    """Compare a file with its side-car, where it has one: a flipped bit loads without a word."""
    side_car = _side_car(path)
    if side_car.exists() and side_car.read_bytes().strip() != file_digest(path).encode():
        raise CheckpointError(f"{path}: damaged: its SHA-256 is not the one in {side_car.name}")


def file_digest(path: Path) -> str:
    """Compute the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(path: Path, error: Exception) -> str:
    text = str(error).lower()
    # torch takes what is no zip file for a bare pickle, and speaks of weights_only there too.
    if zipfile.is_zipfile(path) and ("unsupported" in text or "weights_only" in text):
        return "it holds objects other than tensors and primitives, which could run code"
    return "damaged, or no checkpoint"


def _validated(path: Path, payload: Any) -> dict[str, Any]:
    if not isinstance(payload, dict) or not isinstance(payload.get("format"), int):
        raise CheckpointError(f"{path}: not a checkpoint of facever: it has no format number")
    if payload["format"] not in (*UPGRADES, FORMAT):
        raise CheckpointError(
            f"{path}: has format {payload['format']}, written by facever "
            f"{payload.get('facever', '?')}; this is facever {facever.__version__}, which reads "
            f"formats {min(UPGRADES)} to {FORMAT}\n  install a version that reads it"
        )
    missing = sorted(KEYS.keys() - payload.keys())
    unknown = sorted(map(str, payload.keys() - KEYS.keys()))
    wrong = [key for key, kind in KEYS.items() if not isinstance(payload.get(key, kind()), kind)]
    if missing or unknown or wrong:
        raise CheckpointError(
            f"{path}: incomplete: missing {missing}, unknown {unknown}, of another type {wrong}\n"
            f"  written by facever {payload.get('facever', '?')}, read by {facever.__version__}"
        )
    while payload["format"] != FORMAT:
        UPGRADES[payload["format"]](payload)
        payload["format"] += 1
    return payload


def _add_pieces(payload: dict[str, Any]) -> None:
    """Format 1 did not know that memory can run out."""
    payload["progress"]["pieces"] = 1


# What makes a checkpoint of the next format out of one of an older format, in place.
UPGRADES: Mapping[int, Callable[[dict[str, Any]], None]] = {1: _add_pieces}


def load_weights(module: torch.nn.Module, state: Mapping[str, Any], where: str) -> None:
    """Load a state dict into a module, all of it or none.

    Raises:
        CheckpointError: keys or shapes disagree; the first is named.
    """
    own = module.state_dict()
    problems = [f"{key} is missing" for key in own if key not in state]
    problems += [f"{key} is unknown" for key in state if key not in own]
    problems += [
        f"{key} has shape {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if problems:
        raise CheckpointError(
            f"{where}: does not fit: {problems[0]}"
            + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")
        )
    module.load_state_dict(state)
