"""Decode once: all images of a list in one uint8 memory map, shared by workers and ranks.

A pack is `<name>-<size>-<fingerprint>.u8`, N x size x size x 3 bytes, and a `.json` beside it
that is written last: a pack without it is incomplete and never used. It lies in `.facever/` in
the data folder, or in the user's cache where that is read-only.
"""

import errno
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from facever.data.decode import (
    decode_all,
    file_stats,
    find_damaged,
    fingerprint,
    refuse_damaged,
    square_pixels,
    write_rows,
)
from facever.data.workers import Progress, refuse_unguarded
from facever.errors import ConfigError, DataError, StorageError

__all__ = [
    "FileImages",
    "Images",
    "PackMode",
    "PackedImages",
    "find_damaged",
    "fingerprint",
    "open_images",
]

UInt8 = NDArray[np.uint8]
Int64 = NDArray[np.int64]
PackMode = Literal["auto", "on", "off"]

_FORMAT = 1
# How pixels are made; a pack made in another way is another pack.
_RECIPE = "8-bit RGB, EXIF upright, centre square, antialiased bilinear"
# What is left free on the disk: checkpoints need it.
_SPARE_BYTES = 256 << 20


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


class PackedImages:
    """Images copied out of a memory map, which a worker that gets it pickled maps anew."""

    tier = "pack"
    reason = ""

    def __init__(self, file: Path, count: int, size: int) -> None:
        self.file, self.size = file, size
        self._count = count
        self._pixels: UInt8 | None = self._map()

    def __len__(self) -> int:
        return self._count

    def gather(self, indices: Int64) -> UInt8:
        """Copy the images (B, size, size, 3) at these positions (B,)."""
        if self._pixels is None:
            self._pixels = self._map()
        return np.take(self._pixels, indices, axis=0)

    def _map(self) -> UInt8:
        shape = (self._count, self.size, self.size, 3)
        with self.file.open("rb") as stream:
            # The map keeps its own descriptor and so the lock: see `_unused`.
            lock_file(stream, exclusive=False)
            return np.asarray(np.memmap(stream, np.uint8, mode="r", shape=shape))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pixels": None}


