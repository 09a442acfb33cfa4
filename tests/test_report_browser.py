"""Reports as a browser shows them: row C5, phones and desks, light and dark."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from browser_helpers import browser, visit
from conftest import TINY
from test_security import HOSTILE, HOSTILE_NAME, hostile_run

from facever.report import laboratory

if TYPE_CHECKING:
    from playwright.sync_api import Browser

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
    assert not {"script", "img", "iframe", "link", "object", "embed"} & seen.elements


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
