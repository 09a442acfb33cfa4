"""Whatever a user or a stranger wrote is read, or refused by a documented error.

No case may do anything else: no other exception, no file touched outside the one folder, no
hang, no gigabytes. `FUZZ_TABLE=FILE` asks for how many cases came out how.
"""

import json
import os
import pickle
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import fuzz_helpers
import numpy as np
import pytest
from fuzz_helpers import FUZZ, TALLY, attempt, folder_in_memory, twice
from fuzz_strategies import chunks, mutated, picked
from hypothesis import example, given
from hypothesis import strategies as st

from facever.competition import PROFILES, profile
from facever.data.files import Problem, refuse
from facever.data.inspect import inspect
from facever.data.lists import ImageList, Manifest, PairList
from facever.data.manifest import layout_names, read_manifest, read_pairs
from facever.score import read_scores
from facever.submit import lint, lint_file


@pytest.fixture(scope="module")
def ground() -> Iterator[Path]:
    """A folder `data` with images that nobody decodes, and beside it what may not be touched."""
    with folder_in_memory() as folder:
        yield _made(folder)


IMAGES = ("A.png", "B.png", "C C.png", "Ann/Ann_0001.png", "Ann/Ann_0002.png", "Bob/Bob_0001.png")


def _made(ground: Path) -> Path:
    for name in (*(f"data/images/{name}" for name in IMAGES), "outside/secret.png"):
        (ground / name).parent.mkdir(parents=True, exist_ok=True)
        (ground / name).write_bytes(b"secret")
    (ground / "data/images/outside.txt").symlink_to(ground / "outside/secret.png")
    (ground / "data/images/loop.png").symlink_to("loop.png")
    return ground


def within(root: Path, paths: tuple[str, ...]) -> bool:
    """Whether all paths are files, below the root even where links are followed."""
    places = {(root / path).resolve() for path in paths}
    return all(place.is_relative_to(root) and place.is_file() for place in places)


def check_pairs(pairs: PairList) -> None:
    size = len(pairs)
    assert size == len(pairs.right) == len(pairs.mated) == len(pairs.fold) == len(pairs.rows)
    assert pairs.left.dtype == pairs.right.dtype == pairs.fold.dtype == np.int64
    assert sorted({*pairs.left.tolist(), *pairs.right.tolist()}) == [*range(len(pairs.images))]
    assert set(pairs.mated.tolist()) <= {-1, 0, 1}
    assert (pairs.fold >= -1).all()
    assert within(pairs.root, pairs.images)
    for left, right in pairs.rows:
        assert type(left) is type(right) is str


def check_images(images: ImageList, identities: int) -> None:
    assert len(images) == len(images.labels) == len(set(images.paths))
    assert images.labels.dtype == np.int64
    assert ((images.labels >= -1) & (images.labels < identities)).all()


def check_manifest(manifest: Manifest, *, absolute: bool = False) -> None:
    assert list(manifest.identities) == sorted(set(manifest.identities))
    assert all(type(identity) is str and identity for identity in manifest.identities)
    assert (manifest.train.labels >= 0).all()
    for images in (manifest.train, manifest.dev, manifest.test):
        if images is not None:
            check_images(images, len(manifest.identities))
            assert absolute or within(manifest.root, images.paths)
    for pairs in (manifest.val_pairs, manifest.test_pairs):
        if pairs is not None and not absolute:
            check_pairs(pairs)


CROSSINGS: dict[str, Callable[[Path], object]] = {
    "reads outside": lambda data: (data.parent / "outside/secret.png").read_bytes(),
    "reads through a link": lambda data: (data / "images/outside.txt").read_bytes(),
    "lists outside": lambda data: [*(data.parent / "outside").iterdir()],
    "writes": lambda data: (data / "new").write_bytes(b""),
    "removes": lambda data: (data / "images/A.png").unlink(),
    "renames": lambda data: (data / "images/A.png").rename(data / "new"),
    "makes a folder": lambda data: (data / "new").mkdir(),
    "starts a process": lambda data: os.system("true"),
    "unpickles a class": lambda data: pickle.loads(b"cos\nsystem\n."),
    "opens a socket": lambda data: socket.socket(),
    "does not end": lambda data: [None for _ in iter(int, 1)],
}


