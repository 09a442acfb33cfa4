"""Reports as a browser shows them: row C5, phones and desks, light and dark."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from browser_helpers import browser, visit
from conftest import TINY
from test_report import exhibits, hardest_rows, make_run
from test_security import HOSTILE, HOSTILE_NAME, hostile_run

from facever.metrics import det_curve, eer_threshold
from facever.report import laboratory, write_report, write_reports
from facever.score import read_scores

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# WCAG 2, level AA, of text of normal size.
READABLE = 4.5


@pytest.fixture(scope="module")
def chromium() -> Iterator["Browser"]:
    with browser() as started:
        yield started


def report_of_a_run(factory: pytest.TempPathFactory) -> Path:
    return hostile_run(factory) / "checkpoints" / "r" / "report.html"


def comparison(factory: pytest.TempPathFactory) -> Path:
    """A page with a hostile word wherever it takes one, and a picture of each size."""
    rng, epochs = np.random.default_rng(0), np.arange(5)
    z, y = rng.normal(size=(30, 4)), np.arange(30) % 3
    faces = rng.integers(0, 255, (3, 8, 8, 3), dtype=np.uint8)
    names = [HOSTILE, "b", "c"]
    pictures = [
        laboratory.curves("c", HOSTILE, {HOSTILE: [(epochs, epochs + 1.0)]}, HOSTILE, "min"),
        laboratory.embedding_maps({HOSTILE: (z, y, None), "b": (z, y, None)}, names),
        laboratory.samples(faces, names, names),
    ]
    return laboratory.write_comparison(
        factory.mktemp("comparison") / HOSTILE_NAME / "report.html",
        title=HOSTILE,
        facts=[("data", HOSTILE), (HOSTILE, "x" * 200)],
        header=["loss", HOSTILE, *"abcdefghij"],
        rows=[[HOSTILE, *["12.34 ± 5.67"] * 11]],
        notes=[HOSTILE, "y" * 300],
        sections=[(HOSTILE, pictures)],
    )


def several_runs(factory: pytest.TempPathFactory) -> Path:
    """A run with pictures, points and hostile words, and one that lacks nearly everything."""
    folder = factory.mktemp("several")
    full, bare = make_run(folder / HOSTILE_NAME), make_run(folder / "bare", scores=False)
    (full / "config.yaml").write_text(f"loss:\n  name: '{HOSTILE.replace(chr(39), '')}'\n")
    return write_reports([full, bare])


def laboratory_command(factory: pytest.TempPathFactory) -> Path:
    """The whole of `facever compare` on hostile data."""
    from facever.compare import Request, compare

    out = factory.mktemp("command") / "lab"
    data = str(hostile_run(factory) / HOSTILE_NAME)
    compare(Request(data, ["ce", "adaface"], assignments=[*TINY, "optim.epochs=1"], out=out))
    return out / "report.html"


@pytest.fixture(
    scope="module",
    params=[
        report_of_a_run,
        comparison,
        several_runs,
        pytest.param(laboratory_command, marks=pytest.mark.slow),
    ],
    ids=lambda make: make.__name__,
)
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = request.param(tmp_path_factory)
    return path


def test_a_page_asks_for_nothing_complains_of_nothing_fits_and_is_readable(
    chromium: "Browser", page: Path
) -> None:
    seen = visit(chromium, page)
    assert seen.requests == []
    assert seen.complaints == []
    assert not seen.ran
    assert len(seen.looks) == 4
    for kind, look in seen.looks.items():
        assert look.excess <= 0, kind
        assert len(look.contrasts) > 30
        assert {text: ratio for text, ratio in look.contrasts.items() if ratio < READABLE} == {}
        assert look.ground > 0.8 if "light" in kind else look.ground < 0.1


def test_what_is_hostile_is_shown_and_not_run_whatever_the_browser_allows(
    chromium: "Browser", page: Path
) -> None:
    """The page's policy, which is the second wall, is left out of account here."""
    seen = visit(chromium, page, trusting=True)
    assert not seen.ran
    assert seen.requests == []
    assert HOSTILE in seen.text or HOSTILE_NAME in seen.text
    assert not {"iframe", "link", "object", "embed"} & seen.elements


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run that has everything."""
    run = make_run(tmp_path_factory.mktemp("full") / "run")
    exhibits(images=24, pairs=hardest_rows(run)).write(run)
    return write_report(run)


def shown_rate(page: "Page", name: str) -> float:
    return float(page.locator(f"#{name}").inner_text().split(" %")[0]) / 100


def place(page: "Page", mark: int) -> list[float]:
    """Where the page drew the mark: the threshold's line, the dot on the DET, that on the ROC."""
    box = page.locator("[data-places]").nth(mark).bounding_box()
    assert box is not None
    return [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]


