"""What pictures are drawn on: SVG that takes its text colour from the page, and PNG on white.

matplotlib is imported where it is used, without pyplot: no window, no global state. Nothing that
is drawn depends on the day or the machine: one input, one sequence of bytes.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#010203"  # stands for the page's text colour, which differs in the light and the dark
MATED, NON_MATED = "#2a9d8f", "#e76f51"  # told apart by colour-blind readers, on white and black
LINE = "#4a90d9"
SIZE = (5.2, 3.4)  # inches
PNG_DPI = 150
SVG_DPI = 110  # of what is drawn as pixels inside an SVG, where every pixel weighs on the page


@dataclass(frozen=True)
class Picture:
    """A picture of which the page shows the SVG and the folder holds the PNG.

    Attributes:
        name: stem of the file; no two pictures of a page share one.
        caption: one or two sentences: what is seen, and how to read it.
        draw: fills an empty figure, alike each time.
        size: width and height in inches.
    """

    name: str
    caption: str
    draw: Callable[["Figure"], None]
    size: tuple[float, float] = SIZE

    def __post_init__(self) -> None:
        assert re.fullmatch(r"\w[\w.-]*", self.name), f"{self.name!r} is no stem of a file"

    def svg(self) -> str:
        """The picture as an `<svg>` element that fills its column."""
        return svg(self.name, self._drawn, self.size, label=self.caption, **{PARSE_MATH: False})

    def png(self) -> bytes:
        """The picture as a PNG on white."""
        with _style(**{PARSE_MATH: False}):
            return _saved(self._drawn, self.size, "png", dpi=PNG_DPI, metadata={"Software": None})

    def _drawn(self, figure: "Figure") -> None:
        figure.set_layout_engine("constrained")
        self.draw(figure)


PARSE_MATH = "text.parse_math"  # off where labels are the user's: a "$" would begin a formula


def svg(
    name: str,
    draw: Callable[["Figure"], None],
    size: tuple[float, float] = SIZE,
    *,
    label: str | None = None,
    **style: Any,
) -> str:
    """A drawing as an `<svg>` element that fills its column.

    Args:
        name: makes the element's ids its own on the page.
        draw: fills an empty figure.
        size: width and height in inches.
        label: what a screen reader says; the name by default.
        style: settings of matplotlib on top of the house's.
    """
    # Dates and addresses of vocabularies have no place in a page that fetches nothing.
    bare = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with _style(**{"svg.hashsalt": name}, **style):
        document = _saved(draw, size, "svg", dpi=SVG_DPI, transparent=True, metadata=bare)
    return _inline(document.decode("utf-8"), name, name if label is None else label)


def cut(text: str, length: int) -> str:
    """A label of at most so many characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _style(**more: Any) -> Any:
    """The house's settings of matplotlib as a context."""
    import matplotlib

    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style: dict[str, Any] = {
        **dict.fromkeys(inked, INK),
        "svg.fonttype": "none",
        "font.size": 9,
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
        **more,
    }
    return matplotlib.rc_context(style)  # type: ignore[arg-type] # keys are checked when it runs


def _saved(
    draw: Callable[["Figure"], None], size: tuple[float, float], kind: str, **options: Any
) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size)
    draw(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


def _inline(document: str, name: str, label: str) -> str:
    """An SVG document as an element of HTML: ids of its own, no namespaces, no fixed size."""
    head, body = document[document.index("<svg") :].split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)
    assert view is not None, head
    prefix = re.sub(r"\W+", "-", name)
    inside_tag = "(?=[^<>]*>)"  # what a label says stays as it is
    body = re.sub(INK + inside_tag, "currentColor", body)
    body = re.sub(rf'(\bid="|url\(#|href="#){inside_tag}', rf"\g<1>{prefix}-", body)
    return f'<svg {view[0]} role="img" aria-label="{escape(label)}">{body}'