@pytest.mark.parametrize("what", CROSSINGS)
def test_a_case_that_does_what_it_must_not_is_stopped(
    ground: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Otherwise all that follows would prove nothing."""
    monkeypatch.setattr(fuzz_helpers, "CPU_SECONDS", 0.2)
    data = ground / "data"
    before = sorted(data.rglob("*"))
    with pytest.raises(AssertionError, match=r"^(Crossed|TooLong): "):
        attempt("net", lambda: CROSSINGS[what](data), data)
    del TALLY["net"]
    assert sorted(data.rglob("*")) == before


# --- tables -----------------------------------------------------------------------------------

PAIRS = (
    b"A.png B.png 1\nA.png \"C C.png\" 0\nB.png A.png 0\n",
    b"left,right,mated,fold\nA.png,B.png,1,0\nA.png,C C.png,0,1\nB.png,A.png,0,1\n",
    b"img1;img2;gt\r\nimages/A.png;B.png;True\r\nA.png;C C.png;False\r\n",
    b"A.png\tB.png\t1\nA.png\tB.png\t-1\n",
    b"A.png B.png\nB.png A.png\n",
    b"2 1\nAnn 1 2\nAnn 1 Bob 1\nAnn 2 1\nBob 1 Ann 2\n",
    b"1\nAnn 1 2\nAnn 2 Bob 1\n",
)  # fmt: skip


@FUZZ
@given(written=mutated(PAIRS))
@example(written=b'A.png\r"B.png')
@example(written=b"left,right,fold\nA.png,B.png," + b"9" * 20)
@example(written=b"0")
@example(written=b"9" * 5000)
@example(written=b"1\nAnn 1 " + b"9" * 5000 + b"\nAnn 1 Bob 1")
def test_pair_files(ground: Path, written: bytes) -> None:
    data = ground / "data"
    file = data / "pairs.txt"
    file.write_bytes(written)
    pairs = twice("pair files", lambda: read_pairs(file, data / "images"), data)
    if pairs is not None:
        assert len(pairs)
        check_pairs(pairs)


LABELS = (
    b"A.png 0\nB.png 1\n\"C C.png\" 1\nD.png NA\n",
    b"path,identity\nA.png,0001\nimages/B.png,1e5\nC C.png,True\nD.png,a b\n",
    b"A.png\tx\nB.png\ty\nC C.png\tz\nD.png\tx\n",
    b"A.png;x\r\nB.png;y\r\n\"C C.png\";\"z\"\r\nD.png;x\r\n",
)  # fmt: skip


@pytest.fixture(scope="module")
def labelled(ground: Path) -> Path:
    folder = ground / "labelled/cls_data/train/images"
    folder.mkdir(parents=True)
    for name in ("A", "B", "C C", "D"):
        (folder / f"{name}.png").touch()
    return ground / "labelled"


@FUZZ
@given(written=mutated(LABELS), lenient=st.booleans())
def test_label_files(labelled: Path, written: bytes, lenient: bool) -> None:
    (labelled / "cls_data/train/labels.txt").write_bytes(written)
    problems: list[Problem] = []
    report = problems.append if lenient else refuse
    manifest = attempt(
        "labels", lambda: read_manifest(labelled, layout="hw2p2", report=report), labelled
    )
    if manifest is not None:
        check_manifest(manifest)
        assert lenient or len(manifest.train) <= 4


MANIFESTS = (
    b"path,identity,split\nimages/A.png,a,train\nimages/B.png,b,train\nimages/C C.png,b,dev\n",
    b"identity;path\r\na;images/A.png\r\nb;images/B.png\r\nb;\"images/C C.png\"\r\n",
    b"file\tperson\nimages/Ann/Ann_0001.png\tAnn\nimages/Bob/Bob_0001.png\tBob\n",
    b"path identity split\nimages/A.png a test\nimages/B.png b val\n",
)  # fmt: skip


@FUZZ
@given(written=mutated(MANIFESTS), explicit=st.booleans())
def test_manifests(ground: Path, written: bytes, explicit: bool) -> None:
    """Named by the user, a manifest may hold absolute paths: to list their folders is allowed."""
    data = ground / "data"
    file = data / "manifest.csv"
    file.write_bytes(written)
    root, looking = (file, ("/",)) if explicit else (data, ())
    manifest = attempt("manifests", lambda: read_manifest(root), data, looking=looking)
    file.unlink()
    if manifest is not None:
        check_manifest(manifest, absolute=explicit)


SCORES = (
    b"left,right,score,mated,fold\na,b,0.5,1,0\na,c,-0.5,0,0\nb,c,1e-3,0,1\n",
    b"score;mated\r\n0.9;True\r\n0.1;False\r\n",
    b"score\tmated\n1\t1\n-1\t-1\n",
    b"\"mated\",\"score\",\"left\",\"right\"\n1,0.5,\"'=a\",b\n0,0.25,\"a,b\",\" c\"\n",
)  # fmt: skip


@FUZZ
@given(written=mutated(SCORES))
@example(written=b"score,mated,fold\n1,1," + b"9" * 20)
def test_score_files(ground: Path, written: bytes) -> None:
    file = ground / "data/scores.csv"
    file.write_bytes(written)
    scores = twice("score files", lambda: read_scores(file), file.parent)
    if scores is not None:
        assert len(scores.scores) == len(scores.mated) > 0
        assert np.isfinite(scores.scores).all()
        assert scores.mated.dtype == bool
        assert scores.folds is None or scores.folds.dtype == np.int64
        assert (scores.left is None) == (scores.right is None)


SUBMISSIONS = (
    b"ID,Label\n0,0.5\n1,-0.25\n2,0.125\n",
    b"ID,Label\r\n2,1\r\n1,0\r\n0,-1\r\n",
    b"\"ID\",\"Label\"\n\"0\",\"1e-3\"\n\"1\",\"0.2\"\n\"2\",\"0.4\"\n",
)  # fmt: skip
SAMPLES = (
    *SUBMISSIONS,
    b"id,match\na b,0\na c,0\nb c,0\n",
    b"img_pair,is_related\na-b,0\na-c,0\nb-c,0\n",
)
THREE = PairList.build(Path(), [("a", "b"), ("a", "c"), ("b", "c")], [1, 0, 0])


@FUZZ
@given(written=mutated(SUBMISSIONS))
@example(written=b"ID,Label\n0,1\n1,0\n2,1_0")
def test_submissions(ground: Path, written: bytes) -> None:
    file = ground / "data/submission.csv"
    file.write_bytes(written)
    S25 = PROFILES["S25"]
    problems = twice("submissions", lambda: lint_file(file, THREE, S25), file.parent)
    if problems is not None:
        assert all(problem and "\n" not in problem for problem in problems)
        assert problems or len(written.splitlines()) > len(THREE)


@FUZZ
@given(written=mutated(SAMPLES))
def test_sample_files(ground: Path, written: bytes) -> None:
    """What a sample's ids ask for can be checked, whatever they are."""
    file = ground / "data/sample.csv"
    file.write_bytes(written)
    custom = twice("sample files", lambda: profile("custom", file), file.parent)
    if custom is not None:
        assert len(custom.header) == 2
        problems = lint([0.5, 0.25, 0.125], THREE.rows, custom)
        assert not problems or any(word in "".join(problems) for word in ("sample file", "ids"))


# --- folders ----------------------------------------------------------------------------------

# Parts of paths: those of the layouts, and those that nobody expects.
PARTS = (
    "a", "b", "train", "dev", "test", "cls_data", "ver_data", "images", "verification", "0001",
    "A.png", "B.JPG", "labels.txt", "val_pairs.txt", "val_pairs.csv", "pairs.txt", "manifest.csv",
    "test_pairs.csv", "__MACOSX", ".hidden", ".png", "-x.png", "a\nb.png", " ", "NA", "\udcff.png",
    "\udce9", "\U0001f600.png", "x" * 251 + ".png", "=1.png", "sample_submission.csv",
)  # fmt: skip
CONTENTS = (b"", b"A.png B.png 1\n", b"path,identity\nA.png,a\n", b"0\n", b"train/a/A.png a\n")


def _file(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)


KINDS: dict[str, Callable[[Path, bytes], None]] = {
    "file": _file,
    "folder": lambda path, _: path.mkdir(),
    "pipe": lambda path, _: os.mkfifo(path),
    "loop": lambda path, _: path.symlink_to(path.name),
    "link out": lambda path, _: path.symlink_to("/etc"),
    "file outside": lambda path, _: path.symlink_to("/etc/passwd"),
    "link up": lambda path, _: path.symlink_to(".."),
    "dangling link": lambda path, _: path.symlink_to("nowhere"),
}
Tree = list[tuple[tuple[str, ...], str, bytes]]
MOSTLY_FILES = ("file",) * 6 + tuple(KINDS)
# Five bytes for each entry: up to three parts of its path, its kind and its content.
trees = chunks(5, 8).map(
    lambda codes: [
        (
            tuple(picked(PARTS, part) for part in code[: 1 + code[3] % 3]),
            picked(MOSTLY_FILES, code[3]),
            picked(CONTENTS, code[4]),
        )
        for code in codes
    ]
)


def build(root: Path, tree: Tree) -> None:
    """Make what can be made of a tree: a file system refuses some names and some places."""
    root.mkdir()
    for parts, kind, content in tree:
        path = root.joinpath(*parts)
        with suppress(OSError, ValueError):
            # Not through a link: it may lead out of the ground.
            if Path(os.path.realpath(path.parent)).is_relative_to(root):
                path.parent.mkdir(parents=True, exist_ok=True)
                KINDS[kind](path, content)


def remove(folder: Path) -> None:
    with os.scandir(folder) as found:
        for entry in list(found):
            if entry.is_dir(follow_symlinks=False):
                remove(Path(entry.path))
            else:
                os.unlink(entry.path)  # noqa: PTH108
    folder.rmdir()


@FUZZ
@given(
    tree=trees,
    layout=st.sampled_from(["auto"] * 8 + [*layout_names(), "nonsense"]),
    inspected=st.sampled_from([False, False, False, True]),
)
@example(tree=[(("a",), "loop", b"")], layout="auto", inspected=False)
@example(tree=[(("a",), "link out", b"")], layout="auto", inspected=False)
@example(tree=[(("train",), "link out", b"")], layout="auto", inspected=False)
@example(tree=[(("manifest.csv",), "file outside", b"")], layout="auto", inspected=False)
def test_folders(ground: Path, tree: Tree, layout: str, inspected: bool) -> None:
    root = ground / "tree"
    try:
        build(root, tree)
        if inspected:
            # What it learns of the files is kept beside them.
            report = attempt(
                "folders", lambda: inspect(root, layout=layout, workers=1), root, writes=True
            )
            assert report is None or json.dumps(report.facts)
        else:
            manifest = attempt("folders", lambda: read_manifest(root, layout=layout), root)
            if manifest is not None:
                check_manifest(manifest)
    finally:
        remove(root)
