"""Images to embeddings, each image once, and `load_encoder`, which needs one file alone.

Letters: N images, B images of a batch, V views of an image, D embedding dimension, S side of the
input.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from facever import checkpoint, exported
from facever.align import AlignedImages, Detector
from facever.config import Data, Eval, Model
from facever.data import bundles
from facever.data.images import is_image_name
from facever.data.loader import Gather
from facever.data.pack import FileImages
from facever.device import (
    autocast,
    first_line,
    free_cached_memory,
    is_out_of_memory,
    resolve_device,
    to_host,
)
from facever.distributed import gather_table, share
from facever.encoder import Encoder, build_encoder
from facever.errors import CheckpointError, DataError, FaceverError
from facever.storage import make_folder, replacing
from facever.tracking import Report, progress
from facever.transforms import EvalTransform

Embeddings = NDArray[np.float32]
Ints = NDArray[np.int64]
# Indices of images, and what waits for their embeddings.
Launched = tuple[Ints, Callable[[], Tensor]]

BATCH, GPU_BATCH = 256, 4096  # images embedded at once
EPSILON = 1e-12  # a view of norm 0 has no direction to add, and must not make NaN of the others


@torch.inference_mode()
def embed_images(
    encoder: Encoder,
    images: Gather,
    count: int,
    *,
    flip: bool = True,
    crop_scale: float | None = None,
    norm_power: float | None = 1.0,
    batch_size: int | None = None,
    device: torch.device | None = None,
    precision: str = "fp32",
    names: Sequence[str] = (),
    report: Report | None = None,
) -> Embeddings:
    """Embed images 0 to count - 1 of `images`, with the encoder in eval mode.

    Args:
        encoder: on `device`; its mode is restored afterwards.
        images: fetched by index, uint8 (B, S, S, 3).
        count: N.
        flip: fuse the embedding of an image with its mirror image's.
        crop_scale: fuse it with those of five crops of this side, a share of S; None: of none.
        norm_power: how the views are fused, see `fuse_views`; None: they are kept apart, as
            (N, V * D): the image, its crops, then the mirror images of all these.
        batch_size: images at once; None: 256, on a GPU 4,096. Fewer where that does not fit.
        device: where the encoder is.
        precision: `fp32`, `bf16` or `fp16`.
        names: the images' names, for errors.
        report: takes how many are done, for a progress line.

    Returns:
        Raw embeddings (N, D): their norms mean something, their directions are what counts.

    Raises:
        DataError: an embedding is not finite; the image is named.
    """
    device = device or torch.device("cpu")
    was_training = encoder.training
    encoder.eval()
    mine = share(count)
    kept = count_views(flip, crop_scale) if norm_power is None else 1
    table = np.empty((mine.stop - mine.start, kept * encoder.embedding_dim), dtype=np.float32)

    def embed(indices: Ints) -> Tensor:
        pixels = torch.from_numpy(images.gather(indices)).to(device)
        batch = encoder.transform.batch(pixels)
        with autocast(device, precision):
            views = torch.stack([encoder(view) for view in _views(batch, flip, crop_scale)])
        fused = views.transpose(0, 1) if norm_power is None else fuse_views(views, norm_power)
        return fused.flatten(1).float()

    batches = _as_many_as_fit(embed, mine, batch_size or images_at_once(device))
    for indices, rows in _one_ahead(batches):
        table[indices - mine.start] = rows().numpy()
        if report:
            report(int(indices[-1]) + 1 - mine.start, len(table))
    encoder.train(was_training)
    table = gather_table(table, count)
    _check_finite(table, names)
    return table


def images_at_once(device: torch.device) -> int:
    """Choose how many images are embedded at once, if they fit: enough to keep a device busy."""
    return GPU_BATCH if device.type == "cuda" else BATCH


def _as_many_as_fit(
    embed: Callable[[Ints], Tensor], images: slice, batch_size: int
) -> Iterator[Launched]:
    """Embed images in batches, of half the size from where memory runs out on.

    Raises:
        FaceverError: there is no memory for one image.
    """
    start = images.start
    while start < images.stop:
        indices = np.arange(start, min(start + batch_size, images.stop))
        try:
            rows = embed(indices)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = first_line(error)
        else:
            yield indices, to_host(rows)
            start += len(indices)
            continue
        # Not in the handler: its traceback would hold on to the tensors of the failed pass.
        if len(indices) == 1:
            raise FaceverError(f"out of memory with one image: {reason}")
        batch_size = len(indices) // 2
        free_cached_memory()


def _one_ahead(batches: Iterator[Launched]) -> Iterator[Launched]:
    """Yield each when the next has been launched, so that a GPU computes while the host copies."""
    before = next(batches, None)
    for batch in batches:
        assert before is not None
        yield before
        before = batch
    if before is not None:
        yield before


def count_views(flip: bool, crop_scale: float | None) -> int:
    """Count the views of an image that `embed_images` looks at."""
    return (2 if flip else 1) * (1 if crop_scale is None else 6)


def _views(batch: Tensor, flip: bool, crop_scale: float | None) -> Iterator[Tensor]:
    """Yield the views of preprocessed images (B, 3, S, S), of the same shape."""
    yield batch
    if crop_scale is not None:
        yield from _crops(batch, crop_scale)
    if flip:
        yield from _views(batch.flip(3), False, crop_scale)


def _crops(batch: Tensor, scale: float) -> Iterator[Tensor]:
    """Yield the crops at the corners and at the centre, resampled to the side S."""
    size = batch.shape[3]
    side = max(1, round(scale * size))
    end = size - side
    for top, left in ((0, 0), (0, end), (end, 0), (end, end), (end // 2, end // 2)):
        crop = batch[:, :, top : top + side, left : left + side]
        yield functional.interpolate(crop, size=(size, size), mode="bilinear", align_corners=False)


def fuse_views(views: Tensor, norm_power: float) -> Tensor:
    """Fuse the raw embeddings of V views, (V, B, D), into one of each image, (B, D).

    Each view's direction counts by its norm to the power `norm_power`: at 1 this is the mean, at 0
    all views count alike. The norm grows with how much of a face is to be seen (Kim et al.,
    AdaFace, CVPR 2022, figure 4), so a view that lost it counts less.
    """
    if norm_power == 1 or len(views) == 1:
        return views.mean(0)
    views = views.float()
    weights = views.norm(dim=2, keepdim=True).clamp_min(EPSILON) ** (norm_power - 1)
    fused: Tensor = (weights * views).sum(0) / weights.sum(0)
    return fused


def _check_finite(table: Embeddings, names: Sequence[str]) -> None:
    damaged = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if len(damaged):
        first = names[damaged[0]] if names else f"image {damaged[0]}"
        raise DataError(
            f"{len(damaged)} of {len(table)} embeddings are not finite\n  first: {first}\n"
            "  the encoder's weights or engine.precision are at fault: try engine.precision=fp32"
        )


class Embedder(nn.Module):
    """An encoder in eval mode with its preprocessing, and all that its checkpoint knows.

    Attributes:
        encoder: the network; the averaged one where the run kept an average.
        transform: uint8 pixels to the network's input.
        config: the run's configuration, as primitives.
        identities: those it was trained on, in label order.
        flip: whether its run averaged over mirror images; `threshold` holds for that.
        metrics: of the validation that it was saved after; `threshold` is the one at EER.
        lineage: hashes of its parents and of the data.
        digest: SHA-256 of the checkpoint file, also where an export of it was read.
    """

    def __init__(self, encoder: Encoder, payload: dict[str, Any], digest: str) -> None:
        super().__init__()
        self.encoder = encoder.eval()
        self.transform: EvalTransform = encoder.transform
        self.config: dict[str, Any] = payload["config"]
        self.flip = Eval.model_validate(self.config.get("eval", {})).flip
        self.identities: list[str] = payload["identities"]
        self.metrics: dict[str, float] = payload["metrics"]
        self.lineage: dict[str, Any] = payload["lineage"]
        self.digest = digest

    @torch.inference_mode()
    def forward(self, batch: Tensor) -> Tensor:
        """Embed preprocessed images (B, 3, S, S) into raw embeddings (B, D)."""
        embeddings: Tensor = self.encoder(batch)
        return embeddings

    def embed_paths(
        self, paths: Sequence[str | Path], *, flip: bool = True, batch_size: int = 64
    ) -> Embeddings:
        """Embed image files; (N, D), each row of unit length.

        Raises:
            DataError: a file is no readable image, or its embedding is zero or not finite.
        """
        return self.embed_with_norms(paths, flip=flip, batch_size=batch_size)[0]

    def embed_with_norms(
        self,
        paths: Sequence[str | Path],
        *,
        flip: bool = True,
        batch_size: int = 64,
        detector: Detector | None = None,
        report: Report | None = None,
    ) -> tuple[Embeddings, NDArray[np.float32]]:
        """Embed image files; unit rows (N, D), and the norms (N,) that they had.

        Args:
            paths: aligned faces, or with a `detector` photographs.
            flip: as `embed_images` has it.
            batch_size: images at once.
            detector: finds the faces, which are then aligned.
            report: takes how many are done, for a progress line.

        Raises:
            DataError: as `embed_paths`, or `detector` finds no face.
        """
        names, size = [str(path) for path in paths], self.transform.image_size
        files = (
            AlignedImages(names, size, detector) if detector else FileImages(Path(), names, size)
        )
        table = embed_images(
            self.encoder,
            files,
            len(files),
            flip=flip,
            batch_size=batch_size,
            device=next(self.encoder.parameters()).device,
            names=names,
            report=report,
        )
        norms = np.linalg.norm(table, axis=1)
        if not norms.all():
            raise DataError(
                f"{paths[int(np.argmin(norms))]}: its embedding is zero\n"
                "  leave the image out; where it is every one, the checkpoint's run has failed"
            )
        unit: Embeddings = table / norms[:, None]
        return unit, norms

    def verify(self, left: str | Path, right: str | Path, *, flip: bool = True) -> float:
        """Score two image files: cosine in [-1, 1], higher is more alike."""
        a, b = self.embed_paths([left, right], flip=flip).astype(np.float64)
        return float(np.clip(a @ b, -1.0, 1.0))


def load_encoder(path: str | Path, *, device: str = "cpu") -> Embedder:
    """Rebuild the encoder of a checkpoint from that file alone.

    Args:
        path: a checkpoint, such as `checkpoints/train-1/best.pt`, or the safetensors file that
            `facever export` made of one.
        device: where to put it.

    Raises:
        CheckpointError: no such file, damaged, hostile, or of another format.
        ConfigError: a safetensors file, without the package that reads it.
    """
    path = Path(path)
    if not exported.is_exported(path):
        return embedder_of(path, checkpoint.load(path), resolve_device(device))
    payload = exported.load(path)
    embedder = Embedder(encoder_of(payload, str(path)), payload, payload["sha256"])
    return embedder.to(resolve_device(device))


def embedder_of(path: Path, payload: dict[str, Any], device: torch.device) -> Embedder:
    """Rebuild the encoder of a checkpoint that was read before; see `load_encoder`."""
    embedder = Embedder(encoder_of(payload, str(path)), payload, checkpoint.file_digest(path))
    return embedder.to(device)


def encoder_of(payload: dict[str, Any], where: str) -> Encoder:
    """Rebuild the encoder from a checkpoint's payload; the averaged weights where there are any.

    Raises:
        CheckpointError: the configuration or the weights do not make an encoder.
    """
    try:
        # Within their bounds: a stranger's checkpoint must not ask for terabytes.
        settings = Model.model_validate(payload["config"]["model"]).model_dump()
        transform = EvalTransform.from_dict(payload["preprocess"])
        Data(image_size=transform.image_size)
        Eval.model_validate(payload["config"].get("eval", {}))
        encoder = build_encoder(**settings | {"pretrained": False}, image_size=transform.image_size)
        weights = payload["ema"]["encoder"] if payload["ema"] else payload["encoder"]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{where}: describes no encoder: {error}") from None
    encoder.transform = transform
    checkpoint.load_weights(encoder, weights, where)
    return encoder


def embed_folder(
    directory: Path, output: Path, source: Path, *, detector: Detector | None = None
) -> int:
    """Embed every image below a folder into an `.npz`: paths, embeddings, norms.

    The checkpoint's SHA-256 is in it as `checkpoint`: embeddings of two encoders tell nothing
    about each other.

    Returns:
        how many there were.

    Raises:
        DataError: no images, or one that cannot be read.
    """
    paths = images_below(directory)
    embedder = load_encoder(source)
    with progress("embedding") as report:
        table, norms = embedder.embed_with_norms(
            paths, flip=embedder.flip, detector=detector, report=report
        )
    names = np.array([path.relative_to(directory).as_posix() for path in paths])
    make_folder(output.parent)
    with replacing(output) as file:
        np.savez(file, paths=names, embeddings=table, norms=norms, checkpoint=embedder.digest)
    return len(paths)


def images_below(directory: Path) -> list[Path]:
    """Find the files below a folder that are called like images, in bundles too, sorted.

    Raises:
        DataError: there are none.
    """
    files = [path for path in directory.rglob("*") if path.is_file()]
    bundled = [
        file.parent / name
        for file in files
        if file.name == bundles.NAME
        for name in bundles.bundled_names(file.parent)
    ]
    paths = {path for path in (*files, *bundled) if is_image_name(path.name)}
    if not paths:
        raise DataError(f"{directory}: no images; expected files such as .jpg, .png or .webp")
    return sorted(paths)
