"""Archives that strangers made: all of one below one folder, or a refusal and nothing at all."""

import gzip
import io
import os
import shutil
import signal
import stat
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from process_helpers import file_size_limit, forked, outcome

from facever.data.archive_members import Limits
from facever.data.archives import unpack
from facever.errors import DataError, FaceverError, StorageError

KINDS = ("zip", "tar", "tar.gz")
WIDE = Limits(bytes=1 << 60, ratio=1 << 40)
Files = dict[str, bytes]

# Everything that a decent archive may hold; case twins are two files on Linux.
DECENT: Files = {
    "labels.txt": b"a.png one\n",
    "one/A.png": bytes(range(256)) * 20,
    "one/a.png": b"",
    "one/two/😀 é.png": b"x",
    "-rf": b"dash",
    "dots..png": b".",
    "é" * 125 + "x.png": b"255 bytes",
}


def make(path: Path, files: Files, *, kind: str | None = None) -> Path:
    """Write an archive of the kind that the path's name says, members in the order given."""
    kind = kind or path.name.partition(".")[2]
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(zip_info(name), data)
    else:
        write_tar(path, [(tar_info(name), data) for name, data in files.items()], kind=kind)
    return path


def zip_info(name: str, mode: int | None = None) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("placeholder")
    # The constructor cuts names at null bytes.
    info.filename = info.orig_filename = name
    usual = stat.S_IFDIR | 0o755 if name.endswith("/") else stat.S_IFREG | 0o6777
    info.external_attr = (mode or usual) << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def tar_info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o6777
    return info


