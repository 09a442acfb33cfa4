"""Archives of strangers -> folders: all of an archive below one folder, or nothing at all.

The first pass reads every header, a compressed tar to its end, and refuses what could write
elsewhere, fill the disk or the memory, or is cut; nothing is written. The second writes plain
files and folders alone, each file with as many bytes as its header said. `tarfile`'s `data`
filter would let links within the folder through, and looks at one member at a time, when the
ones before are on the disk.

Bundled, the images of each folder become one file: see `bundles`.
"""

import gzip
import itertools
import os
import re
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import IO

from facever import tracking
from facever.data.archive_members import (
    CHUNK,
    Limits,
    Member,
    Source,
    open_source,
    too_large,
    too_many,
)
from facever.data.bundles import NAME, BundleWriter
from facever.data.images import is_image_name
from facever.data.workers import Progress
from facever.errors import DataError, FaceverError, StorageError
from facever.storage import appearing, check_vacant

# In a folder that was unpacked bundled: of which archive it was made.
_ORIGIN = ".archive"
_PART_BYTES, _NAME_BYTES, _DEPTH = 255, 1024, 32
# C0 and C1, which terminals obey, and what stands for bytes that are not UTF-8.
_UNREADABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_DRIVE = re.compile("[A-Za-z]:")
# What Python's readers raise where a file is not what its first bytes promised.
_DAMAGED = (
    EOFError,
    OverflowError,
    RuntimeError,  # a header that leads to a header that leads ...; a method not known
    ValueError,
    gzip.BadGzipFile,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


def unpack(
    archive: Path,
    folder: Path,
    *,
    bundled: bool = False,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> int:
    """Unpack a zip, tar or tar.gz; `folder` appears at the end, whole, or not at all.

    Links, devices, owners and modes are never made.

    Args:
        archive: the file; its first bytes say of which kind it is, its name does not matter.
        folder: one that does not exist or is empty.
        bundled: put the images of each folder into one file, where they are found as before.
        limits: what it may ask for.
        progress: called with (files written, files in all).

    Returns:
        how many files were unpacked.

    Raises:
        DataError: there is no archive, it is damaged or cut, it has members that could do harm,
            or asks for more than the limits; or `folder` is not empty.
        StorageError: there is no space, or the disk refuses.
    """
    target = Path(os.path.realpath(folder))
    check_vacant(target)
    limits = limits or Limits()
    with _opened(archive) as file:
        source = open_source(file, archive, limits)
        contents = _survey(source, archive, limits)
        _check_space(target, contents)
        try:
            with appearing(target) as hidden:
                _write(hidden, source, contents, bundled, progress)
                if bundled:
                    (hidden / _ORIGIN).write_text(_origin(archive))
        except OSError as error:
            raise StorageError(
                f"{target}: not unpacked: {error.strerror or error}\n"
                "  nothing was left behind; free some space, or give another folder"
            ) from error
    return len(contents.files)


def unpack_bundled(source: Path, output: Path | None) -> Path:
    """Make a data folder of an archive, with the images of each of its folders in one file.

    A folder is given back as it is, and so is a manifest; what was made of this archive before
    stays as it is.

    Raises:
        DataError: see `unpack`.
        StorageError: likewise.
    """
    if not source.is_file() or source.suffix == ".csv":
        return source
    folder = output or Path("data") / source.name.partition(".")[0]
    if not _bundled_from(source, folder):
        with tracking.progress(f"reading {source.name}", "files") as report:
            unpack(source, folder, bundled=True, progress=report)
    return folder


def _bundled_from(archive: Path, folder: Path) -> bool:
    """Tell whether a folder was made by unpacking this very archive, bundled."""
    origin = folder / _ORIGIN
    return origin.is_file() and origin.read_text() == _origin(archive)


def _origin(archive: Path) -> str:
    stat = archive.stat()
    return f"{archive.name}, {stat.st_size} bytes, changed {stat.st_mtime_ns}\n"


@dataclass
class _Contents:
    """What will be written: paths of files with their members, and of folders."""

    files: dict[str, Member] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)


@contextmanager
def _opened(archive: Path) -> Iterator[BufferedReader]:
    """Open an archive; what is wrong with it while it is open becomes a `DataError`."""
    # Opening a pipe would wait for ever.
    if not archive.is_file():
        raise DataError(f"{archive}: no such archive\n  expected a zip, tar or tar.gz")
    try:
        with archive.open("rb") as file:
            yield file
    except FaceverError:
        raise
    except _DAMAGED as error:
        raise DataError(
            f"{archive}: damaged or cut: {str(error) or type(error).__name__}\n"
            "  expected a whole zip, tar or tar.gz; fetch it again"
        ) from error
    except OSError as error:
        raise DataError(f"{archive}: not readable: {error.strerror or error}") from error


def _survey(source: Source, archive: Path, limits: Limits) -> _Contents:
    """Look at every member before anything is written.

    Raises:
        DataError: some are refused, with how many and the first; or there are too many.
    """
    contents, refused, count, total = _Contents(), [], 0, 0
    allowed = limits.allowed(archive.stat().st_size)
    for member in source.members():
        count, total = count + 1, total + member.size
        if count > limits.entries:
            raise too_many(archive, limits)
        if total > allowed:
            raise too_large(archive, allowed)
        problem = _problem(member) or _place(member, contents)
        if problem:
            refused.append(f"{member.name!r}: {problem}")
    both = contents.files.keys() & contents.folders
    refused += [f"{path!r}: a file and a folder at once" for path in sorted(both)]
    if refused:
        raise DataError(
            f"{archive}: {len(refused):,} of {count:,} members are refused\n  first: {refused[0]}\n"
            "  expected files and folders, each once, by names that lead down from where they are "
            "unpacked; nothing was unpacked"
        )
    return contents


def _problem(member: Member) -> str | None:
    """Say why a member is refused for what it is or for its name."""
    if member.kind not in ("file", "folder"):
        return member.kind
    name, parts = member.name, member.name.split("/")
    problems = {
        "an absolute path": name.startswith("/"),
        "leads out of the folder": ".." in parts,
        "a control character, or not UTF-8": _UNREADABLE.search(name),
        "a backslash": "\\" in name,
        "a drive letter": _DRIVE.match(_normal(name)),
        "a file without a name": member.kind == "file" and parts[-1] in ("", "."),
        f"more than {_DEPTH} folders deep": len(parts) > _DEPTH,
    }
    found = next((problem for problem, there in problems.items() if there), None)
    return found or _length_problem(parts)


def _length_problem(parts: Iterable[str]) -> str | None:
    lengths = [len(part.encode()) for part in parts]
    if max(lengths) > _PART_BYTES:
        return f"a name of {max(lengths)} bytes, above {_PART_BYTES}"
    if sum(lengths) > _NAME_BYTES:
        return f"a path of {sum(lengths)} bytes, above {_NAME_BYTES}"
    return None


def _normal(name: str) -> str:
    """The name without what leads nowhere: `./a//b/` is `a/b`."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _place(member: Member, contents: _Contents) -> str | None:
    """Give a member its place among the others; say so where it has none."""
    path = _normal(member.name)
    above = path if member.kind == "folder" else path.rpartition("/")[0]
    while above and above not in contents.folders:
        contents.folders.add(above)
        above = above.rpartition("/")[0]
    if member.kind == "folder":
        return None
    if path in contents.files:
        return "twice in the archive"
    contents.files[path] = member
    return None


def _check_space(target: Path, contents: _Contents) -> None:
    """Refuse what does not fit on the disk; files take whole blocks.

    Raises:
        StorageError: with the bytes that are needed and those that are free.
    """
    there = next(parent for parent in target.parents if parent.exists())
    system = os.statvfs(there)
    blocks = sum(-(-member.size // system.f_frsize) for member in contents.files.values())
    needed = (blocks + len(contents.folders)) * system.f_frsize
    free = shutil.disk_usage(there).free
    if needed > free:
        raise StorageError(
            f"{target}: {needed:,} bytes are needed, {free:,} are free\n"
            "  nothing was unpacked; free some space, or give another folder"
        )


def _write(
    hidden: Path, source: Source, contents: _Contents, bundled: bool, progress: Progress | None
) -> None:
    # Parents come before their children.
    for path in sorted(contents.folders):
        (hidden / path).mkdir()
    done = itertools.count(1)

    def copy(path: str, file: IO[bytes]) -> None:
        with source.open(contents.files[path]) as stream:
            _copy(stream, file, contents.files[path])
        if progress:
            progress(next(done), len(contents.files))

    bundles: dict[str, list[str]] = {}
    # "x": names that fall together on this file system alone must not overwrite each other.
    for path in contents.files:
        folder, _, name = path.rpartition("/")
        if bundled and is_image_name(name):
            bundles.setdefault(folder, []).append(name)
            continue
        with (hidden / path).open("xb") as file:
            copy(path, file)
    for folder, names in bundles.items():
        with (hidden / folder / NAME).open("xb") as file:
            bundle = BundleWriter(file)
            for name in names:
                copy(f"{folder}/{name}".removeprefix("/"), file)
                bundle.add(name)
            bundle.finish()


def _copy(stream: IO[bytes], file: IO[bytes], member: Member) -> None:
    left = member.size
    while left:
        data = stream.read(min(left, CHUNK))
        if not data:
            raise EOFError(f"{member.name!r} is {left:,} bytes shorter than its header says")
        file.write(data)
        left -= len(data)
