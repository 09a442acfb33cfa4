"""Row B11: one pack, whole or not at all, whoever builds it and whatever interrupts."""

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import make_folders, save_image
from PIL import Image

from facever.data.bundles import Bundle
from facever.data.datasets import ImageDataset
from facever.data.images import read_rgb
from facever.data.loader import epoch_batches
from facever.data.pack import find_damaged, fingerprint, open_images
from facever.data.resident import ResidentImages
from facever.errors import ConfigError, DataError, StorageError
from facever.transforms import fit

SIZE = 16


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten images of several shapes, and a cache that is not the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for i in range(10):
        save_image(tmp_path / "data" / f"{i}.png", i, (SIZE + i, SIZE + 5 * (i % 3)))
    return tmp_path / "data"


PATHS = tuple(f"{i}.png" for i in range(10))


def packs(root: Path) -> list[str]:
    """List what lies in the pack folder, locks aside."""
    return sorted(file.name for file in (root / ".facever").iterdir() if file.suffix != ".lock")


@pytest.mark.parametrize("pack", ["memmap", "blob", "files"])
def test_every_place_gives_the_pixels_of_the_evaluation_transform(root: Path, pack: str) -> None:
    save_image(root / "fits.jpg", 11, (SIZE, SIZE))
    save_image(root / "large.jpg", 12, (300, 200))
    paths = (*PATHS, "fits.jpg", "large.jpg")
    images = open_images(root, paths, SIZE, name="train", pack=pack)
    assert (images.tier, len(images)) == (pack, 12)
    indices = np.array([3, 0, 11, 9, 10, 3])
    gathered = images.gather(indices)
    assert gathered.dtype == np.uint8
    assert gathered.flags.writeable
    expected = np.stack([fit(read_rgb(root / paths[i]), SIZE) for i in indices])
    np.testing.assert_array_equal(gathered, expected)


@pytest.mark.parametrize("pack", ["memmap", "blob", "files"])
def test_a_list_of_absolute_paths_lies_where_its_images_do_not(root: Path, pack: str) -> None:
    """As of `facever compare --data cifar10`, which holds images out without moving them."""
    listed = root.parent / "elsewhere" / "list.csv"
    listed.parent.mkdir()
    rows = [f"{root / path},{identity}" for path, identity in zip(PATHS, "aabbccddee", strict=True)]
    listed.write_text("\n".join(["path,identity", *rows]) + "\n")
    images = ImageDataset(listed, image_size=SIZE, pack=pack)
    # Some identities are held out for pairs.
    paths = tuple(Path(path).name for path in images.paths)
    expected = open_images(root, paths, SIZE, name="train", pack=pack)
    everyone = np.arange(len(paths))
    np.testing.assert_array_equal(images.gather(everyone), expected.gather(everyone))


def test_images_that_lie_on_a_device_are_the_same(root: Path) -> None:
    people = make_folders(root.parent / "people", {"a": ["1.png", "2.png"], "b": ["3.png"]})
    dataset = ImageDataset(people, image_size=SIZE)
    resident = ResidentImages(dataset, torch.device("cpu"))
    indices = np.array([2, 0, 2])
    assert torch.equal(resident.gather(indices), torch.from_numpy(dataset.gather(indices)))
    for here, there in zip(
        epoch_batches(dataset, [indices], None, seed=0, epoch=0),
        epoch_batches(resident, [indices], None, seed=0, epoch=0),
        strict=True,
    ):
        assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert resident.labels is dataset.labels
    assert dataset.nbytes == resident.pixels.nbytes


def test_a_blob_holds_a_file_s_own_bytes_or_pixels_without_loss_that_take_less(root: Path) -> None:
    save_image(root / "fits.jpg", 11, (SIZE, SIZE))
    save_image(root / "large.png", 12, (90, 60))
    paths = ("fits.jpg", "large.png")
    open_images(root, paths, SIZE, name="train", pack="blob")
    (file,) = (root / ".facever").glob("*.blob")
    blob = Bundle(file)
    assert blob.read(0) == (root / "fits.jpg").read_bytes()
    assert blob.size(1) < (root / "large.png").stat().st_size
    assert blob.read(1)[8:12] == b"WEBP"


