"""What is in a zip or tar, read so that no header that a stranger wrote fools the reader.

Python's readers believe headers: one may make them read gigabytes at once, walk in circles, or
stop in the middle without a word.
"""

import gzip
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from facever.errors import DataError

CHUNK = 1 << 20
# An empty tar is ten kilobytes of zeros, which gzip makes a hundred bytes of.
_ALWAYS_ALLOWED = 1 << 20
# With a name of average length an entry of a zip file's directory takes 100 to 200.
_DIRECTORY_BYTES = 512
_ENTRY_MARK = b"PK\x01\x02"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1 | 0x40 | 0x2000


@dataclass(frozen=True)
class Limits:
    """What an archive may ask for. The largest face data sets stay within.

    Attributes:
        entries: files and folders.
        bytes: when unpacked.
        ratio: bytes unpacked for each byte packed; pictures shrink by little, labels tenfold.
    """

    entries: int = 1_000_000
    bytes: int = 1 << 38
    ratio: int = 50

    def allowed(self, packed: int) -> int:
        """Bytes that an archive of this size may unpack to."""
        return min(self.bytes, max(_ALWAYS_ALLOWED, self.ratio * packed))


class Member(NamedTuple):
    """A header: `kind` is file, folder, or what else it is; `place` is its source's to know."""

    name: str
    kind: str
    size: int
    place: Any


class Source(Protocol):
    """An archive of any kind."""

    def members(self) -> Iterator[Member]:
        """Give every member, in order; fails where the archive is damaged or cut."""

    def open(self, member: Member) -> AbstractContextManager[IO[bytes]]:
        """Give the bytes of a file."""


def open_source(file: BufferedReader, archive: Path, limits: Limits) -> Source:
    """Give the source that an open archive's first bytes ask for.

    Raises:
        DataError: there is none, or the archive has more members than the limits allow.
    """
    start = file.read(263)
    file.seek(0)
    if start.startswith(b"PK"):
        return _Zip(file, archive, limits)
    allowed = limits.allowed(archive.stat().st_size)
    if start.startswith(b"\x1f\x8b"):
        return _Tar(_Guarded(gzip.GzipFile(fileobj=file), archive, allowed))
    if start[257:262] == b"ustar":
        return _Tar(_Guarded(file, archive, allowed))
    raise DataError(f"{archive}: no archive that is read; expected a zip, tar or tar.gz")


class _Zip:
    def __init__(self, file: BufferedReader, archive: Path, limits: Limits) -> None:
        self.archive = zipfile.ZipFile(_Directory(file, archive, limits))

    def members(self) -> Iterator[Member]:
        for info in self.archive.infolist():
            # `filename` is what stands before a null byte.
            yield Member(info.orig_filename, _zip_kind(info), info.file_size, info)

    def open(self, member: Member) -> AbstractContextManager[IO[bytes]]:
        return self.archive.open(member.place)


class _Directory:
    """A file whose directory `zipfile` reads, at once, when it was found to be of a decent size.

    Its length and the count of its entries stand where a stranger wrote them, and may differ.
    """

    def __init__(self, file: BufferedReader, archive: Path, limits: Limits) -> None:
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self.file, self.archive, self.limits = file, archive, limits

    def read(self, count: int = -1) -> bytes:
        entries = self.limits.entries
        if count <= CHUNK:
            return self.file.read(count)
        if count > _DIRECTORY_BYTES * entries:
            raise too_many(self.archive, self.limits)
        data = self.file.read(count)
        if data.count(_ENTRY_MARK) > entries:
            raise too_many(self.archive, self.limits)
        return data


def _zip_kind(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & _ENCRYPTED:
        return "encrypted"
    kind = _kind_of_mode(info.external_attr >> 16, folder=info.is_dir())
    if kind == "file" and info.compress_type not in _METHODS:
        return f"compressed by method {info.compress_type}, neither stored nor deflated"
    return kind


def _kind_of_mode(mode: int, *, folder: bool) -> str:
    """Say what a Unix mode makes of a member; systems without modes leave them 0."""
    kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a fifo", stat.S_IFSOCK: "a socket"}
    expected = stat.S_IFDIR if folder else stat.S_IFREG
    if stat.S_IFMT(mode) in (0, expected):
        return "folder" if folder else "file"
    return kinds.get(stat.S_IFMT(mode), "not what its name says")


class _Guarded:
    """A stream of which no header makes more be read at once, or unpacked, than is allowed."""

    def __init__(self, stream: BufferedReader | gzip.GzipFile, archive: Path, end: int) -> None:
        self.stream, self.archive, self.end = stream, archive, end
        self.tell = stream.tell

    def read(self, count: int) -> bytes:
        if not 0 <= count <= CHUNK:
            raise ValueError(f"a header of {count:,} bytes")
        data = self.stream.read(count)
        self._check(self.tell())
        return data

    def seek(self, position: int) -> int:
        self._check(position)
        return self.stream.seek(position)

    def _check(self, position: int) -> None:
        if position > self.end:
            raise too_large(self.archive, self.end)


class _Tar:
    def __init__(self, stream: _Guarded) -> None:
        self.stream = stream
        self.archive = tarfile.TarFile(fileobj=stream)  # type: ignore[arg-type] # it reads, seeks and tells

    def members(self) -> Iterator[Member]:
        position = -1
        while (info := self.archive.next()) is not None:
            # Kept, a million of them would take a gigabyte.
            self.archive.members.clear()  # type: ignore[attr-defined] # typeshed lacks it
            # A negative size leads back to headers that were read before, for ever.
            if info.size < 0 or info.offset_data <= position:
                raise ValueError(f"{info.name!r} has {info.size:,} bytes")
            position = info.offset_data
            yield Member(info.name, _tar_kind(info), info.size, position)
        self._read_to_end()

    def _read_to_end(self) -> None:
        """Find out whether the archive is whole: `tarfile` takes a damaged header for its end."""
        self.stream.seek(self.archive.offset)
        read = 0
        # To the end of the stream, where gzip has its checksum.
        while data := self.stream.read(CHUNK):
            if data.strip(b"\0"):
                raise ValueError("a header is damaged, or more follows after the end")
            read += len(data)
        if read < tarfile.BLOCKSIZE:
            raise EOFError("the end is missing")

    @contextmanager
    def open(self, member: Member) -> Iterator[IO[bytes]]:
        self.stream.seek(member.place)
        yield self.stream  # type: ignore[misc] # it needs only `read`


def _tar_kind(info: tarfile.TarInfo) -> str:
    if info.isdir():
        return "folder"
    if info.isreg():
        return "a sparse file" if info.issparse() else "file"
    kinds = {
        tarfile.SYMTYPE: "a symbolic link",
        tarfile.LNKTYPE: "a hard link",
        tarfile.FIFOTYPE: "a fifo",
    }
    return kinds.get(info.type, "a device" if info.isdev() else f"of type {info.type!r}")


def too_many(archive: Path, limits: Limits) -> DataError:
    """Build the error about the count of members."""
    return DataError(
        f"{archive}: more than {limits.entries:,} members; expected at most so many\n"
        "  nothing was unpacked; unpack it by hand if you know where it comes from"
    )


def too_large(archive: Path, allowed: int) -> DataError:
    """Build the error about bytes, declared or met."""
    return DataError(
        f"{archive}: {archive.stat().st_size:,} bytes that unpack to more than {allowed:,}; "
        "expected no more from pictures and labels\n"
        "  nothing was unpacked; unpack it by hand if you know where it comes from"
    )