def write_tar(
    path: Path, members: Iterable[tuple[tarfile.TarInfo, bytes]], *, kind: str = "tar"
) -> Path:
    with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with its bytes, None for what is no plain file."""
    return {
        path.relative_to(folder).as_posix(): (
            path.read_bytes() if path.is_file() and not path.is_symlink() else None
        )
        for path in folder.rglob("*")
    }


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@contextmanager
def refused(tmp_path: Path, message: str, error: type[FaceverError] = DataError) -> Iterator[None]:
    """Expect a refusal that leaves everything below `tmp_path` as it was."""
    before = tree(tmp_path)
    with pytest.raises(error, match=message):
        yield
    assert tree(tmp_path) == before


# --- what is decent ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_unpacked_byte_for_byte(tmp_path: Path, kind: str) -> None:
    archive = make(tmp_path / f"data.{kind}", DECENT)
    said: list[tuple[int, int]] = []
    out = tmp_path / "new" / "data"
    assert unpack(archive, out, progress=lambda *done: said.append(done)) == len(DECENT)
    found = {name: data for name, data in tree(out).items() if data is not None}
    assert found == DECENT
    assert said == [(i, len(DECENT)) for i in range(1, len(DECENT) + 1)]
    assert [path.name for path in out.parent.iterdir()] == ["data"], "nothing else was left"


@pytest.mark.parametrize("kind", KINDS)
def test_no_mode_of_the_archive_is_taken_over(tmp_path: Path, kind: str) -> None:
    unpack(make(tmp_path / f"data.{kind}", DECENT), tmp_path / "out")
    (tmp_path / "own").touch()
    for path in (tmp_path / "out").rglob("*.png"):
        assert path.stat().st_mode == (tmp_path / "own").stat().st_mode
        assert path.stat().st_uid == os.getuid()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_folders_may_be_empty_told_twice_or_told_late(tmp_path: Path, kind: str) -> None:
    archive = tmp_path / f"data.{kind}"
    written = ["./", "./b/c/", "a/x", "./a/", "b/", "a/"]
    if kind == "zip":
        make(archive, dict.fromkeys(written, b""))
    else:
        kinds = {True: tarfile.DIRTYPE, False: tarfile.REGTYPE}
        write_tar(archive, [(tar_info(name, kinds[name[-1] == "/"]), b"") for name in written])
    assert unpack(archive, tmp_path / "out") == 1
    assert set(tree(tmp_path / "out")) == {"a", "a/x", "b", "b/c"}


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_empty_archive_gives_an_empty_folder_in_place_of_one(tmp_path: Path, kind: str) -> None:
    (tmp_path / "out").mkdir()
    assert unpack(make(tmp_path / f"data.{kind}", {}), tmp_path / "out") == 0
    assert tree(tmp_path / "out") == {}


def test_the_first_bytes_tell_the_kind_and_not_the_name(tmp_path: Path) -> None:
    for kind in KINDS:
        make(tmp_path / "kaggle-download", DECENT, kind=kind)
        assert unpack(tmp_path / "kaggle-download", tmp_path / kind) == len(DECENT)


def test_a_folder_that_is_a_link_is_unpacked_to_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "scratch")
    unpack(make(tmp_path / "x.zip", DECENT), tmp_path / "data")
    assert (tmp_path / "data").is_symlink()
    assert (tmp_path / "scratch" / "labels.txt").is_file()


# --- names ------------------------------------------------------------------------------------

NAMES = {
    "../x": "leads out",
    "a/../../x": "leads out",
    "a/..": "leads out",
    "/etc/x": "absolute",
    "//x": "absolute",
    "C:x": "drive",
    "./c:/x": "drive",
    "a\\..\\x": "backslash",
    "two\nlines": "control",
    "\x1b[2Jx": "control",
    "a\x85b": "control",
    "é" * 128: "256 bytes",
    "a/" * 20 + "b" * 1000: "1000 bytes",
    "/".join(["a" * 250] * 5): "path of 1250 bytes",
    "a/" * 40 + "x": "deep",
    ".": "without a name",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "reason"), NAMES.items(), ids=map(ascii, NAMES))
def test_a_name_that_leads_elsewhere_or_hides_is_refused(
    tmp_path: Path, kind: str, name: str, reason: str
) -> None:
    archive = make(tmp_path / f"data.{kind}", {**DECENT, name: b"hostile", "last": b""})
    with refused(tmp_path, rf"1 of 9 members are refused\n  first: .*{reason}"):
        unpack(archive, tmp_path / "deep" / "er")


def test_a_name_with_a_null_byte_is_refused_and_not_cut(tmp_path: Path) -> None:
    archive = make(tmp_path / "data.zip", {"labels.txt\0/../../x": b""})
    with refused(tmp_path, "first: 'labels.txt.x00/"):
        unpack(archive, tmp_path / "out")


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "data.tar"
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as made:
        made.addfile(tar_info(os.fsdecode(b"caf\xe9.png")))
    with refused(tmp_path, "not UTF-8"):
        unpack(archive, tmp_path / "out")


def test_an_archive_without_decent_names_is_counted(tmp_path: Path) -> None:
    archive = make(tmp_path / "data.zip", dict.fromkeys(NAMES, b""))
    with refused(tmp_path, rf"{len(NAMES)} of {len(NAMES)} members .*\n  first: '../x': leads out"):
        unpack(archive, tmp_path / "out")


# --- what members are -------------------------------------------------------------------------

ODD_TYPES = {
    "symbolic link": (tarfile.SYMTYPE, stat.S_IFLNK),
    "hard link": (tarfile.LNKTYPE, None),
    "fifo": (tarfile.FIFOTYPE, stat.S_IFIFO),
    "device": (tarfile.CHRTYPE, None),
    "device ": (tarfile.BLKTYPE, None),
    "not what its name says": (None, stat.S_IFCHR),
    "of type b'Z'": (b"Z", None),
    "socket": (None, stat.S_IFSOCK),
}


@pytest.mark.parametrize("reason", ODD_TYPES)
@pytest.mark.parametrize("target", ["../../outside", "labels.txt"])
def test_links_and_devices_are_refused_wherever_they_lead(
    tmp_path: Path, reason: str, target: str
) -> None:
    """A link within the folder too: the next member would be written through it."""
    kind, mode = ODD_TYPES[reason]
    if kind is not None:
        link = tar_info("d", kind, target)
        write_tar(tmp_path / "x.tar", [(link, b""), (tar_info("d/x"), b"hostile")])
        with refused(tmp_path, rf"first: 'd': .*{reason.strip()}"):
            unpack(tmp_path / "x.tar", tmp_path / "out")
    if mode is not None:
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            archive.writestr(zip_info("d", mode | 0o777), target)
            archive.writestr("d/x", "hostile")
        with refused(tmp_path, f"first: 'd': .*{reason.strip()}"):
            unpack(tmp_path / "x.zip", tmp_path / "out")


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    """A header of a kilobyte could declare a terabyte of holes."""
    info = tar_info("holes")
    info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 40)}
    write_tar(tmp_path / "x.tar", [(info, b"x")])
    with refused(tmp_path, "sparse|unpack to more"):
        unpack(tmp_path / "x.tar", tmp_path / "out")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("a/x", "a/x"), "twice"),
        (("a/x", "./a//x"), "twice"),
        (("a", "a/x"), "'a': a file and a folder at once"),
        (("a/x/y", "a/x"), "'a/x': a file and a folder at once"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_that_fall_together_are_refused(
    tmp_path: Path, kind: str, names: tuple[str, str], reason: str
) -> None:
    archive = tmp_path / f"data.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as made:
            for name in names:
                made.writestr(name, name)
    else:
        write_tar(archive, [(tar_info(name), name.encode()) for name in names], kind=kind)
    with refused(tmp_path, reason):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [(8, 1, "encrypted"), (10, 99, "method 99"), (10, zipfile.ZIP_LZMA, "method 14")],
)
def test_what_cannot_be_read_is_refused_before_anything_is_written(
    tmp_path: Path, offset: int, value: int, reason: str
) -> None:
    archive = make(tmp_path / "data.zip", DECENT)
    patch_directory(archive, offset, struct.pack("<H", value))
    with refused(tmp_path, rf"7 of 7 .*\n.*{reason}"):
        unpack(archive, tmp_path / "out")


def patch_directory(archive: Path, offset: int, value: bytes) -> None:
    """Overwrite a field in every entry of a zip file's directory."""
    data = bytearray(archive.read_bytes())
    at = data.find(b"PK\x01\x02")
    while at >= 0:
        data[at + offset : at + offset + len(value)] = value
        at = data.find(b"PK\x01\x02", at + 1)
    archive.write_bytes(data)


