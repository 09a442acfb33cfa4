"""Files that appear whole or not at all.

A temporary in the same folder is written, flushed and fsynced, then renamed, then the folder is
fsynced: a kill at any moment leaves the old file or the new one.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from facever.errors import StorageError


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
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise StorageError(
            f"{path}: could not be written after {written:,} bytes: {reason}\n"
            "  what was there before is intact; free some space, or name another folder"
        ) from error
    finally:
        # Renamed, it is gone; left by an error or a Ctrl-C, it is nobody's.
        with suppress(OSError):
            temporary.unlink()


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
        file.write(text.encode("utf-8"))
    return target


def write_json(path: str | os.PathLike[str], values: Mapping[str, Any]) -> Path:
    """Write values as JSON, indented; see `write_text`."""
    return write_text(path, json.dumps(values, indent=2) + "\n")
