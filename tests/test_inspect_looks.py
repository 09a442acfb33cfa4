"""What was learned of a file is remembered, and nothing that is remembered can mislead."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from data_helpers import make_folders, people, save_image
from PIL import Image
from process_helpers import file_size_limit

from facever.data.inspect import inspect
from facever.data.inspect.duplicates import close_pairs, near_duplicates
from facever.data.inspect.looks import look_at, look_at_all
from facever.data.workers import lock_file

GARBAGE = b"no image"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_folders(tmp_path / "data" / "train", people(4, 3))
    make_folders(tmp_path / "data" / "dev", people(4, 1), seed=50)
    return tmp_path / "data"


def spoil(file: Path, *, later: int = 0) -> None:
    """Put as many other bytes into a file, and its time of change where it was, or later."""
    stat = file.stat()
    file.write_bytes(GARBAGE.ljust(stat.st_size))
    os.utime(file, ns=(stat.st_mtime_ns, stat.st_mtime_ns + later))


def test_a_second_call_reads_what_has_changed_and_nothing_else(root: Path) -> None:
    first = inspect(root).facts
    spoiled, changed = sorted((root / "train").rglob("*.png"))[:2]
    spoil(spoiled)
    calls: list[tuple[int, int]] = []
    assert inspect(root, progress=lambda *call: calls.append(call)).facts == first
    assert calls == [(16, 16)]
    spoil(changed, later=1)
    (root / "train" / "id03" / "new.png").write_bytes(b"")
    unreadable = inspect(root).facts["unreadable"]
    assert set(unreadable) == {changed.relative_to(root).as_posix(), "train/id03/new.png"}


def test_an_interrupted_look_keeps_what_it_learned(tmp_path: Path) -> None:
    paths = [save_image(tmp_path / f"{i}.png", i, (2, 2)).name for i in range(140)]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look_at_all(tmp_path, paths, progress=stop)
    calls: list[tuple[int, int]] = []
    looks = look_at_all(tmp_path, paths, progress=lambda *call: calls.append(call))
    assert calls == [(128, 140), (140, 140)]
    assert list(looks) == paths
    assert list(looks.values()) == look_at(tmp_path, paths)


def test_a_memory_that_was_cut_or_damaged_anywhere_only_costs_time(root: Path) -> None:
    first = inspect(root).facts
    memory = root / ".facever" / "looks.jsonl"
    whole = memory.read_bytes()
    head, line = whole.splitlines()[:2]
    lies = [
        [1], {"a": 1}, None, [*json.loads(line)[:-1], [1] * 5], [*json.loads(line)[:-1], [-1] * 6],
        [*json.loads(line)[:-2], "zz" * 32, [1] * 6], [0, *json.loads(line)[1:]],
        [*json.loads(line)[:4], "112", *json.loads(line)[5:]],
    ]  # fmt: skip
    damaged = [whole[:n] for n in range(0, len(whole), 397)]
    damaged += [head + b"\n" + json.dumps(lie).encode() + b"\n" + whole for lie in lies]
    damaged += [b"\xff\xfe" + whole, head + b"\n" + b"[" * 5000, whole[len(head) + 1 :]]
    for content in damaged:
        memory.write_bytes(content)
        assert inspect(root).facts == first
        # And it is whole again, or remembers at least what it did.
        assert inspect(root).facts == first
    assert memory.read_bytes().startswith(head)


def test_lines_of_files_that_are_gone_do_not_gather(root: Path) -> None:
    memory = root / ".facever" / "looks.jsonl"
    for later in range(1, 6):
        for file in (root / "train").rglob("*.png"):
            stat = file.stat()
            os.utime(file, ns=(stat.st_mtime_ns, stat.st_mtime_ns + later))
        inspect(root)
        assert len(memory.read_bytes().splitlines()) <= 1 + 2 * 16


@pytest.mark.parametrize("obstacle", ["read-only", "held", "no folder"])
def test_where_the_data_folder_takes_nothing_the_cache_does(
    root: Path, cache: Path, obstacle: str
) -> None:
    if obstacle == "no folder":
        (root / ".facever").write_text("a file")
    elif obstacle == "read-only":
        root.chmod(0o555)
    else:
        (root / ".facever").mkdir()
        other = (root / ".facever" / "looks.jsonl").open("a+b")
        lock_file(other, exclusive=True)
    first = inspect(root).facts
    spoil(min((root / "train").rglob("*.png")))
    assert inspect(root).facts == first
    assert len(list(cache.rglob("looks.jsonl"))) == 1
    root.chmod(0o755)


@pytest.mark.parametrize("link", [".facever", ".facever/looks.jsonl"])
def test_a_link_in_a_stranger_s_data_names_no_place_to_write_to(
    root: Path, cache: Path, tmp_path: Path, link: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    victim = outside / "looks.jsonl"
    victim.write_text("mine")
    (root / link).parent.mkdir(exist_ok=True)
    (root / link).symlink_to(outside if link == ".facever" else victim)
    assert inspect(root).facts["unreadable"] == {}
    assert victim.read_text() == "mine"
    assert [path.name for path in outside.iterdir()] == ["looks.jsonl"]
    assert list(cache.rglob("looks.jsonl"))


def test_a_full_disk_costs_the_memory_and_not_the_answer(root: Path) -> None:
    with file_size_limit(100):
        assert inspect(root).problems == []


def smooth(seed: int, side: int = 64) -> Image.Image:
    """Draw coarse noise made large: a picture, as its hash sees it."""
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


def test_one_picture_saved_again_or_resampled_is_nearly_the_same(tmp_path: Path) -> None:
    for seed in range(6):
        smooth(seed).save(tmp_path / f"{seed}.png")
    original = smooth(3)
    original.save(tmp_path / "3 again.jpg", quality=70)
    original.resize((50, 50)).save(tmp_path / "3 small.png")
    original.point(lambda value: value // 2 + 40).save(tmp_path / "3 dull.png")
    (tmp_path / "3 twin.png").write_bytes((tmp_path / "3.png").read_bytes())
    for value in (0, 9):
        Image.new("RGB", (64, 64), (value, 1, 2)).save(tmp_path / f"blank {value}.png")
    paths = sorted(file.name for file in tmp_path.iterdir() if file.is_file())
    looks = dict(zip(paths, look_at(tmp_path, paths), strict=True))
    (group,) = near_duplicates(looks)
    # A twin has the same bytes, which is another finding.
    assert group == ["3 again.jpg", "3 dull.png", "3 small.png", "3 twin.png"]


def test_the_hash_is_the_difference_hash_of_its_definition() -> None:
    picture = smooth(1)
    file = io.BytesIO()
    picture.save(file, "PNG")
    small = picture.convert("L").resize((17, 16), Image.Resampling.LANCZOS)
    bits = "".join(
        str(int(small.getpixel((x + 1, y)) > small.getpixel((x, y))))
        for y in range(16)
        for x in range(16)
    )
    (look,) = look_at(Path("/"), [save_bytes(file.getvalue())])
    assert look.dhash == f"{int(bits, 2):064x}"


def save_bytes(data: bytes) -> str:
    path = Path(os.environ["XDG_CACHE_HOME"]).parent / "one.png"
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("within", [0, 3, 12])
def test_close_pairs_are_those_of_comparing_all_with_all(within: int) -> None:
    rng = np.random.default_rng(within)
    bits = rng.integers(0, 2, (250, 256), dtype=np.uint8)
    # Correlated, as those of aligned faces are, and relatives at every distance about the limit.
    bits[:, 40:] = bits[0, 40:]
    for i in range(1, 120):
        bits[i] = bits[rng.integers(i)]
        bits[i, rng.choice(256, i % (within + 4), replace=False)] ^= 1
    hashes = np.packbits(bits, axis=1)
    distance = (bits[:, None] != bits[None]).sum(axis=2)
    expected = [pair for pair in np.argwhere(distance <= within).tolist() if pair[0] < pair[1]]
    assert close_pairs(hashes, within).tolist() == expected
    assert len(expected) > 10
