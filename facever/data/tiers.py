"""Images fetched by index, from four kinds of places, with the same pixels from each.

`gather(indices)` gives (B, S, S, 3) uint8, whether the images are decoded from their files each
time, decoded from a blob of the files' bytes, or copied out of a memory map of pixels. The fourth,
`resident.ResidentImages`, keeps pixels on a device. B images of a batch, S their side.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from facever.data.bundles import Bundle
from facever.data.decode import square_pixels
from facever.data.images import decode_bytes
from facever.data.workers import lock_file

Content = TypeVar("Content")
UInt8 = NDArray[np.uint8]
Int64 = NDArray[np.int64]


class Images(Protocol):
    """Images of one size, fetched by index, with the same pixels from every tier."""

    size: int
    tier: str
    reason: str
    """Why it is this tier, where a pack was wanted; else empty."""

    def __len__(self) -> int:
        """Count the images."""

    def gather(self, indices: Int64) -> UInt8:
        """Fetch the images (B, size, size, 3) at these positions (B,)."""


class FileImages:
    """Images decoded from their files each time."""

    tier = "files"

    def __init__(self, root: Path, paths: Sequence[str], size: int, reason: str = "") -> None:
        self.root, self.paths, self.size, self.reason = root, paths, size, reason

    def __len__(self) -> int:
        return len(self.paths)

    def gather(self, indices: Int64) -> UInt8:
        """Decode the images (B, size, size, 3) at these positions (B,)."""
        images = np.empty((len(indices), self.size, self.size, 3), np.uint8)
        for slot, i in zip(images, indices, strict=True):
            slot[:] = square_pixels(self.root / self.paths[i], self.size)
        return images


class _PackedImages(ABC, Generic[Content]):
    """Images in one file, which a worker that gets them pickled opens anew."""

    reason = ""

    def __init__(self, file: Path, count: int, size: int) -> None:
        self.file, self.size = file, size
        self._count = count
        self._content: Content | None = self._read()

    def __len__(self) -> int:
        return self._count

    @property
    def content(self) -> Content:
        """What the file holds; open, it is locked against its removal."""
        if self._content is None:
            self._content = self._read()
        return self._content

    @abstractmethod
    def _read(self) -> Content:
        """Open the file."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_content": None}


class MappedImages(_PackedImages[UInt8]):
    """Images copied out of a memory map of pixels."""

    tier = "memmap"

    def gather(self, indices: Int64) -> UInt8:
        """Copy the images (B, size, size, 3) at these positions (B,)."""
        return np.take(self.content, indices, axis=0)

    def _read(self) -> UInt8:
        shape = (self._count, self.size, self.size, 3)
        with self.file.open("rb") as stream:
            # The map keeps its own descriptor and so the lock.
            lock_file(stream, exclusive=False)
            return np.asarray(np.memmap(stream, np.uint8, mode="r", shape=shape))


class BlobImages(_PackedImages[tuple[Bundle, BinaryIO]]):
    """Images decoded from one file, which holds the bytes of theirs one after the other."""

    tier = "blob"

    def gather(self, indices: Int64) -> UInt8:
        """Decode the images (B, size, size, 3) at these positions (B,)."""
        from facever.transforms import fit

        bundle, _ = self.content
        images = np.empty((len(indices), self.size, self.size, 3), np.uint8)
        for slot, i in zip(images, indices, strict=True):
            name = f"{self.file}: image {i}"
            slot[:] = fit(decode_bytes(bundle.read(int(i)), name), self.size)
        return images

    def _read(self) -> tuple[Bundle, BinaryIO]:
        stream = self.file.open("rb")
        lock_file(stream, exclusive=False)
        return Bundle(self.file), stream
