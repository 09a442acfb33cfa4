"""What a checkpoint holds, and that a fault loses nothing (B2, B6, B7, C1, C2)."""

import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from process_helpers import file_size_limit, killed_at_rename
from training_helpers import tiny_checkpoint, tiny_encoder, tiny_payload, tiny_state

from facever import checkpoint, runs
from facever.errors import CheckpointError, StorageError

torch.set_num_threads(1)


def assert_same(left: Any, right: Any) -> None:
    """Compare nested values, tensors bit for bit."""
    assert type(left) is type(right) or isinstance(left, dict)
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            assert_same(a, b)
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    else:
        assert left == right


@pytest.fixture
def payload() -> dict[str, Any]:
    """A payload light enough to be written often."""
    light = {"weight": torch.arange(1000.0)}
    return tiny_payload(encoder=light, loss={}, optimizer={})


def step_of(run: Path) -> int:
    found = runs.load_newest(run)
    assert found is not None
    return int(found["step"])


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    payload = tiny_payload(tiny_state(ema=0.9, steps=2))
    digest = checkpoint.save(tmp_path / "last.pt", payload)
    assert_same(checkpoint.load(tmp_path / "last.pt"), payload)
    assert payload["step"] == 2
    assert digest == checkpoint.file_digest(tmp_path / "last.pt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pt", "last.pt.sha256"]


def test_torch_s_safe_loader_reads_it_as_one_dict_of_the_documented_keys(tmp_path: Path) -> None:
    path = tiny_checkpoint(tmp_path / "last.pt", tiny_state(steps=1))
    found = torch.load(path, weights_only=True)
    assert found.keys() == checkpoint.KEYS.keys()
    # interfaces.md, section 5.
    documented = {"format", "facever", "config", "identities", "encoder", "loss", "optimizer",
                  "schedule", "scaler", "ema", "step", "epoch", "sampler", "rng", "metrics",
                  "lineage"}  # fmt: skip
    assert documented < set(found)


def test_a_training_goes_on_from_its_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    state = tiny_state(ema=0.9, steps=2)
    path = tiny_checkpoint(tmp_path / "last.pt", state)
    fresh = tiny_state(seed=5, ema=0.9)
    fresh.load_state_dict(checkpoint.load(path), str(path))
    assert_same(fresh.state_dict(), state.state_dict())


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("disguise", ["value", "weights", "root", "bare pickle"])
def test_a_hostile_pickle_is_refused_and_does_nothing(
    tmp_path: Path, payload: dict[str, Any], disguise: str
) -> None:
    marker, path = tmp_path / "hostile", tmp_path / "best.pt"
    hostile = Hostile(marker)
    if disguise == "bare pickle":
        path.write_bytes(pickle.dumps(payload | {"step": hostile}, protocol=2))
    else:
        content = {
            "value": payload | {"step": hostile},
            "weights": payload | {"encoder": {"weight": hostile}},
            "root": hostile,
        }
        torch.save(content[disguise], path)
    reason = "no checkpoint" if disguise == "bare pickle" else "could run code"
    with pytest.raises(CheckpointError, match=rf"best\.pt: refused: .*{reason}"):
        checkpoint.load(path)
    assert not marker.exists()
    # It was hostile indeed.
    if disguise == "bare pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"<html>404</html>", b"PK\x03\x04junk"])
def test_what_is_no_checkpoint_is_refused_without_suspicion(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"best\.pt: refused: damaged, or no checkpoint"):
        checkpoint.load(path)