def test_auto_takes_a_blob_where_a_map_would_not_fit_into_memory_and_then_what_is_there(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facever.data.pack.free_memory", lambda: 10 * SIZE * SIZE * 3 - 1)
    assert open_images(root, PATHS, SIZE, name="train").tier == "blob"
    monkeypatch.undo()
    assert open_images(root, PATHS, SIZE, name="train").tier == "blob"
    assert open_images(root, PATHS, SIZE, name="train", pack="memmap").tier == "memmap"
    assert [Path(name).suffix for name in packs(root)] == [".json", ".u8"]


@pytest.mark.parametrize("pack", ["memmap", "blob", "files"])
def test_images_travel_to_workers_without_their_pixels(root: Path, pack: str) -> None:
    images = open_images(root, PATHS, SIZE, name="train", pack=pack)
    before = images.gather(np.arange(10))
    frozen = pickle.dumps(images)
    assert len(frozen) < 2000
    np.testing.assert_array_equal(pickle.loads(frozen).gather(np.arange(10)), before)


def test_a_pack_is_built_once(root: Path) -> None:
    calls: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        calls.append((done, total))

    open_images(root, PATHS, SIZE, name="train", progress=progress)
    assert calls == [(10, 10)]
    open_images(root, PATHS, SIZE, name="train", progress=progress)
    assert len(calls) == 1


@pytest.mark.parametrize("change", ["bytes", "time", "order", "fewer"])
def test_a_change_of_the_sources_rebuilds_and_removes_the_old_pack(root: Path, change: str) -> None:
    open_images(root, PATHS, SIZE, name="train")
    open_images(root, PATHS, SIZE, name="dev")
    before = packs(root)
    paths = PATHS
    if change == "bytes":
        save_image(root / "3.png", 99, (40, 40))
    elif change == "time":
        os.utime(root / "3.png", ns=(1, 1))
    elif change == "order":
        paths = PATHS[::-1]
    else:
        paths = PATHS[:5]
    images = open_images(root, paths, SIZE, name="train")
    expected = fit(read_rgb(root / paths[3]), SIZE)
    np.testing.assert_array_equal(images.gather(np.array([3]))[0], expected)
    after = packs(root)
    assert len(after) == len(before) == 4
    assert [name for name in after if name.startswith("dev")] == before[:2]
    assert not set(after[2:]) & set(before[2:])


def test_a_pack_that_is_in_use_is_not_removed(root: Path) -> None:
    """Two runs may use different parts of one folder; workers map the pack anew each epoch."""
    whole = open_images(root, PATHS, SIZE, name="train")
    before = whole.gather(np.arange(10))
    open_images(root, PATHS[:5], SIZE, name="train")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(whole)).gather(np.arange(10)), before)
    del whole
    open_images(root, PATHS[:4], SIZE, name="train")
    assert len(packs(root)) == 2


def test_other_sizes_keep_their_own_pack(root: Path) -> None:
    open_images(root, PATHS, SIZE, name="train")
    open_images(root, PATHS, 2 * SIZE, name="train")
    assert len(packs(root)) == 4


@pytest.mark.parametrize("damage", ["no facts", "cut", "facts cut", "facts of another"])
def test_an_incomplete_pack_is_never_used(root: Path, damage: str) -> None:
    open_images(root, PATHS, SIZE, name="train")
    facts, data = sorted((root / ".facever").glob("train-*"))[:2]
    whole = data.read_bytes()
    if damage == "no facts":
        facts.unlink()
        data.write_bytes(b"\0" * len(whole))
    elif damage == "cut":
        data.write_bytes(whole[:-1])
    elif damage == "facts cut":
        facts.write_text(facts.read_text()[:30])
    else:
        facts.write_text(json.dumps({"fingerprint": "0" * 64}))
    images = open_images(root, PATHS, SIZE, name="train")
    assert data.read_bytes() == whole
    np.testing.assert_array_equal(
        images.gather(np.array([2]))[0], fit(read_rgb(root / "2.png"), 16)
    )


