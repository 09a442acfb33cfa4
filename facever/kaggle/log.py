"""`submissions/log.jsonl`: a line for each upload, what it was and what became of it."""

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from facever.storage import make_folder, write_text

LOG = Path("submissions") / "log.jsonl"

Entry = dict[str, Any]
_KEYS = {"time", "csv", "sha256", "slug", "validation_eer", "status"}


def read_log(path: Path = LOG) -> list[Entry]:
    """Read the lines of the log, the oldest first; what is none of its lines is left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    entries = []
    for line in lines:
        with suppress(json.JSONDecodeError):
            entry = json.loads(line)
            if isinstance(entry, dict) and entry.keys() >= _KEYS:
                entries.append(entry)
    return entries


def write_log(entry: Entry, path: Path = LOG) -> None:
    """Add a line, or put it in place of an earlier one of the same upload.

    Raises:
        StorageError: the log cannot be written; it is what it was.
    """
    make_folder(path.parent)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # Otherwise, of two uploads at once one would be forgotten.
        fcntl.flock(folder, fcntl.LOCK_EX)
        others = [line for line in read_log(path) if not _same_upload(line, entry)]
        write_text(path, "".join(json.dumps(line) + "\n" for line in [*others, entry]))
    finally:
        os.close(folder)


def _same_upload(one: Entry, other: Entry) -> bool:
    return all(one[key] == other[key] for key in ("time", "slug", "sha256"))
