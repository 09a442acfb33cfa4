"""What strangers and keys must not be able to do: rows C3, C5, C6 and C8 of the table.

C1 and C2 are tests/test_checkpoint.py's, C4 tests/test_archives.py's, C7 that of uploads.
"""

import base64
import csv
import json
import os
import pickle
import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from data_helpers import save_image
from PIL import Image
from process_helpers import forked, outcome
from test_report import Page
from training_helpers import tiny_checkpoint

from facever.compare.grid import make_cells
from facever.compare.probe import Probe
from facever.errors import FaceverError
from facever.losses import LOSSES
from facever.report.operating import SCRIPT
from facever.score import read_scores

HOSTILE = """<script>hostile=1</script>"'><img src=x onerror=hostile=1>&lt;"""
# Without slashes, which names of files and folders cannot have.
HOSTILE_NAME = """"'><img src=x onerror=hostile=1><svg onload=hostile=1>&lt;"""
FORMULAS = ("=HYPERLINK(1).png", "+1.png", "-2.png", "@SUM(1).png", "'=1.png", "\tx.png")
SECRETS = {
    name: f"{i}{os.urandom(20).hex()}"
    for i, name in enumerate(("WANDB_API_KEY", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "HF_TOKEN"))
}
ONE_EPOCH = (*TINY, "optim.epochs=1", "optim.batch_size=8", "data.pack=files", "data.workers=0")


# --- C3: paths out of the data folder ---------------------------------------------------------


@pytest.fixture
def images(tmp_path):
    """A folder with A.png and B.png, and beside it what nobody may read through it."""
    for name in "AB":
        save_image(tmp_path / "data" / f"{name}.png", ord(name), (32, 32))
    save_image(tmp_path / "away" / "S.png", 9, (32, 32))
    return tmp_path / "data"


def links(images: Path) -> None:
    (images / "folder").symlink_to(images.parent / "away")
    (images / "up").symlink_to("..")
    (images / "first").symlink_to(images / "second")
    (images / "second").symlink_to(images.parent / "away" / "S.png")
    (images / "first.png").symlink_to(images / "first")


OUTWARD = (
    "folder/S.png", "up/away/S.png", "first.png", "../away/S.png", "./../away/S.png",
    "up/data/../away/S.png", "{root}/away/S.png", "{root}/data/A.png", "//{root}/away/S.png",
)  # fmt: skip


@pytest.mark.parametrize("name", OUTWARD)
@pytest.mark.parametrize("command", ["evaluate", "submit"])
def test_no_command_follows_a_pair_out_of_the_image_folder(
    facever, images, tmp_path, command, name
):
    links(images)
    checkpoint = tiny_checkpoint(tmp_path / "best.pt")
    label = " 1" if command == "evaluate" else ""
    pairs = tmp_path / "pairs.txt"
    pairs.write_text(f"A.png B.png{label}\nA.png {name.format(root=tmp_path)}{label}\n")
    answer = facever(command, checkpoint, "--pairs", pairs, "--images", images)
    assert answer.code == 2, answer.err
    assert "Traceback" not in answer.err
    assert any(word in answer.err for word in ("links out", "absolute", "'..'", "not in data/"))
    assert not (tmp_path / "submissions").exists()


@pytest.mark.parametrize("name", OUTWARD)
def test_no_manifest_in_a_data_folder_leads_out_of_it(facever, images, tmp_path, name):
    """Given as a file, on purpose, it may be a list of absolute paths; found, it may not."""
    links(images)
    rows = ["path,identity", "A.png,one", f"{name.format(root=tmp_path)},two", "B.png,two"]
    (images / "manifest.csv").write_text("\n".join(rows) + "\n")
    answer = facever("train", f"data.root={images}", *ONE_EPOCH)
    assert answer.code == 2, answer.err
    assert any(word in answer.err for word in ("links out", "absolute", "'..'"))
    assert not (tmp_path / "checkpoints").exists()
    packed = facever("data", "pack", images)
    assert packed.code == 2, packed.err
    assert not (images / ".facever").exists()


# --- C5: spreadsheets and pages ---------------------------------------------------------------


