"""Files and folders that appear whole or not at all.

A temporary in the same folder is written, flushed and fsynced, then renamed, then the folder is
fsynced: a kill at any moment leaves the old file or the new one. A folder of many files is
made under a hidden name and renamed.
"""

import fcntl
import glob
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from facever.errors import DataError, StorageError


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary beside `path` for writing that becomes `path` when all is on disk.

    Raises:
        StorageError: the system refused, with the path and how much was written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    written = 0
    try:
        with temporary.open("wb") as file:
            yield file
            written = file.tell()
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _fsync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        # torch.save turns a full disk into a RuntimeError of its zip writer.
        with suppress(OSError):
            written = max(written, temporary.stat().st_size)
        raise StorageError(
            f"{path}: could not be written after {written:,} bytes: {_reason(error)}\n"
            "  what was there before is intact; free some space, or name another folder"
        ) from error
    finally:
        # Renamed, it is gone; left by an error or a Ctrl-C, it is nobody's.
        with suppress(OSError):
            temporary.unlink()


def _reason(error: BaseException) -> str:
    """Give the system's words for what went wrong; torch raises its own over them."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, OSError) and below.strerror:
            return below.strerror
        below = below.__context__
    return str(error)


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """Give a hidden folder beside `target` that takes its name when all went well.

    What a killed process left of an earlier try is removed.

    Raises:
        DataError: `target` is there and not empty.
        OSError: the system refused.
    """
    check_vacant(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    for left_over in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        with suppress(OSError), _held(left_over):
            shutil.rmtree(left_over)
    hidden = target.parent / f".{target.name}.{os.getpid()}.partial"
    hidden.mkdir()
    try:
        with _held(hidden):
            yield hidden
            if target.exists():
                target.rmdir()
            hidden.rename(target)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise


def check_vacant(target: Path) -> None:
    """Refuse a place where something is.

    Raises:
        DataError: it is a file, or a folder that is not empty.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target}: is there already and not empty\n  give a folder of a new name")


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a folder for this process, or fail; the system lets go of it for one that dies."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _fsync_folder(folder: Path) -> None:
    """Make a rename survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are absent.

    Raises:
        StorageError: the system refused.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: could not be made: {error.strerror}") from error


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write UTF-8 text, making the folder where it is absent.

    Raises:
        StorageError: the folder or the file could not be written.
    """
    target = Path(path)
    make_folder(target.parent)
    with replacing(target) as file:
        # A file's name that is no Unicode appears with its bytes as \\udcff.
        file.write(text.encode("utf-8", "backslashreplace"))
    return target


def write_json(path: str | os.PathLike[str], values: Mapping[str, Any]) -> Path:
    """Write values as JSON, indented; see `write_text`."""
    return write_text(path, json.dumps(values, indent=2) + "\n")
