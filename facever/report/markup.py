"""The parts of a page: it needs no network, in the light, the dark and on a phone.

Every text that comes in is escaped here; what comes out of here is HTML.
"""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template


def page(
    title: str,
    *,
    paragraphs: Iterable[str],
    facts: Iterable[tuple[str, str]],
    sections: Iterable[str],
) -> str:
    """The whole page; `sections` are HTML already, all else is text."""
    template = Template(Path(__file__).with_name("template.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        paragraphs="\n".join(f"<p>{escape(text)}</p>" for text in paragraphs),
        facts="".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts
        ),
        sections="".join(sections),
    )


def section(title: str, body: str) -> str:
    """A heading, and below it HTML."""
    return f"<h2>{escape(title)}</h2>{body}"


def figures(drawn: Iterable[str]) -> str:
    """Figures side by side, as many as the screen is wide."""
    body = "".join(drawn)
    return f'<div class="figures">{body}</div>' if body else "<p>Nothing was logged yet.</p>"


def figure(svg: str, caption: str, *, columns: float = 1) -> str:
    """An SVG element above its caption; one of several columns scrolls where they do not fit."""
    if columns > 1:
        # Within these bounds its text is about as large as that of its neighbours.
        width = f"min-width:{330 * columns:.0f}px;max-width:{600 * columns:.0f}px"
        svg = f'<div class="wide"><div style="{width}">{svg}</div></div>'
    kind = ' class="broad"' if columns > 1 else ""
    return f"<figure{kind}>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def table(rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> str:
    """Rows of text, which scroll where the screen is narrow."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table>{head and f"<tr>{head}</tr>"}{body}</table></div>'


def details(rows: Sequence[Sequence[str]]) -> str:
    """A table that is folded away behind the count of its rows."""
    return f"<details><summary>{len(rows)} values</summary>{table(rows)}</details>"