def test_damaged_images_stop_the_build_with_count_and_first_example(root: Path) -> None:
    (root / "4.png").write_bytes(b"")
    (root / "7.png").write_bytes((root / "7.png").read_bytes()[:-60])
    for pack in ("auto", "memmap", "blob", "files"):
        with pytest.raises(DataError, match=r"2 of 10 images .*\n  first: 4.png: .*empty file"):
            open_images(root, PATHS, SIZE, name="train", pack=pack)
    assert packs(root) == []


def test_damaged_images_can_be_found_beforehand_up_to_a_limit(root: Path) -> None:
    (root / "4.png").write_bytes(b"<html>")
    damaged = find_damaged(root, PATHS, limit=0.1)
    assert list(damaged) == [4]
    assert "text, beginning '<html>'" in damaged[4]
    with pytest.raises(DataError, match="1 of 10 images are damaged"):
        find_damaged(root, PATHS)


def test_absent_images_no_images_and_unknown_modes_are_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"1 of 2 images are absent\n  first: x.png"):
        open_images(root, ("0.png", "x.png"), SIZE, name="train")
    with pytest.raises(DataError, match="no images to open as 'dev'"):
        open_images(root, (), SIZE, name="dev")
    with pytest.raises(ConfigError, match=r"'yes'; expected auto, gpu, memmap, blob or files"):
        open_images(root, PATHS, SIZE, name="train", pack="yes")  # type: ignore[arg-type]


def test_a_folder_that_cannot_be_written_sends_the_pack_to_the_cache(root: Path) -> None:
    """A file in the place of the folder stops even root, whom permissions do not."""
    (root / ".facever").write_text("")
    images = open_images(root, PATHS, SIZE, name="train", pack="memmap")
    assert images.tier == "memmap"
    cache = root.parent / "cache"
    assert len(list(cache.glob("facever/*/train-16-*.u8"))) == 1


def test_with_no_place_at_all_auto_falls_back_and_on_is_an_error(root: Path) -> None:
    (root / ".facever").write_text("")
    (root.parent / "cache").write_text("")
    images = open_images(root, PATHS, SIZE, name="train")
    assert images.tier == "files"
    assert "no place for the pack of 7,680 bytes" in images.reason
    with pytest.raises(StorageError, match=r"7,680 bytes: .*\.facever: .*cache"):
        open_images(root, PATHS, SIZE, name="train", pack="memmap")


def test_space_is_checked_before_anything_is_written(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    images = open_images(root, PATHS, SIZE, name="train")
    assert images.tier == "files"
    assert "1,000 bytes free" in images.reason
    with pytest.raises(StorageError, match="bytes free"):
        open_images(root, PATHS, SIZE, name="train", pack="memmap")
    assert packs(root) == []


def test_a_disk_that_fills_up_while_writing_leaves_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("facever.data.pack.write_rows", full)
    with pytest.raises(StorageError, match="No space left on device"):
        open_images(root, PATHS, SIZE, name="train", pack="memmap")
    assert packs(root) == []


def test_the_fingerprint_of_data_survives_a_copy_but_not_a_change(root: Path) -> None:
    copy = root.parent / "copy"
    shutil.copytree(root, copy, copy_function=shutil.copyfile)
    assert fingerprint(copy, PATHS) == fingerprint(root, PATHS)
    assert fingerprint(root, PATHS[:9]) != fingerprint(root, PATHS)
    (copy / "3.png").write_bytes(b"other")
    assert fingerprint(copy, PATHS) != fingerprint(root, PATHS)


# --- processes --------------------------------------------------------------------------------

BUILDER = """
import sys
from pathlib import Path
from facever.data.pack import open_images

def progress(done, total):
    sys.stdout.write(f"decoded {done}\\n")
    sys.stdout.flush()

if __name__ == "__main__":
    root, workers = Path(sys.argv[1]), int(sys.argv[2])
    paths = sorted(file.name for file in root.glob("*.png"))
    images = open_images(root, paths, 112, name="train", workers=workers, progress=progress)
    sys.stdout.write(f"{images.tier} {len(images)}\\n")
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images enough for a build to take some tenths of a second."""
    root = tmp_path_factory.mktemp("large")
    for i in range(600):
        save_image(root / f"{i:04d}.png", i, (112, 112))
    return root


@pytest.fixture
def builder(tmp_path: Path, large: Path) -> list[str]:
    """Return the command that packs `large`, whose pack is cleared."""
    shutil.rmtree(large / ".facever", ignore_errors=True)
    script = tmp_path / "build.py"
    script.write_text(BUILDER)
    return [sys.executable, str(script), str(large)]


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=os.environ.copy()
    )


