"""Packs: all images of a list in one file, made once, shared by workers and ranks.

A pack is either `<name>-<size>-<fingerprint>.u8`, N x size x size x 3 bytes that are mapped into
memory, or a `.blob` of the images' own bytes, a tenth of that for photographs, which are decoded
each time. A `.json` beside it is written last: a pack without it is incomplete and never used. It
lies in `.facever/` in the data folder, or in the user's cache where that is read-only.
"""

import errno
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from facever.data.bundles import BundleWriter
from facever.data.decode import (
    Decoding,
    encode_rows,
    file_stats,
    find_damaged,
    fingerprint,
    write_rows,
)
from facever.data.tiers import BlobImages, FileImages, Images, MappedImages
from facever.data.workers import Progress, free_memory, lock_file
from facever.errors import ConfigError, DataError, StorageError

__all__ = [
    "FileImages",
    "Images",
    "PackMode",
    "find_damaged",
    "fingerprint",
    "lock_file",
    "open_images",
]

PackMode = Literal["auto", "gpu", "memmap", "blob", "files"]
MODES = ("auto", "gpu", "memmap", "blob", "files")

_FORMAT = 1
# How pixels are made; a pack made in another way is another pack.
_RECIPE = "8-bit RGB, EXIF upright, centre square, antialiased bilinear"
# What is left free on the disk: checkpoints need it.
_SPARE_BYTES = 256 << 20

_SUFFIXES = {"memmap": ".u8", "blob": ".blob"}
_OPENED: dict[str, Callable[[Path, int, int], Images]] = {
    "memmap": MappedImages,
    "blob": BlobImages,
}


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
    """Open images (N) below `root` as squares of `size` pixels, looked at by decoding each once.

    Args:
        root: what `paths` are relative to.
        paths: the images.
        size: side in pixels.
        pack: `memmap` or `blob` builds that pack or fails; `files` builds none; `auto`, and `gpu`
            before the pixels go there, takes a pack that is there, else builds a memory map where
            the free memory could hold it, else a blob, and falls back to files.
        name: of the pack; an older pack of that name and size is removed if nobody uses it.
        workers: processes that decode; by default one per core.
        progress: hears of (done, total) while images are decoded.

    Raises:
        DataError: there are no images, or some are absent or damaged.
        StorageError: no folder can be written or has the space, where a pack was demanded.
    """
    if pack not in MODES:
        raise ConfigError(f"data.pack: {pack!r}; expected {', '.join(MODES[:-1])} or {MODES[-1]}")
    if not paths:
        raise DataError(f"{root}: no images to open as {name!r}")
    images, reason = Decoding(root, paths, workers, progress), ""
    if pack != "files":
        chosen = [pack] if pack in _SUFFIXES else []
        try:
            return _open_pack(images, size, name, chosen)
        except StorageError as error:
            if chosen:
                raise
            reason = str(error).splitlines()[0]
    images.refuse(images.unreadable())
    return FileImages(root, paths, size, reason)


@dataclass(frozen=True)
class _Pack:
    """Where a pack lies, and what it must hold."""

    folder: Path
    tier: str
    name: str
    size: int
    digest: str
    count: int
    bytes: int
    """the most that it takes"""

    @property
    def prefix(self) -> str:
        return f"{self.name}-{self.size}-"

    @property
    def data(self) -> Path:
        return self.folder / f"{self.prefix}{self.digest[:16]}{_SUFFIXES[self.tier]}"

    @property
    def facts(self) -> Path:
        return self.data.with_suffix(".json")

    def complete(self) -> bool:
        """Whether the pack is there, whole, and of these very files."""
        try:
            facts = json.loads(self.facts.read_text())
            whole: bool = facts["bytes"] == self.data.stat().st_size
            return whole and facts["fingerprint"] == self.digest
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def open(self) -> Images:
        """Open a complete pack."""
        return _OPENED[self.tier](self.data, self.count, self.size)

    def relatives(self, *suffixes: str) -> list[Path]:
        """List files of packs of the same name and size."""
        return [
            path
            for path in self.folder.iterdir()
            if path.name.startswith(self.prefix) and path.suffix in suffixes
        ]


def _open_pack(images: Decoding, size: int, name: str, chosen: Sequence[str]) -> Images:
    """Open the pack of a tier that is `chosen`, or of whichever suits."""
    packs = list(_candidates(images, size, name))
    wanted = [pack for tier in chosen or _by_memory(packs) for pack in packs if pack.tier == tier]
    for pack in wanted:
        if pack.complete():
            return pack.open()
    obstacles = []
    for pack in wanted:
        try:
            pack.folder.mkdir(parents=True, exist_ok=True)
            with (pack.folder / f"{name}-{size}.lock").open("ab") as lock:
                lock_file(lock, exclusive=True)
                # Another process may have built it while this one waited.
                if not pack.complete():
                    _build(pack, images)
            return pack.open()
        except OSError as error:
            obstacles.append(f"{pack.folder}: {error.strerror or error}")
    raise StorageError(
        f"no place for the pack of {wanted[0].bytes:,} bytes: {'; '.join(obstacles)}\n"
        "  expected a folder with that much space; free some, set XDG_CACHE_HOME, or "
        "data.pack=files"
    )


