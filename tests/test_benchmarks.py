"""MNIST and CIFAR-10 from whatever form of them lies in a folder, or comes from a server."""

import dataclasses
import gzip
import hashlib
import os
import pickle
import socket
import struct
import tarfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import save_image
from numpy.typing import NDArray

from facever.data import torchvision_files
from facever.data.benchmarks import BENCHMARKS, Prepared, prepare_benchmark
from facever.data.images import read_rgb
from facever.data.manifest import Manifest, read_manifest
from facever.errors import ConfigError, DataError, StorageError

UInt8 = NDArray[np.uint8]
DIGITS = tuple("0123456789")
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte",
         "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def digits(count: int, seed: int) -> tuple[UInt8, UInt8]:
    """Draw `count` noise images of every class, in no order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), count))
    return rng.integers(0, 256, (len(labels), 28, 28), dtype=np.uint8), labels


TRAIN, TEST = digits(3, 0), digits(2, 1)


def idx(array: UInt8) -> bytes:
    """The IDX format: two zero bytes, the type (8: bytes), the dimensions, big-endian sizes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def make_mnist(folder: Path, *, gz: bool = False) -> Path:
    """Write the four files, 30 training and 20 test images."""
    folder.mkdir(parents=True)
    for name, array in zip(NAMES, (*TRAIN, *TEST), strict=True):
        file = folder / (name + ".gz" * gz)
        file.write_bytes(gzip.compress(idx(array)) if gz else idx(array))
    return folder


def make_tree(root: Path, identities: tuple[str, ...], train: int, test: int) -> Path:
    for split, count in (("train", train), ("test", test)):
        for k, identity in enumerate(identities):
            for i in range(count):
                save_image(root / split / identity / f"{i:05d}.png", 1000 * k + i, (4, 4))
    return root


def read_whole(prepared: Prepared, identities: tuple[str, ...]) -> Manifest:
    """Read what was prepared; what holds for all of them is checked here."""
    manifest = read_manifest(prepared.root)
    assert manifest.identities == tuple(sorted(identities))
    assert manifest.dev is not None
    assert not set(manifest.train.paths) & set(manifest.dev.paths)
    assert set(manifest.train.labels) == set(manifest.dev.labels) == set(range(10))
    assert manifest.val_pairs is not None
    assert manifest.val_pairs.labelled
    assert set(manifest.val_pairs.images) <= set(manifest.dev.paths)
    return manifest


@pytest.mark.parametrize(
    ("place", "gz"), [("MNIST/raw", False), ("a/b/c/MNIST/raw", True), ("", True)]
)
def test_every_digit_comes_out_of_torchvisions_files_with_its_pixels_and_class(
    tmp_path: Path, place: str, gz: bool
) -> None:
    make_mnist(tmp_path / "mnist" / place, gz=gz)
    seen: list[tuple[int, int]] = []
    prepared = prepare_benchmark(
        "mnist", tmp_path / "mnist", progress=lambda *done: seen.append(done)
    )
    assert prepared.root == tmp_path / "mnist" / ".facever" / "mnist"
    manifest = read_whole(prepared, DIGITS)
    assert seen == [*((3 * k, 50) for k in range(1, 11)), *((2 * k, 50) for k in range(16, 26))]
    for images, (pixels, labels) in ((manifest.train, TRAIN), (manifest.dev, TEST)):
        assert images is not None
        assert len(images) == len(pixels)
        for path, label in zip(images.paths, images.labels, strict=True):
            index = int(Path(path).stem)
            assert labels[index] == label
            assert np.array_equal(
                read_rgb(manifest.root / path), pixels[index][..., None].repeat(3, 2)
            )


