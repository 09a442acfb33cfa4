"""`data fetch`: a competition's data onto this disk, going on where an earlier call stopped."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from facever.data.archives import unpack
from facever.data.workers import open_part
from facever.errors import ConfigError, DataError, StorageError
from facever.kaggle import faults
from facever.kaggle.api import Kaggle, as_slug
from facever.kaggle.faults import KaggleError, Unavailable, attempt
from facever.storage import check_vacant, make_folder, write_json
from facever.tracking import Report, note, progress

if TYPE_CHECKING:
    from requests import Response

# Below the folder of a data set: which competition it is from.
RECORD = Path(".facever") / "competition.json"
# What a broken connection loses at most.
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Fetched:
    """A competition's data on disk.

    Attributes:
        slug: the competition's name at Kaggle.
        folder: where its files lie.
        files: how many were unpacked.
    """

    slug: str
    folder: Path
    files: int


def fetch(name: str, folder: Path | None = None) -> Fetched:
    """Download a competition's archive, unpack it, and record whose it is.

    Args:
        name: the competition's name at Kaggle, or its address.
        folder: where to, by default `data/<name>`.

    Raises:
        KaggleError: Kaggle refused, or cannot be reached.
        DataError: the archive is damaged or hostile, or something else is in the folder.
        StorageError: too little space, or the folder cannot be written.
        ConfigError: the folder holds another competition's data.
    """
    slug = as_slug(name)
    folder = folder or Path("data") / slug
    there = _read_record(folder)
    if there and there["slug"] != slug:
        raise ConfigError(f"{folder}: holds the data of {there['slug']}; name another with -o")
    if there:
        note(f"{folder}: fetched before; remove the folder to fetch it again")
        return Fetched(slug, folder, there["files"])
    check_vacant(folder)
    with Kaggle() as kaggle, progress("downloading", "MB") as report:
        archive = attempt("downloading", slug, lambda: _download(kaggle, slug, folder, report))
    with progress("unpacking", "files") as report:
        files = _unpack(archive, folder, report)
    write_json(folder / RECORD, {"slug": slug, "files": files})
    for part in archive.parent.glob(f".{slug}-*.zip"):
        part.unlink()
    return Fetched(slug, folder, files)


def recorded_slug(root: Path) -> str | None:
    """Competition that a data set was fetched from; its root may lie deeper than the record."""
    for folder in (root, *root.resolve().parents):
        if record := _read_record(folder):
            return as_slug(record["slug"])
    return None


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("slug"), str) else None


def _download(kaggle: Kaggle, slug: str, folder: Path, report: Report) -> Path:
    """Bring the archive beside `folder`, going on where an earlier call stopped.

    The file's name says of which version of the archive it is, so that two are never mixed.
    """
    with kaggle.open_archive(slug) as response:
        stated = response.headers.get("Content-Length", "")
        length = int(stated) if stated.isdecimal() else 0
        if not length or "text/html" in response.headers.get("Content-Type", ""):
            raise KaggleError(
                f"kaggle: downloading, {slug}: the answer is no archive of a stated length\n"
                "  a proxy or a log-in page may answer in Kaggle's place"
            )
        path = folder.parent / f".{slug}-{_version(response)}.zip"
        make_folder(path.parent)
        with open_part(path) as file:
            start = file.tell()
            _check_space(path.parent, length, length - start)
            if start != length:
                with _rest(response, start, length) as rest:
                    _append(file, rest, length, report)
            if file.tell() != length:
                raise Unavailable(
                    f"kaggle: downloading, {slug}: {file.tell():,} of {length:,} bytes came\n"
                    "  run the same command again: it goes on there"
                )
    return path


def _version(response: "Response") -> str:
    """Tell versions of the archive apart by what the storage says of it."""
    headers = [response.headers.get(key, "") for key in ("ETag", "Last-Modified", "Content-Length")]
    return hashlib.sha256("\n".join(headers).encode()).hexdigest()[:12]


def _check_space(folder: Path, length: int, missing: int) -> None:
    """Refuse what cannot fit: what is missing of the archive, and as much again unpacked."""
    free = shutil.disk_usage(folder).free
    if free < missing + length:
        raise StorageError(
            f"{folder}: {free / 1e9:,.2f} GB are free; the archive and its files need at least "
            f"{(missing + length) / 1e9:,.2f} GB\n  free some space, or name another folder with -o"
        )


def _rest(response: "Response", start: int, length: int) -> "Response":
    """Ask for the bytes from `start` on; the whole answer where the storage gives no parts."""
    import requests

    # Without a redirect to the storage the address wants the key, which stays with kagglesdk.
    if not 0 < start < length or not response.history:
        return response
    wanted = {"Range": f"bytes={start}-", "Accept-Encoding": "identity"}
    rest = requests.get(response.url, headers=wanted, stream=True, timeout=faults.TIMEOUT)
    if rest.status_code != 416:
        rest.raise_for_status()
    given = rest.headers.get("Content-Range")
    if rest.status_code == 206 and given == f"bytes {start}-{length - 1}/{length}":
        return rest
    rest.close()
    return response


def _append(file: IO[bytes], body: "Response", length: int, report: Report) -> None:
    """Write a body to the end of a file; one that is not a part begins the file anew."""
    if body.status_code != 206:
        file.seek(0)
        file.truncate()
    for chunk in body.iter_content(_CHUNK):
        try:
            file.write(chunk)
            file.flush()
        except OSError as error:
            raise StorageError(
                f"{file.name}: could not be written after {file.tell():,} bytes: {error.strerror}\n"
                "  free some space; the same command goes on there"
            ) from error
        report(file.tell() // 1_000_000, length // 1_000_000)


def _unpack(archive: Path, folder: Path, report: Report) -> int:
    """Unpack the archive, and remove one that is damaged or hostile, which no call could use."""
    try:
        return unpack(archive, folder, progress=report)
    except DataError:
        archive.unlink()
        raise
