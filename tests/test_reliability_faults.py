"""Faults with the real thing: full disks, dead workers, silent servers, signals at any moment.

Processes are forked, so that none imports torch again; mounts are made in a namespace of their
own and vanish with the process. What one room alone promises is tested with that room;
docs/reliability.md says where.
"""

import contextlib
import ctypes
import http.server
import importlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, Answer
from process_helpers import file_size_limit, forked, outcome
from training_helpers import RECIPE, noise_batch, timeless, tiny_state

from facever import checkpoint
from facever.data.loader import epoch_batches
from facever.data.pack import FileImages, open_images
from facever.device import set_determinism
from facever.errors import DataError, StorageError
from facever.optim import build_schedule
from facever.step import train_step

LINES = "metrics.jsonl"


# --- processes, mounts and servers ------------------------------------------------------------


def run_cli(*arguments: str | Path) -> Answer:
    """Run the command line in this process; an escaped exception is a bug."""
    from facever.cli import main

    out, err, sys.argv = io.StringIO(), io.StringIO(), ["facever", *map(str, arguments)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as leaving:
            return Answer(int(leaving.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("main leaves with a code")


class Command:
    """The command line in a process of its own, in a folder of its own."""

    def __init__(self, folder: Path, *arguments: str | Path) -> None:
        self.said = folder / f".said-{time.monotonic_ns()}"

        def run() -> None:
            from facever.cli import main

            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.chdir(folder)
            sys.argv = ["facever", *map(str, arguments)]
            with self.said.open("w", buffering=1) as sys.stderr:
                sys.stdout = sys.stderr
                try:
                    main()
                except SystemExit as leaving:
                    os._exit(int(leaving.code or 0))
                except BaseException:
                    traceback.print_exc()
                    raise

        self.process = forked(run)
        self.wait_for(self.said.exists)

    def has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait_for(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not ready() and not self.has_ended():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def end(self) -> Answer:
        """Wait for it, but not for ever."""
        self.wait_for(self.has_ended)
        return Answer(outcome(self.process), "", self.said.read_text())


def logged(run: Path, lines: int) -> Callable[[], bool]:
    """Tell whether a run has logged so many lines."""
    path = run / LINES
    return lambda: path.exists() and path.read_text().count("\n") >= lines


def children(process: int) -> list[int]:
    try:
        return [*map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())]
    except OSError:
        return []


def with_mounts(action: Callable[[], None]) -> None:
    """Run `action` in a process that may mount what no other sees; skip where that is forbidden."""
    new_user, new_mounts, private = 0x10000000, 0x00020000, 0x4000 | 0x40000
    forbidden = 77

    def run() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        wanted = new_mounts | (0 if os.geteuid() == 0 else new_user)
        if libc.unshare(wanted) or libc.mount(None, b"/", None, private, None):
            os._exit(forbidden)
        action()

    code = outcome(forked(run))
    if code == forbidden:
        pytest.skip("no mounts are permitted here")
    assert code == 0


def mount(folder: Path, options: str, *, again: bool = False) -> None:
    """Mount a tmpfs, or change the options of the one that is there."""
    folder.mkdir(exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    flags = (0x20 if again else 0) | (0x1 if "ro" in options.split(",") else 0)
    data = ",".join(option for option in options.split(",") if option != "ro")
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, data.encode()):
        raise OSError(ctypes.get_errno(), "mount")


@contextlib.contextmanager
def server(answer: Callable[[http.server.BaseHTTPRequestHandler, bytes], None]) -> Iterator[str]:
    """Serve HTTP on this machine; gives the address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            # A client that left is what these tests are about.
            with contextlib.suppress(OSError):
                answer(self, body)

        do_GET = do_PUT = do_POST  # noqa: N815 (http.server's names)

        def log_message(self, *_: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()
        httpd.server_close()


# --- what a run leaves ------------------------------------------------------------------------


def weights(run: Path) -> dict[str, bytes]:
    payload = checkpoint.load(run / "last.pt")
    parts = {f"{part}.{k}": v for part in ("encoder", "loss") for k, v in payload[part].items()}
    return {key: value.numpy().tobytes() for key, value in parts.items()}


@pytest.fixture(scope="module")
def given(faces) -> list[str]:
    """The command that most of these tests give, and are interrupted in."""
    return ["train", f"data.root={faces}", *TINY, "optim.epochs=3", "--run", "r"]


@pytest.fixture(scope="module")
def whole(given, tmp_path_factory) -> Path:
    """The run that this command makes where nothing goes wrong; forks share what it imported."""
    for module in ("torch.utils.tensorboard", "facever.compare.laboratory", "facever.data.synth"):
        importlib.import_module(module)
    folder = tmp_path_factory.mktemp("whole")
    with contextlib.chdir(folder):
        answer = run_cli(*given)
    assert answer.code == 0, answer.err
    return folder / "checkpoints" / "r"


def same(run: Path, whole: Path) -> bool:
    return weights(run) == weights(whole) and timeless(run) == timeless(whole)


# --- B4: a resume with other settings ---------------------------------------------------------


@pytest.mark.parametrize(
    "began_with", ["data.workers=0", pytest.param("data.workers=2", marks=pytest.mark.slow)]
)
def test_what_does_not_change_the_result_may_change_at_a_resume(given, whole, tmp_path, began_with):
    began = Command(tmp_path, *given, began_with, "engine.checkpoint_minutes=0.000001")
    began.wait_for(logged(tmp_path / "checkpoints/r", 2))
    os.kill(began.process, signal.SIGTERM)
    answer = began.end()
    assert answer.code == 143, answer.err
    for i, settings in enumerate(
        (
            ["data.workers=2", "data.pack=files"],
            [
                "data.workers=0", "data.pack=blob", "engine.max_time=9h",
                "track.tensorboard=true", "track.name=x", "track.project=y",
            ],
        )
    ):  # fmt: skip
        shutil.copytree(tmp_path / "checkpoints", tmp_path / str(i) / "checkpoints")
        again = Command(tmp_path / str(i), *given, *settings, "engine.checkpoint_minutes=5").end()
        assert again.code == 0, again.err
        assert "going on from step" in again.err
        assert same(tmp_path / str(i) / "checkpoints" / "r", whole)


# --- B6: disks --------------------------------------------------------------------------------


def test_a_full_disk_costs_no_checkpoint_and_with_space_again_the_run_goes_on(
    given, whole, tmp_path
):
    size = (whole / "last.pt").stat().st_size
    folder = tmp_path / "small"

    def fill() -> None:
        # Room for the checkpoint of one epoch.
        mount(folder, f"size={int(1.5 * size)}")
        os.chdir(folder)
        answer = run_cli(*given)
        assert answer.code == 2, answer.err
        assert "checkpoints/r/" in answer.err
        assert "bytes: " in answer.err
        assert "No space left" in answer.err
        run = Path("checkpoints/r")
        assert checkpoint.load(run / "last.pt")["epoch"] == 1
        assert [path.name for path in run.glob(".*.tmp")] == []

        mount(folder, f"size={9 * size}", again=True)
        answer = run_cli(*given)
        assert answer.code == 0, answer.err
        assert "going on from step" in answer.err
        assert same(run, whole)

    with_mounts(fill)


def test_a_limit_on_the_size_of_files_does_the_same(given, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def limited() -> None:
        with file_size_limit(200_000):
            answer = run_cli(*given)
        assert answer.code == 2, answer.err
        message = answer.err[answer.err.index("error: ") :]
        written = message.partition("could not be written after ")[2].partition(" bytes")[0]
        assert 0 < int(written.replace(",", "")) <= 200_000
        assert "checkpoints/r/" in message
        assert run_cli(*given).code == 0

    assert outcome(forked(limited)) == 0
    assert same(tmp_path / "checkpoints/r", whole)


def test_a_read_only_folder_is_an_error_with_its_path_and_what_is_there_stays(
    given, whole, faces, tmp_path
):
    folder = tmp_path / "sealed"

    def seal() -> None:
        mount(folder, "size=64m")
        shutil.copytree(whole.parent, folder / "checkpoints")
        (folder / "checkpoints/r/finished").unlink()
        mount(folder, "ro,size=64m", again=True)
        os.chdir(folder)
        for command in (
            given,
            [*given, "--fresh"],
            ["submit", "checkpoints/r/best.pt"],
            ["report", "checkpoints/r"],
            ["embed", f"{faces}/ver_data", "-o", "e.npz", "--from", "checkpoints/r/best.pt"],
            ["evaluate", "checkpoints/r/best.pt", "--json", "e.json"],
            ["data", "synth", "faces", "--identities", "4", "--images", "2", "--size", "32"],
            ["config", "--init", "c.yaml"],
        ):
            answer = run_cli(*command)
            assert answer.code == 2, (command, answer.err)
            assert "Read-only file system" in answer.err, answer.err
        assert checkpoint.load(Path("checkpoints/r/last.pt"))["epoch"] == 3
        assert run_cli("evaluate", "checkpoints/r/best.pt").code == 0

    with_mounts(seal)


def test_data_on_a_read_only_disk_trains_with_its_pack_in_the_cache(
    given, faces, tmp_path, monkeypatch
):
    """Row A16."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sealed = tmp_path / "data"

    def seal() -> None:
        mount(sealed, "size=64m")
        shutil.copytree(faces, sealed, dirs_exist_ok=True, ignore=lambda *_: {".facever"})
        mount(sealed, "ro,size=64m", again=True)
        os.chdir(tmp_path)
        settings = (text.replace(str(faces), str(sealed)) for text in given)
        answer = run_cli(*settings, "optim.epochs=1")
        assert answer.code == 0, answer.err
        assert len([*(tmp_path / "cache").glob("facever/*/train-32-*.u8")]) == 1

    with_mounts(seal)
    assert (tmp_path / "checkpoints/r/finished").exists()


def test_a_run_whose_folder_is_deleted_says_so(given, tmp_path):
    run = tmp_path / "checkpoints" / "r"
    command = Command(tmp_path, *given, "optim.epochs=500")
    command.wait_for(logged(run, 3))
    shutil.rmtree(run)
    answer = command.end()
    assert answer.code == 2, answer.err
    assert "error: checkpoints/r/" in answer.err
    assert "could not be written after 0 bytes: No such file or directory" in answer.err
    assert "Traceback" not in answer.err


# --- B8: steps that are not finite ------------------------------------------------------------


def test_a_loss_scale_that_overflows_is_lowered_and_nothing_else_moves():
    """The scaler of fp16 works on a CPU too; at first the gradient is beyond float32."""
    state = tiny_state(ema=0.9)
    state.loss.prototypes.data *= 100
    state.scaler = torch.amp.GradScaler("cpu", init_scale=3e38)
    schedule = build_schedule("cosine", total=9, warmup=0)
    parts = (state.encoder, state.loss, state.average.encoder)
    before = [{k: v.clone() for k, v in part.state_dict().items()} for part in parts]
    skipped = 0
    while not (figures := train_step(state, RECIPE, noise_batch(state.position), schedule)):
        skipped += 1
        assert skipped < 60
        for part, old in zip(parts, before, strict=True):
            assert all(torch.equal(v, old[k]) for k, v in part.state_dict().items())
        assert not any(kept["momentum_buffer"].any() for kept in state.optimizer.state.values())
        assert state.scaler.get_scale() == pytest.approx(3e38 / 2**skipped)
        assert (state.step, state.position) == (0, skipped)
    assert skipped > 0
    assert (state.step, figures["lr"]) == (1, 0.05)


def test_a_training_that_diverges_stops_with_the_paths_of_its_images(facever, faces, tmp_path):
    answer = facever(
        "train", f"data.root={faces}", *TINY, "optim.batch_size=2", "optim.lr=100",
        "optim.warmup=0", "optim.weight_decay=10", "optim.clip_norm=null",
        "engine.checkpoint_minutes=0.000001", "--run", "r",
    )  # fmt: skip
    assert answer.code == 2
    assert "10 steps in a row gave a loss or gradient that is not finite" in answer.err
    named = answer.err.partition("images of the last batch: ")[2].split(", ")[0]
    assert (faces / named).is_file()
    assert (tmp_path / "checkpoints/r/last.pt").exists()
    lines = [json.loads(line) for line in (tmp_path / "checkpoints/r" / LINES).open()]
    assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)


# --- B10: loader workers ----------------------------------------------------------------------


def test_a_killed_loader_worker_is_told_with_its_likely_cause_and_costs_nothing(given, tmp_path):
    small = [*given, "optim.epochs=2", "optim.batch_size=2", "--run", "r"]
    command = Command(tmp_path, *small, "data.workers=2", "engine.checkpoint_minutes=0.000001")
    run = tmp_path / "checkpoints" / "r"
    command.wait_for(logged(run, 5))
    while not command.has_ended():
        for worker in children(command.process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        time.sleep(0.01)
    answer = command.end()
    assert answer.code == 2, answer.err
    assert (
        "one of 2 loader processes died or could not start, most likely for want of memory"
        in answer.err
    )
    assert "lower data.workers" in answer.err
    assert "Traceback" not in answer.err

    step = checkpoint.load(run / "last.pt")["step"]
    again = Command(tmp_path, *small, "data.workers=2").end()
    assert f"going on from step {step}" in again.err, again.err
    assert Command(tmp_path, *small[:-1], "whole").end().code == 0
    assert same(run, tmp_path / "checkpoints" / "whole")


def test_a_batch_that_finds_no_shared_memory_is_an_error_and_not_a_wait_for_ever(given, tmp_path):
    """torch's queue drops what it cannot share, in a thread, and the loop would wait for it."""

    def squeeze() -> None:
        mount(Path("/dev/shm"), "size=256k")
        os.chdir(tmp_path)
        answer = run_cli(*given, "data.workers=2", "optim.batch_size=64")
        assert answer.code == 2, answer.err
        assert "no shared memory for a batch of 197,632 bytes" in answer.err, answer.err
        assert "--shm-size" in answer.err

    with_mounts(squeeze)


def test_a_signal_to_the_whole_group_reaches_the_workers_only_through_the_training(
    given, whole, tmp_path
):
    """`timeout` and terminals signal the group; dead workers would keep the step from ending."""
    command = Command(tmp_path, *given, "data.workers=2")
    command.wait_for(logged(tmp_path / "checkpoints/r", 2))
    os.killpg(command.process, signal.SIGTERM)
    answer = command.end()
    assert answer.code == 143, answer.err
    assert "saved, the same command goes on" in answer.err
    assert Command(tmp_path, *given).end().code == 0
    assert same(tmp_path / "checkpoints/r", whole)


def test_an_image_that_vanishes_under_a_worker_is_one_message(faces):
    root = faces / "cls_data/train/images"
    images = FileImages(root, ["gone.jpg"] * 4, 32)
    images.labels = np.zeros(4, np.int64)
    with pytest.raises(DataError) as caught:
        list(epoch_batches(images, [np.arange(4)], None, seed=0, epoch=0, workers=1))
    assert str(caught.value) == f"{root}/gone.jpg: not readable: No such file or directory"


# --- B11: packs on small disks ----------------------------------------------------------------


def test_a_pack_that_does_not_fit_goes_to_another_disk_or_is_refused(faces, tmp_path, monkeypatch):
    """A disk that is too small from the start, and one that another process fills meanwhile."""
    root = Path(shutil.copytree(faces / "cls_data/train/images", tmp_path / "images"))
    paths = sorted(path.name for path in root.iterdir()) * 5
    pixels = FileImages(root, paths, 32).gather(np.arange(3))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def squeeze() -> None:
        mount(root / ".facever", "size=2m")
        packed = open_images(root, paths, 32, name="t", pack="memmap")
        assert tmp_path / "cache" in packed.file.parents
        shutil.rmtree(tmp_path / "cache")

        monkeypatch.setattr("facever.data.pack._SPARE_BYTES", 0)
        full = root / ".facever" / "filler"

        def fill(done: int, total: int) -> None:
            if not full.exists():
                with contextlib.suppress(OSError), full.open("wb", buffering=0) as file:
                    while file.write(bytes(4096)):
                        pass

        packed = open_images(root, paths, 32, name="t", pack="memmap", progress=fill)
        assert full.exists()
        assert tmp_path / "cache" in packed.file.parents
        assert (packed.gather(np.arange(3)) == pixels).all()
        assert [p.suffix for p in (root / ".facever").iterdir() if p != full] == [".lock"]

        shutil.rmtree(tmp_path / "cache")
        mount(tmp_path / "cache", "size=64k")
        with pytest.raises(StorageError, match=r"no place for the pack of 983,040 bytes"):
            open_images(root, paths, 32, name="t", pack="memmap")
        # What the build left free takes a blob, and then there is no room for that either.
        packed = open_images(root, paths, 32, name="t")
        assert packed.tier == "blob"
        assert (packed.gather(np.arange(3)) == pixels).all()
        for path in (root / ".facever").iterdir():
            path.unlink()
        fill(0, 0)
        assert open_images(root, paths, 32, name="t").tier == "files"

    with_mounts(squeeze)


# --- B12: W&B ---------------------------------------------------------------------------------


def fails(request: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
    request.send_error(500)


def hangs(request: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
    time.sleep(600)


def dies_after_the_start(request: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
    """Take the run, as W&B's server does, and answer nothing after that."""
    if b"mutation UpsertBucket" not in body:
        hangs(request, body)
    project = {"name": "p", "entity": {"name": "e"}}
    bucket = {"id": "i", "name": "n", "displayName": "n", "config": "{}", "project": project,
              "historyLineCount": 0}  # fmt: skip
    reply = json.dumps({"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}).encode()
    request.send_response(200)
    request.send_header("content-type", "application/json")
    request.send_header("content-length", str(len(reply)))
    request.end_headers()
    request.wfile.write(reply)


TRACK = """
import sys
from pathlib import Path
from facever.tracking import Tracker
tracker = Tracker(Path(sys.argv[1]), step=0, epoch=0, config={}, wandb="online")
for step in range(3):
    tracker.log(step, 0, {"loss": 1.0})
tracker.close()
"""
TRAIN = "from facever.cli import main; main()"


def with_wandb(answer, folder: Path, *command: str | Path) -> str:
    """Run Python in a process that logs to a server of this kind; gives what it said."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    with server(answer) as address:
        environment |= {
            "HOME": str(folder), "NETRC": str(folder / "netrc"), "OMP_NUM_THREADS": "1",
            "WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40,
            # W&B's own variables, as its users set them.
            "WANDB_INIT_TIMEOUT": "2", "WANDB_FINISH_TIMEOUT": "2",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", *map(str, command)],
            env=environment, cwd=folder, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: ") == 1, done.stderr
    assert "warning: W&B is off for the rest of this run" in done.stderr
    return done.stderr


def test_a_server_of_wandb_that_fails_costs_one_warning_and_no_line(tmp_path):
    with_wandb(fails, tmp_path, TRACK, tmp_path)
    assert [line["step"] for line in timeless(tmp_path)] == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("answer", [fails, hangs, dies_after_the_start])
def test_a_training_ends_well_whatever_the_server_of_wandb_does(given, whole, tmp_path, answer):
    with_wandb(answer, tmp_path, TRAIN, *given, "track.wandb=online")
    assert same(tmp_path / "checkpoints/r", whole)


# --- B13: Ctrl-C at any moment ----------------------------------------------------------------


def visible(folder: Path) -> dict[str, int]:
    """What a user sees in a folder, with sizes; hidden names are nobody's business."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    names = ((path.relative_to(folder), path.stat().st_size) for path in paths)
    return {str(name): size for name, size in names if not any(p[0] == "." for p in name.parts)}


INTERRUPTED = {
    "pack": ["data", "pack", "faces", "data.image_size=64"],
    "evaluate": ["evaluate", "best.pt", "data.root=faces", "--json", "e.json"],
    "submit": ["submit", "best.pt", "data.root=faces", "-o", "s.csv"],
    "report": ["report", "run", "-o", "page.html"],
}


@pytest.mark.parametrize("verb", INTERRUPTED)
def test_ctrl_c_at_a_random_moment_leaves_130_and_nothing_half_written(
    verb, faces, whole, tmp_path
):
    def prepared(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(whole, folder / "run")
        shutil.copytree(faces, folder / "faces", ignore=lambda *_: {".facever"})
        shutil.copy(whole / "best.pt", folder)
        return folder

    folder, began = prepared("complete"), time.monotonic()
    assert Command(folder, *INTERRUPTED[verb]).end().code == 0
    took = time.monotonic() - began
    wanted = visible(folder)

    rng = random.Random(verb)
    for i in range(3):
        folder = prepared(str(i))
        before = visible(folder)
        command = Command(folder, *INTERRUPTED[verb])
        time.sleep(rng.uniform(0, took))
        os.killpg(command.process, signal.SIGINT)
        answer = command.end()
        assert answer.code in (0, 130), answer.err
        assert "Traceback" not in answer.err
        assert before.items() <= visible(folder).items() <= wanted.items()
        assert [*folder.rglob("*.tmp")] == []
    # What is left is no obstacle either.
    assert Command(folder, *INTERRUPTED[verb]).end().code == 0
    assert visible(folder) == wanted


def test_ctrl_c_that_a_library_turned_into_its_own_error_is_still_130(facever, monkeypatch):
    """matplotlib's C code made `ValueError: Invalid affine transformation matrix` of one."""

    def cleanup_path(*_: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise ValueError("Invalid affine transformation matrix") from None

    monkeypatch.setattr("facever.report.page.read_record", cleanup_path)
    # A shell that started the tests in the background has had it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        answer = facever("report", "run")
        assert (answer.code, answer.err) == (130, "")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


LONG = {
    "synth": ["data", "synth", "out", "--identities", "9", "--images", "9", "--size", "32"],
    "compare": ["--data", "faces", "--losses", "ce,arcface", *TINY, "--out", "out"],
}


@pytest.mark.parametrize("verb", LONG)
def test_ctrl_c_in_a_long_command_leaves_130_and_no_answer(verb, faces, whole, tmp_path):
    (tmp_path / "faces").symlink_to(faces)
    command = Command(tmp_path, *([] if verb == "synth" else [verb]), *LONG[verb])
    time.sleep(random.Random(verb).uniform(0.2, 0.8))
    os.killpg(command.process, signal.SIGINT)
    answer = command.end()
    assert answer.code == 130, answer.err
    assert "Traceback" not in answer.err
    # A comparison's runs are there as far as they came, and the same command goes on with them.
    assert [path for path in visible(tmp_path) if path.startswith(("out/table", "out/re"))] == []
    assert verb == "compare" or not (tmp_path / "out").exists()
    assert [*tmp_path.glob(".*.partial")] == []


# --- B14, B15 ---------------------------------------------------------------------------------


def test_a_clock_that_was_set_back_overwrites_nothing(facever, faces, tmp_path):
    settings = ["train", f"data.root={faces}", *TINY, "optim.epochs=1"]
    assert facever(*settings).code == 0
    first = tmp_path / "checkpoints" / "train-1"
    tomorrow = time.time() + 86_400
    for path in [first, *first.iterdir()]:
        os.utime(path, (tomorrow, tomorrow))
    before = {path: path.read_bytes() for path in first.iterdir()}
    answer = facever(*settings)
    assert answer.code == 0, answer.err
    assert {path: path.read_bytes() for path in first.iterdir()} == before
    second = tmp_path / "checkpoints" / "train-2"
    assert weights(second) == weights(first)
    assert (second / "finished").exists()


@pytest.mark.parametrize("name", ["a/b", "/tmp/x", "../x", "..", "."])
def test_a_run_name_that_is_a_path_is_refused(facever, faces, tmp_path, name):
    answer = facever("train", f"data.root={faces}", *TINY, "--run", name)
    assert answer.code == 2
    assert "cannot name a run" in answer.err
    assert not (tmp_path / "checkpoints").exists()


def test_the_switch_for_determinism_reaches_torch(monkeypatch):
    """This operation is one that torch refuses on a CPU too."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    place, value = torch.tensor([0, 0]), torch.tensor([1.0, 2.0])
    try:
        set_determinism(True)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        with pytest.raises(RuntimeError, match="deterministic"):
            torch.zeros(3).put_(place, value)
    finally:
        set_determinism(False)
    torch.zeros(3).put_(place, value)


def test_two_runs_of_one_seed_that_are_deterministic_have_identical_files(given, whole, tmp_path):
    digests = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        answer = Command(tmp_path / name, *given, "engine.deterministic=true").end()
        assert answer.code == 0, answer.err
        run = tmp_path / name / "checkpoints" / "r"
        digests.append([checkpoint.file_digest(run / file) for file in ("last.pt", "best.pt")])
    assert digests[0] == digests[1]
    # A CPU's kernels are deterministic without being asked.
    assert same(run, whole)
