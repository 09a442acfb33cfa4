"""Settings and what runs left on disk, as a user or a stranger may have written them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fuzz_helpers import FUZZ, attempt, folder_in_memory, is_number, twice
from fuzz_strategies import ODD_VALUES, TEXT, chunks, mutated, picked
from hypothesis import example, given
from hypothesis import strategies as st

from facever import runs
from facever.config import Config, known_keys, resolve
from facever.loss_setup import check_loss
from facever.losses import LOSSES
from facever.plainyaml import dump_yaml, load_yaml, parse_yaml
from facever.report.page import write_report
from facever.report.record import flattened, read_record


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with folder_in_memory() as folder:
        yield folder


# --- settings ---------------------------------------------------------------------------------

YAMLS = (
    b"optim:\n  lr: 0.05\n  epochs: 3\nloss:\n  name: adaface\n  params: {m: 0.4, h: 0.333}\n",
    b"# a comment\ndata: {root: 'data/x', identities: null}\ntrack:\n  wandb: off\n",
    b"optim:\n  milestones:\n    - 0.5\n    - .75\n    - 1e-1\n",
    b'a: "\\u00e9\\n"\nb: |\n  text\n  more\nc: >-\n  folded\n',
    b"? a\n: - - 1\n    - 2\n  - {b: [c, d]}\n",
)
YAML_WORDS = (
    *TEXT, b"&a ", b"*a", b"<<: *a", b"!!python/object/apply:os.system [ls]", b"!!binary aGk=",
    b"!x ", b"%YAML 9.9\n", b"---\n", b"...\n", b"[" * 300, b"{a: " * 300, b"- " * 300,
    b"? " * 300, b": ", b"- ", b"[", b"]", b"{", b"}", b"|+9\n", b'"\\ud800"', b'"\\UFFFFFFFF"',
    b'"\\xff', b"'", b"~", b"true", b"2020-01-01", b"12:30:00", b".inf", b"@", b"`",
)  # fmt: skip
FIELDS = (
    "a",
    "1",
    "1e5",
    "~",
    "'x'",
    '"\\t"',
    "no",
    "- ",
    "&x",
    "*x",
    "!y",
    "?",
    ":",
    "#",
    "\t",
    "",
)
FLOWS = (
    *FIELDS,
    "[]",
    "{}",
    "[a, 1, [2]]",
    "{a: 1, b: {c: ~}}",
    "[a",
    "}",
    "{a, b}",
    "[a: 1]",
    "|",
    ">-",
)
# Three bytes for each line: its indentation, key and value.
blocks = chunks(3, 6).map(
    lambda codes: "".join(
        f"{' ' * (indent % 4 * 2)}{picked(FIELDS, key)}: {picked(FLOWS, value)}\n"
        for indent, key, value in codes
    ).encode()
)


def is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(is_plain, value))
    if type(value) in (int, float):
        return is_number(value)
    return value is None or type(value) in (bool, str)


@FUZZ
@given(written=mutated(YAMLS, YAML_WORDS) | blocks)
@example(written=b'a: "\\UFFFFFFFF"')
@example(written=b"a: 1e999")
@example(written=b"a: 1" + b"0" * 400)
def test_yaml(folder: Path, written: bytes) -> None:
    file = folder / "config.yaml"
    file.write_bytes(written)
    values = twice("YAML", lambda: load_yaml(file), file.parent)
    if values is not None:
        assert is_plain(values)
        assert parse_yaml(dump_yaml(values), "again") in (values, None)


ODD_TEXT = (
    "", "null", "true", "no", "1e-3", "1e999", "-1", "0", "nan", "inf", "9" * 400, "9" * 5000,
    "[", "[1,2]", "[" * 300, "{", "{a: 1}", "{m: {m: 1}}", "*a", "!!python/name:os.system", "'",
    "\0", "\udcff", "\ud800", "\u0663", "1_0", "0x10", "a=b", "../..", "x" * 10_000, " 1 ",
    "ce+triplet", "0.5*ce+1e999*triplet", "ce+ce", "+", "*", "adaface", "0.3", "[0.5, nan]",
)  # fmt: skip
KEYS = (
    *known_keys(), *known_keys(), "loss.params.m", "loss.params.s", "loss.params.h",
    "loss.params.triplet.m", "loss.params.ce", "loss.params.ce.label_smoothing", "loss.params",
    "loss.name", "loss", "optim.lr.x", ".", "a", "", "optim.", "x" * 5000 + ".y", "a." * 3000 + "b",
    "data.root.\udcff", "\0.\0", "Optim.LR", "optim..lr", "loss.params.{.x",
)  # fmt: skip
PLAUSIBLE = ("0", "1", "2", "0.5", "0.1", "16", "true", "false", "null", "auto", "off", *LOSSES)
VALUES = (*ODD_TEXT, *PLAUSIBLE, *PLAUSIBLE)
assignments = chunks(2, 3).map(
    lambda codes: [f"{picked(KEYS, key)}={picked(VALUES, value)}" for key, value in codes]
)
SECTIONS = (*Config.model_fields, "x")
INNER = ("name", "params", "lr", "root", "milestones", "m", "label_smoothing")
ODD_NESTED = (*ODD_VALUES, *({key: odd} for key in ("m", "s", "ce") for odd in ODD_VALUES))
layers = chunks(3, 2).map(
    lambda codes: [
        {picked(SECTIONS, section): {picked(INNER, key): picked(ODD_NESTED, value)}}
        for section, key, value in codes
    ]
)


SMOOTHED = "loss.label_smoothing=0.1"


@FUZZ
@given(layers=st.just([]) | layers, assignments=assignments)
@example(layers=[], assignments=["a." * 3000 + "b=1"])
@example(layers=[], assignments=["loss.name=ce+triplet", "loss.params.ce=3", SMOOTHED])
@example(layers=[{"loss": {"name": "adaface", "params": {"m": 10**400}}}], assignments=[])
def test_settings(folder: Path, layers: list[dict[str, Any]], assignments: list[str]) -> None:
    config = attempt("settings", lambda: resolve(layers, assignments, check=check_loss), folder)
    if config is not None:
        assert resolve([config.to_dict()], check=check_loss) == config


# --- what a run left --------------------------------------------------------------------------

LINE = {"step": 3, "epoch": 0, "time": 1.5, "loss": 2.0, "lr": 0.1, "EER": None, "mu": [1.0, None]}
METRICS = (
    b'{"step": 1, "epoch": 0, "time": 9.5, "loss": 2.5, "lr": 0.1, "images_per_s": 80.0}\n'
    b'{"step": 1, "epoch": 1, "time": 9.75, "EER": 12.5, "EER_low": 10.0, "EER_high": null}\n',
)
JSON_WORDS = (
    *TEXT, b"NaN", b"Infinity", b"-Infinity", b"[" * 5000, b'{"a":' * 5000, b'"\\ud800"', b"{}",
    b"[]", b"null", b"true", b'"step": ', b'"EER": ', b'"time": ', b'"parent": ', b'"verb": ', b":",
    b"1" + b"0" * 400, b'"', b'"loss": "x", ', b'{"step": 0, "epoch": 0}', b"1.5", b'[1, "x"]',
)  # fmt: skip
ENVIRONMENTS = (
    b'{"verb": "train", "parent": null, "device": "cpu", "versions": {"torch": "2.6"}}',
    b'{"verb": "finetune", "parent": "checkpoints/train-1/best.pt", "precision": "fp32"}',
)


def _json_line(changes: Mapping[str, Any]) -> bytes:
    return json.dumps({**LINE, **changes}).encode()


NAMES = (*LINE, "images_per_s", "\ud800")
odd_lines = chunks(2, 3).map(
    lambda codes: _json_line({picked(NAMES, key): picked(ODD_VALUES, odd) for key, odd in codes})
)


RUN = {
    "metrics.jsonl": METRICS[0],
    "environment.json": ENVIRONMENTS[0],
    "config.yaml": b"optim: {lr: 0.05}\n",
}
odd_files = (
    st.tuples(st.just("metrics.jsonl"), mutated(METRICS, JSON_WORDS) | odd_lines)
    | st.tuples(st.just("environment.json"), mutated(ENVIRONMENTS, JSON_WORDS))
    | st.tuples(st.just("config.yaml"), mutated(YAMLS, YAML_WORDS))
)


@FUZZ
@given(odd=odd_files)
@example(odd=("metrics.jsonl", b"\xff"))
@example(odd=("metrics.jsonl", b"[" * 5000))
@example(odd=("metrics.jsonl", b"9" * 5000))
@example(odd=("metrics.jsonl", b'{"step": null, "epoch": 0, "loss": 1}'))
@example(
    odd=("metrics.jsonl", b'{"step": 1, "epoch": 0, "loss": NaN, "EER": 1' + b"0" * 400 + b"}")
)
@example(odd=("environment.json", b"[" * 5000))
@example(odd=("environment.json", b'{"verb": "train", "parent": 3}'))
def test_what_a_run_left(folder: Path, odd: tuple[str, bytes]) -> None:
    root = folder / "checkpoints"
    run = root / "train-1"
    run.mkdir(parents=True, exist_ok=True)
    for name, content in {**RUN, odd[0]: odd[1]}.items():
        (run / name).write_bytes(content)

    def read() -> Any:
        runs.find_run("train", None, {}, root=root)
        return read_record(run)

    record = attempt("runs", read, root)
    assert record is not None, "a report leaves out what it cannot read"
    for line in (*record.train, *record.validation):
        assert type(line["step"]) is type(line["epoch"]) is int
        assert all(value is None or is_number(value) for value in line.values())
    for values in (record.config, record.environment):
        assert all(type(text) is str for leaf in flattened(values) for text in leaf)


def test_a_report_is_written_of_the_largest_and_the_oddest_figures(folder: Path) -> None:
    run = folder / "odd"
    run.mkdir()
    largest = [{**dict.fromkeys(LINE, sign * 3e38), "step": 1, "epoch": 0} for sign in (-1, 1)]
    odd: list[Any] = [None, [1], ""]
    lines = [*largest, *({**LINE, "time": value, "lr": value, "EER": value} for value in odd)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "environment.json").write_text('{"device": "\\ud800", "versions": null}')
    (run / "scores_val.csv").write_text("score,mated\n3e38,1\n-3e38,0\n1e-320,1\n")
    assert write_report(run).read_text().rstrip().endswith("</html>")