def test_the_tree_is_written_once_and_outlives_the_files(tmp_path: Path) -> None:
    raw = make_mnist(tmp_path / "MNIST" / "raw")
    first = prepare_benchmark("mnist", tmp_path, workers=2)
    assert sum(1 for _ in first.root.rglob("*.png")) == 50
    times = {file: file.stat().st_mtime_ns for file in first.root.rglob("*")}
    for name in NAMES:
        (raw / name).unlink()
    assert prepare_benchmark("mnist", tmp_path) == first
    assert {file: file.stat().st_mtime_ns for file in first.root.rglob("*")} == times
    assert "torchvision's files" in first.notes[0]


def test_a_kill_while_writing_leaves_nothing_half(tmp_path: Path) -> None:
    make_mnist(tmp_path / "MNIST" / "raw")
    child = os.fork()
    if not child:
        # Neither `finally` nor `atexit` runs in a process that ends like this.
        prepare_benchmark("mnist", tmp_path, progress=lambda *_: os._exit(9))
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    home = tmp_path / ".facever"
    assert {file.name for file in home.iterdir()} == {"mnist.lock", "mnist.tmp"}
    prepare_benchmark("mnist", tmp_path)
    assert {file.name for file in home.iterdir()} == {"mnist.lock", "mnist"}


def test_a_folder_that_cannot_be_written_sends_the_tree_to_the_cache(
    tmp_path: Path, cache: Path
) -> None:
    make_mnist(tmp_path / "data" / "MNIST" / "raw")
    (tmp_path / "data" / ".facever").write_text("in the way, even of root")
    prepared = prepare_benchmark("mnist", tmp_path / "data")
    assert prepared.root.is_relative_to(cache / "facever")
    assert len(read_whole(prepared, DIGITS).train) == 30
    assert prepare_benchmark("mnist", tmp_path / "data") == prepared


def test_with_no_place_to_write_both_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_mnist(tmp_path / "data" / "MNIST" / "raw")
    blocked = tmp_path / "data" / ".facever"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with pytest.raises(StorageError, match=r"no place .*data/\.facever: .*; .*data/\.facever/"):
        prepare_benchmark("mnist", tmp_path / "data")


