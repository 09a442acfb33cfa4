"""Real trainings that are killed at random and started again, and what must be left of them.

A training is the command line in a process of its own, forked from one that has imported torch.
It dies of SIGKILL: from outside at any moment, or by its own hand inside a save.
"""

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from process_helpers import forked, outcome
from training_helpers import timeless

from facever import checkpoint, runs
from facever.config import FREE_AT_RESUME, differences
from facever.fsck import examine

# Kills of one run before it is let go to its end.
KILLS_OF_A_RUN = 4
# What a save of these networks takes, seconds, and how often it opens, links, renames or removes.
SAVE_SECONDS = 0.008
SAVE_EVENTS = 15
EVENTS = ("open", "os.link", "os.rename", "os.remove")


def start(folder: Path, arguments: Sequence[str], before: Callable[[], None] = lambda: None) -> int:
    """Start the command line in `folder` and give the process; it writes into `folder`/log.

    Args:
        folder: where it runs.
        arguments: of the command line.
        before: what the process does first.
    """

    def command_line() -> None:
        from facever.cli import main

        os.chdir(folder)
        sys.argv = ["facever", *arguments]
        code = 0
        with Path("log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
            before()
            try:
                main()
            except SystemExit as leaving:
                code = int(leaving.code or 0)
        os._exit(code)

    return forked(command_line)


def die_inside_a_save(run: str, number: int, delay: float) -> None:
    """Let this process kill itself when it touches a file of a save for the number-th time.

    Args:
        run: name of its folder.
        number: of the touch, from 1 on; saves follow one another.
        delay: seconds after it, in which it may be writing; 0 for at once.
    """
    left = [number]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in EVENTS or f"/{run}/" not in str(args[0]) or ".pt" not in str(args[0]):
            return
        left[0] -= 1
        if left[0] == 0 and delay:
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        elif left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def finish(folder: Path, arguments: Sequence[str]) -> str:
    """Let the command line come to its end, and give what it said."""
    code = outcome(start(folder, arguments))
    said = (folder / "log").read_text()
    assert code == 0, said
    return said


@dataclass
class Tally:
    """What was tried and what came of it."""

    kills: int = 0
    runs: int = 0
    """killed and brought to their end, each like the uninterrupted one"""
    inside_a_save: int = 0
    """kills that left an unfinished file"""

    def add(self, other: "Tally") -> None:
        self.kills += other.kills
        self.runs += other.runs
        self.inside_a_save += other.inside_a_save

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.inside_a_save} of them inside a save, over {self.runs} "
            "runs: a checkpoint loaded after each, and every run ended bit for bit like its "
            "uninterrupted twin"
        )


def torment(folder: Path, arguments: Sequence[str], kills: int, seed: int) -> Tally:
    """Kill and restart runs of one command until `kills` are spent, and compare each at its end.

    Args:
        folder: an empty one.
        arguments: of the command line, without `--run`.
        kills: how many.
        seed: of the moments.
    """
    rng, tally = random.Random(seed), Tally()
    began = time.monotonic()
    finish(folder, [*arguments, "--run", "whole"])
    whole, seconds = folder / "checkpoints" / "whole", time.monotonic() - began
    while tally.kills < kills:
        name = f"killed-{tally.runs}"
        run = folder / "checkpoints" / name
        given = [*arguments, "--run", name]
        until = min(kills, tally.kills + KILLS_OF_A_RUN)
        while tally.kills < until and not runs.is_finished(run):
            tally.add(_kill_once(folder, given, run, seconds, rng))
        expected = examine(run).resume if run.exists() else ""
        said = finish(folder, given)
        _assert_said(expected, said)
        assert_same_end(run, whole)
        tally.runs += 1
    return tally


def _kill_once(
    folder: Path, arguments: Sequence[str], run: Path, seconds: float, rng: random.Random
) -> Tally:
    """Start a training that dies at a random moment, and look at what it leaves."""
    # After every step, now and then, or at the ends of epochs alone: it may differ at a resume.
    minutes = rng.choice(["1e-9", "0.002", "10"])
    given = [*arguments, f"engine.checkpoint_minutes={minutes}"]
    had_checkpoint = (run / "last.pt").exists()
    if rng.random() < 0.75:
        number, delay = rng.randint(1, 3 * SAVE_EVENTS), rng.choice([0, SAVE_SECONDS])
        delay *= rng.random()
        process = start(folder, given, lambda: die_inside_a_save(run.name, number, delay))
    else:
        process = start(folder, given)
        _wait(process, rng.random() * seconds)
        os.kill(process, signal.SIGKILL)
    code = outcome(process)
    assert code in (0, -signal.SIGKILL), (folder / "log").read_text()
    if not run.exists():
        return Tally(kills=int(code != 0))
    inside = bool(code and runs.temporaries(run))
    saved = runs.load_newest(run)
    assert saved is not None or not had_checkpoint, "a checkpoint was there, and now there is none"
    for finding in examine(run).findings:
        # What a kill may leave behind, and the next start clears away.
        assert finding.mend, finding
        assert finding.where.startswith(".") or finding.where in MENDED, finding
    return Tally(kills=int(code != 0), inside_a_save=int(inside))


# Without a hash, or with a last line cut off; and a `best.pt` or `last.pt` not yet linked.
MENDED = ("last.pt", "previous.pt", "best.pt", "metrics.jsonl")


def _wait(process: int, seconds: float) -> None:
    """Wait for some time, or until the process has ended; it stays to be waited for."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.005)


def _assert_said(expected: str, said: str) -> None:
    """What `fsck` foretold is what the start did."""
    if expected.startswith("goes on from"):
        place = expected.removeprefix("goes on ").partition(" of ")[0]
        assert f"going on {place}" in said, (expected, said)
    elif expected.startswith("nothing"):
        assert "finished before" in said, (expected, said)


def assert_same_end(run: Path, whole: Path) -> None:
    """Compare every bit that two runs leave, but for what the clock and their names decide."""
    assert runs.is_finished(run)
    for name in ("last.pt", "best.pt"):
        a, b = checkpoint.load(run / name), checkpoint.load(whole / name)
        assert not differences(a.pop("config"), b.pop("config"), FREE_AT_RESUME)
        assert_identical(a, b, name)
    assert timeless(run) == timeless(whole)
    assert (run / "scores_val.csv").read_bytes() == (whole / "scores_val.csv").read_bytes()
    # A kill between a checkpoint and its hash may leave `previous.pt` without one.
    assert [f for f in examine(run).findings if "no SHA-256" not in f.problem] == []


def assert_identical(a: Any, b: Any, where: str) -> None:
    """Compare nested values bit for bit."""
    for path, x, y in _leaves(a, b, where):
        if isinstance(x, torch.Tensor):
            assert x.dtype == y.dtype, path
            assert x.numpy().tobytes() == y.numpy().tobytes(), path
        else:
            assert x == y, path


def _leaves(a: Any, b: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            yield from _leaves(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _leaves(x, y, f"{where}.{i}")
    else:
        yield where, a, b