# --- how much ---------------------------------------------------------------------------------

TWO_MILLION = 2_000_000


def directory_of(count: int, declared: int) -> bytes:
    """Make a zip of that many empty members, all in the directory, which declares another count."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, *[0] * 7, 1, *[0] * 6) + b"x"
    size = len(entry) * count
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, declared, declared, size, 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, size, 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return entry * count + end64 + locator + end


@pytest.mark.parametrize("declared", [TWO_MILLION, 1])
def test_two_million_members_of_a_zip_are_refused_before_they_are_listed(
    tmp_path: Path, declared: int
) -> None:
    archive = tmp_path / "data.zip"
    archive.write_bytes(directory_of(TWO_MILLION, declared))
    started = time.process_time()
    with pytest.raises(DataError, match="more than 1,000,000 members"):
        unpack(archive, tmp_path / "out")
    assert time.process_time() - started < 2
    assert names(tmp_path) == {"data.zip"}


def test_the_directory_made_here_is_one_that_is_read(tmp_path: Path) -> None:
    """Else the refusal above could have another reason."""
    (tmp_path / "data.zip").write_bytes(directory_of(3, 3))
    with zipfile.ZipFile(tmp_path / "data.zip") as archive:
        assert archive.namelist() == ["x"] * 3
    with refused(tmp_path, "twice"):
        unpack(tmp_path / "data.zip", tmp_path / "out")


def test_two_million_members_of_a_tar_are_refused_when_the_limit_is_reached(tmp_path: Path) -> None:
    """A hundred kilobytes hold them: gzip streams may follow each other."""
    thousand = gzip.compress(tar_info("x").tobuf() * 1000)
    (tmp_path / "data.tar.gz").write_bytes(thousand * (TWO_MILLION // 1000))
    with refused(tmp_path, "more than 5,000 members"):
        unpack(tmp_path / "data.tar.gz", tmp_path / "out", limits=Limits(5000, ratio=1 << 20))


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_hundred_bytes_for_each_packed_one_are_refused(tmp_path: Path, kind: str) -> None:
    # Noise at every 400th byte.
    data = bytearray(10_000_000)
    data[::400] = os.urandom(25_000)
    archive = make(tmp_path / f"data.{kind}", {"x.npy": bytes(data)})
    assert 80 < len(data) / archive.stat().st_size < 125
    with refused(tmp_path, "bytes that unpack to more than"):
        unpack(archive, tmp_path / "out")
    with refused(tmp_path, "unpack to more than 9,999,999"):
        unpack(archive, tmp_path / "out", limits=Limits(bytes=9_999_999, ratio=1000))
    assert unpack(archive, tmp_path / "out", limits=Limits(ratio=1000)) == 1


def test_entries_that_share_their_bytes_count_each(tmp_path: Path) -> None:
    """The bomb without layers: a thousand members of a directory are one and the same stream."""
    archive = make(tmp_path / "data.zip", {"a000": os.urandom(100_000)})
    data = archive.read_bytes()
    start = data.index(b"PK\1\2")
    entry, end = data[start : data.index(b"PK\5\6")], bytearray(data[data.index(b"PK\5\6") :])
    entries = b"".join(entry[:46] + b"a%03d" % i for i in range(1000))
    struct.pack_into("<2HL", end, 8, 1000, 1000, len(entries))
    archive.write_bytes(data[:start] + entries + end)
    with zipfile.ZipFile(archive) as bomb:
        assert sum(info.file_size for info in bomb.infolist()) == 100_000_000
    with refused(tmp_path, "unpack to more than"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("declared", [10, 999_999, 1_000_001, 1_040_000])
def test_a_size_that_is_not_true_leaves_nothing(tmp_path: Path, declared: int) -> None:
    archive = make(tmp_path / "data.zip", {"first": b"1", "x": os.urandom(1_000_000)})
    patch_directory(archive, 24, struct.pack("<L", declared))
    with refused(tmp_path, "damaged or cut"):
        unpack(archive, tmp_path / "out")


def test_a_shorter_size_with_the_right_checksum_gives_that_many_bytes(tmp_path: Path) -> None:
    archive = make(tmp_path / "data.zip", {"x": bytes(1_000_000)})
    patch_directory(archive, 24, struct.pack("<L", 10))
    patch_directory(archive, 16, struct.pack("<L", zlib.crc32(bytes(10))))
    unpack(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == {"x": bytes(10)}


def test_a_header_cannot_make_gigabytes_be_read_at_once(tmp_path: Path) -> None:
    """A name of 4 GB, which gzip makes small."""
    header = tar_info("x", tarfile.GNUTYPE_LONGNAME)
    header.size = 1 << 32
    (tmp_path / "x.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    with refused(tmp_path, "a header of 4,294,967,296 bytes"):
        unpack(tmp_path / "x.tar", tmp_path / "out", limits=WIDE)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_negative_size_does_not_lead_in_circles(tmp_path: Path, kind: bytes) -> None:
    header = tar_info("x", kind)
    header.size = -1024
    block = header.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "x.tar").write_bytes(tar_info("a").tobuf() * 3 + block + bytes(10240))
    with refused(tmp_path, "damaged or cut"):
        unpack(tmp_path / "x.tar", tmp_path / "out")


def test_headers_that_lead_to_headers_come_to_an_end(tmp_path: Path) -> None:
    header = tar_info("x", tarfile.GNUTYPE_LONGNAME)
    header.size = 1
    chain = (header.tobuf(tarfile.GNU_FORMAT) + b"y" + bytes(511)) * 5000
    (tmp_path / "x.tar").write_bytes(chain + tar_info("z").tobuf() + bytes(1024))
    with refused(tmp_path, "damaged or cut: maximum recursion"):
        unpack(tmp_path / "x.tar", tmp_path / "out")


def test_what_does_not_fit_on_the_disk_is_refused_first(tmp_path: Path) -> None:
    """A file of holes stands for an archive that is larger than the disk."""
    info = tar_info("x")
    info.size = (shutil.disk_usage(tmp_path).free // (1 << 30) + 1) * (1 << 30)
    with (tmp_path / "x.tar").open("wb") as file:
        file.write(info.tobuf())
        file.truncate(info.size + 10240)
    with pytest.raises(StorageError, match=rf"{info.size:,} bytes are needed, .* are free"):
        unpack(tmp_path / "x.tar", tmp_path / "out", limits=WIDE)
    assert names(tmp_path) == {"x.tar"}


# --- damage and faults ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_archive_is_refused_wherever_it_is_cut(tmp_path: Path, kind: str) -> None:
    archive = make(tmp_path / f"data.{kind}", DECENT)
    data = archive.read_bytes()
    # Of a tar's zeros at the end, which fill up a record, one block is enough.
    end = len(data) if kind != "tar" else len(data.rstrip(b"\0")) // 512 * 512 + 1024
    for length in {*range(0, end, end // 60), 512 % end, 1024 % end, end - 9, end - 1}:
        archive.write_bytes(data[:length])
        with refused(tmp_path, "damaged or cut|no archive that is read|unpack to more"):
            unpack(archive, tmp_path / "out")


def test_a_damaged_header_in_the_middle_of_a_tar_is_not_its_end(tmp_path: Path) -> None:
    archive = make(tmp_path / "data.tar", dict.fromkeys("abc", b"x"))
    whole = archive.read_bytes()
    for damage in (bytes(512), b"?" * 512):
        archive.write_bytes(whole[:1024] + damage + whole[1536:])
        with refused(tmp_path, "a header is damaged, or more follows"):
            unpack(archive, tmp_path / "out")


SMALL: Files = {"a/b": b"hello" * 9, "c/": b"", "d": b""}


@pytest.mark.parametrize("kind", KINDS)
@given(changes=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4)), max_size=4))
@settings(max_examples=60, deadline=None)
def test_any_damage_is_a_documented_error_or_none(
    tmp_path_factory: pytest.TempPathFactory, kind: str, changes: list[tuple[float, bytes]]
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    archive = make(folder / f"x.{kind}", SMALL)
    data = bytearray(archive.read_bytes())
    # A tar is mostly zeros at its end: changes go where something is.
    end = len(data.rstrip(b"\0"))
    for place, value in changes:
        at = int(place * end)
        data[at : at + len(value)] = value
    archive.write_bytes(data)
    try:
        unpack(archive, folder / "out")
        assert names(folder) == {archive.name, "out"}
    except (DataError, StorageError):
        assert names(folder) == {archive.name}
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", b"\x1f\x8b", b"<html>not found</html>", gzip.compress(b"text" * 500, mtime=0)],
)
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.zip").write_bytes(content)
    with refused(tmp_path, r"data\.zip: (damaged or cut|no archive that is read)"):
        unpack(tmp_path / "data.zip", tmp_path / "out")


@pytest.mark.parametrize("what", ["absent", "folder", "pipe"])
def test_an_archive_that_is_no_file_is_refused(tmp_path: Path, what: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with refused(tmp_path, "no such archive"):
        unpack(tmp_path / what, tmp_path / "out")


@pytest.mark.parametrize("there", ["file", "folder"])
def test_nothing_is_unpacked_over_what_is_there(tmp_path: Path, there: str) -> None:
    archive = make(tmp_path / "data.zip", DECENT)
    target = tmp_path / "out"
    (target if there == "file" else make_folder(target) / "mine").write_text("mine")
    with refused(tmp_path, "is there already and not empty"):
        unpack(archive, target)


def make_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_killed_in_the_middle_nothing_is_there_and_the_next_try_cleans_up(
    tmp_path: Path, kind: str
) -> None:
    archive = make(tmp_path / f"data.{kind}", DECENT)

    def kill(done: int, total: int) -> None:
        if done == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    killed = forked(lambda: unpack(archive, tmp_path / "out", progress=kill))
    assert outcome(killed) == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    left_over = names(tmp_path) - {archive.name}
    assert len(left_over) == 1
    unpack(archive, tmp_path / "out")
    assert names(tmp_path) == {archive.name, "out"}


def test_what_another_process_is_unpacking_is_left_alone(tmp_path: Path) -> None:
    archive = make(tmp_path / "data.zip", DECENT)
    codes: list[int] = []

    def second(done: int, total: int) -> None:
        if done == 3:
            codes.append(outcome(forked(lambda: unpack(archive, tmp_path / "out"))))

    with pytest.raises(StorageError, match="not unpacked"):
        unpack(archive, tmp_path / "out", progress=second)
    assert codes == [0], "the second came first"
    assert len(tree(tmp_path / "out")) == len(DECENT) + 2
    assert names(tmp_path) == {archive.name, "out"}


def ctrl_c(archive: Path, out: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    unpack(archive, out, progress=stop)


def full_disk(archive: Path, out: Path) -> None:
    with file_size_limit(1000):
        unpack(archive, out)


@pytest.mark.parametrize(
    ("fault", "error"), [(ctrl_c, KeyboardInterrupt), (full_disk, StorageError)]
)
def test_a_fault_while_writing_leaves_nothing(
    tmp_path: Path, fault: Callable[[Path, Path], None], error: type[BaseException]
) -> None:
    archive = make(tmp_path / "data.zip", DECENT)
    before = tree(tmp_path)
    with pytest.raises(error):
        fault(archive, tmp_path / "out")
    assert tree(tmp_path) == before
