"""An encoder as a safetensors file: its weights, and as metadata all else that rebuilds it."""

from pathlib import Path
from typing import Any

import torch

from facever.config import Model
from facever.embed import Embedder
from facever.export.facts import as_strings, facts_of
from facever.storage import make_folder, replacing


def description_of(embedder: Embedder) -> dict[str, Any]:
    """Tell all from which an encoder is rebuilt but its weights, as primitives."""
    return {
        **facts_of(embedder),
        "model": Model.model_validate(embedder.config["model"]).model_dump(),
        "preprocess": embedder.transform.to_dict(),
    }


def write_safetensors(embedder: Embedder, output: Path) -> None:
    """Write the encoder's weights with what `exported.load` needs.

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
