"""What each image file turned out to be, learned once.

A line for each file goes to `.facever/looks.jsonl` in the data folder, or to the user's cache where
that is read-only, as soon as the file was read: what a process that is stopped has learned is kept.
A file is read again when its size or its time of change is another.
"""

import functools
import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from facever.data.bundles import file_stat
from facever.data.images import decode_bytes, read_bytes
from facever.data.pack import homes, lock_file
from facever.data.workers import Progress, run_all, usable_cores
from facever.errors import DataError

# Side of the grid of differences. On aligned faces the usual 8 x 8 is the same for thousands of
# pairs of strangers; with 16 x 16 what is close is one photograph.
HASH_SIDE = 16
HASH_BYTES = HASH_SIDE * HASH_SIDE // 8

_FILE = "looks.jsonl"
# Not through a link, with which a stranger's data would name another file.
_OPEN = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
# A file that begins otherwise was written by another version, and is begun anew.
_HEAD = b'{"facever looks": 1}\n'
_CHUNK = 128
# How many unknown images are worth starting workers.
_POOL_IMAGES = 5000


class Look(NamedTuple):
    """One image file.

    Attributes:
        sha256: of its bytes; empty where it could not be read.
        width, height: in pixels, upright; 0 where it is no image.
        reason: why it is unreadable; empty where it is not.
        dhash: its perceptual hash in hexadecimal digits; empty where it is unreadable.
        sums: over its pixels, of red, green, blue and of their squares (6).
    """

    sha256: str
    width: int
    height: int
    reason: str
    dhash: str
    sums: tuple[int, ...]


Stamp = tuple[int, int]
"""A file's size in bytes and time of change in ns."""


def look_at_all(
    root: Path,
    paths: Sequence[str],
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Look]:
    """Look at every file, or remember what an earlier call saw of it.

    Args:
        root: what `paths` are relative to.
        paths: the images, each once.
        workers: processes that decode; by default one per core where it is worth it.
        progress: hears of (done, total) images.
    """
    stamps = {path: _stamp(root / path) for path in paths}
    with _memory(root) as memory:
        seen = memory.recall(stamps)
        unknown = [path for path in paths if path not in seen]
        if workers is None:
            workers = usable_cores() if len(unknown) >= _POOL_IMAGES else 1
        chunks = [unknown[start : start + _CHUNK] for start in range(0, len(unknown), _CHUNK)]
        if progress and seen:
            progress(len(seen), len(paths))
        look = functools.partial(look_at, root)
        for chunk, looks in zip(chunks, run_all(look, chunks, workers=workers), strict=True):
            found = dict(zip(chunk, looks, strict=True))
            memory.keep(found, stamps)
            seen |= found
            if progress:
                progress(len(seen), len(paths))
    return {path: seen[path] for path in paths}


def _stamp(file: Path) -> Stamp | None:
    try:
        return file_stat(os.fspath(file))
    except OSError:
        return None


def look_at(root: Path, paths: Sequence[str]) -> list[Look]:
    """Read and decode files."""
    looks = []
    for path in paths:
        digest = ""
        try:
            data = read_bytes(root / path)
            digest = hashlib.sha256(data).hexdigest()
            pixels = decode_bytes(data, os.fspath(root / path))
        except DataError as error:
            reason = str(error).removeprefix(f"{root / path}: ")
            looks.append(Look(digest, 0, 0, reason, "", (0,) * 6))
        else:
            height, width = pixels.shape[:2]
            looks.append(Look(digest, width, height, "", *_digests(pixels)))
    return looks


def _digests(pixels: NDArray[np.uint8]) -> tuple[str, tuple[int, ...]]:
    """Give the perceptual hash and the sums of pixels (H, W, 3).

    The hash is dHash: the picture, grey, becomes 16 rows of 17, and each bit says whether a
    pixel is brighter than its left neighbour, as ImageHash's `dhash(image, 16)` computes it.
    """
    from PIL import Image

    image = Image.fromarray(pixels)
    small = image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.LANCZOS)
    rows = np.asarray(small)
    bits = np.packbits(rows[:, 1:] > rows[:, :-1])
    counts = np.asarray(image.histogram(), dtype=np.int64).reshape(3, 256)
    values = np.arange(256)
    sums = np.concatenate([counts @ values, counts @ values**2])
    return bits.tobytes().hex(), tuple(sums.tolist())


class _Memory:
    """Looks in a file, a JSON line each; in none where no folder can be written."""

    def __init__(self, file: io.FileIO | None) -> None:
        self.file = file

    def recall(self, stamps: dict[str, Stamp | None]) -> dict[str, Look]:
        """Give what is known of the files that are as they were."""
        if self.file is None:
            return {}
        self.file.seek(0)
        text = io.BytesIO(self.file.read())
        known, count, line = {}, 0, text.readline()
        if line == _HEAD:
            for line in text:
                count += 1
                path, stamp, look = _parse(line)
                if look and stamps.get(path) == stamp:
                    known[path] = look
        # Lines of files that are gone or changed must not gather for ever.
        if 2 * len(known) <= count:
            self._write(_HEAD, anew=True)
            self.keep(known, stamps)
        elif not line.endswith(b"\n"):
            # A kill cut the last line.
            self._write(b"\n")
        return known

    def keep(self, looks: dict[str, Look], stamps: dict[str, Stamp | None]) -> None:
        """Add lines; a file that cannot be read may be readable next time."""
        lines = [
            json.dumps([path, *stamp, *look], separators=(",", ":"))
            for path, look in looks.items()
            if look.sha256 and (stamp := stamps[path])
        ]
        self._write("".join(f"{line}\n" for line in lines).encode())

    def _write(self, data: bytes, *, anew: bool = False) -> None:
        if self.file is None:
            return
        try:
            if anew:
                self.file.truncate(0)
            self.file.write(data)
        except OSError:
            # A full disk costs what would have been remembered, and nothing else.
            self.file = None


@contextmanager
def _memory(root: Path) -> Iterator[_Memory]:
    """Open the first of the folders' files that this process can have for itself."""
    for home in homes(root):
        try:
            home.mkdir(parents=True, exist_ok=True)
            # Without a buffer, which closing would try to write once more to a full disk.
            file = os.fdopen(os.open(home / _FILE, _OPEN, 0o666), "a+b", buffering=0)
        except OSError:
            continue
        with file:
            try:
                lock_file(file, exclusive=True, wait=False)
            except OSError:
                continue
            yield _Memory(file)
            return
    yield _Memory(None)


def _parse(line: bytes) -> tuple[str, Stamp | None, Look | None]:
    """Read a line; the file may have been cut, or come with a stranger's data."""
    try:
        path, size, changed, sha256, width, height, reason, dhash, sums = json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return "", None, None
    texts, numbers = (path, sha256, reason, dhash), (size, changed, width, height)
    sound = all(isinstance(text, str) for text in texts) and _are_counts([*numbers, *_list(sums)])
    if not sound or len(_list(sums)) != 6 or not _is_hash(dhash, reason):
        return "", None, None
    return path, (size, changed), Look(sha256, width, height, reason, dhash, tuple(sums))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _are_counts(values: list[Any]) -> bool:
    return all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _is_hash(dhash: str, reason: str) -> bool:
    if reason:
        return not dhash
    try:
        return len(dhash) == 2 * HASH_BYTES and len(bytes.fromhex(dhash)) == HASH_BYTES
    except ValueError:
        return False
