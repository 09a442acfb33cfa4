"""Runs on disk: names, which one goes on, and that nobody shares one (B2, B14)."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from process_helpers import forked, killed_at_rename, outcome
from training_helpers import tiny_payload

from facever import checkpoint, runs
from facever.config import FREE_AT_RESUME, Config, resolve
from facever.errors import CheckpointError, ConfigError, StorageError
from facever.plainyaml import load_yaml

CONFIG = Config().to_dict()


def create(root: Path, verb: str = "train", name: str | None = None, **environment: Any) -> Path:
    return runs.create_run(verb, name, CONFIG, {"verb": verb, **environment}, root=root)


def find(root: Path, verb: str = "train", name: str | None = None, **options: Any) -> Path | None:
    config = options.pop("config", CONFIG)
    return runs.find_run(verb, name, config, free=FREE_AT_RESUME, root=root, **options)


def changed(*assignments: str) -> dict[str, Any]:
    return resolve([], assignments).to_dict()


def test_a_new_run_has_its_configuration_and_environment(tmp_path: Path) -> None:
    run = create(tmp_path, device="cpu")
    assert run == tmp_path / "train-1"
    assert load_yaml(run / "config.yaml") == CONFIG
    assert runs.read_environment(run) == {"verb": "train", "device": "cpu"}
    assert sorted(p.name for p in run.iterdir()) == ["config.yaml", "environment.json"]


def test_runs_are_numbered_and_a_taken_name_is_not_overwritten(tmp_path: Path) -> None:
    names = [create(tmp_path).name for _ in range(3)]
    assert names == ["train-1", "train-2", "train-3"]
    assert create(tmp_path, "finetune").name == "finetune-1"
    assert create(tmp_path, name="mine").name == "mine"
    again = create(tmp_path, name="mine").name
    assert again.startswith("mine-")
    assert create(tmp_path, name="mine").name not in ("mine", again)


@pytest.mark.parametrize(
    "name",
    ["a/b", "/a", "..", ".", ".hidden", "", "a b", "-x", "a\n", "é", "a" * 101, "a\\b", "~", "a\0"],
)
def test_a_name_that_is_no_folder_s_is_refused(tmp_path: Path, name: str) -> None:
    for action in (create, find):
        with pytest.raises(ConfigError, match=r"--run: .* cannot name a run"):
            action(tmp_path, name=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "arcface_s64-m0.5", "0001", "A" * 100])
def test_ordinary_names_are_taken(tmp_path: Path, name: str) -> None:
    assert create(tmp_path, name=name).name == name


@pytest.mark.parametrize("name", [None, "mine"])
def test_processes_that_begin_at_once_get_folders_of_their_own(
    tmp_path: Path, name: str | None
) -> None:
    """Each writes which process it is; had two shared a folder, one would be lost."""
    gate = time.monotonic() + 0.2

    def begin() -> None:
        time.sleep(max(0.0, gate - time.monotonic()))
        for _ in range(5):
            create(tmp_path, name=name, process=os.getpid())

    processes = [forked(begin) for _ in range(4)]
    assert [outcome(process) for process in processes] == [0] * 4
    found = [runs.read_environment(run)["process"] for run in tmp_path.iterdir()]
    assert sorted(found) == sorted(processes * 5)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(StorageError, match=r"checkpoints.* could not be made"):
        create(tmp_path / "checkpoints")


def test_without_a_name_the_newest_unfinished_equal_run_goes_on(tmp_path: Path) -> None:
    assert find(tmp_path) is None
    first, second, third = (create(tmp_path) for _ in range(3))
    assert find(tmp_path) == third
    runs.mark_finished(third)
    assert runs.is_finished(third)
    assert find(tmp_path) == second
    assert find(tmp_path, config=changed("optim.lr=0.2")) is None
    assert find(tmp_path, config=changed("data.workers=3", "track.wandb=offline")) == second
    assert find(tmp_path, "finetune") is None
    assert find(tmp_path, parent=Path("other.pt")) is None
    runs.mark_finished(second)
    assert find(tmp_path) == first


def test_a_run_is_known_by_its_verb_whatever_it_is_called(tmp_path: Path) -> None:
    run = create(tmp_path, "finetune", name="train-arcface")
    assert find(tmp_path, "train") is None
    assert find(tmp_path, "finetune") == run


def test_a_named_run_goes_on_finished_or_not(tmp_path: Path) -> None:
    assert find(tmp_path, name="mine") is None
    run = create(tmp_path, name="mine")
    assert find(tmp_path, name="mine") == run
    runs.mark_finished(run)
    assert find(tmp_path, name="mine") == run


def test_a_named_run_of_another_configuration_is_refused_with_the_differences(
    tmp_path: Path,
) -> None:
    create(tmp_path, name="mine", parent="a.pt")
    with pytest.raises(ConfigError) as caught:
        find(tmp_path, name="mine", config=changed("optim.lr=0.2"), parent=Path("b.pt"))
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{tmp_path / 'mine'}: exists with another configuration:"
    assert lines[1:3] == ["  optim.lr: 0.1 -> 0.2", "  parent: a.pt -> b.pt"]
    assert "--fresh" in lines[3]


def test_the_parent_of_a_run_is_remembered(tmp_path: Path) -> None:
    run = create(tmp_path, "finetune", parent="checkpoints/train-1/best.pt")
    assert runs.parent_of(run) == Path("checkpoints/train-1/best.pt")
    assert runs.parent_of(create(tmp_path, "finetune", parent=None)) is None
    assert find(tmp_path, "finetune", parent=Path("checkpoints/train-1/best.pt")) == run


def test_runs_are_listed_oldest_first_and_by_number_where_the_clock_says_nothing(
    tmp_path: Path,
) -> None:
    made = [create(tmp_path) for _ in range(11)]
    for run in made:
        os.utime(run / "config.yaml", (1_000_000, 1_000_000))
    assert runs.list_runs("train", tmp_path) == made
    os.utime(made[3] / "config.yaml", (2_000_000, 2_000_000))
    assert runs.list_runs("train", tmp_path)[-1] == made[3]
    # Not a run yet: killed before its configuration was written.
    (tmp_path / "train-99").mkdir()
    assert len(runs.list_runs(root=tmp_path)) == 11


def test_killed_while_a_named_run_begins_the_name_is_free(tmp_path: Path) -> None:
    assert killed_at_rename(1, lambda: create(tmp_path, name="mine"))
    assert find(tmp_path, name="mine") is None
    assert create(tmp_path, name="mine").name == "mine"


def best(run: Path, when: int) -> Path:
    (run / "best.pt").write_bytes(b"")
    os.utime(run / "best.pt", (when, when))
    return run / "best.pt"


def test_the_newest_best_checkpoint_is_found(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no best\.pt\n  `facever train data\.root=DIR`"):
        runs.newest_best(tmp_path)
    first, second, third = (create(tmp_path, verb) for verb in ("train", "train", "finetune"))
    older, newer = best(first, 1000), best(second, 2000)
    assert runs.newest_best(tmp_path) == newer
    newest = best(third, 3000)
    assert runs.newest_best(tmp_path) == newest
    assert runs.newest_best(tmp_path, verb="train") == newer
    with pytest.raises(CheckpointError, match=r"no finished `train` run with a best\.pt"):
        runs.newest_best(tmp_path, verb="train", finished=True)
    runs.mark_finished(first)
    assert runs.newest_best(tmp_path, verb="train", finished=True) == older


def hold(run: Path) -> tuple[int, int]:
    """Let another process hold a run; give it and a pipe that lets it go when closed."""
    ready, go = os.pipe(), os.pipe()

    def work() -> None:
        os.close(go[1])
        with runs.locked(run):
            os.write(ready[1], b"!")
            os.read(go[0], 1)

    process = forked(work)
    assert os.read(ready[0], 1) == b"!"
    for end in (*ready, go[0]):
        os.close(end)
    return process, go[1]


def test_a_run_that_another_process_works_on_is_refused(tmp_path: Path) -> None:
    run = create(tmp_path)
    process, pipe = hold(run)
    with pytest.raises(StorageError, match=r"another process works on this run; `--run NAME`"):
        runs.locked(run).__enter__()
    os.close(pipe)
    assert outcome(process) == 0
    with runs.locked(run):
        pass


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    run = create(tmp_path)
    process, pipe = hold(run)
    os.kill(process, signal.SIGKILL)
    assert outcome(process) == -signal.SIGKILL
    os.close(pipe)
    with runs.locked(run):
        pass


def test_a_run_that_is_not_there_cannot_be_held(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="absent: cannot be written"):
        runs.locked(tmp_path / "absent").__enter__()


def left_behind(run: Path) -> list[str]:
    ours = {"config.yaml", "environment.json", ".lock", "metrics.jsonl"}
    ours |= {f"{name}.pt{end}" for name in ("last", "previous", "best") for end in ("", ".sha256")}
    return sorted({path.name for path in run.iterdir()} - ours)


@pytest.mark.parametrize("moment", range(6))
def test_what_a_killed_save_left_behind_is_removed_at_the_next_start(
    tmp_path: Path, moment: int
) -> None:
    run = create(tmp_path)
    payload = tiny_payload(encoder={}, loss={}, optimizer={})
    checkpoint.save_last(run, payload, best=True)
    assert killed_at_rename(moment, lambda: checkpoint.save_last(run, payload, best=True))
    assert left_behind(run) != []
    with runs.locked(run):
        assert left_behind(run) == []
