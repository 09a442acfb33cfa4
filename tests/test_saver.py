"""Checkpoints written beside the training: the same files, the same errors, whenever it ends."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from process_helpers import file_size_limit
from training_helpers import RECIPE, noise_batch, tiny_payload, tiny_state

from facever import checkpoint
from facever.errors import StorageError
from facever.optim import build_schedule
from facever.saver import Saver
from facever.state import TrainState
from facever.step import train_step

torch.set_num_threads(1)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let no checkpoint be written before this event is set."""
    gate, real = threading.Event(), checkpoint.save_last

    def save_last(run: Path, payload: Any, *, best: bool) -> None:
        assert gate.wait(60)
        real(run, payload, best=best)

    monkeypatch.setattr("facever.saver.save_last", save_last)
    return gate


def take_a_step(state: TrainState, seed: int) -> None:
    train_step(state, RECIPE, noise_batch(seed), build_schedule("constant", total=9, warmup=0))


def test_what_changes_after_the_call_does_not_change_the_checkpoint(
    tmp_path: Path, held: threading.Event
) -> None:
    """Weights, moments, averages, and the lists of the loop go on while it is being written."""
    state = tiny_state(ema=0.9, steps=2)
    expected = tmp_path / "expected.pt"
    checkpoint.save(expected, tiny_payload(state))
    with Saver(tmp_path) as save:
        save(tiny_payload(state), best=True)
        take_a_step(state, 7)
        state.window.append(9.0)
        state.best["EER"] = 1.0
        assert not (tmp_path / "last.pt").exists()
        held.set()
    for name in ("last.pt", "best.pt"):
        assert (tmp_path / name).read_bytes() == expected.read_bytes()


def test_a_second_save_waits_for_the_first_and_uses_its_memory_again(tmp_path: Path) -> None:
    state = tiny_state(steps=1)
    with Saver(tmp_path) as save:
        for step in range(3):
            save(tiny_payload(state), best=step == 0)
            if step == 0:
                places = {place: copy.data_ptr() for place, copy in save._kept.items()}
            take_a_step(state, step)
        assert {place: copy.data_ptr() for place, copy in save._kept.items()} == places
    steps = {name: checkpoint.load(tmp_path / f"{name}.pt")["step"]
             for name in ("last", "previous", "best")}  # fmt: skip
    assert steps == {"last": 3, "previous": 2, "best": 1}
    assert save.seconds > 0


def test_an_error_is_raised_at_the_next_save_or_at_the_end(tmp_path: Path) -> None:
    payload = tiny_payload()
    with pytest.raises(StorageError, match=r"could not be written after [\d,]+ bytes"):  # noqa: SIM117
        with file_size_limit(1000), Saver(tmp_path) as save:
            save(payload, best=False)
    with Saver(tmp_path) as save:
        with file_size_limit(1000):
            save(payload, best=False)
            save._thread.join()
        with pytest.raises(StorageError, match="could not be written"):
            save(payload, best=False)
        save(payload, best=False)
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 0


def test_what_ends_the_training_waits_for_the_checkpoint_but_a_second_ctrl_c_does_not(
    tmp_path: Path, held: threading.Event
) -> None:
    def end_by(error: type[BaseException]) -> Saver:
        with pytest.raises(error), Saver(tmp_path) as save:  # noqa: PT012
            save(tiny_payload(), best=False)
            raise error
        return save

    abandoned = end_by(KeyboardInterrupt)
    assert not (tmp_path / "last.pt").exists()
    threading.Timer(0.05, held.set).start()
    abandoned.wait()
    held.clear()
    (tmp_path / "last.pt").unlink()
    threading.Timer(0.05, held.set).start()
    end_by(RuntimeError)
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 0


def test_without_memory_for_a_copy_the_checkpoint_is_written_at_once(
    tmp_path: Path, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facever.saver.free_memory", lambda: 1000)
    held.set()
    save = Saver(tmp_path)
    save(tiny_payload(), best=False)
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 0
    assert not save._kept