def open_images(
    root: Path,
    paths: Sequence[str],
    size: int,
    *,
    pack: PackMode = "auto",
    name: str,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Images:
    """Open images (N) below `root` as squares of `size` pixels, each decoded once already.

    Args:
        root: what `paths` are relative to.
        paths: the images.
        size: side in pixels.
        pack: `on` builds a pack or fails, `auto` falls back to files, `off` uses files.
        name: of the pack; an older pack of that name and size is removed if nobody uses it.
        workers: processes that decode; by default one per core.
        progress: hears of (done, total) while images are decoded.

    Raises:
        DataError: there are no images, or some are absent or damaged.
        StorageError: `pack` is `on`, and no folder can be written or has the space.
    """
    if pack not in ("auto", "on", "off"):
        raise ConfigError(f"data.pack: {pack!r}; expected auto, on or off")
    if not paths:
        raise DataError(f"{root}: no images to open as {name!r}")
    reason = ""
    if pack != "off":
        try:
            return _open_pack(root, paths, size, name, workers, progress)
        except StorageError as error:
            if pack == "on":
                raise
            reason = str(error).splitlines()[0]
    refuse_damaged(
        root, find_damaged(root, paths, workers=workers, limit=1, progress=progress), paths
    )
    return FileImages(root, paths, size, reason)


@dataclass(frozen=True)
class _Pack:
    """Where a pack lies, and what it must hold."""

    folder: Path
    name: str
    size: int
    digest: str
    count: int

    @property
    def prefix(self) -> str:
        return f"{self.name}-{self.size}-"

    @property
    def data(self) -> Path:
        return self.folder / f"{self.prefix}{self.digest[:16]}.u8"

    @property
    def facts(self) -> Path:
        return self.data.with_suffix(".json")

    @property
    def bytes(self) -> int:
        return self.count * self.size * self.size * 3

    def complete(self) -> bool:
        """Whether the pack is there, whole, and of these very files."""
        try:
            facts = json.loads(self.facts.read_text())
            return facts["fingerprint"] == self.digest and self.data.stat().st_size == self.bytes
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def relatives(self, *suffixes: str) -> list[Path]:
        """List files of packs of the same name and size."""
        return [
            path
            for path in self.folder.iterdir()
            if path.name.startswith(self.prefix) and path.suffix in suffixes
        ]


def _open_pack(
    root: Path,
    paths: Sequence[str],
    size: int,
    name: str,
    workers: int | None,
    progress: Progress | None,
) -> PackedImages:
    digest = _pack_digest(root, paths, size)
    obstacles = []
    for folder in homes(root):
        pack = _Pack(folder, name, size, digest, len(paths))
        try:
            if not pack.complete():
                folder.mkdir(parents=True, exist_ok=True)
                with (folder / f"{name}-{size}.lock").open("ab") as lock:
                    lock_file(lock, exclusive=True)
                    # Another process may have built it while this one waited.
                    if not pack.complete():
                        _build(pack, root, paths, workers, progress)
            return PackedImages(pack.data, len(paths), size)
        except OSError as error:
            obstacles.append(f"{folder}: {error.strerror or error}")
    raise StorageError(
        f"no place for the pack of {pack.bytes:,} bytes: {'; '.join(obstacles)}\n"
        "  expected a folder with that much space; free some, set XDG_CACHE_HOME, or data.pack=off"
    )


def _pack_digest(root: Path, paths: Sequence[str], size: int) -> str:
    digest = hashlib.sha256(f"{_FORMAT}\n{_RECIPE}\n{size}\n".encode())
    for path, (length, changed) in zip(paths, file_stats(root, paths), strict=True):
        digest.update(os.fsencode(path) + b"\0%d %d\n" % (length, changed))
    return digest.hexdigest()


def homes(root: Path) -> tuple[Path, ...]:
    """Folders a pack may lie in: with the data; else in the cache, apart from other data's.

    A folder that nobody may write to is left alone, also by a superuser, who could.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:12]
    cached = cache / "facever" / place
    protected = root.is_dir() and not root.stat().st_mode & 0o222
    return (cached,) if protected else (root / ".facever", cached)


def lock_file(stream: IO[bytes], *, exclusive: bool, wait: bool = True) -> None:
    """Lock an open file until it is closed, which the system does for a process that dies."""
    import fcntl

    if exclusive and wait:
        refuse_unguarded()
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    fcntl.flock(stream, kind if wait else kind | fcntl.LOCK_NB)


def _unused(file: Path) -> bool:
    """Whether no process has this pack mapped; another run may still be training on it."""
    try:
        with file.open("rb") as stream:
            lock_file(stream, exclusive=True, wait=False)
    except OSError:
        return False
    return True


def _build(
    pack: _Pack,
    root: Path,
    paths: Sequence[str],
    workers: int | None,
    progress: Progress | None,
) -> None:
    # Whoever wrote these was killed: the lock is ours.
    for left_over in pack.relatives(".tmp"):
        left_over.unlink()
    free = shutil.disk_usage(pack.folder).free
    if free < pack.bytes + _SPARE_BYTES:
        raise OSError(errno.ENOSPC, f"{free:,} bytes free, {pack.bytes + _SPARE_BYTES:,} needed")
    draft = pack.data.with_suffix(f".{os.getpid()}.tmp")
    try:
        with draft.open("wb") as stream:
            stream.truncate(pack.bytes)
        write = functools.partial(write_rows, root, draft, pack.size)
        refuse_damaged(root, decode_all(write, paths, root, workers, progress), paths)
        _publish(draft, pack.data)
        draft.write_text(json.dumps(_facts(pack, paths), indent=1) + "\n")
        _publish(draft, pack.facts)
    finally:
        draft.unlink(missing_ok=True)
    for old in pack.relatives(".u8"):
        if old != pack.data and _unused(old):
            old.with_suffix(".json").unlink(missing_ok=True)
            old.unlink()


def _facts(pack: _Pack, paths: Sequence[str]) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "recipe": _RECIPE,
        "fingerprint": pack.digest,
        "shape": [pack.count, pack.size, pack.size, 3],
        "paths_sha256": hashlib.sha256(b"\0".join(map(os.fsencode, paths))).hexdigest(),
    }


def _publish(draft: Path, file: Path) -> None:
    """Give a finished file its name, once its bytes are on the disk."""
    with draft.open("rb") as stream:
        os.fsync(stream.fileno())
    draft.replace(file)
