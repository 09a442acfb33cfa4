"""An encoder as an ONNX file: uint8 RGB pixels in, unit embeddings and norms out.

Letters: N images, B images of a batch, D embedding dimension, S side of the input.
"""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from facever.data.pack import FileImages
from facever.data.synth import render
from facever.embed import Embedder, embed_images
from facever.encoder import Encoder
from facever.errors import CheckFailed, CheckpointError
from facever.export.facts import as_strings, facts_of
from facever.storage import make_folder, replacing
from facever.tracking import note
from facever.transforms import fit

UInt8 = NDArray[np.uint8]

# The oldest that torch's exporter writes as it is; onnxruntime has read it since 1.14.
OPSET = 18

# What a file must reach: the lowest cosine, and the largest relative difference of a norm.
# Rounding alone leaves 0.9999999 and 1e-6.
COSINE, NORM = 0.99999, 1e-3

# Drawn faces that a file is checked on, and the sides, in pixels, that faces are drawn with.
_DRAWN = 16
_SIDES = 32, 1024


@dataclass(frozen=True)
class Agreement:
    """How well an ONNX file agrees with its encoder.

    Attributes:
        images: how many were embedded by both.
        cosine: the lowest between both embeddings of an image.
        norm: the largest relative difference of their norms.
    """

    images: int
    cosine: float
    norm: float


class Graph(nn.Module):
    """What the file computes: uint8 (B, S, S, 3) to unit embeddings (B, D) and norms (B,)."""

    def __init__(self, encoder: Encoder, *, flip: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.flip = flip

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embed images as `embed_images` does, then part lengths from directions."""
        batch = self.encoder.transform.batch(images)
        if self.flip:
            batch = torch.cat([batch, batch.flip(3)])
        embeddings: Tensor = self.encoder(batch)
        if self.flip:
            embeddings = embeddings.reshape(2, -1, self.encoder.embedding_dim).mean(0)
        norms = embeddings.norm(dim=1)
        return embeddings / norms[:, None], norms


def write_onnx(
    embedder: Embedder, output: Path, *, flip: bool | None = None, images: Sequence[Path] = ()
) -> Agreement:
    """Write the encoder as an ONNX file, once it is known to give what the encoder gives.

    Input `images`, uint8 RGB (B, S, S, 3) with any B; outputs `embedding` (B, D), of unit
    length, so that products are scores, and `norm` (B,). Its metadata are `facts_of`.

    Args:
        embedder: what to write, on the CPU.
        output: the file.
        flip: give the mean of an image's embedding and its mirror image's; None: as the run did.
        images: files to check it on, besides drawn faces.

    Raises:
        CheckpointError: torch cannot export this encoder, or the checkpoint lacks facts.
        CheckFailed: onnxruntime does not give what torch gives; nothing is written.
        DataError: an image cannot be read.
        StorageError: the disk refuses.
    """
    facts = facts_of(embedder, flip)
    if facts["flip"] != embedder.flip:
        note(f"threshold and EER are left out: they were measured with flip={embedder.flip}")
    pixels = _faces(embedder.transform.image_size, images)
    note(f"{output}: exporting, then checking on {len(pixels)} images; this takes some seconds")
    model = onnx_bytes(embedder.encoder, flip=facts["flip"], metadata=as_strings(facts))
    agreement = agreement_of(model, embedder.encoder, pixels, flip=facts["flip"])
    if not (agreement.cosine >= COSINE and agreement.norm <= NORM):
        raise CheckFailed(
            f"{output}: not written: onnxruntime and torch disagree on {agreement.images} images: "
            f"lowest cosine {agreement.cosine:.7f}, expected at least {COSINE}; norms differ by "
            f"{agreement.norm:.1e}, expected at most {NORM:.0e}\n"
            "  `--to safetensors` carries this encoder to wherever torch is"
        )
    make_folder(output.parent)
    with replacing(output) as file:
        file.write(model)
    return agreement


def onnx_bytes(encoder: Encoder, *, flip: bool, metadata: Mapping[str, str]) -> bytes:
    """Make the bytes of the file.

    Raises:
        CheckpointError: torch cannot export this encoder.
    """
    # Recomputing activations serves training alone, and is nothing that ONNX knows.
    with suppress(AttributeError):
        encoder.backbone.set_grad_checkpointing(False)  # type: ignore[operator] # timm's method
    side = encoder.transform.image_size
    # Two of them, for torch takes a dimension that is 1 for one that is always 1.
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                Graph(encoder, flip=flip).eval(),
                (example,),
                input_names=["images"],
                output_names=["embedding", "norm"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        return _serialised(program.model_proto, metadata)
    # What an encoder is refused with depends on the exporter's stage, and on torch's version.
    except Exception as error:
        raise CheckpointError(
            f"{type(encoder.backbone).__name__}: torch {torch.__version__} cannot export it to "
            f"ONNX: {str(error).strip().partition(chr(10))[0]}\n"
            "  `--to safetensors` carries it to wherever torch is; --debug shows the traceback"
        ) from error


def _serialised(model: Any, metadata: Mapping[str, str]) -> bytes:
    """Put metadata in the place of the exporter's, which tell paths on this machine."""
    graph = model.graph
    named = (graph.node, graph.input, graph.output, graph.value_info, graph.initializer)
    inner = (function.node for function in model.functions)
    for part in (model, graph, *model.functions, *(p for parts in (*named, *inner) for p in parts)):
        del part.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    return bytes(model.SerializeToString())


@dataclass(frozen=True)
class _Pixels:
    """Images in memory, fetched by index."""

    pixels: UInt8

    def gather(self, indices: NDArray[np.int64]) -> UInt8:
        return self.pixels[indices]


def _faces(size: int, paths: Sequence[Path]) -> UInt8:
    """Draw faces of two pictures a person, and read the given ones, (N, size, size, 3)."""
    numbers = np.arange(_DRAWN)
    side = int(np.clip(size, *_SIDES))
    drawn = render((numbers // 2).tolist(), (numbers % 2).tolist(), size=side).pixels
    given = FileImages(Path(), [str(path) for path in paths], size)
    return np.stack([*(fit(image, size) for image in drawn), *given.gather(np.arange(len(given)))])


def agreement_of(model: bytes, encoder: Encoder, pixels: UInt8, *, flip: bool) -> Agreement:
    """Compare a file with its encoder, in a batch of one and in one of all images.

    Args:
        model: the file's bytes.
        encoder: on the CPU.
        pixels: uint8 (N, S, S, 3).
        flip: whether the file averages over mirror images, which the encoder will too.

    Raises:
        CheckFailed: onnxruntime does not run it.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        answers = [session.run(None, {"images": batch}) for batch in (pixels[:1], pixels)]
    # Its exceptions have nothing but Exception in common.
    except Exception as error:
        raise CheckFailed(
            f"onnxruntime {onnxruntime.__version__} does not run what torch exported: {error}"
        ) from error
    unit, norms = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    table = embed_images(encoder, _Pixels(pixels), len(pixels), flip=flip).astype(np.float64)
    expected = np.concatenate([table[:1], table])
    lengths = np.linalg.norm(expected, axis=1)
    cosines = (unit * expected).sum(1) / lengths
    return Agreement(len(pixels), float(cosines.min()), float(abs(norms / lengths - 1).max()))