@pytest.mark.parametrize("inside", ["", "a/b/c"])
def test_a_tree_is_used_as_it_is(tmp_path: Path, inside: str) -> None:
    tree = make_tree(tmp_path / "root" / inside, DIGITS, train=3, test=2)
    prepared = prepare_benchmark("mnist", tmp_path / "root")
    assert prepared == Prepared(tree, ())
    manifest = read_whole(prepared, DIGITS)
    assert (len(manifest.train), len(manifest.dev or ())) == (30, 20)
    assert not (tmp_path / "root" / ".facever").exists()


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_whole_test_set_and_a_split_of_the_users_own_serve_as_dev(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    cifar = BENCHMARKS["cifar10"]
    tree = make_tree(tmp_path, cifar.identities, train=3, test=2)
    if split == "test":
        smaller = dataclasses.replace(cifar, fewest_test=20)
        monkeypatch.setitem(BENCHMARKS, "cifar10", smaller)
    else:
        (tree / "test").rename(tree / split)
    prepared = prepare_benchmark("cifar10", tree)
    assert prepared == Prepared(tree, ())
    assert len(read_whole(prepared, cifar.identities).dev or ()) == 20


def test_a_part_of_the_test_set_gives_way_to_a_tenth_of_each_class(tmp_path: Path) -> None:
    identities = BENCHMARKS["cifar10"].identities
    # Characters that mean something in a table.
    tree = make_tree(tmp_path / 'a;b, "c"\td', identities, train=20, test=1)
    prepared = prepare_benchmark("cifar10", tree)
    assert prepared.root == tree / ".facever" / "cifar10-held-out.csv"
    manifest = read_whole(prepared, identities)
    assert manifest.dev is not None
    assert np.bincount(manifest.train.labels).tolist() == [18] * 10
    assert np.bincount(manifest.dev.labels).tolist() == [2] * 10
    shown = {*manifest.train.paths, *manifest.dev.paths}
    assert shown == {str(file) for file in (tree / "train").rglob("*.png")}
    (note,) = prepared.notes
    assert "10 test images" in note
    assert "20 training images held out (seed 0), 180 remain" in note


def test_the_same_images_are_held_out_wherever_the_tree_lies(tmp_path: Path) -> None:
    identities = BENCHMARKS["cifar10"].identities

    def chosen(root: Path) -> set[str]:
        prepared = prepare_benchmark("cifar10", make_tree(root, identities, train=10, test=0))
        dev = read_manifest(prepared.root).dev
        assert dev is not None
        return {path.rpartition("/train/")[2] for path in dev.paths}

    first = chosen(tmp_path / "x")
    assert first == chosen(tmp_path / "y")
    # No class gives the same place of its list as every other.
    assert len({Path(path).name for path in first}) > 1


def test_the_manifest_is_rewritten_only_when_the_tree_has_changed(tmp_path: Path) -> None:
    identities = BENCHMARKS["cifar10"].identities
    tree = make_tree(tmp_path, identities, train=3, test=1)
    file = prepare_benchmark("cifar10", tree).root
    os.utime(file, ns=(1, 1))
    prepare_benchmark("cifar10", tree)
    assert file.stat().st_mtime_ns == 1
    save_image(tree / "train" / "ship" / "new.png")
    prepare_benchmark("cifar10", tree)
    assert file.stat().st_mtime_ns != 1
    assert "new.png" in file.read_text()


@pytest.fixture
def batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, UInt8]:
    """CIFAR-10's seven files, forty images in each of five and in the test file; their pixels."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "source" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (240, 32, 32, 3), dtype=np.uint8)
    files: dict[str, dict[str, Any]] = {
        name: {
            "data": pixels[40 * k : 40 * k + 40].transpose(0, 3, 1, 2).reshape(40, -1),
            "labels": list(range(10)) * 4,
        }
        for k, name in enumerate(BENCHMARKS["cifar10"].files[:6])
    }
    files["batches.meta"] = {"label_names": list(BENCHMARKS["cifar10"].identities)}
    sums = []
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums.append([name, md5(folder / name)])
    monkeypatch.setattr(CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(CIFAR10, "test_list", sums[5:6])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums[6][1]})
    return folder, pixels


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


def pack(folder: Path, archive: Path) -> None:
    """Pack the files as torchvision gets them."""
    archive.parent.mkdir(exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)


@pytest.mark.parametrize("archived", [False, True])
def test_every_picture_comes_out_of_the_batches_or_their_archive(
    tmp_path: Path, batches: tuple[Path, UInt8], archived: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, pixels = batches
    root = folder.parent
    if archived:
        root = tmp_path / "archived"
        # A link that leads out lies beside them; only the seven files are taken.
        (folder / "elsewhere").symlink_to("/etc/hostname")
        pack(folder, root / "cifar-10-python.tar.gz")
        whole = md5(root / "cifar-10-python.tar.gz")
        monkeypatch.setattr("torchvision.datasets.CIFAR10.tgz_md5", whole)
    prepared = prepare_benchmark("cifar10", root)
    # 40 test images are too few: see above.
    manifest = read_whole(prepared, BENCHMARKS["cifar10"].identities)
    assert len(prepared.notes) == 2
    assert manifest.dev is not None
    tree = root / ".facever" / "cifar10"
    for split, first in (("train", 0), ("test", 200)):
        for file in (tree / split).rglob("*.png"):
            index = int(file.stem)
            assert np.array_equal(read_rgb(file), pixels[first + index])
            assert file.parent.name == BENCHMARKS["cifar10"].identities[index % 10]
    assert sum(1 for _ in tree.rglob("*.png")) == 240


def test_a_batch_that_is_not_cifars_is_never_unpickled(
    tmp_path: Path, batches: tuple[Path, UInt8]
) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "pickle ran",)

    folder, _ = batches
    (folder / "data_batch_3").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(DataError, match="not CIFAR-10 as torchvision has it"):
        prepare_benchmark("cifar10", folder.parent)
    assert not (tmp_path / "pickle ran").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (NAMES[0], idx(TRAIN[0])[:-5]),
        (NAMES[0], b""),
        (NAMES[0], b"<html>moved</html>"),
        (NAMES[1], idx(TRAIN[1][:-1])),
        (NAMES[3], idx(TEST[1] + np.uint8(1))),
    ],
    ids=["cut", "empty", "no idx", "a label short", "eleven classes"],
)
def test_damaged_files_are_named_and_leave_no_tree(
    tmp_path: Path, name: str, content: bytes
) -> None:
    raw = make_mnist(tmp_path / "MNIST" / "raw")
    (raw / name).write_bytes(content)
    with pytest.raises(DataError, match=r"MNIST/raw: not MNIST as torchvision has it: \w"):
        prepare_benchmark("mnist", tmp_path)
    assert [file.name for file in (tmp_path / ".facever").iterdir()] == ["mnist.lock"]


def test_a_gzip_file_that_was_cut_is_damaged_too(tmp_path: Path) -> None:
    raw = make_mnist(tmp_path / "MNIST" / "raw", gz=True)
    file = raw / f"{NAMES[0]}.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match="not MNIST as torchvision has it"):
        prepare_benchmark("mnist", tmp_path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address of the server that hands it out."""

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Keep the tests' output clean."""

    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(folder))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()


