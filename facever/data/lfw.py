"""Labeled Faces in the Wild, for people without a competition: `facever data fetch lfw`.

From the addresses that scikit-learn's `fetch_lfw_pairs` has, with its hashes; torchvision no longer
downloads it. scikit-learn itself would decode all images and give up on no server.
"""

import hashlib
import http.client
import shutil
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from facever.data.archives import unpack
from facever.data.workers import Progress, open_part
from facever.errors import DataError, StorageError
from facever.storage import appearing, check_vacant, make_folder

NAME = "lfw"
# Seconds to connect, and between two pieces of an answer.
_TIMEOUT = 60.0

_CHUNK = 1 << 18
_ARCHIVE = "lfw-funneled.tgz"
_PAIRS = ("pairs.txt", "pairsDevTrain.txt", "pairsDevTest.txt")


@dataclass(frozen=True)
class Remote:
    """A file somewhere else, and the hash of its bytes."""

    url: str
    sha256: str


_FILES = {
    "pairsDevTrain.txt": Remote(
        "https://ndownloader.figshare.com/files/5976012",
        "1d454dada7dfeca0e7eab6f65dc4e97a6312d44cf142207be28d688be92aabfa",
    ),
    "pairsDevTest.txt": Remote(
        "https://ndownloader.figshare.com/files/5976009",
        "7cb06600ea8b2814ac26e946201cdb304296262aad67d046a16a7ec85d0ff87c",
    ),
    "pairs.txt": Remote(
        "https://ndownloader.figshare.com/files/5976006",
        "ea42330c62c92989f9d7c03237ed5d591365e89b3e649747777b70e692dc1592",
    ),
    _ARCHIVE: Remote(
        "https://ndownloader.figshare.com/files/5976015",
        "b47c8422c8cded889dc5a13418c4bc2abbda121092b3533a83306f90d900100a",
    ),
}


def fetch_lfw(
    folder: Path | None = None,
    *,
    downloading: Progress | None = None,
    unpacking: Progress | None = None,
) -> tuple[Path, int]:
    """Download LFW's images and pair files and unpack them; goes on where it was stopped.

    What has come lies in `<folder>.download/`, where a file that was got in another way is taken
    too. The folder appears at the end, whole, as the reader of LFW wants it.

    Args:
        folder: where to, by default `data/lfw`.
        downloading: hears of (done, total) kilobytes of a file.
        unpacking: hears of (done, total) files.

    Returns:
        the folder, and how many files came into it; 0 where it was there before.

    Raises:
        DataError: a server cannot be reached or refuses, a file is another than expected, or
            something else is in the folder.
        StorageError: too little space, or the folder cannot be written.
    """
    folder = folder or Path("data") / NAME
    if all((folder / name).is_file() for name in _PAIRS):
        return folder, 0
    check_vacant(folder)
    store = folder.with_name(f"{folder.name}.download")
    make_folder(store)
    for name, remote in _FILES.items():
        _bring(store / name, remote, downloading)
    try:
        with appearing(folder) as hidden:
            images = unpack(store / _ARCHIVE, hidden / "archive", progress=unpacking)
            # The archive's one folder, `lfw_funneled`, comes to lie beside the pair files.
            for inner in (hidden / "archive").iterdir():
                inner.rename(hidden / inner.name)
            (hidden / "archive").rmdir()
            for name in _PAIRS:
                shutil.copyfile(store / name, hidden / name)
        shutil.rmtree(store)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error.strerror}") from error
    return folder, images + len(_PAIRS)


def _bring(file: Path, remote: Remote, progress: Progress | None) -> None:
    """Have a file here with the bytes that it should have."""
    if file.is_file():
        _check(file, remote)
        return
    part = file.with_name(f"{file.name}.part")
    with open_part(part) as stream:
        try:
            _download(stream, remote, progress)
        except urllib.error.HTTPError as error:
            # All of it was there: a kill came before its name.
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                answer = f"the answer is {error.code} {error.reason}"
                raise _unreachable(file, remote, answer) from error
        except urllib.error.URLError as error:
            reason = getattr(error.reason, "strerror", None) or str(error.reason)
            raise _unreachable(file, remote, reason) from error
        except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = str(error) or type(error).__name__
            raise _unreachable(file, remote, reason) from error
        except OSError as error:
            raise StorageError(
                f"{part}: could not be written after {stream.tell():,} bytes: {error.strerror}\n"
                "  free some space; the same command goes on there"
            ) from error
    try:
        _check(part, remote)
    except DataError:
        part.unlink()
        raise
    part.rename(file)


def _download(stream: IO[bytes], remote: Remote, progress: Progress | None) -> None:
    """Append what is missing; a server that does not give parts begins anew."""
    start = stream.tell()
    asked = urllib.request.Request(  # noqa: S310 (the addresses above, none from outside)
        remote.url, headers={"Range": f"bytes={start}-"} if start else {}
    )
    with urllib.request.urlopen(asked, timeout=_TIMEOUT) as answer:  # noqa: S310 (as above)
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            stream.truncate(0)
            start = 0
        stated = answer.headers.get("Content-Length", "")
        total = start + int(stated) if stated.isdecimal() else 0
        done = start
        while data := answer.read(_CHUNK):
            stream.write(data)
            done += len(data)
            if progress:
                progress(done >> 10, max(total, done) >> 10)
        stream.flush()
        if done < total:
            raise http.client.HTTPException(f"{done:,} of {total:,} bytes came")


def _unreachable(file: Path, remote: Remote, reason: str) -> DataError:
    host = urllib.parse.urlsplit(remote.url).netloc
    return DataError(
        f"lfw: {file.name} could not be downloaded: {reason}\n"
        f"  is there a way to {host} from here? then the same command goes on where it stopped;\n"
        f"  or get {remote.url} elsewhere, put it here as {file}, and run the command again"
    )


def _check(file: Path, remote: Remote) -> None:
    """Compare a file's hash with the one that it should have.

    Raises:
        DataError: they differ.
    """
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != remote.sha256:
        raise DataError(
            f"{file}: SHA-256 {digest[:12]}..., expected {remote.sha256[:12]}... as {remote.url} "
            "has it\n  remove it if it is still there, and run the command again"
        )
