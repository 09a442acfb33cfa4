"""Trainings killed with SIGKILL at random moments and started again (B1, B2 of reliability.md).

`make faults` kills 200 times, `make faults KILLS=20` as often as CI.
"""

import pytest
from conftest import TINY
from harness import Tally, finish, torment

from facever.checkpoint import file_digest

LONG = ("optim.epochs=10", "optim.warmup=1")
CASES = {
    "ce, dropout": ("train", "model.drop_rate=0.2"),
    "ce, files, 2 workers": ("train", "data.pack=files", "data.workers=2"),
    "adaface, accumulation": ("train", "--loss", "adaface", "optim.accumulate=2"),
    "elasticface, averaging": ("train", "--loss", "elasticface", "optim.ema=0.9"),
    "triplet": ("train", "--loss", "triplet"),
    "sum, plateau": (
        "train", "--loss", "ce+0.5*triplet", "optim.schedule=plateau", "optim.patience=0",
        "optim.ema=0.9", "eval.every=2",
    ),
    "finetune, bf16": ("finetune", "--loss", "adaface", "engine.precision=bf16"),
}  # fmt: skip


@pytest.fixture(scope="module")
def tally(summary):
    """Counts over all cases, shown at the end."""
    total = Tally()
    yield total
    summary.append(str(total))


def test_two_kills_leave_no_trace(faces, tmp_path):
    """The least of it, for every run of the suite."""
    verb, *settings = CASES["sum, plateau"]
    given = [verb, f"data.root={faces}", *TINY, "optim.epochs=5", *settings]
    assert torment(tmp_path, given, kills=2, seed=1).kills == 2


@pytest.mark.faults
@pytest.mark.timeout(0)
@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_ends_like_one_that_was_not(case, faces, tmp_path, request, tally):
    kills = -(-request.config.getoption("--kills") // len(CASES))
    verb, *settings = CASES[case]
    common = [f"data.root={faces}", *TINY]
    if verb == "finetune":
        finish(tmp_path, ["train", *common, "--run", "parent"])
        parent = tmp_path / "checkpoints" / "parent" / "best.pt"
        settings += ["--from", "checkpoints/parent/best.pt"]
        digest = file_digest(parent)
    found = torment(tmp_path, [verb, *common, *LONG, *settings], kills, seed=len(case))
    assert found.kills >= kills
    tally.add(found)
    if verb == "finetune":
        assert file_digest(parent) == digest
