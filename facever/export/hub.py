"""An encoder as a folder that model hubs show: weights, configuration, model card. No network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facever.embed import Embedder
from facever.encoder import parameter_count
from facever.errors import StorageError
from facever.export.weights import description_of, write_safetensors
from facever.storage import appearing, write_json, write_text

_CARD = """\
---
library_name: facever
pipeline_tag: image-feature-extraction
tags:
- face-verification
- safetensors
# license: is for you to state, and the data's terms may bind you
---
# {name}

An encoder of aligned face images: {size} x {size} pixels of RGB become an embedding of {dim}
numbers. The cosine of two embeddings is the score of two images, and at a threshold they are
taken for the same person. Trained and exported by facever {facever}.

| | |
| --- | --- |
| backbone, neck | `{backbone}`, `{neck}` |
| parameters | {parameters:,} |
| begun from | {start} |
| last loss | `{loss}` |
| training data | {images:,} images of {identities:,} identities |
| their fingerprint | `{data}` |
| checkpoint, SHA-256 | `{checkpoint}` |

## How well it tells people apart

{measured}

Not measured: how errors differ between groups of people, ages, poses and cameras.

## Use

```python
from facever import load_encoder

encoder = load_encoder("model.safetensors")
score = encoder.verify("a.jpg", "b.jpg", flip={flip})  # cosine in [-1, 1]
```

`config.json` holds the configuration, the normalisation of pixels and the figures above.

## Licence

None is stated yet. Whoever publishes this folder states one here and as `license:` above, and sees
to it that the terms of the training images allow it.
"""


def write_hub_folder(embedder: Embedder, output: Path) -> None:
    """Write `model.safetensors`, `config.json` and the model card `README.md`.

    Raises:
        CheckpointError: the checkpoint lacks facts.
        DataError: the folder is there and not empty.
        StorageError: the disk refuses.
    """
    description = description_of(embedder)
    card = model_card(output.name, description, parameter_count(embedder.encoder))
    try:
        with appearing(output) as folder:
            write_safetensors(embedder, folder / "model.safetensors")
            write_json(folder / "config.json", {"library_name": "facever", **description})
            write_text(folder / "README.md", card)
    except OSError as error:
        raise StorageError(
            f"{output}: not written: {error.strerror or error}\n  give another folder"
        ) from error


def model_card(name: str, description: Mapping[str, Any], parameters: int) -> str:
    """Say in Markdown what the checkpoint knows of the encoder, and what nobody knows yet.

    Args:
        name: title of the card.
        description: of `description_of`.
        parameters: the encoder's.
    """
    model = description["model"]
    return _CARD.format(
        name=name,
        size=description["image_size"],
        dim=description["embedding_dim"],
        facever=description["facever"],
        backbone=model["backbone"],
        neck=model["neck"],
        parameters=parameters,
        start="timm's pretrained weights" if model["pretrained"] else "random weights",
        loss=description["loss"],
        images=description["train_images"],
        identities=description["identities"],
        data=description["data"],
        checkpoint=description["checkpoint_sha256"],
        measured=_measured(description),
        flip=description["flip"],
    )


def _measured(description: Mapping[str, Any]) -> str:
    """Say how well the encoder did, in a paragraph."""
    if not {"EER", "threshold"} <= description.keys():
        return "The checkpoint holds no figures."
    told = f"EER **{description['EER']:.2f} %**"
    if "EER_low" in description:
        told += f" (95 %: {description['EER_low']:.2f} to {description['EER_high']:.2f} %)"
    if "n_mated" in description:
        told += f" on {description['n_mated']:,} mated and {description['n_non_mated']:,} non-mated"
    else:
        told += " on the validation"
    mirrored = "averaged" if description["flip"] else "not averaged"
    return (
        f"{told} pairs,\nat a threshold of {description['threshold']:.4f}, with embeddings "
        f"{mirrored} with those of mirror images. The\nepoch was chosen by the same pairs, which "
        "flatters the figure."
    )
