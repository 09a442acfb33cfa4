import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from facever.errors import DataError
from facever.report import write_report
from facever.score import write_scores

HOSTILE = '<script>alert("x")</script>.jpg'
VOID = {"meta", "br", "link", "img"}


class Page(HTMLParser):
    """Collects elements and text, and fails where a tag is closed that is not open."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.text = [], [], [], ""
        self.attributes = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def make_run(folder, scores=True):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        "model:\n  backbone: resnet18\nloss:\n  name: adaface\n  params: {m: 0.4}\n"
    )
    (folder / "environment.json").write_text(
        json.dumps({"device": "cpu", "precision": "fp32", "command": ["facever", HOSTILE]})
    )
    lines = [
        {"step": step, "epoch": step // 1000, "time": 100.0 + step, "grad_norm": 1.0,
         "loss": 9 / (1 + step), "lr": 0.1, "images_per_s": 500.0}
        for step in range(0, 3000, 2)
    ]  # fmt: skip
    lines[5]["loss"] = None
    for epoch, eer in enumerate((20.0, 5.5, 7.0)):
        lines.append({"step": 1000 * epoch, "epoch": epoch, "time": 200.0 + epoch, "EER": eer,
                      "EER_low": eer - 1, "EER_high": eer + 1, "AUC": 0.9})  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if scores:
        rng = np.random.default_rng(0)
        mated = rng.random(1000) < 0.5
        rows = [(HOSTILE, f"{i}.jpg") for i in range(1000)]
        values = 0.1 * rng.standard_normal(1000) + 0.35 * mated
        write_scores(folder / "scores_val.csv", rows, values, mated=mated)
    return folder


def test_a_report_shows_what_was_run_and_what_came_out(tmp_path):
    path = write_report(make_run(tmp_path / "train-1"))
    assert path == tmp_path / "train-1" / "report.html"
    page = Page(path.read_text())
    for fact in ("train-1", "resnet18", "adaface", "cpu", "5.50 %", "500", "49:58", "mated",
                 "threshold", "loss.params.m", "Hardest pairs"):  # fmt: skip
        assert fact in page.text, fact
    assert page.tags.count("svg") == 8
    assert len(page.ids) == len(set(page.ids))


def test_a_report_fetches_nothing_and_runs_nothing(tmp_path):
    text = write_report(make_run(tmp_path / "run"), tmp_path / "page.html").read_text()
    assert not re.search(r"https?:|//[a-z]|@import|<script|<link|<iframe|<img", text)
    page = Page(text)
    assert "script" not in page.tags
    references = [v for k, v in page.attributes if k in ("href", "xlink:href", "src")]
    assert all(value.startswith("#") and value[1:] in page.ids for value in references)
    assert {name[1:] for name in re.findall(r"url\((.*?)\)", text)} <= set(page.ids)
    assert all(not key.startswith("on") for key, _ in page.attributes)


def test_every_text_of_the_run_is_escaped(tmp_path):
    run = make_run(tmp_path / "<b>run & co")
    (run / "config.yaml").write_text(f"model:\n  backbone: '{HOSTILE}'\n'<i>': '\"'\n")
    text = write_report(run).read_text()
    assert HOSTILE in Page(text).text
    assert "&lt;script&gt;" in text
    assert "<b>" not in text
    assert "<i>" not in text


def test_a_report_adapts_to_light_dark_and_phones(tmp_path):
    text = write_report(make_run(tmp_path / "run")).read_text()
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text
    assert "currentColor" in text
    assert not re.search(r'<svg[^>]* width="', text)


@pytest.mark.parametrize("missing", ["config.yaml", "environment.json", "metrics.jsonl",
                                     "scores_val.csv"])  # fmt: skip
def test_a_missing_file_leaves_the_rest_of_the_page(tmp_path, missing):
    run = make_run(tmp_path / "run")
    (run / missing).unlink()
    assert "run" in Page(write_report(run).read_text()).text


def test_an_empty_run_still_has_a_valid_page(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text("")
    page = Page(write_report(run).read_text())
    assert "Nothing was logged yet" in page.text
    assert "config.yaml is missing" in page.text
    assert "svg" not in page.tags


def test_one_line_of_each_kind_is_enough(tmp_path):
    run = make_run(tmp_path / "run", scores=False)
    lines = [{"step": 1, "epoch": 0, "loss": 3.0}, {"step": 1, "epoch": 0, "EER": None}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert Page(write_report(run).read_text()).tags.count("svg") == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("environment.json", "{"),
        ("environment.json", "[1]"),
        ("config.yaml", "a: [\n"),
        ("scores_val.csv", "score,mated\nnan,1\n"),
        ("scores_val.csv", "score,mated\n0.5,1\n"),
        ("metrics.jsonl", '{"step": 1, "loss": 2.0}\n{"step": 2, "lo'),
    ],
)
def test_a_damaged_file_is_left_out_and_said(tmp_path, name, text):
    run = make_run(tmp_path / "run")
    (run / name).write_text(text)
    page = Page(write_report(run).read_text())
    assert name == "metrics.jsonl" or name in page.text


@pytest.mark.parametrize("offset", [-2.0, 0.0, 2.0])
def test_curves_of_perfect_inverted_and_tied_scores_are_drawn(tmp_path, offset):
    run = make_run(tmp_path / "run")
    mated = np.arange(40) % 2
    rows = [(f"a{i}", f"b{i}") for i in range(40)]
    write_scores(run / "scores_val.csv", rows, offset * mated, mated=mated)
    assert Page(write_report(run).read_text()).tags.count("svg") == 8


def test_a_run_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such run"):
        write_report(tmp_path / "absent")