def point_to(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", [address])
    monkeypatch.setattr("torchvision.datasets.CIFAR10.url", f"{address}cifar-10-python.tar.gz")


def test_what_is_absent_is_downloaded(
    tmp_path: Path,
    server: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder, address = server
    raw = make_mnist(folder / "raw", gz=True)
    sums = [(f"{name}.gz", md5(raw / f"{name}.gz")) for name in NAMES]
    monkeypatch.setattr("torchvision.datasets.MNIST.resources", sums)
    point_to(monkeypatch, f"{address}raw/")
    monkeypatch.chdir(tmp_path)
    prepared = prepare_benchmark("mnist")
    assert prepared.root == Path("data/mnist/.facever/mnist")
    assert len(read_whole(prepared, DIGITS).train) == 30
    assert (tmp_path / "data/mnist/MNIST/raw" / NAMES[0]).is_file()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", BENCHMARKS)
def test_with_no_server_it_says_what_is_missing_and_what_to_do(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    point_to(monkeypatch, f"http://127.0.0.1:{port}/")
    with pytest.raises(DataError) as caught:
        prepare_benchmark(name, tmp_path / "none")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'none'}: no {BENCHMARKS[name].title} here")
    for words in ("refused", "train/<class>/*", *BENCHMARKS[name].files, "data.root=DIR"):
        assert words in message


def test_a_server_that_never_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision_files, "_PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_to(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}/")
        began = time.monotonic()
        with pytest.raises(DataError, match=r"could not download it: nothing came for 0\.3 s"):
            prepare_benchmark("cifar10", tmp_path)
        assert time.monotonic() - began < 5


def test_an_archive_whose_download_was_cut_is_downloaded_again(
    tmp_path: Path,
    batches: tuple[Path, UInt8],
    server: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, address = server
    whole = folder / "cifar-10-python.tar.gz"
    pack(batches[0], whole)
    monkeypatch.setattr("torchvision.datasets.CIFAR10.tgz_md5", md5(whole))
    point_to(monkeypatch, address)
    root = tmp_path / "data"
    root.mkdir()
    (root / whole.name).write_bytes(whole.read_bytes()[:100])
    prepared = prepare_benchmark("cifar10", root)
    assert len(read_whole(prepared, BENCHMARKS["cifar10"].identities).train) == 180


def test_a_wrong_name_and_a_file_for_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no benchmark 'cifar'; expected mnist or cifar10"):
        prepare_benchmark("cifar")
    file = tmp_path / "cifar10.zip"
    file.touch()
    with pytest.raises(DataError, match=r"cifar10\.zip: a file\n  expected the folder"):
        prepare_benchmark("cifar10", file)