def test_an_absent_checkpoint_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.pt", tmp_path):
        with pytest.raises(CheckpointError, match="no such checkpoint"):
            checkpoint.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99, "facever": "9.9.9"}, r"format 99, written by facever 9\.9\.9; this is"),
        ({"format": 0}, "reads formats 1 to 3"),
        ({"format": "1"}, "it has no format number"),
        ({"extra": 1}, r"missing \[\], unknown \['extra'\]"),
        ({"progress": [], "step": 1.5}, r"of another type \['step', 'progress'\]"),
    ],
)
def test_another_version_is_named_and_never_loaded_in_part(
    tmp_path: Path, payload: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "best.pt"
    torch.save(payload | change, path)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(path)


def test_a_checkpoint_of_the_first_format_is_read_as_one_of_today(
    tmp_path: Path, payload: dict[str, Any]
) -> None:
    path = tmp_path / "best.pt"
    progress = {key: value for key, value in payload["progress"].items() if key != "pieces"}
    torch.save(payload | {"format": 1, "progress": progress}, path)
    assert_same(checkpoint.load(path), payload)


def test_missing_keys_are_named(tmp_path: Path, payload: dict[str, Any]) -> None:
    path = tmp_path / "best.pt"
    for key in ("lineage", "config"):
        del payload[key]
    torch.save(payload, path)
    with pytest.raises(CheckpointError, match=r"missing \['config', 'lineage'\], unknown \[\]"):
        checkpoint.load(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="not a checkpoint of facever"):
        checkpoint.load(path)


@pytest.mark.parametrize("fault", ["shape", "missing", "unknown"])
def test_weights_that_do_not_fit_are_named_and_none_is_loaded(fault: str) -> None:
    encoder, state = tiny_encoder(1), tiny_encoder(2).state_dict()
    key = list(state)[-1]
    if fault == "shape":
        state[key] = torch.zeros(1, 1, 1)
    elif fault == "missing":
        del state[key]
    else:
        state[key := "projection.9.weight"] = torch.zeros(1)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(CheckpointError, match=rf"best\.pt: does not fit: {key} (has|is) "):
        checkpoint.load_weights(encoder, state, "best.pt")
    assert_same(dict(encoder.state_dict()), before)


def test_several_misfits_are_counted() -> None:
    with pytest.raises(CheckpointError, match=r"is missing \(and 1 more\)"):
        checkpoint.load_weights(torch.nn.Linear(2, 2), {}, "best.pt")


@pytest.mark.parametrize("side_car", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(
    tmp_path: Path, payload: dict[str, Any], share: float, side_car: bool
) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, payload)
    if not side_car:
        (tmp_path / "last.pt.sha256").unlink()
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(CheckpointError, match=r"last\.pt: .*damaged"):
        checkpoint.load(path)


def flip_bit(path: Path, share: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 16
    path.write_bytes(content)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.5, 0.7, 0.999])
def test_one_flipped_bit_is_found_wherever_it_is(
    tmp_path: Path, payload: dict[str, Any], share: float
) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, payload)
    flip_bit(path, share)
    with pytest.raises(CheckpointError, match=r"damaged: its SHA-256 is not the one in last\.pt"):
        checkpoint.load(path)


