"""An exported encoder read back: a safetensors file -> what a checkpoint would say of itself."""

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facever.errors import CheckpointError, ConfigError

# Figures of the checkpoint's validation; they hold for its own way with mirror images alone.
MEASURED: Mapping[str, type[int] | type[float]] = {
    "threshold": float, "EER": float, "EER_low": float, "EER_high": float,
    "n_mated": int, "n_non_mated": int,
}  # fmt: skip


def is_exported(path: Path) -> bool:
    """Tell a safetensors file, whatever its name: the length of its header, which is JSON."""
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError:
        return False


def load(path: Path) -> dict[str, Any]:
    """Read what rebuilds an encoder, under the keys of a checkpoint, and the checkpoint's `sha256`.

    `identities` is empty, for their names stay in the checkpoint; `lineage` has their number.

    Raises:
        CheckpointError: no such file, damaged, or not of an encoder of facever's.
        ConfigError: the package safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise ConfigError(
            f"{path}: the package safetensors, which reads it, is not installed\n"
            f"  `{shlex.quote(sys.executable)} -m pip install safetensors`"
        ) from None
    try:
        with safe_open(path, framework="pt") as file:
            payload = _payload(file.metadata() or {})
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: no readable safetensors file: {error}") from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: describes no encoder: {error}\n"
            "  expected a file by `facever export --to safetensors`"
        ) from None
    return {**payload, "encoder": weights}


def _payload(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Turn metadata into what a checkpoint would say of itself."""
    return {
        "config": {
            "model": json.loads(metadata["model"]),
            "eval": {"flip": json.loads(metadata["flip"])},
            "loss": {"name": metadata["loss"]},
        },
        "preprocess": json.loads(metadata["preprocess"]),
        "identities": [],
        "metrics": {
            name: kind(metadata[name]) for name, kind in MEASURED.items() if name in metadata
        },
        "lineage": {
            "data": metadata["data"],
            "train_images": int(metadata["train_images"]),
            "identities": int(metadata["identities"]),
        },
        "ema": {},
        "sha256": metadata["checkpoint_sha256"],
    }
