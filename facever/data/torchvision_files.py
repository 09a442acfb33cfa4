"""torchvision's files of a benchmark: found or downloaded, and written as a tree of images."""

import contextlib
import gzip
import io
import os
import queue
import shutil
import sys
import tarfile
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from facever.data.workers import Progress, run_all, usable_cores
from facever.errors import DataError

_DEPTH = 3
# How many images are worth starting workers.
_POOL_IMAGES = 10_000
# Bytes of a file, unpacked, a few times those of any of them: a thousandth of it can be packed.
_LARGEST = 256 << 20
# Seconds without a byte after which a download is given up. Nothing else ends it: where a name
# is not resolved or a server is silent, torchvision waits for minutes or for ever.
_PATIENCE = 20.0
# What Python and torchvision raise where a file is not what its name says.
_DAMAGED = (
    AssertionError,
    EOFError,
    IndexError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
    gzip.BadGzipFile,
    tarfile.TarError,
    zlib.error,
)


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark consists of.

    Attributes:
        title: its name in prose; without hyphens, that of torchvision's class.
        identities: the classes, in the order of torchvision's labels.
        folder: where torchvision keeps `files`, which may be gzipped.
        archive: the file, if there is one, in which torchvision gets them all.
        fewest_test: where there are fewer test images, training images stand in for them.
    """

    title: str
    identities: tuple[str, ...]
    folder: str
    files: tuple[str, ...]
    archive: str | None
    fewest_test: int

    def torchvision(self) -> Any:
        """Give torchvision's class."""
        from torchvision import datasets

        return getattr(datasets, self.title.replace("-", ""))


def folders(folder: Path) -> list[Path]:
    """List the folders in a folder, none where it is absent; hidden ones do not count."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(e.path) for e in entries if e.name[0] != "." and e.is_dir())
    except OSError:
        return []


def folders_below(root: Path) -> Iterator[Path]:
    """Give `root` and the folders up to three below it, the shallowest first."""
    level = [root]
    yield root
    for _ in range(_DEPTH):
        level = [child for folder in level for child in folders(folder)]
        yield from level


def find_files(root: Path, benchmark: Benchmark) -> Path | None:
    """Find the folder that holds torchvision's files, gzipped or not, or their archive."""
    for folder in folders_below(root):
        for place in (folder / benchmark.folder, folder):
            if all(_file(place, name) for name in benchmark.files):
                return place
        if benchmark.archive and _is_whole(folder / benchmark.archive, benchmark):
            return folder / benchmark.archive
    return None


def _file(folder: Path, name: str) -> Path | None:
    return next((f for f in (folder / name, folder / f"{name}.gz") if f.is_file()), None)


def _is_whole(archive: Path, benchmark: Benchmark) -> bool:
    """Whether an archive is there and is no download that was cut."""
    from torchvision.datasets.utils import check_integrity

    return archive.is_file() and check_integrity(archive, benchmark.torchvision().tgz_md5)


def download(root: Path, benchmark: Benchmark) -> Path:
    """Let torchvision download its files into `root`; return where they lie.

    Raises:
        DataError: it could not, with the reason and what was looked for.
    """
    problem = _download_problem(root, benchmark)
    found = None if problem else find_files(root, benchmark)
    if found is None:
        archive = f" or {benchmark.archive}" if benchmark.archive else ""
        raise DataError(
            f"{root}: no {benchmark.title} here or up to {_DEPTH} folders below, and torchvision "
            f"could not download it: {problem}\n"
            f"  looked for: train/<class>/* with the classes {', '.join(benchmark.identities)}; "
            f"{benchmark.folder}/ with {', '.join(benchmark.files)}, gzipped or not{archive}\n"
            "  put one of these there, or name the folder that holds it as data.root=DIR"
        )
    return found


def _download_problem(root: Path, benchmark: Benchmark) -> str:
    """Download with torchvision; say what went wrong, or nothing."""
    dataset = benchmark.torchvision()
    outcome: queue.SimpleQueue[str] = queue.SimpleQueue()

    def work() -> None:
        try:
            dataset(root, download=True)
            outcome.put("")
        except Exception as error:
            outcome.put(" ".join(str(error).split()) or type(error).__name__)

    # A thread, for nothing else can be left waiting while the user is told.
    thread = threading.Thread(target=work, daemon=True)
    with contextlib.ExitStack() as stack:
        if not sys.stderr.isatty():
            # torchvision draws a bar, which is for terminals alone.
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        thread.start()
        arrived, since = -1, time.monotonic()
        while thread.is_alive() and time.monotonic() - since < _PATIENCE:
            thread.join(timeout=min(1.0, _PATIENCE))
            if (now := _bytes_arrived(root, benchmark)) != arrived:
                arrived, since = now, time.monotonic()
    return f"nothing came for {_PATIENCE:g} s" if thread.is_alive() else outcome.get()


