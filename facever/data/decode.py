"""Decode whole lists of images, in several processes where that is worth it."""

import functools
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from facever.data.bundles import file_stat
from facever.data.images import decode_bytes, read_bytes, read_rgb
from facever.data.workers import Progress, run_all, usable_cores
from facever.errors import DataError

Result = TypeVar("Result")
UInt8 = NDArray[np.uint8]

_CHUNK = 128
# Starting processes takes some seconds, in which one process decodes about this much.
_POOL_BYTES = 64 << 20
_DAMAGED_SHARE = 0.05


@dataclass(frozen=True)
class Rows:
    """A stretch of the list: paths from position `start` on."""

    start: int
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Decoding:
    """A list of images to decode."""

    root: Path
    """what the paths are relative to"""
    paths: Sequence[str]
    workers: int | None = None
    """processes; None: one per core"""
    progress: Progress | None = None
    """hears of (done, total)"""

    def run(self, function: Callable[[Rows], Result]) -> Iterator[tuple[Rows, Result]]:
        """Run `function` over the whole list in order, in processes where that is worth it."""
        count = len(self.paths)
        stretches = [
            Rows(start, tuple(self.paths[start : start + _CHUNK]))
            for start in range(0, count, _CHUNK)
        ]
        workers = usable_cores() if self.workers is None else self.workers
        if sum(size for size, _ in file_stats(self.root, self.paths)) < _POOL_BYTES:
            workers = 1
        results = run_all(function, stretches, workers=workers)
        for rows, result in zip(stretches, results, strict=True):
            yield rows, result
            if self.progress:
                self.progress(rows.start + len(rows.paths), count)

    def damage(self, function: Callable[[Rows], dict[int, str]]) -> dict[int, str]:
        """Run `function` over the whole list and gather the damage that it finds."""
        return {i: reason for _, found in self.run(function) for i, reason in found.items()}

    def unreadable(self) -> dict[int, str]:
        """Decode every image for the errors alone: position -> reason."""
        return self.damage(functools.partial(_try_rows, self.root))

    def refuse(self, damaged: dict[int, str]) -> None:
        """Raise a DataError with the count and the first example, if there is any."""
        if damaged:
            first = min(damaged)
            raise DataError(
                f"{self.root}: {len(damaged)} of {len(self.paths)} images are damaged\n"
                f"  first: {self.paths[first]}: {damaged[first]}\n"
                "  expected files that Pillow can read to the end; `facever data inspect` lists "
                f"them all, data.on_error=skip leaves up to {_DAMAGED_SHARE:.0%} out"
            )


def find_damaged(
    root: Path,
    paths: Sequence[str],
    *,
    workers: int | None = None,
    limit: float = _DAMAGED_SHARE,
    progress: Progress | None = None,
) -> dict[int, str]:
    """Decode every image; return the positions of those that cannot be, with the reason.

    Raises:
        DataError: more than the share `limit` of the images is damaged.
    """
    images = Decoding(root, paths, workers, progress)
    damaged = images.unreadable()
    if len(damaged) > limit * len(paths):
        images.refuse(damaged)
    return damaged


def fingerprint(root: Path, paths: Sequence[str]) -> str:
    """SHA-256 over the paths and file sizes: which data this is, wherever it was copied to."""
    digest = hashlib.sha256()
    for path, (size, _) in zip(paths, file_stats(root, paths), strict=True):
        digest.update(os.fsencode(path) + b"\0%d\n" % size)
    return digest.hexdigest()


def square_pixels(path: Path, size: int) -> UInt8:
    """Decode an image to (size, size, 3)."""
    from facever.transforms import fit

    return fit(read_rgb(path), size)


def _try_rows(root: Path, rows: Rows) -> dict[int, str]:
    """Decode images for the errors alone: position -> reason."""
    damaged = {}
    for i, path in enumerate(rows.paths, rows.start):
        try:
            read_rgb(root / path)
        except DataError as error:
            damaged[i] = _without_path(error, root / path)
    return damaged


def write_rows(root: Path, file: Path, size: int, rows: Rows) -> dict[int, str]:
    """Decode images to their place in the pack file; return position -> reason of failures."""
    damaged = {}
    images = np.zeros((len(rows.paths), size, size, 3), np.uint8)
    for i, path in enumerate(rows.paths):
        try:
            images[i] = square_pixels(root / path, size)
        except DataError as error:
            damaged[rows.start + i] = _without_path(error, root / path)
    with file.open("r+b", buffering=0) as stream:
        stream.seek(rows.start * images[0].nbytes)
        rest = images.data.cast("B")
        while rest:
            rest = rest[stream.write(rest) :]
    return damaged


def encode_rows(root: Path, size: int, rows: Rows) -> tuple[dict[int, str], list[bytes]]:
    """Give the bytes of images in a blob, and position -> reason of failures.

    They are the file's own where the image has its size already, or where its fitted pixels
    without loss would take more. Decoding and fitting give the same pixels either way.
    """
    from facever.transforms import fit

    damaged, encoded = {}, []
    for i, path in enumerate(rows.paths, rows.start):
        try:
            data = read_bytes(root / path)
            image = decode_bytes(data, path)
        except DataError as error:
            damaged[i] = str(error).removeprefix(f"{root / path}: ").removeprefix(f"{path}: ")
            data = b""
        else:
            if image.shape[:2] != (size, size):
                data = min(data, _without_loss(fit(image, size)), key=len)
        encoded.append(data)
    return damaged, encoded


def _without_loss(image: UInt8) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "WEBP", lossless=True, quality=0, method=0)
    return file.getvalue()


def _without_path(error: DataError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def file_stats(root: Path, paths: Sequence[str]) -> list[tuple[int, int]]:
    """Tell each file's size in bytes and time of change in ns.

    Raises:
        DataError: files are absent.
    """
    base = os.fspath(root)
    found, absent = [], []
    for path in paths:
        try:
            # Absolute paths of a CSV manifest stay what they are.
            place = os.path.join(base, path)  # noqa: PTH118 (pathlib: seconds for half a million)
            found.append(file_stat(place))
        except OSError:
            absent.append(path)
    if absent:
        raise DataError(
            f"{root}: {len(absent)} of {len(paths)} images are absent\n  first: {absent[0]}\n"
            "  expected the files that were there when the folder was read"
        )
    return found
