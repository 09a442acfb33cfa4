"""An encoder as a safetensors file: its weights, and as metadata all else that rebuilds it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from facever.config import Model
from facever.device import resolve_device
from facever.embed import Embedder, encoder_of
from facever.errors import CheckpointError
from facever.export.facts import MEASURED, as_strings, facts_of
from facever.storage import make_folder, replacing


def description_of(embedder: Embedder) -> dict[str, Any]:
    """Tell all from which an encoder is rebuilt but its weights, as primitives."""
    return {
        **facts_of(embedder),
        "model": Model.model_validate(embedder.config["model"]).model_dump(),
        "preprocess": embedder.transform.to_dict(),
    }


def write_safetensors(embedder: Embedder, output: Path) -> None:
    """Write the encoder's weights with what `load_safetensors` needs.

    Raises:
        CheckpointError: the checkpoint lacks facts.
        StorageError: the disk refuses.
    """
    from safetensors.torch import save

    # The format knows neither shared memory nor an order of it.
    weights = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in embedder.encoder.state_dict().items()
    }
    # Readers ask for `format` to tell whose tensors these are.
    content = save(weights, {"format": "pt", **as_strings(description_of(embedder))})
    make_folder(output.parent)
    with replacing(output) as file:
        file.write(content)


def load_safetensors(path: str | Path, *, device: str = "cpu") -> Embedder:
    """Rebuild the encoder of a file by `write_safetensors`, from that file alone.

    `identities` is empty, for their names stay in the checkpoint; `lineage` has their number.

    Args:
        path: a file such as `model.safetensors`.
        device: where to put the encoder.

    Raises:
        CheckpointError: no such file, damaged, or not of an encoder of facever's.
    """
    from safetensors import SafetensorError, safe_open

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
    encoder = encoder_of({**payload, "encoder": weights}, str(path))
    return Embedder(encoder, payload, payload["sha256"]).to(resolve_device(device))


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