@pytest.mark.parametrize("damage", ["cut", "bit", "side-car", "undecodable side-car"])
def test_a_damaged_last_falls_back_on_the_previous_one_and_says_so(
    tmp_path: Path, payload: dict[str, Any], damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        checkpoint.save_last(tmp_path, payload | {"step": step}, best=False)
    if damage == "cut":
        os.truncate(tmp_path / "last.pt", 100)
    elif damage == "bit":
        flip_bit(tmp_path / "last.pt", 0.5)
    else:
        content = b"0" * 64 if damage == "side-car" else b"\xff" * 64
        (tmp_path / "last.pt.sha256").write_bytes(content)
    assert step_of(tmp_path) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {tmp_path / 'last.pt'}: ")
    assert "going on from previous.pt" in said


def test_with_both_damaged_or_none_there_is_nothing_to_go_on_from(
    tmp_path: Path, payload: dict[str, Any]
) -> None:
    assert runs.load_newest(tmp_path) is None
    checkpoint.save_last(tmp_path, payload, best=False)
    assert step_of(tmp_path) == payload["step"]
    os.truncate(tmp_path / "last.pt", 100)
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        runs.load_newest(tmp_path)
    shutil.copy(tmp_path / "last.pt", tmp_path / "previous.pt")
    with pytest.raises(CheckpointError, match=r"previous\.pt"):
        runs.load_newest(tmp_path)


def test_last_previous_and_best_are_what_they_are_called(
    tmp_path: Path, payload: dict[str, Any]
) -> None:
    for step, best in enumerate((False, True, False, False)):
        checkpoint.save_last(tmp_path, payload | {"step": step}, best=best)
    steps = {name: checkpoint.load(tmp_path / f"{name}.pt")["step"]
             for name in ("last", "previous", "best")}  # fmt: skip
    assert steps == {"last": 3, "previous": 2, "best": 1}
    names = {f"{name}.pt{end}" for name in steps for end in ("", ".sha256")}
    assert {p.name for p in tmp_path.iterdir()} == names


def saved(run: Path, payload: dict[str, Any], *steps: int) -> Path:
    run.mkdir()
    for step in steps:
        checkpoint.save_last(run, payload | {"step": step}, best=True)
    return run


def save_until_killed(run: Path, payload: dict[str, Any], step: int, rename: int) -> bool:
    def save() -> None:
        checkpoint.save_last(run, payload | {"step": step}, best=True)

    return killed_at_rename(rename, save)


def test_killed_at_every_moment_of_a_save_the_run_goes_on(
    tmp_path: Path, payload: dict[str, Any]
) -> None:
    moment = 0
    while True:
        run = saved(tmp_path / str(moment), payload, 1, 2)
        killed = save_until_killed(run, payload, 3, moment)
        assert step_of(run) in ((2, 3) if killed else (3,))
        assert checkpoint.load(run / "best.pt")["step"] in (2, 3)
        checkpoint.save_last(run, payload | {"step": 4}, best=False)
        assert step_of(run) == 4
        if not killed:
            break
        moment += 1
    # At least last, previous and best, each with its side-car.
    assert moment >= 6


def test_linking_a_name_to_the_file_that_it_has_leaves_nothing_behind(tmp_path: Path) -> None:
    """A rename between two names of one file does nothing, and would leave the temporary."""
    checkpoint.save(tmp_path / "last.pt", tiny_payload())
    for _ in range(2):
        checkpoint.link(tmp_path / "last.pt", tmp_path / "previous.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "last.pt", "last.pt.sha256", "previous.pt", "previous.pt.sha256",
    ]  # fmt: skip


def test_killed_while_a_checkpoint_is_written_over_the_old_or_the_new_one_is_there(
    tmp_path: Path, payload: dict[str, Any]
) -> None:
    path, moment, killed = tmp_path / "x.pt", 0, True
    while killed:
        checkpoint.save(path, payload | {"step": 1})
        killed = killed_at_rename(moment, lambda: checkpoint.save(path, payload | {"step": 2}))
        assert checkpoint.load(path)["step"] in ((1, 2) if killed else (2,))
        moment += 1
    assert moment > 2


def test_killed_again_while_saving_after_a_kill_the_run_goes_on(
    tmp_path: Path, payload: dict[str, Any]
) -> None:
    for first in range(8):
        for second in (4, 6):
            run = saved(tmp_path / f"{first}-{second}", payload, 1, 2)
            save_until_killed(run, payload, 3, first)
            save_until_killed(run, payload, 4, second)
            assert step_of(run) >= 2


def test_a_damaged_last_never_takes_the_place_of_the_previous_one(
    tmp_path: Path, payload: dict[str, Any]
) -> None:
    run = saved(tmp_path / "run", payload, 1, 2)
    flip_bit(run / "last.pt", 0.5)
    with file_size_limit(1000), pytest.raises(StorageError):
        checkpoint.save_last(run, payload | {"step": 3}, best=False)
    assert step_of(run) == 1


def test_a_full_disk_while_saving_leaves_the_old_checkpoint(
    tmp_path: Path, payload: dict[str, Any]
) -> None:
    run = saved(tmp_path / "run", payload, 1)
    size = (run / "last.pt").stat().st_size
    for limit in (10, size // 2, size - 10):
        with file_size_limit(limit), pytest.raises(StorageError) as caught:
            checkpoint.save_last(run, payload | {"step": 2}, best=True)
        assert re.match(rf"{run}/\S+: could not be written after [\d,]+ bytes: ", str(caught.value))
        assert step_of(run) == 1
        assert checkpoint.load(run / "best.pt")["step"] == 1
        assert not list(run.glob(".*"))


def test_a_payload_that_lacks_a_part_is_a_bug_not_a_checkpoint(
    tmp_path: Path, payload: dict[str, Any]
) -> None:
    del payload["lineage"]
    with pytest.raises(AssertionError, match="lineage"):
        checkpoint.save(tmp_path / "last.pt", payload)
    assert list(tmp_path.iterdir()) == []
