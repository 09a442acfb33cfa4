"""MNIST and CIFAR-10 as data that `read_manifest` reads: a folder per class, or a manifest.

Taken is what lies in a folder: a tree of classes, or torchvision's files, which are written once
as such a tree. Where there is neither, torchvision downloads them.
"""

import csv
import functools
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facever.data.images import is_image_name
from facever.data.pack import homes, lock_file
from facever.data.torchvision_files import (
    Benchmark,
    download,
    find_files,
    folders,
    folders_below,
    write_tree,
)
from facever.data.workers import Progress
from facever.errors import ConfigError, DataError, StorageError
from facever.storage import write_text

_HELD_OUT_SEED = 0
_OWN_DEV = ("dev", "val", "valid", "validation")


@dataclass(frozen=True)
class Prepared:
    """A benchmark that can be read.

    Attributes:
        root: what to give as `data.root`: a folder per class in each split, or a manifest CSV.
        notes: facts worth a line for the user.
    """

    root: Path
    notes: tuple[str, ...]


BENCHMARKS = {
    "mnist": Benchmark(
        title="MNIST",
        identities=tuple("0123456789"),
        folder="MNIST/raw",
        files=(
            "train-images-idx3-ubyte",
            "train-labels-idx1-ubyte",
            "t10k-images-idx3-ubyte",
            "t10k-labels-idx1-ubyte",
        ),
        archive=None,
        fewest_test=1,
    ),
    "cifar10": Benchmark(
        title="CIFAR-10",
        identities=(
            "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
            "truck",
        ),
        folder="cifar-10-batches-py",
        files=(*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"),
        archive="cifar-10-python.tar.gz",
        # A part of the test set would give figures with an error of its own.
        fewest_test=10_000,
    ),
}  # fmt: skip


def prepare_benchmark(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Find a benchmark at most three folders below `root`, or download it there.

    torchvision's files are written once as `<split>/<class>/<index>.png` into `.facever/` in
    the root, or into the user's cache where that is read-only. Where there are too few test
    images, a tenth of each class's training images, chosen by a fixed seed, serves as dev.

    Args:
        name: one of `BENCHMARKS`.
        root: a folder; by default `data/<name>`.
        workers: processes that write images; by default one per core where it is worth it.
        progress: hears of (done, total) while images are written.

    Raises:
        ConfigError: no benchmark has that name.
        DataError: nothing is there and nothing can be downloaded, or files are damaged.
        StorageError: no folder can be written.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"no benchmark {name!r}; expected {' or '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    folder = Path("data", name) if root is None else Path(root)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: a file\n  expected the folder that holds {benchmark.title}")
    notes = []
    tree = _find_tree(folder, benchmark)
    if tree is None:
        tree = _written_tree(folder, name, benchmark, workers, progress)
        notes.append(f"{benchmark.title}: torchvision's files, written as images to {tree}/")
    test = sum(len(_images(tree / "test" / identity)) for identity in benchmark.identities)
    if test >= benchmark.fewest_test or any((tree / split).is_dir() for split in _OWN_DEV):
        return Prepared(tree, tuple(notes))
    rows = _split_rows(tree, benchmark)
    manifest = _in_a_home(folder, functools.partial(_write_manifest, name, rows))
    held_out = sum(split == "dev" for _, _, split in rows)
    notes.append(
        f"{benchmark.title}: {test:,} test images are too few and stay unused; dev is {held_out:,} "
        f"training images held out (seed {_HELD_OUT_SEED}), {len(rows) - held_out:,} remain"
    )
    return Prepared(manifest, tuple(notes))


def _images(folder: Path) -> list[str]:
    """List the names of the images in a folder, none where it is absent."""
    if not folder.is_dir():
        return []
    return sorted(file.name for file in folder.iterdir() if is_image_name(file.name))


def _find_tree(root: Path, benchmark: Benchmark) -> Path | None:
    wanted = set(benchmark.identities)
    for folder in folders_below(root):
        if {child.name for child in folders(folder / "train")} == wanted:
            return folder
    return None


def _written_tree(
    root: Path,
    name: str,
    benchmark: Benchmark,
    workers: int | None,
    progress: Progress | None,
) -> Path:
    """Return the tree that was made of torchvision's files, now or earlier."""
    for home in homes(root):
        if (home / name).is_dir():
            return home / name
    source = find_files(root, benchmark) or download(root, benchmark)

    def write(home: Path) -> Path:
        with (home / f"{name}.lock").open("ab") as lock:
            lock_file(lock, exclusive=True)
            # Another process may have written it while this one waited.
            if not (home / name).is_dir():
                write_tree(source, home / name, benchmark, workers, progress)
        return home / name

    return _in_a_home(root, write)


def _in_a_home(root: Path, write: Callable[[Path], Path]) -> Path:
    """Let `write(folder)` write beside the data, or in the cache where that is impossible."""
    obstacles = []
    for home in homes(root):
        try:
            home.mkdir(parents=True, exist_ok=True)
            return write(home)
        except OSError as error:
            obstacles.append(f"{home}: {error}")
        except StorageError as error:
            obstacles.append(str(error).splitlines()[0])
    raise StorageError(
        f"no place for what is made of {root}: {'; '.join(obstacles)}\n"
        "  expected a folder that can be written; free some space, or set XDG_CACHE_HOME"
    )


def _split_rows(tree: Path, benchmark: Benchmark) -> list[tuple[str, str, str]]:
    """Give (path, identity, split) of all training images, a tenth of each class in dev."""
    rng = np.random.default_rng(_HELD_OUT_SEED)
    rows = []
    for identity in benchmark.identities:
        folder = (tree / "train" / identity).resolve()
        names = _images(folder)
        count = max(len(names) // 10, min(1, len(names) - 1))
        held_out = set(rng.permutation(len(names))[:count].tolist())
        rows += [
            (str(folder / name), identity, "dev" if i in held_out else "train")
            for i, name in enumerate(names)
        ]
    return rows


def _write_manifest(name: str, rows: list[tuple[str, str, str]], home: Path) -> Path:
    """Write the manifest, unless it is there and says the same."""
    stream = io.StringIO(newline="")
    # Tabs: a folder called `a;b` would make the reader take semicolons for the separator.
    writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
    writer.writerows([("path", "identity", "split"), *rows])
    file, text = home / f"{name}-held-out.csv", stream.getvalue()
    if not file.is_file() or file.read_bytes() != text.encode():
        write_text(file, text)
    return file