def hostile_data(root: Path) -> Path:
    """Write a data set whose identities and file names are formulas and scripts.

    People differ in brightness, so that an encoder that learned nothing tells them apart.
    """
    names = [f"{HOSTILE_NAME}.png", *FORMULAS, "plain.png"]
    rows, rng = [["path", "identity", "split"]], np.random.default_rng(0)
    for k, identity in enumerate((HOSTILE, "=cmd|' /C calc'!A0", "@three", "four")):
        for i, name in enumerate(names):
            path = root / f"={k}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(60 * k, 60 * k + 60, (32, 32, 3), np.uint8)).save(path)
            split = "dev" if i == 6 else "train"
            rows.append([path.relative_to(root).as_posix(), identity, split])
    paths = [row[0] for row in rows[1:]]
    pairs = [(paths[i], paths[(i + 8 * (i % 2) + 1) % 32], str(1 - i % 2)) for i in range(31)]
    write_csv(root / "manifest.csv", rows)
    write_csv(root / "val_pairs.csv", [("left", "right", "mated"), *pairs])
    write_csv(root / "test_pairs.csv", [("left", "right"), *(pair[:2] for pair in pairs)])
    return root


def write_csv(path: Path, rows) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)


def command_line(folder: Path, *commands: list[str], **variables: str) -> int:
    """Run commands in a process of their own, in `folder`; what it says goes into `log`."""

    def run() -> None:
        from facever.cli import main

        os.chdir(folder)
        os.environ.update(variables)
        log = os.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1) for n in (1, 2))
        for command in commands:
            sys.argv = ["facever", *command]
            with pytest.raises(SystemExit) as leaving:
                main()
            assert not leaving.value.code, command

    return outcome(forked(run))


def hostile_run(factory: pytest.TempPathFactory) -> Path:
    """Train, evaluate and submit on hostile data with keys in the environment, once a session.

    Returns:
        the folder that holds the data, all that was written, and what was said, as `log`.
    """
    return _hostile_run(factory.getbasetemp() / "hostile")


@cache
def _hostile_run(folder: Path) -> Path:
    (folder / "home").mkdir(parents=True)
    homes = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TMPDIR"), f"{folder}/home")
    data = hostile_data(folder / HOSTILE_NAME)
    names = (f"track.name={HOSTILE}", "track.wandb=offline", "--run", "r")
    code = command_line(
        folder,
        ["train", f"data.root={data}", *ONE_EPOCH, *names],
        ["evaluate", "--json", "figures.json"],
        ["submit", "--competition", "F20", "-o", "line.csv"],
        ["submit", "--competition", "RFIW", "-o", "dashed.csv"],
        **SECRETS,
        **homes,
    )
    assert code == 0, (folder / "log").read_text()
    return folder


def test_no_score_file_that_people_open_holds_a_formula_and_its_names_come_back(tmp_path_factory):
    folder = hostile_run(tmp_path_factory)
    path = folder / "checkpoints/r/scores_val.csv"
    with path.open(newline="") as file:
        cells = [cell for row in list(csv.reader(file))[1:] for cell in row[:2]]
    assert len(cells) == 62
    assert all(cell[0] not in "=+-@\t\r" for cell in cells)
    with (folder / HOSTILE_NAME / "val_pairs.csv").open(newline="") as file:
        written = list(csv.reader(file))[1:]
    scores = read_scores(path)
    assert list(zip(scores.left, scores.right, strict=True)) == [tuple(row[:2]) for row in written]


@pytest.mark.parametrize(("file", "between"), [("line.csv", " "), ("dashed.csv", "-")])
def test_a_submission_holds_its_ids_byte_for_byte(tmp_path_factory, file, between):
    """Kaggle compares ids as they are: an apostrophe would cost the whole file its score."""
    folder = hostile_run(tmp_path_factory)
    with (folder / HOSTILE_NAME / "test_pairs.csv").open(newline="") as pairs:
        expected = [between.join(row) for row in list(csv.reader(pairs))[1:]]
    with (folder / file).open(newline="") as submission:
        assert [row[0] for row in list(csv.reader(submission))[1:]] == expected
    assert any(key.startswith("=") for key in expected)


def test_no_label_of_a_comparison_s_table_is_a_formula():
    """Each begins with a loss or its weight, whatever is swept; its other columns are numbers."""
    swept = [cell for name in LOSSES for cell in make_cells([name], ["optim.name==1,@x,-1"])]
    sums = make_cells(["0.5*triplet+ce", ".5*ce"])
    for cell in [*swept, *sums]:
        assert cell.label[0] not in "=+-@\t\r"
    for text in ("=1+1", "+ce", "-1*ce", "@ce", "\tce", "-ce"):
        with pytest.raises(FaceverError):
            make_cells([text])