def _bytes_arrived(root: Path, benchmark: Benchmark) -> int:
    archive = root / (benchmark.archive or "")
    files = [archive, *(root / benchmark.folder).glob("*")]
    return sum(file.stat().st_size for file in files if file.is_file())


def write_tree(
    source: Path,
    tree: Path,
    benchmark: Benchmark,
    workers: int | None,
    progress: Progress | None,
) -> None:
    """Write torchvision's files as `tree/<split>/<class>/<index>.png`, whole or not at all.

    Only one process may do so at a time.

    Raises:
        DataError: files are damaged.
        OSError: there is no space, or the folder cannot be written.
    """
    draft = tree.with_name(f"{tree.name}.tmp")
    # Left by a process that was killed.
    shutil.rmtree(draft, ignore_errors=True)
    try:
        _write_images(_read_files(source, draft, benchmark), workers, progress)
        (draft / "tree").rename(tree)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@dataclass(frozen=True)
class _Class:
    """Images (n, H, W[, 3]) of a class in a split, and their positions (n,) in the split."""

    folder: Path
    positions: NDArray[np.int64]
    pixels: NDArray[np.uint8]


def _read_files(source: Path, draft: Path, benchmark: Benchmark) -> list[_Class]:
    """Read both splits through torchvision, by class, for `draft/tree/<split>/<class>/`.

    Raises:
        DataError: files are damaged.
    """
    place = draft / benchmark.folder
    place.mkdir(parents=True)
    classes = []
    try:
        _unpack(source, place, benchmark.files)
        for split in ("train", "test"):
            data = benchmark.torchvision()(draft, train=split == "train")
            pixels, labels = np.asarray(data.data), np.asarray(data.targets)
            if len(pixels) != len(labels):
                raise ValueError(f"{len(pixels):,} {split} images, {len(labels):,} labels")
            for label in np.unique(labels):
                positions = np.flatnonzero(labels == label)
                folder = draft / "tree" / split / benchmark.identities[label]
                classes.append(_Class(folder, positions, pixels[positions]))
    except _DAMAGED as error:
        raise DataError(
            f"{source}: not {benchmark.title} as torchvision has it: "
            f"{str(error) or type(error).__name__}\n"
            f"  expected {', '.join(benchmark.files)}, whole; remove what is damaged and repeat"
        ) from error
    return classes


def _unpack(source: Path, place: Path, files: tuple[str, ...]) -> None:
    """Copy torchvision's files, unzipped, to where it looks for them.

    Only these are taken out of an archive, whatever else and whatever paths it holds.
    """
    if source.is_file():
        with tarfile.open(source) as archive:
            for member in archive:
                name = Path(member.name).name
                if name in files and (stream := archive.extractfile(member)):
                    _copy(stream, place / name)
        return
    for name in files:
        file = _file(source, name)
        if file is not None:
            packed = file.suffix == ".gz"
            with gzip.open(file) if packed else file.open("rb") as plain:
                _copy(plain, place / name)


def _copy(stream: IO[bytes] | gzip.GzipFile, file: Path) -> None:
    with file.open("wb") as copy:
        while block := stream.read(1 << 20):
            copy.write(block)
            if copy.tell() > _LARGEST:
                raise ValueError(f"{file.name} has more than {_LARGEST >> 20} MiB")


def _write_images(classes: list[_Class], workers: int | None, progress: Progress | None) -> None:
    total = sum(len(images.pixels) for images in classes)
    if workers is None:
        workers = usable_cores() if total >= _POOL_IMAGES else 1
    done = 0
    # A class at a time: processes that add files to one folder wait for each other.
    for count in run_all(_write_class, classes, workers=workers):
        done += count
        if progress:
            progress(done, total)


def _write_class(images: _Class) -> int:
    """Write the images as PNG files; return how many."""
    from PIL import Image

    images.folder.mkdir(parents=True)
    for i, pixels in zip(images.positions, images.pixels, strict=True):
        # The fastest level: these files are small, and decoded once.
        Image.fromarray(pixels).save(images.folder / f"{i:05d}.png", compress_level=1)
    return len(images.pixels)