def _candidates(images: Decoding, size: int, name: str) -> Iterator[_Pack]:
    """Give a pack of either tier in each folder where it may lie."""
    paths = images.paths
    stats, pixels = file_stats(images.root, paths), size * size * 3
    digest = hashlib.sha256(f"{_FORMAT}\n{_RECIPE}\n{size}\n".encode())
    for path, (length, changed) in zip(paths, stats, strict=True):
        digest.update(os.fsencode(path) + b"\0%d %d\n" % (length, changed))
    most = {
        "memmap": pixels * len(paths),
        # No image takes more than its file, nor, but for some bytes, more than its pixels.
        "blob": sum(min(length, pixels) for length, _ in stats),
    }
    for tier in _SUFFIXES:
        own = digest.copy()
        if tier != "memmap":
            own.update(tier.encode())
        for folder in homes(images.root):
            yield _Pack(folder, tier, name, size, own.hexdigest(), len(paths), most[tier])


def _by_memory(packs: Sequence[_Pack]) -> tuple[str, ...]:
    """Order the tiers: a map that the free memory cannot hold would be read from the disk."""
    free = free_memory()
    mapped = next(pack.bytes for pack in packs if pack.tier == "memmap")
    return ("memmap", "blob") if free is None or mapped <= free else ("blob", "memmap")


def homes(root: Path) -> tuple[Path, ...]:
    """Folders a pack may lie in: with the data; else in the cache, apart from other data's.

    A folder that nobody may write to is left alone, also by a superuser, who could, and so is a
    link, with which a stranger's data would name another place.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:12]
    cached = cache / "facever" / place
    beside = root / ".facever"
    protected = root.is_dir() and not root.stat().st_mode & 0o222
    return (cached,) if protected or beside.is_symlink() else (beside, cached)


def _unused(file: Path) -> bool:
    """Whether no process has this pack mapped; another run may still be training on it."""
    try:
        with file.open("rb") as stream:
            lock_file(stream, exclusive=True, wait=False)
    except OSError:
        return False
    return True


def _build(pack: _Pack, images: Decoding) -> None:
    # Whoever wrote these was killed: the lock is ours.
    for left_over in pack.relatives(".tmp"):
        left_over.unlink()
    free = shutil.disk_usage(pack.folder).free
    if free < pack.bytes + _SPARE_BYTES:
        raise OSError(errno.ENOSPC, f"{free:,} bytes free, {pack.bytes + _SPARE_BYTES:,} needed")
    draft = pack.data.with_suffix(f".{os.getpid()}.tmp")
    try:
        write = _write_pixels if pack.tier == "memmap" else _write_blob
        images.refuse(write(draft, pack, images))
        facts = _facts(pack, images.paths, draft.stat().st_size)
        _publish(draft, pack.data)
        draft.write_text(json.dumps(facts, indent=1) + "\n")
        _publish(draft, pack.facts)
    finally:
        draft.unlink(missing_ok=True)
    for old in pack.relatives(*_SUFFIXES.values()):
        if old != pack.data and _unused(old):
            old.with_suffix(".json").unlink(missing_ok=True)
            old.unlink()


def _write_pixels(draft: Path, pack: _Pack, images: Decoding) -> dict[int, str]:
    """Write the pixels of all images, each process its own; give the damage found."""
    with draft.open("wb") as stream:
        stream.truncate(pack.bytes)
    return images.damage(functools.partial(write_rows, images.root, draft, pack.size))


def _write_blob(draft: Path, pack: _Pack, images: Decoding) -> dict[int, str]:
    """Write the bytes of all images one after the other; give the damage found."""
    damaged: dict[int, str] = {}
    encode = functools.partial(encode_rows, images.root, pack.size)
    with draft.open("wb") as stream:
        blob = BundleWriter(stream)
        for rows, (found, encoded) in images.run(encode):
            damaged.update(found)
            for path, data in zip(rows.paths, encoded, strict=True):
                stream.write(data)
                blob.add(path)
        blob.finish()
    return damaged


def _facts(pack: _Pack, paths: Sequence[str], size: int) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "recipe": _RECIPE,
        "fingerprint": pack.digest,
        "shape": [pack.count, pack.size, pack.size, 3],
        "bytes": size,
        "paths_sha256": hashlib.sha256(b"\0".join(map(os.fsencode, paths))).hexdigest(),
    }


def _publish(draft: Path, file: Path) -> None:
    """Give a finished file its name, once its bytes are on the disk."""
    with draft.open("rb") as stream:
        os.fsync(stream.fileno())
    draft.replace(file)