def test_the_slider_shows_what_the_metrics_say_and_moves_the_marks(
    chromium: "Browser", full: Path
) -> None:
    scores = read_scores(full.parent / "scores_val.csv")
    fmr, fnmr, thresholds = det_curve(scores.scores, scores.mated)
    page = chromium.new_page(viewport={"width": 400, "height": 900})
    page.goto(full.as_uri())
    slider = page.get_by_role("slider", name="Threshold")
    assert float(page.locator("#at").inner_text()) == pytest.approx(
        eer_threshold(scores.scores, scores.mated), rel=1e-5
    )
    seen = []
    slider.focus()
    for key in ("Home", *["ArrowRight"] * 3, *["PageUp"] * 5, "End"):
        page.keyboard.press(key)
        threshold = float(page.locator("#at").inner_text())
        at = int(np.searchsorted(thresholds, threshold))
        assert shown_rate(page, "fmr") == pytest.approx(fmr[at], abs=6e-5)
        assert shown_rate(page, "fnmr") == pytest.approx(fnmr[at], abs=6e-5)
        assert f"{threshold:g}" in (slider.get_attribute("aria-valuetext") or "")
        seen.append([threshold, *place(page, 0), *place(page, 1), *place(page, 2)])
    (low, *_), (high, *_) = seen[0], seen[-1]
    assert low == pytest.approx(scores.scores.min(), abs=1e-3)
    assert high == pytest.approx(scores.scores.max(), abs=1e-3)
    table = np.array(seen)
    # The line goes with the threshold, evenly; FMR falls, so that both dots go to the left.
    slopes = np.diff(table[:, 1]) / np.diff(table[:, 0])
    assert slopes == pytest.approx(np.full(slopes.size, slopes.mean()), rel=0.5)
    assert (np.diff(table[:, 3]) <= 0).all()
    assert (np.diff(table[:, 5]) <= 0).all()
    assert table[0, 3] - table[-1, 3] > 200
    page.get_by_role("button", name="EER").click()
    assert shown_rate(page, "fmr") == pytest.approx(shown_rate(page, "fnmr"), abs=0.01)
    page.close()


def test_without_scripts_the_page_lacks_the_slider_alone(chromium: "Browser", full: Path) -> None:
    page = chromium.new_page(java_script_enabled=False)
    page.goto(full.as_uri())
    assert not page.get_by_role("slider").is_visible()
    assert page.get_by_role("cell", name="EER", exact=True).is_visible()
    assert page.locator("svg").count() == 12
    assert all(place(page, mark)[1] > 250 for mark in range(3))
    page.close()


BAD = """<!doctype html><meta charset="utf-8"><title>bad</title>{policy}
<style>p {{ color: #999; background: #fff; width: 1300px }}</style>
<p>pale</p><script>hostile = 1; console.error("complaint"); fetch("http://127.0.0.1:9/x")</script>
<img src="neighbour.png">"""
POLICY = """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
style-src 'unsafe-inline'">"""


def test_a_bad_page_is_found_out(chromium: "Browser", tmp_path: Path) -> None:
    """Else the silence of the others would prove nothing."""
    (tmp_path / "bad.html").write_text(BAD.format(policy=""))
    seen = visit(chromium, tmp_path / "bad.html")
    assert {request.rpartition("/")[2] for request in seen.requests} == {"x", "neighbour.png"}
    assert "error: complaint" in seen.complaints
    assert seen.ran
    assert seen.looks["light 1200"].excess > 90
    assert seen.looks["light 400"].excess > 890
    assert 2.8 < seen.looks["dark 400"].contrasts["pale"] < 2.9


def test_the_policy_of_a_page_stops_what_was_not_escaped(
    chromium: "Browser", tmp_path: Path
) -> None:
    (tmp_path / "bad.html").write_text(BAD.format(policy=POLICY))
    walled = visit(chromium, tmp_path / "bad.html")
    assert not walled.ran
    # Playwright tells of what the policy then stops: of the script's request it hears nothing.
    assert [request.rpartition("/")[2] for request in walled.requests] == ["neighbour.png"]
    assert sum("Content Security Policy" in line for line in walled.complaints) == 2
    assert visit(chromium, tmp_path / "bad.html", trusting=True).ran
