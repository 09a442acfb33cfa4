"""What many tests share: a small data set of drawn faces, and the command line in this process."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

# For `pytest --hypothesis-profile=fuzz`.
settings.register_profile("fuzz", max_examples=10_000, deadline=None)

# Small enough that a run of two epochs takes seconds on one busy core.
TINY = (
    "model.backbone=test_resnet", "model.embedding_dim=16", "data.image_size=32",
    "optim.batch_size=16", "optim.epochs=2", "eval.bootstrap=20", "engine.log_every=1",
    "engine.precision=fp32",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=20, help="kills of trainings, over tests/faults")


SUMMARY = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def summary(pytestconfig: pytest.Config) -> list[str]:
    """Lines that are shown when all tests have run."""
    return pytestconfig.stash.setdefault(SUMMARY, [])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for line in config.stash.get(SUMMARY, []):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight drawn people with eight training images each, in the layout of S25."""
    return draw(tmp_path_factory.mktemp("faces") / "S25", "S25")


def draw(out: Path, layout: str) -> Path:
    from facever.data.synth import synthesise

    synthesise(
        out, layout=layout, identities=8, images=8, size=32,
        val_pairs=40, test_pairs=40, ver_identities=40, workers=1,
    )  # fmt: skip
    return out


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


@pytest.fixture
def facever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """Run the command line in this process, in an empty folder; an escaped exception is a bug."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Answer:
        from facever.cli import main

        monkeypatch.setattr(sys, "argv", ["facever", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main()
        captured = capsys.readouterr()
        return Answer(int(leaving.value.code or 0), captured.out, captured.err)

    return run
