"""YAML as people mean it (A7 of reliability.md)."""

import string
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facever.errors import ConfigError
from facever.plainyaml import dump_yaml, load_yaml, parse_yaml


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("1E5", 1e5), ("-2.5e+3", -2500.0), (".5", 0.5), ("+.5", 0.5),
        ("3.", 3.0), ("0.1", 0.1), ("12", 12), ("-7", -7), ("+7", 7), ("0", 0),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
    ],
)  # fmt: skip
def test_numbers_truth_values_and_null_are_typed(tmp_path: Path, text: str, value: object) -> None:
    read = load_yaml(write(tmp_path / "c.yaml", f"a: {text}\n"))["a"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "word",
    ["no", "off", "yes", "on", "NO", "y", "0001", "007", "0x10", "0o7", "1_000", "12:30:00",
     "2020-01-01", "NA", ".inf", ".nan", "1e", "e5", "1.2.3", "=", "<<"],
)  # fmt: skip
def test_what_yaml_1_1_would_change_stays_a_word(tmp_path: Path, word: str) -> None:
    assert load_yaml(write(tmp_path / "c.yaml", f"a: {word}\n")) == {"a": word}


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("a: 1\nb: !!python/object/apply:os.mkdir [hostile]\n", 2, "python/object"),
        ("a: !!python/name:os.system\n", 1, "python/name"),
        ("a: !mine 3\n", 1, "!mine"),
        ("a: &x [1]\nb: *x\n", 2, "alias"),
        ("optim:\n  lr: 1\n  epochs: 2\n  lr: 3\n", 4, "duplicate key 'lr'"),
        ("optim:\n\tlr: 1\n", 2, r"'\\t'"),
        ("- optim\n- loss\n", 1, "list at the root"),
        ("just words\n", 1, "str at the root"),
        ("a: 1\n2: b\n", 2, "key 2; expected a word"),
        ("a: [1, 2\nb: 3\n", 2, "expected"),
        ("a: 'open\n", 2, "end of stream"),
        ("a: 1\n---\nb: 2\n", 2, "another document"),
    ],
)
def test_what_is_refused_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, line: int, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "c.yaml", text)
    with pytest.raises(ConfigError, match=reason) as caught:
        load_yaml(path)
    assert str(caught.value).startswith(f"{path}: line {line}: ")
    assert not (tmp_path / "hostile").exists()


def test_an_alias_bomb_is_refused_before_it_grows(tmp_path: Path) -> None:
    """Nine levels of nine aliases are 387 million words."""
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    started = time.process_time()
    with pytest.raises(ConfigError, match="line 2: an alias"):
        load_yaml(write(tmp_path / "c.yaml", "\n".join(lines)))
    assert time.process_time() - started < 1


@pytest.mark.parametrize("text", ["[" * 5000, "{a: " * 5000, "a: " + "9" * 5000, "a: \0", "\x85]"])
def test_what_no_parser_can_hold_is_a_config_error(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "c.yaml", text)
    with pytest.raises(ConfigError, match=r"not YAML|line"):
        load_yaml(path)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a: \xe9\n"])
def test_a_file_that_is_not_utf_8_is_a_config_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"c\.yaml: cannot be read"):
        load_yaml(path)


def test_a_file_that_is_absent_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read as a configuration file"):
        load_yaml(tmp_path / "absent.yaml")


@pytest.mark.parametrize("text", ["", "\n# nothing\n", "null\n", "\ufeff"])
def test_a_file_without_values_gives_none(tmp_path: Path, text: str) -> None:
    assert load_yaml(write(tmp_path / "c.yaml", text)) == {}


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "\ufeffoptim:\r\n  lr: 1e-3\r\n")
    assert load_yaml(path) == {"optim": {"lr": 1e-3}}


TAGS = ["binary aGk=", "set {x}", "timestamp 2020-01-01", "timestamp x", "omap [x: 1]",
        "pairs [x: 1]", "bool maybe", 'int ""', 'float ""', "int x", "set [1]"]  # fmt: skip


@pytest.mark.parametrize("tag", TAGS)
def test_yaml_s_own_tags_build_no_objects_either(tag: str) -> None:
    with pytest.raises(ConfigError, match="line 1"):
        parse_yaml(f"a: !!{tag}", "c.yaml")


def is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(is_plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab01e.-+:,#?&*!|>%@`'\"~<= \n\t[]{}\\u") | st.characters()))
def test_any_text_gives_plain_values_or_a_config_error(text: str) -> None:
    try:
        value = parse_yaml(text, "fuzz.yaml")
    except ConfigError as error:
        assert str(error).startswith("fuzz.yaml:")  # noqa: PT017 (either outcome is right)
    else:
        assert is_plain(value)


TRICKY = ["0001", "no", "null", "1e5", "1e-3", "True", "", "~", "-", "- a", "a: b", "#", " x ", "'",
          '"', "*a", "&a", "!a", "%", "@", "`", "=", "<<", ".5", "+1", "0", "[", "{}", "\n", "a\nb",
          "\t", "\ufeff", "\u2028", "é😀", "---", "...", "?", "|", ">", "NULL", "Null"]  # fmt: skip

# PyYAML reads back U+0085, a line end of the IBM 3270, as a space.
characters = st.characters(exclude_categories=["Cs"], exclude_characters="\x85")
strings = st.sampled_from(TRICKY) | st.text(characters, max_size=12)
primitives = (
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | strings
)
nested = st.recursive(
    primitives,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(strings, inner, max_size=3),
    max_leaves=8,
)


def typed(value: Any) -> Any:
    """Tell 1, 1.0 and True apart, which Python calls equal."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    return (type(value), value)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(strings, nested, max_size=4))
def test_what_is_written_is_read_back_with_its_types(values: dict[str, Any]) -> None:
    assert typed(parse_yaml(dump_yaml(values), "text") or {}) == typed(values)


def test_each_tricky_string_survives_a_file(tmp_path: Path) -> None:
    values = {"words": TRICKY, "keys": {word: i for i, word in enumerate(TRICKY)}}
    path = tmp_path / "c.yaml"
    path.write_bytes(dump_yaml(values).encode())
    assert typed(load_yaml(path)) == typed(values)


def test_a_value_that_stands_twice_is_written_twice() -> None:
    """An anchor and an alias, which is what PyYAML writes, could not be read back."""
    shared = [1, {"a": "b"}]
    values = {"left": shared, "right": shared}
    assert parse_yaml(dump_yaml(values), "text") == values


def test_plain_words_are_written_without_quotes_and_in_order() -> None:
    values = {"wandb": "off", "name": "no", "backbone": "resnet18", "accent": "é"}
    expected = "wandb: off\nname: no\nbackbone: resnet18\naccent: é\n"
    assert dump_yaml(values) == expected


def test_printable_ascii_survives_as_a_key() -> None:
    values = {character: character for character in string.printable}
    assert parse_yaml(dump_yaml(values), "text") == values
