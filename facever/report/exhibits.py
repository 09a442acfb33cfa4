"""What a page shows of a run's data and embeddings, in one file of the run's folder.

It is gathered where data and encoder are; a page is then made from the folder alone. Letters: N
images, S side, C identities, K pairs, M images with a norm, E embeddings, D dimension.
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facever.errors import DataError
from facever.storage import replacing

FILE = "exhibits.npz"
SIDE = 4096  # of an image, at most

# What NumPy raises where a file is not what it was, and what a class lacking an argument does.
_DAMAGED = (
    OSError, EOFError, KeyError, TypeError, ValueError, MemoryError, zipfile.BadZipFile, zlib.error
)  # fmt: skip


# What each array is where nothing was gathered, and so its dimensions and its type.
_NOTHING: dict[str, NDArray[Any]] = {
    "batch": np.empty((0, 1, 1, 3), np.uint8),
    "sizes": np.empty(0, np.int64),
    "pairs": np.empty(0, np.int64),
    "pair_images": np.empty((0, 2, 1, 1, 3), np.uint8),
    "norms": np.empty(0, np.float32),
    "sharpness": np.empty(0, np.float32),
    "embeddings": np.empty((0, 1), np.float32),
    "labels": np.empty(0, np.int64),
    "names": np.empty(0, np.str_),
    "source": np.empty((), np.str_),
}


@dataclass(frozen=True, eq=False)
class Exhibits:
    """Pictures and points to look at; what was not gathered is empty.

    Attributes:
        batch: images of the first batch, as the encoder saw them; (N, S, S, 3).
        sizes: training images of each identity; (C,).
        pairs: rows of scores_val.csv whose images are here; (K,).
        pair_images: their left and right image; (K, 2, S, S, 3).
        norms, sharpness: of the embeddings, and of their images' pixels; (M,).
        embeddings: raw, of images of a few identities; (E, D).
        labels: of those images, indices into `names`; (E,).
        names: the identities' names.
        source: which images have norms and embeddings, in words; ().
    """

    batch: NDArray[np.uint8]
    sizes: NDArray[np.int64]
    pairs: NDArray[np.int64]
    pair_images: NDArray[np.uint8]
    norms: NDArray[np.float32]
    sharpness: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    labels: NDArray[np.int64]
    names: NDArray[np.str_]
    source: NDArray[np.str_]

    def __post_init__(self) -> None:
        """Refuse arrays that are not what the page draws.

        Raises:
            ValueError: with the first that is not.
        """
        for name, nothing in _NOTHING.items():
            value = getattr(self, name)
            if value.ndim != nothing.ndim or value.dtype.kind != nothing.dtype.kind:
                raise ValueError(f"{name}: {value.ndim} dimensions of {value.dtype}")
        for images in (self.batch, self.pair_images):
            *_, height, width, channels = images.shape
            if channels != 3 or not 1 <= height == width <= SIDE:
                raise ValueError(f"images of shape {images.shape}")
        for one, other in (("pairs", "pair_images"), ("norms", "sharpness"),
                           ("embeddings", "labels")):  # fmt: skip
            if len(getattr(self, one)) != len(getattr(self, other)):
                raise ValueError(f"{one} and {other} differ in length")
        finite = all(np.isfinite(a).all() for a in (self.norms, self.sharpness, self.embeddings))
        if not finite or (self.labels.size and not self.labels.max() < len(self.names)):
            raise ValueError("norms, embeddings or labels that mean nothing")

    @classmethod
    def of(cls, **gathered: NDArray[Any]) -> "Exhibits":
        """Make one of what was gathered."""
        return cls(**_NOTHING | gathered)

    def write(self, run: Path) -> None:
        """Write all arrays into one file of a run's folder.

        Raises:
            StorageError: the system refused.
        """
        with replacing(run / FILE) as file:
            np.savez(file, **{name: getattr(self, name) for name in _NOTHING})

    @classmethod
    def read(cls, run: Path) -> "Exhibits":
        """Read what `write` wrote; nothing is there where there is no such file.

        Raises:
            DataError: it is damaged; objects in it are never unpickled.
        """
        path = run / FILE
        if not path.exists():
            return cls.of()
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls.of(**{name: arrays[name] for name in arrays.files})
        except _DAMAGED as error:
            raise DataError(f"{path.name}: damaged: {error}") from error
