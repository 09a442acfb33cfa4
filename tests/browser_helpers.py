"""A real browser that looks at pages: Debian's, Google's, or the one that CHROMIUM names."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Scheme = Literal["dark", "light"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
WIDTHS = (1200, 400)
NAMES = ("chromium", "google-chrome", "chromium-browser")

# Of every text that is shown: its contrast with what it stands on, as WCAG 2 computes it, of the
# colours that the browser came to, transparency included.
CONTRASTS = """() => {
  const rgba = (text) => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((c, i) => a * c + (1 - a) * under[i]);
  const light = (colour) => {
    const [r, g, b] = colour.map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const canvas = matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0] : [255, 255, 255];
  const ground = (element) => element === null ? canvas
    : over(rgba(getComputedStyle(element).backgroundColor), ground(element.parentElement));
  const opacity = (element) => element === null ? 1
    : getComputedStyle(element).opacity * opacity(element.parentElement);
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement, style = getComputedStyle(element);
    const text = texts.currentNode.data.trim();
    if (!text || !element.checkVisibility() || element.closest("style, script, defs")) continue;
    const svg = element instanceof SVGElement, under = ground(element);
    const colour = rgba(svg ? style.fill : style.color);
    colour[3] *= opacity(element) * (svg ? style.fillOpacity : 1);
    const [a, b] = [light(over(colour, under)), light(under)];
    found.push([text, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), b]);
  }
  return found;
}"""


def chromium() -> str | None:
    """Find the browser of this machine."""
    candidates = (os.environ.get("CHROMIUM"), *NAMES)
    return next((path for name in candidates if name and (path := shutil.which(name))), None)


@contextmanager
def browser() -> Iterator["Browser"]:
    """Start the browser; the test is skipped where there is none."""
    path = chromium()
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed; CHROMIUM=PATH names one")
    sync_api = pytest.importorskip("playwright.sync_api", reason="no browser: no playwright")
    # Its sandbox refuses to work for root, whom a container often has.
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=path, chromium_sandbox=os.geteuid() != 0
        )
        yield started
        started.close()


@dataclass(frozen=True)
class Look:
    """How a page looks in one window.

    Attributes:
        excess: pixels by which it is wider than the window.
        contrasts: of each text, the ratio of luminance to its ground, from 1 to 21.
        ground: median luminance below the texts, 0 black to 1 white.
    """

    excess: float
    contrasts: dict[str, float]
    ground: float


@dataclass
class Visit:
    """What a browser saw of a page.

    Attributes:
        requests: addresses that it asked for, but for the page's own and `data:`.
        complaints: all lines of its console, and uncaught errors.
        ran: whether a script of the page set `hostile`.
        text: as a reader has it before the eyes, everything unfolded.
        elements: names of all elements.
        looks: by scheme and width of the window, such as `dark 400`.
    """

    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    ran: bool = False
    text: str = ""
    elements: set[str] = field(default_factory=set)
    looks: dict[str, Look] = field(default_factory=dict)


def visit(started: "Browser", path: Path, *, trusting: bool = False) -> Visit:
    """Open a file, unfold all of it, and look at it by day and night, on a desk and a phone.

    Args:
        started: the browser.
        path: the page.
        trusting: whether the page's Content-Security-Policy is left out of account.
    """
    seen, own = Visit(), path.absolute().as_uri()
    context = started.new_context(bypass_csp=trusting)
    try:
        page = context.new_page()
        _listen(page, own, seen)
        page.goto(own)
        page.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
        seen.looks = {
            f"{scheme} {width}": _look(page, scheme, width)
            for scheme in SCHEMES
            for width in WIDTHS
        }
        seen.ran = page.evaluate("typeof hostile !== 'undefined'")
        seen.text = page.evaluate("document.body.innerText")
        seen.elements = set(
            page.evaluate("[...document.querySelectorAll('*')].map((each) => each.localName)")
        )
    finally:
        context.close()
    return seen


def _listen(page: "Page", own: str, seen: Visit) -> None:
    def asked(request: Any) -> None:
        if request.url != own and not request.url.startswith("data:"):
            seen.requests.append(request.url)

    page.on("request", asked)
    page.on("websocket", lambda socket: seen.requests.append(socket.url))
    page.on("console", lambda line: seen.complaints.append(f"{line.type}: {line.text}"))
    page.on("pageerror", lambda error: seen.complaints.append(f"uncaught: {error}"))


def _look(page: "Page", scheme: Scheme, width: int) -> Look:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    excess = page.evaluate("document.scrollingElement.scrollWidth - innerWidth")
    found = page.evaluate(CONTRASTS)
    # Of texts that occur twice the paler one stays.
    contrasts = {text: ratio for text, ratio, _ in sorted(found, key=lambda one: -one[1])}
    return Look(excess, contrasts, median(ground for _, _, ground in found))