def test_hostile_text_is_text_in_the_report_of_a_run(facever, tmp_path_factory, tmp_path):
    """File names, the folder's name, a value of a setting; and the name of a renamed run."""
    run, renamed = hostile_run(tmp_path_factory) / "checkpoints" / "r", tmp_path / HOSTILE_NAME
    renamed.mkdir()
    for name in ("config.yaml", "environment.json"):
        shutil.copy(run / name, renamed)
    assert facever("report", renamed).code == 0
    for folder, shown in ((run, FORMULAS[0]), (renamed, HOSTILE_NAME)):
        text = (folder / "report.html").read_text()
        page = Page(text)
        own = SCRIPT.read_text()
        assert text.count("<script") == text.count(f"<script>{own}</script>") <= 1
        assert all(not key.startswith("on") for key, _ in page.attributes)
        sources = [value for key, value in page.attributes if key == "src"]
        assert all(value.startswith("data:image/jpeg;base64,") for value in sources)
        assert len(sources) == page.tags.count("img")
        assert "&lt;script&gt;" in text
        assert HOSTILE in page.text
        assert shown in page.text


def test_a_run_s_name_is_no_script(facever, tmp_path):
    answer = facever("train", f"data.root={tmp_path}", *ONE_EPOCH, "--run", HOSTILE)
    assert answer.code == 2
    assert "cannot name a run" in answer.err


# --- C6: keys ---------------------------------------------------------------------------------


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Give the bytes of every file and of every member of those that are archives."""
    for path in folder.rglob("*"):
        yield str(path), os.fsencode(path.relative_to(folder))
        if not path.is_file():
            continue
        data = path.read_bytes()
        yield str(path), data
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield from ((f"{path}:{name}", archive.read(name)) for name in archive.namelist())
        if data[:2] == b"\x1f\x8b":
            yield f"{path}:gzip", zlib.decompress(data, 31)


def betrayals(folder: Path) -> list[str]:
    """Find files that hold a key, half of one, or one in base64, with the key's name."""
    needles = {}
    for name, value in SECRETS.items():
        encoded = [base64.b64encode(b"x" * shift + value.encode())[4:-4] for shift in range(3)]
        needles[name] = [value[:20].encode(), value[-20:].encode(), *encoded]
    return [
        f"{where}: {name}"
        for where, data in contents(folder)
        for name, forms in needles.items()
        if any(form in data for form in forms)
    ]


def test_a_key_in_any_kind_of_file_would_be_found(tmp_path):
    key = SECRETS["HF_TOKEN"]
    torch.save({"config": key}, tmp_path / "a.pt")
    np.savez_compressed(tmp_path / "b.npz", text=np.array([key.encode()]))
    (tmp_path / "c").write_text(base64.b64encode(f"user:{key}".encode()).decode())
    (tmp_path / f"d-{key}").mkdir()
    (tmp_path / "e.gz").write_bytes(zlib.compress(key.encode(), wbits=31))
    (tmp_path / "f").write_text("none")
    found = {Path(line.partition(":")[0]).name[0] for line in betrayals(tmp_path)}
    assert found == set("abcde")


def test_keys_of_the_environment_are_in_nothing_that_is_written(tmp_path_factory):
    """Also not in W&B's records, logs and settings, which are told to go below the same folder."""
    folder = hostile_run(tmp_path_factory)
    assert list(folder.glob("checkpoints/r/wandb/offline-run-*/*.wandb"))
    assert list((folder / "home").rglob("*wandb*"))
    assert betrayals(folder) == []


