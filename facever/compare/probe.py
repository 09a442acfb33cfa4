"""What an encoder and its loss make of held-out images, as arrays that figures and tests rest on.

Letters: N images, M of a sample, C identities, D embedding dimension, P pairs.
"""

import csv
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from facever.data.datasets import ImageDataset
from facever.data.manifest import Manifest
from facever.data_setup import OpenData
from facever.encoder import Encoder
from facever.errors import DataError
from facever.losses import Loss
from facever.metrics import equal_error_rate
from facever.state import TrainState
from facever.storage import replacing
from facever.transforms import Augment
from facever.validate import Embed, score_pairs

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# Images of which every number is kept: enough for a figure, 2 MB at D = 256.
SAMPLE = 2000
# Training images that are classified without augmentation, for the train accuracy.
TRAIN_SAMPLE = 10_000
# Angles to other prototypes that are kept for an image.
OTHERS = 9
QUALITY_FILE = "quality.csv"
# What NumPy raises where a file is not what it was, and what a class lacking an argument does.
_DAMAGED = (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, eq=False)
class Probe:
    """Figures about one encoder and loss; NaN where a loss has no probabilities.

    Attributes:
        indices: of the sampled images in their split; shape (M,).
        labels, predicted: their identities, true and guessed; shape (M,).
        embeddings: raw; shape (M, D).
        prototypes: of length one, or class means of a pair loss; shape (C, D), the nearest
            sub-centres' first where there are several.
        theta_y: angles to the own prototype, radians; shape (M,).
        theta_j: angles to some other prototypes, radians; shape (M, min(C - 1, 9)).
        probability: of the true identity, without a margin; shape (M,).
        quality: known quality of the images in [0, 1], NaN where unknown; shape (M,).
        augmented: whether a degrading operation fell on the second look; shape (M,).
        augmented_norm: norms of that second look; shape (M,).
        correct: of all N images.
        scores, mated, left, right: of the pairs; shape (P,).
        train_accuracy: on training images without augmentation.
        test_loss: mean loss of the N images, margin included.
    """

    indices: Ints
    labels: Ints
    predicted: Ints
    embeddings: Floats
    prototypes: Floats
    theta_y: Floats
    theta_j: Floats
    probability: Floats
    quality: Floats
    augmented: NDArray[np.bool_]
    augmented_norm: Floats
    correct: NDArray[np.bool_]
    scores: NDArray[np.float64]
    mated: NDArray[np.bool_]
    left: Ints
    right: Ints
    train_accuracy: float
    test_loss: float

    @property
    def norm(self) -> Floats:
        """Norms of the raw embeddings, (M,)."""
        norms: Floats = np.linalg.norm(self.embeddings, axis=1)
        return norms

    @property
    def accuracy(self) -> float:
        """Share of all N images that are classified rightly."""
        return float(self.correct.mean())

    @property
    def eer(self) -> float:
        """EER of the pairs, a fraction."""
        return equal_error_rate(self.scores, self.mated)

    def save(self, path: Path) -> None:
        """Write all arrays into one `.npz`."""
        with replacing(path) as file:
            np.savez(file, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "Probe":
        """Read what `save` wrote.

        Raises:
            DataError: it is damaged, or no such file; objects in it are never unpickled.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                values: dict[str, Any] = {name: arrays[name] for name in arrays.files}
            scalars = ("train_accuracy", "test_loss")
            return cls(**values | {name: float(values[name]) for name in scalars})
        except _DAMAGED as error:
            raise DataError(
                f"{path}: damaged, or not what `facever compare` writes: {error}\n"
                "  remove the folder of this run, and the comparison trains it again"
            ) from error


def look(state: TrainState, data: OpenData, embed: Embed, augment: Augment) -> Probe:
    """Measure the encoder that validation looks at, and the loss, on held-out images.

    Held-out are the dev images; where there are none, the training images take their place.
    Images are embedded as for every evaluation, with their mirror images where `eval.flip` says so.
    """
    encoder, loss = _networks(state)
    images = held_out(data)
    judge = _Judge(encoder, loss, data, embed)
    table = embed(encoder, images, len(images))
    logits = judge.logits(table)
    guessed = logits.argmax(1)
    sample = spread(len(images), SAMPLE)
    cosines = judge.cosines(table[sample])
    own = torch.from_numpy(images.labels[sample])
    changed, second = _second_look(images, sample, encoder, embed, augment)
    pairs = data.labelled_pairs()
    return Probe(
        indices=sample,
        labels=images.labels[sample],
        predicted=guessed[sample],
        embeddings=table[sample],
        prototypes=judge.prototypes[:, 0].numpy(),
        theta_y=_angles(cosines.gather(1, own[:, None]).squeeze(1)),
        theta_j=_angles(_some_others(cosines, own)),
        probability=judge.probability(logits[sample], own),
        quality=known_quality(data.manifest, images)[sample],
        augmented=changed,
        augmented_norm=np.linalg.norm(second, axis=1),
        correct=guessed == images.labels,
        scores=score_pairs(embed, encoder, pairs),
        mated=pairs.mated == 1,
        left=pairs.left,
        right=pairs.right,
        train_accuracy=judge.train_accuracy(TRAIN_SAMPLE),
        test_loss=_mean_loss(loss, images, table),
    )


def glance(state: TrainState, data: OpenData, embed: Embed) -> dict[str, float]:
    """Give what is followed from epoch to epoch, on smaller samples than `look`."""
    encoder, loss = _networks(state)
    images = held_out(data)
    sample = spread(len(images), SAMPLE)
    table = embed(encoder, _Part(images, sample), len(sample))
    judge = _Judge(encoder, loss, data, embed)
    logits = judge.logits(table)
    labels = images.labels[sample]
    figures = {
        "test_accuracy": float((logits.argmax(1) == labels).mean()),
        "train_accuracy": judge.train_accuracy(SAMPLE),
        "test_loss": _mean_loss(loss, _Part(images, sample), table),
    }
    quality = known_quality(data.manifest, images)[sample]
    if np.isfinite(quality).any():
        probability = judge.probability(logits, torch.from_numpy(labels))
        figures["norm_quality_correlation"] = correlation(np.linalg.norm(table, axis=1), quality)
        figures["probability_quality_correlation"] = correlation(probability, quality)
    return {key: value for key, value in figures.items() if np.isfinite(value)}


def held_out(data: OpenData) -> ImageDataset:
    """The dev images, or the training images where there are none."""
    return data.dev or data.train


def spread(count: int, wanted: int) -> Ints:
    """At most `wanted` indices, evenly spread over `count`."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(np.int64))


def correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Pearson's r over the places where both are finite; NaN where one is constant."""
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < 2 or not (a[known].std() and b[known].std()):
        return float("nan")
    return float(np.corrcoef(a[known], b[known])[0, 1])


def known_quality(manifest: Manifest, images: ImageDataset) -> Floats:
    """The quality of each image where `quality.csv` tells it, as of synthetic faces; (N,)."""
    file = manifest.root / QUALITY_FILE
    found: dict[str, float] = {}
    if file.is_file():
        with file.open(newline="") as stream:
            found = {row["path"]: float(row["quality"]) for row in csv.DictReader(stream)}
    return np.array([found.get(path, np.nan) for path in images.paths], dtype=np.float32)


@dataclass(frozen=True)
class _Part:
    """Some images of a data set."""

    images: ImageDataset
    indices: Ints

    @property
    def labels(self) -> Ints:
        return self.images.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def gather(self, indices: Ints) -> NDArray[np.uint8]:
        return self.images.gather(self.indices[indices])


class _Judge:
    """Classifies embeddings: by the loss's classifier, or by the nearest class mean.

    The means are those of the training images, as far as a sample of them goes.
    """

    def __init__(self, encoder: Encoder, loss: Loss, data: OpenData, embed: Embed) -> None:
        self.loss, self.train = loss, data.train
        self.part = _Part(data.train, spread(len(data.train), TRAIN_SAMPLE))
        self.encoder, self.embed = encoder, embed
        identities = len(data.manifest.identities)
        if loss.classifies:
            rows = loss.prototypes.detach().float().cpu()
            prototypes = rows.view(identities, -1, rows.shape[-1])
        else:
            prototypes = self._means(identities)[:, None]
        self.prototypes = functional.normalize(prototypes, dim=-1)
        """(C, sub-centres, D), rows of length one"""

    def _means(self, identities: int) -> Tensor:
        table = self.embed(self.encoder, self.part, len(self.part))
        unit = functional.normalize(torch.from_numpy(table), dim=1)
        sums = torch.zeros(identities, unit.shape[1])
        return sums.index_add_(0, torch.from_numpy(self.part.labels), unit)

    @torch.inference_mode()
    def logits(self, table: Floats) -> Floats:
        """Logits without a margin, or cosines to class means; (N, C)."""
        if not self.loss.classifies:
            return self.cosines(table).numpy()
        device = self.loss.prototypes.device
        blocks = torch.split(torch.from_numpy(table), 1024)
        return torch.cat([self.loss.logits(z.to(device)).cpu() for z in blocks]).numpy()

    def cosines(self, table: Floats) -> Tensor:
        """Cosines to each identity's nearest prototype; (N, C)."""
        unit = functional.normalize(torch.from_numpy(table), dim=1)
        return torch.stack([unit @ rows.t() for rows in self.prototypes.unbind(1)]).amax(0)

    def probability(self, logits: Floats, own: Tensor) -> Floats:
        """Softmax probability of the true identity; NaN for pair losses, which have none."""
        if not self.loss.classifies:
            return np.full(len(logits), np.nan, dtype=np.float32)
        shares = torch.from_numpy(logits).softmax(1)
        return shares.gather(1, own[:, None]).squeeze(1).numpy()

    def train_accuracy(self, wanted: int) -> float:
        """Accuracy on training images without augmentation."""
        part = _Part(self.train, spread(len(self.train), wanted))
        table = self.embed(self.encoder, part, len(part))
        return float((self.logits(table).argmax(1) == part.labels).mean())


def _networks(state: TrainState) -> tuple[Encoder, Loss]:
    encoder = state.validated
    assert isinstance(encoder, Encoder)
    return encoder, state.loss.eval()


def _angles(cosines: Tensor) -> Floats:
    return cosines.clamp(-1, 1).acos().numpy()


def _some_others(cosines: Tensor, own: Tensor) -> Tensor:
    """Columns (M, min(C - 1, OTHERS)) that are not the own one, each time the next ones."""
    identities = cosines.shape[1]
    steps = torch.arange(1, min(identities - 1, OTHERS) + 1)
    return cosines.gather(1, (own[:, None] + steps) % identities)


def _second_look(
    images: ImageDataset, sample: Ints, encoder: Encoder, embed: Embed, augment: Augment
) -> tuple[NDArray[np.bool_], Floats]:
    """Augment the sample once; tell which pixels changed, and embed them.

    Mirroring and moving do not take quality away: `augment` has only what does.
    """
    pixels = images.gather(sample)
    seen = augment(pixels, (0, 0, 0))
    changed = (seen != pixels).reshape(len(pixels), -1).any(1)
    return changed, embed(encoder, _Pixels(seen), len(seen))


@dataclass(frozen=True)
class _Pixels:
    """Images in memory."""

    pixels: NDArray[np.uint8]

    def gather(self, indices: Ints) -> NDArray[np.uint8]:
        return self.pixels[indices]


@torch.inference_mode()
def _mean_loss(loss: Loss, images: "ImageDataset | _Part", table: Floats) -> float:
    """Mean loss, margin included, over blocks that mix the identities."""
    device = next(iter(loss.parameters()), torch.zeros(())).device
    order = np.random.default_rng(0).permutation(len(table))
    total = 0.0
    for block in np.array_split(order, max(1, len(order) // 512)):
        loss.look(torch.from_numpy(images.gather(np.sort(block))).to(device))
        z = torch.from_numpy(table[np.sort(block)]).to(device)
        y = torch.from_numpy(images.labels[np.sort(block)]).to(device)
        total += float(loss(z, y)) * len(block)
    return total / len(order)


def degrading(recipe: Mapping[str, float]) -> Augment:
    """The operations of a recipe that cost quality: all but mirroring, moving and turning."""
    return Augment(**{**recipe, "flip": 0.0, "shift": 0.0, "rotate": 0.0})
