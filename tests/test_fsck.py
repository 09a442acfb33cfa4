"""`facever fsck`: what it finds in a run, what it says a resume would do, and what it mends."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from conftest import TINY
from process_helpers import forked, outcome

from facever import checkpoint, runs
from facever.errors import StorageError
from facever.fsck import examine, repair


@pytest.fixture(scope="module")
def trained(faces, tmp_path_factory):
    """A finished run of two epochs, of which the first is the best."""
    from facever.ask import Ask
    from facever.pipeline import train

    root = tmp_path_factory.mktemp("trained")
    # So large a rate in the second epoch that it is not the better one.
    given = [f"data.root={faces}", *TINY, "optim.schedule=constant", "optim.lr=0.5"]
    run = train(Ask(assignments=given, run="r", root=root)).run
    assert checkpoint.load(run / "best.pt")["epoch"] == 1
    return run


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it that has not come to its end."""
    shutil.copytree(trained, tmp_path / "r")
    (tmp_path / "r" / runs.FINISHED).unlink()
    return tmp_path / "r"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    # A new file: `best.pt` and `previous.pt` may be one file under two names.
    path.unlink()
    path.write_bytes(data)


def problems(run: Path) -> dict[str, str]:
    return {finding.where: finding.problem for finding in examine(run).findings}


def test_a_finished_run_is_sound_and_looking_changes_nothing(facever, trained):
    before = contents(trained)
    answer = facever("fsck", trained, "--json", "-")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["sound"]
    assert found["problems"] == []
    assert found["resume"] == "nothing, the run is finished"
    assert contents(trained) == before


def test_what_is_wrong_leaves_with_3_and_is_listed(facever, run):
    (run / "last.pt").write_bytes(b"PK")
    answer = facever("fsck", run)
    assert answer.code == 3
    assert "problem  last.pt: " in answer.out
    assert "goes on from step 4 in epoch 2 of 2 (previous.pt), with a warning" in answer.out
    assert "problems, listed above: 1" in answer.err


def test_a_run_that_is_not_there_or_in_use_is_refused(facever, run, tmp_path):
    assert facever("fsck", tmp_path / "absent").code == 2
    with runs.locked(run):
        assert outcome(forked(lambda: expect_busy(run))) == 0


def expect_busy(run):
    with pytest.raises(StorageError, match="another process works on this run"):
        examine(run)


def test_a_damaged_last_gives_way_to_the_previous_one(run):
    damage(run / "last.pt")
    health = repair(run)
    assert health.findings == []
    assert [finding.where for finding in health.mended] == ["last.pt"]
    assert (run / "damaged-last.pt").exists()
    assert checkpoint.load(run / "last.pt")["epoch"] == 1


@pytest.mark.parametrize("fault", ["damaged", "missing", "of another epoch"])
def test_the_best_is_found_again_where_another_file_holds_its_epoch(run, fault):
    best = checkpoint.file_digest(run / "best.pt")
    if fault == "damaged":
        damage(run / "best.pt")
    elif fault == "missing":
        (run / "best.pt").unlink()
    else:
        payload = checkpoint.load(run / "best.pt")
        payload["progress"]["best"] = {}
        checkpoint.save(run / "best.pt", payload)
    assert "best.pt" in problems(run)
    assert repair(run).findings == []
    assert checkpoint.file_digest(run / "best.pt") == best


def test_a_best_that_no_other_file_holds_cannot_be_mended(run):
    for name in ("best.pt", "previous.pt"):
        damage(run / name)
    health = repair(run)
    assert [finding.where for finding in health.findings] == ["best.pt"]
    assert "no other file holds that epoch's weights" in health.findings[0].remedy


def test_hashes_temporaries_settings_and_figures_are_mended(run):
    config = (run / "config.yaml").read_text()
    (run / "last.pt.sha256").unlink()
    (run / ".last.pt.new.tmp").write_bytes(b"half")
    (run / "config.yaml").write_text(config.replace("lr: 0.5", "lr: 0.25"))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "ep')
    assert problems(run).keys() == {
        "last.pt", ".last.pt.new.tmp", "config.yaml", "metrics.jsonl",
    }  # fmt: skip
    health = repair(run)
    assert health.findings == []
    assert len(health.mended) == 4
    assert (run / "config.yaml").read_text() == config
    digest = checkpoint.file_digest(run / "last.pt")
    assert (run / "last.pt.sha256").read_text().strip() == digest


def test_a_configuration_that_cannot_be_read_is_written_again(run):
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text("data: [")
    assert "no command finds the run" in examine(run).resume
    repair(run)
    assert (run / "config.yaml").read_text() == config


def test_weights_that_do_not_fit_their_own_description_are_found(run):
    payload = checkpoint.load(run / "last.pt")
    payload["identities"] = payload["identities"][:-1]
    checkpoint.save(run / "last.pt", payload)
    assert "does not fit" in problems(run)["last.pt"]


def test_a_validation_that_is_missing_from_the_figures_is_found(run):
    path = run / "metrics.jsonl"
    path.write_text(
        "".join(ln for ln in path.open() if '"epoch": 1, ' not in ln or "EER" not in ln)
    )
    assert problems(run) == {"metrics.jsonl": "no validation of epoch 1"}


def test_data_that_is_gone_or_changed_is_told_unless_the_run_is_finished(facever, run, faces):
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(faces), str(run / "nowhere")))
    assert "nowhere" in examine(run).resume
    assert "refused" in examine(run).resume
    (run / runs.FINISHED).touch()
    assert "data" not in problems(run)


def test_a_marker_too_early_is_removed_and_the_run_goes_on(facever, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "checkpoints" / "r")
    run = tmp_path / "checkpoints" / "r"
    for name in ("last.pt", "previous.pt"):
        checkpoint.set_aside(run / name)
    checkpoint.link(run / "best.pt", run / "last.pt")
    assert "finished" in problems(run)
    assert "goes on from step 4 in epoch 2 of 2 (last.pt)" in repair(run).resume
    assert not runs.is_finished(run)


def test_what_it_says_of_a_killed_run_is_what_the_next_start_does(facever, faces, tmp_path):
    given = ["train", f"data.root={faces}", *TINY, "optim.epochs=4", "--run", "r"]
    run = tmp_path / "checkpoints" / "r"

    def train_until_killed():
        from facever import engine

        real = engine.train_step

        def step(state, *rest):
            if state.step == 6:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(state, *rest)

        engine.train_step = step
        facever(*given)

    assert outcome(forked(train_until_killed)) == -signal.SIGKILL
    health = examine(run)
    assert health.findings == []
    assert health.resume == "goes on from step 4 in epoch 2 of 4 (last.pt)"
    answer = facever(*given)
    assert answer.code == 0
    assert "going on from step 4 in epoch 2" in answer.err
    assert examine(run).resume == "nothing, the run is finished"
