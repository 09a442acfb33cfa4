"""What an exported encoder says of itself, wherever it is written."""

import json
from collections.abc import Mapping
from typing import Any

import facever
from facever.embed import Embedder
from facever.errors import CheckpointError
from facever.exported import MEASURED


def facts_of(embedder: Embedder, flip: bool | None = None) -> dict[str, Any]:
    """Tell what an exported file should say of its encoder, as primitives.

    Names of identities stay in the checkpoint, and so do paths: who gives a model away must not
    tell with it who was photographed, nor where the pictures lie.

    Args:
        embedder: of the checkpoint.
        flip: whether embeddings are means with mirror images'; None: as its run had it.

    Returns:
        among others `threshold` and `EER` (percent), where the checkpoint has them and `flip`
        is what they were measured with.

    Raises:
        CheckpointError: the checkpoint does not hold such facts.
    """
    measured = embedder.metrics if flip in (None, embedder.flip) else {}
    lineage = embedder.lineage
    try:
        return {
            "facever": facever.__version__,
            "checkpoint_sha256": embedder.digest,
            "image_size": embedder.transform.image_size,
            "embedding_dim": embedder.encoder.embedding_dim,
            "flip": embedder.flip if flip is None else flip,
            "loss": str(embedder.config["loss"]["name"]),
            "data": str(lineage["data"]),
            "train_images": int(lineage["train_images"]),
            # Of an encoder that was exported before, the number alone is known.
            "identities": int(lineage.get("identities", len(embedder.identities))),
            **{name: kind(measured[name]) for name, kind in MEASURED.items() if name in measured},
        }
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"checkpoint {embedder.digest[:8]}: lacks facts to export, or has odd ones: {error}"
        ) from None


def as_strings(values: Mapping[str, Any]) -> dict[str, str]:
    """Give strings as they are and all else as JSON, for metadata that are strings."""
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
