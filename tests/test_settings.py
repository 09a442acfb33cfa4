"""Every knob as text."""

from pathlib import Path

import pytest
import yaml

from facever.config import Config, flatten, known_keys, resolve
from facever.plainyaml import load_yaml
from facever.settings import commented_yaml, complete, describe


def test_the_commented_file_holds_every_default(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(commented_yaml())
    assert load_yaml(path) == Config().to_dict()
    assert resolve([load_yaml(path)]) == Config()


def test_the_commented_file_says_something_about_every_knob() -> None:
    knobs = [line for line in commented_yaml().splitlines() if line.startswith("  ")]
    assert len(knobs) == len(known_keys())
    for line in knobs:
        comment = line.partition("  # ")[2]
        assert len(comment) > 5, line
        assert "None" not in comment, line


def test_every_key_is_described_in_order_with_its_default() -> None:
    rows = describe().splitlines()
    assert [row.partition("=")[0] for row in rows] == known_keys()
    defaults = flatten(Config().to_dict())
    for row in rows:
        key, _, shown = row.partition("=")
        default = yaml.safe_load(f"x: {shown.split('  ')[0]}")["x"]
        # `off` is a word to facever and false to plain YAML.
        assert default == defaults[key] or (default, defaults[key]) == (False, "off"), row


def test_bounds_and_choices_are_described() -> None:
    rows = {row.partition("=")[0]: row for row in describe().splitlines()}
    assert ">= 16, <= 1024" in rows["data.image_size"]
    assert "sgd | adamw" in rows["optim.name"]
    assert "> 0" in rows["optim.lr"]
    assert "pixels" in rows["data.image_size"]


def test_on_a_terminal_no_line_is_wider_than_it_and_the_meanings_stand_in_one_column() -> None:
    rows = describe(90).splitlines()
    assert max(map(len, rows)) <= 90
    column = rows[0].index("folder of")
    assert all(row[column - 1] == " " and row[column] != " " for row in rows)
    assert " ".join(" ".join(rows).split()) == " ".join(describe().split())


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("optim.l", ["optim.lr=0.1"]), ("eval.fl", ["eval.flip=true"]), ("nothing.", [])],
)
def test_a_setting_that_is_begun_is_completed_with_its_default(
    typed: str, offered: list[str]
) -> None:
    assert [text for text, _ in complete(typed)] == offered
