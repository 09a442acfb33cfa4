"""What a checkpoint holds, and how it is written, read and found again.

A checkpoint is one dict of tensors and primitives that torch's safe loader reads. It describes
itself: the encoder is rebuilt from it with no other file.

Write order: a temporary in the same folder, flush, fsync, rename, fsync the folder, then the
SHA-256 in a side-car. Killed anywhere, there is a whole `last.pt`, old or new.
"""

import hashlib
import os
import pickle
import pickletools
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch

import facever
from facever.errors import CheckpointError
from facever.storage import replacing, write_text

FORMAT = 3

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
        side_car(path).unlink(missing_ok=True)
    digest = hashing.digest.hexdigest()
    write_text(side_car(path), digest + "\n")
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


def side_car(path: Path) -> Path:
    """Give the file that holds a checkpoint's SHA-256."""
    return path.with_name(path.name + ".sha256")


def save_last(run: Path, payload: Mapping[str, Any], *, best: bool) -> None:
    """Write `last.pt`, keep the one before as `previous.pt`, and link `best.pt` to it if best."""
    last, new = run / "last.pt", run / ".last.pt.new"
    save(new, payload)
    if best:
        # Before `last.pt`: a run killed here goes on from the older one and gets here again.
        link(new, run / "best.pt")
    if last.exists():
        link(last, run / "previous.pt")
    link(new, last)
    for path in (new, side_car(new)):
        path.unlink()


def link(source: Path, target: Path) -> None:
    """Give a checkpoint and its side-car a second name; a copy where links do not work."""
    side_car(target).unlink(missing_ok=True)
    for old, new in ((source, target), (side_car(source), side_car(target))):
        if not old.exists():
            continue
        temporary = new.with_name(f".{new.name}.tmp")
        temporary.unlink(missing_ok=True)
        try:
            os.link(old, temporary)
        except OSError:
            shutil.copyfile(old, temporary)
        temporary.replace(new)
        # A rename onto another name of the same file does nothing at all: so it is after a kill
        # between the last link of a save and this one.
        temporary.unlink(missing_ok=True)


def write_side_car(path: Path) -> None:
    """Write the SHA-256 of a checkpoint beside it."""
    write_text(side_car(path), file_digest(path) + "\n")


def set_aside(path: Path) -> None:
    """Rename a checkpoint that is damaged, if it is there, so that another can take its place."""
    if path.exists():
        path.replace(path.with_name(f"damaged-{path.name}"))
    side_car(path).unlink(missing_ok=True)


def load(path: Path | str) -> dict[str, Any]:
    """Read a checkpoint, every part of it or none.

    Raises:
        CheckpointError: no such file, damaged, not a checkpoint of facever, holding objects
            that are no tensors or primitives (which are never run), or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such checkpoint\n  expected a file such as checkpoints/train-1/best.pt"
        )
    _verify_digest(path)
    try:
        with warnings.catch_warnings():
            # What torch says of a stranger's file would stand before the one message about it.
            warnings.simplefilter("ignore")
            _check_archive(path)
            payload = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path}: refused: {_reason(error)}\n  expected a checkpoint written by facever"
        ) from None
    return _validated(path, payload)


# All that a pickle of tensors and primitives calls by name, besides torch's kinds of storage.
_CALLED = frozenset(("collections OrderedDict", "torch._utils _rebuild_tensor_v2"))
_STORAGE = re.compile(r"torch [A-Z][A-Za-z0-9]*Storage")


def _check_archive(path: Path) -> None:
    """Refuse what torch's safe loader would follow into gigabytes or minutes.

    It calls `bytearray(10**10)` where a pickle says so, and unpacks a member of any size.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        # torch looks members up without regard to case: of two it might read the other one.
        names = {member.filename.casefold(): member.filename for member in members}
        unpacked = sum(member.file_size for member in members)
        if len(names) < len(members) or unpacked > path.stat().st_size:
            raise ValueError("members of one name, or larger than the file")
        (pickled,) = (name for name in names.values() if name.endswith("/data.pkl"))
        for opcode, argument, _ in pickletools.genops(archive.read(pickled)):
            called = opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL")
            if called and argument not in _CALLED and not _STORAGE.fullmatch(argument or ""):
                raise pickle.UnpicklingError(f"unsupported: {argument}")


def _verify_digest(path: Path) -> None:
    """Compare a file with its side-car, where it has one: a flipped bit loads without a word."""
    beside = side_car(path)
    if beside.exists() and beside.read_bytes().strip() != file_digest(path).encode():
        raise CheckpointError(
            f"{path}: damaged: its SHA-256 is not the one in {beside.name}\n"
            f"  `facever fsck {path.parent}` tells which of the run's checkpoints are whole"
        )


def file_digest(path: Path) -> str:
    """Compute the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: Exception) -> str:
    text = str(error).lower()
    if "unsupported" in text or "weights_only" in text:
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


def _add_epochs(payload: dict[str, Any]) -> None:
    """Format 2 did not know that a wall-clock limit can shorten a run."""
    payload["progress"]["epochs"] = 0


# What makes a checkpoint of the next format out of one of an older format, in place.
UPGRADES: Mapping[int, Callable[[dict[str, Any]], None]] = {1: _add_pieces, 2: _add_epochs}


def load_weights(module: torch.nn.Module, state: Mapping[str, Any], where: str) -> None:
    """Load a state dict into a module, all of it or none.

    Raises:
        CheckpointError: keys or shapes disagree; the first is named.
    """
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{where}: does not fit: its weights are no tensors by name")
    own = module.state_dict()
    problems = [f"{key} is missing" for key in own if key not in state]
    problems += [f"{key} is unknown" for key in state if key not in own]
    problems += [
        f"{key} has shape {_shape(state[key])}, expected {_shape(own[key])}"
        for key in own
        if key in state and _shape(state[key]) != _shape(own[key])
    ]
    if problems:
        raise CheckpointError(
            f"{where}: does not fit: {problems[0]}"
            + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")
        )
    module.load_state_dict(state)


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None
