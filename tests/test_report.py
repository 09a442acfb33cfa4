import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from facever.errors import DataError
from facever.metrics import paired_bootstrap
from facever.report import Exhibits, LivePage, operating, write_report, write_reports
from facever.score import read_scores, write_scores

HOSTILE = '<script>alert("x")</script>.jpg'
VOID = {"meta", "br", "link", "img", "input"}


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
                 "threshold", "loss.params.m", "Hardest mated pairs"):  # fmt: skip
        assert fact in page.text, fact
    assert page.tags.count("svg") == 9
    assert len(page.ids) == len(set(page.ids))


def test_a_report_fetches_nothing_and_runs_its_own_script_alone(tmp_path):
    text = write_report(make_run(tmp_path / "run"), tmp_path / "page.html").read_text()
    assert not re.search(r"https?:|//[a-z]|@import|<link|<iframe", text)
    page = Page(text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert re.findall(r"script-src ([^;]*);", text) == [f"'sha256-{digest}'"]
    assert script == Path(operating.__file__).with_name("threshold.js").read_text()
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
    assert Page(write_report(run).read_text()).tags.count("svg") == 9


def test_a_run_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such run"):
        write_report(tmp_path / "absent")


@pytest.mark.parametrize("ties", [False, True])
def test_every_place_of_the_slider_counts_what_a_loop_over_the_pairs_counts(ties):
    rng = np.random.default_rng(1)
    mated = rng.random(60) < 0.4
    scores = rng.standard_normal(60) + mated
    points = operating.operating_points(scores.round(0 if ties else 9), mated)
    assert (np.diff(points.thresholds) > 0).all()
    for i, threshold in enumerate(points.thresholds):
        match = [score >= threshold for score in scores.round(0 if ties else 9)]
        assert points.false_matches[i] == sum(
            m and not t for m, t in zip(match, mated, strict=True)
        )
        assert points.misses[i] == sum(t and not m for m, t in zip(match, mated, strict=True))
    assert list(points.named) == ["EER", "FMR 10 %"], "36 pairs do not show an FMR of 1 %"
    assert points.fmr[points.named["FMR 10 %"]] <= 0.1
    assert abs(points.fmr[points.start] - points.fnmr[points.start]) < (0.5 if ties else 0.06)


def exhibits(images=4, pairs=(0, 1)):
    rng = np.random.default_rng(2)
    return Exhibits.of(
        batch=rng.integers(0, 255, (images, 8, 8, 3), dtype=np.uint8),
        sizes=np.array([3, 3, 5, 9]),
        pairs=np.array(pairs),
        pair_images=rng.integers(0, 255, (len(pairs), 2, 8, 8, 3), dtype=np.uint8),
        norms=rng.random(20).astype(np.float32),
        sharpness=rng.random(20).astype(np.float32),
        embeddings=rng.standard_normal((12, 5)).astype(np.float32),
        labels=np.arange(12) % 3,
        names=np.array([HOSTILE, "b", "c"]),
        source=np.array("training images"),
    )


def hardest_rows(run):
    scores = read_scores(run / "scores_val.csv")
    order = np.argsort(scores.scores)
    return [order[scores.mated[order]][0], order[~scores.mated[order]][-1]]


def test_pictures_points_and_the_hardest_pairs_are_shown_where_they_were_kept(tmp_path):
    run = make_run(tmp_path / "run")
    exhibits(pairs=hardest_rows(run)).write(run)
    page = Page(write_report(run).read_text())
    assert page.tags.count("img") == 4 + 2 * 2
    assert page.tags.count("svg") == 9 + 3
    sources = [value for key, value in page.attributes if key == "src"]
    assert all(value.startswith("data:image/jpeg;base64,") for value in sources)
    for words in ("The first batch", "Images per identity", "sharpness", "of their variance"):
        assert words in page.text


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: (run / "exhibits.npz").write_bytes(b"PK\x03\x04 and no more"),
        lambda run: np.savez(run / "exhibits.npz", names=np.array([{}], dtype=object)),
        lambda run: np.savez(run / "exhibits.npz", batch=np.zeros((2, 3))),
        lambda run: np.savez(run / "exhibits.npz", batch=np.zeros((2, 10**5, 1, 3), np.uint8)),
        lambda run: np.savez(run / "exhibits.npz", pairs=np.arange(3)),
        lambda run: np.savez(run / "exhibits.npz", unheard_of=np.arange(3)),
    ],
)
def test_damaged_pictures_are_left_out_and_said(tmp_path, damage):
    run = make_run(tmp_path / "run", scores=False)
    damage(run)
    page = Page(write_report(run).read_text())
    assert "exhibits.npz: damaged" in page.text
    assert page.tags.count("svg") == 6


