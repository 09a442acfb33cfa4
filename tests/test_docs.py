"""The documents: their commands are commands, their Python runs, their links lead somewhere."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from conftest import TINY

from facever.cli import COMMANDS as DOCUMENTED
from facever.cli import DATA_COMMANDS, app
from facever.config import resolve
from facever.loss_setup import check_loss

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md"))]
# What stands before a command's words, in a shell, a notebook or under torchrun.
START = re.compile(r"^!?(facever|python -m facever|torchrun .*-m facever) ")


def blocks(page: Path, language: str = "") -> Iterator[str]:
    """Give the fenced blocks of a page that are in a language."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.M | re.S):
        if found[1] == language:
            yield found[2]


def commands(page: Path) -> Iterator[list[str]]:
    """Give the words of each facever command in the fenced blocks of a page."""
    for block in blocks(page):
        for line in re.sub(r"\s*\\\n\s*", " ", block).splitlines():
            if found := START.match(line):
                yield shlex.split(line[found.end() :], comments=True)


COMMANDS = [(page.name, words) for page in PAGES for words in commands(page)]
COMMANDS += [
    (path.name, shlex.split(line)[1:])
    for path in CONFIGS.glob("*.yaml")
    for line in re.findall(r"^# Command +(facever .*)", path.read_text(), re.M)
]
COMMANDS += [
    ("--help", shlex.split(example)[1:])
    for examples in (DOCUMENTED | DATA_COMMANDS).values()
    for example in examples
]


def test_there_are_commands_in_the_documents() -> None:
    assert len(COMMANDS) > 50
    assert {page for page, _ in COMMANDS} >= {"README.md", "tutorial.md", "export.md", "--help"}


@pytest.mark.parametrize(
    "words", [words for _, words in COMMANDS], ids=[f"{p}: {' '.join(w)}" for p, w in COMMANDS]
)
def test_a_command_of_the_documents_is_one_that_facever_knows(words: list[str]) -> None:
    """With its options and its settings, whose names and values the configuration takes."""
    command = typer.main.get_command(app)
    given = list(words)
    while hasattr(command, "commands"):
        command = command.commands[given.pop(0)]
    # Raises for an option that is not there, a value of another kind, or a missing argument.
    values = command.make_context(words[0], given).params
    arguments = [value for kind in ("assignments", "arguments") for value in values.get(kind) or ()]
    settings = [text for text in map(str, arguments) if re.match(r"[a-z]+\.[\w.]+=", text)]
    training = words[0] in ("train", "finetune")
    named = [{"loss": {"name": values["loss"]}}] if training and values["loss"] else []
    resolve(named, settings, check=check_loss if training else None)


def test_what_the_documents_train_can_be_built(facever, faces):
    """Networks, necks and files of settings: what only a dry run can tell."""
    wanted = {
        tuple(word.replace("configs/", f"{CONFIGS}/") for word in words)
        for _, words in COMMANDS
        if words[0] == "train" and any(word == "-c" or "model." in word for word in words)
    }
    # Of those that differ in their data alone, one.
    different = {tuple(word for word in words if "data.root" not in word) for words in wanted}
    for words in sorted(different):
        answer = facever(*words, f"data.root={faces}", "data.pack=files", "--dry-run")
        assert answer.code == 0, answer.err


def test_the_tutorial_s_commands_lead_to_a_submission(facever, faces, tmp_path, monkeypatch):
    """Those for a machine of one's own, on a small data set and with a small encoder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "hw2p2").symlink_to(faces)
    first = next(block for block in blocks(ROOT / "docs" / "tutorial.md") if "stage1" in block)
    lines = re.sub(r"\s*\\\n\s*", " ", first).splitlines()
    done = []
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[0] != "facever" or "fetch" in words or "--upload" in words:
            continue
        small = {"train": TINY, "pack": ("data.image_size=32",), "finetune": TINY[3:]}
        name = words[2] if words[1] == "data" else words[1]
        answer = facever(*words[1:], *small.get(name, ()))
        assert answer.code == 0, answer.err
        done.append(name)
    assert done == ["inspect", "pack", "train", "finetune", "evaluate", "submit"]
    assert (tmp_path / "submissions" / "stage2.csv").exists()


def test_the_python_of_the_pages_on_extending_runs() -> None:
    found = list(blocks(ROOT / "docs" / "extending.md", "python"))
    assert len(found) == 2
    for block in found:
        exec(block, {})


def test_links_between_documents_lead_to_files() -> None:
    broken = [
        f"{page.name} -> {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([\w./-]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert broken == []
