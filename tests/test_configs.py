"""The files in configs/: that they hold, and that those which repeat defaults repeat them truly."""

from pathlib import Path

import pytest

from facever.config import FINETUNE, flatten, resolve
from facever.demo import SETTINGS
from facever.loss_setup import check_loss
from facever.plainyaml import load_yaml

FOLDER = Path(__file__).parents[1] / "configs"
FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_configuration_resolves_and_says_what_it_is_for(path):
    resolve([load_yaml(path)], check=check_loss)
    head = path.read_text().split("\n\n")[0]
    for word in ("Purpose", "Command", "Hardware", "Time", "EER"):
        assert f"# {word} " in head + path.read_text(), word


def test_the_starting_files_hold_the_defaults():
    defaults = resolve([])
    assert resolve([load_yaml(FOLDER / "train.yaml")]) == defaults
    finetune = load_yaml(FOLDER / "finetune.yaml")
    assert (
        flatten(finetune["optim"]).items()
        <= flatten(resolve([FINETUNE]).to_dict()["optim"]).items()
    )


def test_the_demo_s_file_has_the_demo_s_sizes():
    given = flatten(load_yaml(FOLDER / "demo.yaml"))
    assert flatten(SETTINGS).items() <= given.items()