def test_two_processes_build_one_pack_once(builder: list[str], large: Path) -> None:
    both = [start([*builder, "1"]) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all("memmap 600" in output for output in outputs)
    assert sum("decoded" in output for output in outputs) == 1
    assert len(packs(large)) == 2


def test_killed_half_way_leaves_no_pack_and_the_next_build_cleans_up(
    builder: list[str], large: Path
) -> None:
    process = start([*builder, "1"])
    assert process.stdout is not None
    assert process.stdout.readline().startswith("decoded")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    left = packs(large)
    assert [Path(name).suffix for name in left] == [".tmp"]
    output = start([*builder, "1"]).communicate(timeout=120)[0]
    assert "decoded 600" in output
    assert sorted(Path(name).suffix for name in packs(large)) == [".json", ".u8"]
    last = np.array([599])
    pixels = open_images(large, tuple(f"{i:04d}.png" for i in range(600)), 112, name="train")
    np.testing.assert_array_equal(pixels.gather(last)[0], read_rgb(large / "0599.png"))


def test_decoding_processes_give_the_same_pack(builder: list[str], large: Path) -> None:
    """So few images are decoded by one process alone, unless its limit is lowered."""
    script = Path(builder[1])
    script.write_text("import facever.data.decode as decode\ndecode._POOL_BYTES = 0\n" + BUILDER)
    output = start([*builder, "2"]).communicate(timeout=120)[0]
    assert "memmap 600" in output
    (data,) = (large / ".facever").glob("*.u8")
    pixels = np.fromfile(data, np.uint8).reshape(600, 112, 112, 3)
    for i in (0, 127, 128, 599):
        np.testing.assert_array_equal(pixels[i], np.asarray(Image.open(large / f"{i:04d}.png")))


WORKERS = """
import os, sys, time
from facever.data.workers import run_all
from facever.errors import FaceverError

def work(task):
    if task == "die":
        os._exit(1)
    time.sleep(float(task))

if __name__ == "__main__":
    try:
        for _ in run_all(work, sys.argv[1:], workers=2):
            sys.stdout.write("one done\\n")
            sys.stdout.flush()
    except FaceverError as error:
        sys.stdout.write(str(error))
"""


def test_decoding_processes_end_with_their_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(WORKERS)
    process = start([sys.executable, str(script), "0", "600", "600"])
    assert process.stdout is not None
    assert process.stdout.readline() == "one done\n"
    assert len(group_members(process.pid)) >= 3
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 20
    while (alive := group_members(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive


def test_a_killed_decoding_process_is_told_with_its_likely_cause(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(WORKERS)
    output = start([sys.executable, str(script), "0", "die"]).communicate(timeout=60)[0]
    assert "processes died, most likely for want of memory" in output
    assert "lower data.workers" in output


def group_members(group: int) -> list[int]:
    """List the processes of a group that still run."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            members.append(int(stat.parent.name))
    return members


def test_a_script_without_a_main_guard_is_told_so_and_does_not_wait_for_ever(
    large: Path, tmp_path: Path
) -> None:
    """Each worker runs the script again, and would wait for the lock that its parent holds."""
    script = tmp_path / "unguarded.py"
    unguarded = BUILDER.replace('if __name__ == "__main__":', "if True:")
    script.write_text("import facever.data.decode as decode\ndecode._POOL_BYTES = 0\n" + unguarded)
    folder = tmp_path / "images"
    shutil.copytree(large, folder, ignore=shutil.ignore_patterns(".facever"))
    answer = subprocess.run(
        [sys.executable, str(script), str(folder), "2"], capture_output=True, text=True, timeout=120
    )
    assert answer.returncode != 0
    assert "put the script's code under `if __name__ == '__main__':`" in answer.stderr