def two_runs(tmp_path):
    first, second = (make_run(tmp_path / name / "seed-0") for name in "ab")
    (second / "config.yaml").write_text("model:\n  backbone: resnet18\nloss:\n  name: arcface\n")
    rows = read_scores(first / "scores_val.csv")
    noise = 0.1 * np.random.default_rng(3).standard_normal(1000)
    write_scores(second / "scores_val.csv", rows.names, rows.scores + noise, mated=rows.mated)
    return first, second


def test_several_runs_share_a_page_with_their_figures_and_differences(tmp_path):
    first, second = two_runs(tmp_path)
    path = write_reports([first, second])
    assert path == tmp_path / "runs.html"
    text = path.read_text()
    page = Page(text)
    # Both folders have one name; what tells them apart is shown.
    assert {"a/seed-0", "b/seed-0"} <= set(re.findall(r"<td>([^<]*)</td>", text))
    assert page.tags.count("svg") == 6 + 2
    assert ("loss.name", "adaface", "arcface") in rows_of(text)
    assert not any(row[0] == "model.backbone" for row in rows_of(text)), "it does not differ"
    a, b = (read_scores(run / "scores_val.csv") for run in (first, second))
    expected = paired_bootstrap(b.scores, a.scores, a.mated, left=a.left, right=a.right)
    assert f"{100 * expected.difference:+.2f} (" in text
    assert "<script" not in text
    assert "cannot be compared" not in text


def rows_of(text):
    rows = re.findall(r"<tr>(.*?)</tr>", text)
    return [tuple(re.findall(r"<td>(.*?)</td>", row)) for row in rows if "<td>" in row]


def test_runs_that_were_measured_on_different_pairs_are_not_compared(tmp_path):
    first, second = two_runs(tmp_path)
    write_scores(second / "scores_val.csv", [("a", "b")] * 2, [0.5, 0.1], mated=[1, 0])
    bare = tmp_path / "bare"
    bare.mkdir()
    text = write_reports([bare, first, second], tmp_path / "x.html").read_text()
    assert "cannot be compared" in text
    assert "p = " not in text
    assert "bare: config.yaml is missing" in text


def test_a_run_that_is_named_twice_is_an_error(tmp_path):
    run = make_run(tmp_path / "run")
    with pytest.raises(DataError, match="twice"):
        write_reports([run, tmp_path / "run" / "." / ""])


def test_a_page_that_cannot_be_written_costs_one_note(tmp_path, capsys):
    run = make_run(tmp_path / "run", scores=False)
    (run / "report.html").mkdir()
    page = LivePage(run)
    for _ in range(3):
        page.refresh()
    said = capsys.readouterr().err
    assert said.count("warning") == said.count("report.html is not complete") == 1
    assert {path.name for path in run.iterdir()} == {
        "config.yaml", "environment.json", "metrics.jsonl", "report.html"
    }  # fmt: skip


def test_a_page_is_refreshed_in_at_most_a_hundredth_of_the_time(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", scores=False)
    now, written = [0.0], []

    def write(folder):
        written.append(now[0])
        now[0] += 0.5

    monkeypatch.setattr("facever.report.live.write_report", write)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    page = LivePage(run)
    for _ in range(1000):
        now[0] += 1
        page.refresh()
    assert written[0] == 1
    assert 0.9 * now[0] < 50 * len(written) < now[0] + 50