@pytest.mark.parametrize("where", ["command line", "configuration"])
def test_a_key_that_would_be_written_down_is_refused_by_its_name(
    facever, faces, tmp_path, monkeypatch, where
):
    """`environment.json` and W&B record the command, `config.yaml` and checkpoints the rest."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    given = [f"track.name={SECRETS['KAGGLE_KEY']}"]
    if where == "configuration":
        (tmp_path / "c.yaml").write_text(f"track:\n  project: x{SECRETS['KAGGLE_KEY']}\n")
        given = ["-c", "c.yaml"]
    answer = facever("train", f"data.root={faces}", *ONE_EPOCH, *given)
    assert answer.code == 2
    assert "KAGGLE_KEY" in answer.err
    assert SECRETS["KAGGLE_KEY"] not in answer.err + answer.out
    assert not (tmp_path / "checkpoints").exists()


# --- C8: what is never loaded -----------------------------------------------------------------


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """What `torch.export` writes, by its own name."""
    path = tmp_path_factory.mktemp("exported") / "model.pt2"
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)), path)
    return path


def make_hostile(kind: str, path: Path, marker: Path, exported: Path) -> Path:
    """Write a file of a kind that some program would run code from."""
    hostile = Hostile(marker)
    if kind == "exported":
        path.write_bytes(exported.read_bytes())
        # Its own parts are harmless; this one is not.
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("model/data.pkl", pickle.dumps(hostile))
    elif kind == "torchscript":
        torch.jit.save(torch.jit.script(torch.nn.Identity()), path)
    elif kind == "npz":
        np.savez(path.with_suffix(".npz"), embeddings=np.array([hostile], dtype=object))
        path.with_suffix(".npz").rename(path)
    elif kind == "class path":
        path.write_text(f"_target_: os.mkdir\nclass_path: os.mkdir\nargs: ['{marker}']\n")
    elif kind == "object tag":
        path.write_text(f"!!python/object/apply:os.mkdir ['{marker}']\n")
    else:
        path.write_bytes(pickle.dumps(hostile, protocol={"pickle": 4, "text pickle": 0}[kind]))
    return path


# Every option and argument that takes a file; FILE is the hostile one.
PLACES = {
    "checkpoint": ("evaluate", "FILE"),
    "checkpoint to submit": ("submit", "FILE"),
    "parent": ("finetune", "--loss", "arcface", "--from", "FILE"),
    "encoder": ("verify", "A.png", "A.png", "--from", "FILE"),
    "encoder of a folder": ("embed", ".", "-o", "out.npz", "--from", "FILE"),
    "config": ("train", "-c", "FILE"),
    "pairs": ("evaluate", "best.pt", "--pairs", "FILE", "--images", "."),
    "pairs to submit": ("submit", "best.pt", "--pairs", "FILE", "--images", "."),
    "scores": ("evaluate", "--scores", "FILE"),
    "sample": ("submit", "best.pt", "--competition", "custom", "--sample", "FILE"),
    "manifest": ("train", "data.root=FILE"),
    "image": ("verify", "A.png", "FILE", "--from", "best.pt"),
}
RUNNABLE = (
    "exported", "torchscript", "pickle", "text pickle", "npz", "class path", "object tag",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("place", PLACES)
def test_code_in_a_file_is_refused_wherever_a_file_is_taken(facever, tmp_path, exported, place):
    save_image(tmp_path / "A.png", 0, (32, 32))
    tiny_checkpoint(tmp_path / "best.pt")
    marker = tmp_path / "code ran"
    for kind in RUNNABLE:
        make_hostile(kind, tmp_path / "hostile", marker, exported)
        answer = facever(*(text.replace("FILE", "hostile") for text in PLACES[place]))
        assert not marker.exists(), kind
        assert answer.code == 2, (kind, answer.err)
        assert "hostile" in answer.err or "_target_" in answer.err, (kind, answer.err)


def test_the_pickles_here_are_hostile(tmp_path, exported):
    """Else their refusal would prove nothing."""
    marker = tmp_path / "code ran"
    for kind in ("pickle", "text pickle"):
        pickle.loads(make_hostile(kind, tmp_path / kind, marker, exported).read_bytes())
        marker.rmdir()
    with np.load(make_hostile("npz", tmp_path / "x", marker, exported), allow_pickle=True) as found:
        found["embeddings"]
    marker.rmdir()
    with zipfile.ZipFile(make_hostile("exported", tmp_path / "y", marker, exported)) as archive:
        pickle.loads(archive.read("model/data.pkl"))
    marker.rmdir()


def test_what_a_comparison_saw_is_never_unpickled(tmp_path, exported):
    marker = tmp_path / "code ran"
    path = make_hostile("npz", tmp_path / "probe-after.npz", marker, exported)
    with pytest.raises(FaceverError, match=r"probe-after\.npz"):
        Probe.load(path)
    assert not marker.exists()


def test_settings_name_no_classes(facever, faces, tmp_path):
    """A path to a class is a name that is not known, wherever a setting takes a name."""
    settings = {
        "model.backbone": "os.mkdir", "model.neck": "torch.nn.Linear", "optim.name": "os.system",
        "optim.schedule": "os.system", "loss.name": "builtins.eval", "data.layout": "os.mkdir",
        "data.sampler": "pickle.load",
    }  # fmt: skip
    for key, value in settings.items():
        answer = facever("train", f"data.root={faces}", *TINY, f"{key}={value}")
        assert answer.code == 2, (key, answer.err)
        assert value in answer.err
    (tmp_path / "c.yaml").write_text(json.dumps({"loss": {"_target_": "os.mkdir"}}))
    answer = facever("train", f"data.root={faces}", "-c", "c.yaml")
    assert answer.code == 2
    assert "_target_" in answer.err
