"""The parts of a page: it needs no network, in the light, the dark and on a phone.

Every text that comes in is escaped here; what comes out of here is HTML.
"""

import base64
import hashlib
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray

JPEG_QUALITY = 88


def page(
    title: str,
    *,
    paragraphs: Iterable[str],
    facts: Iterable[tuple[str, str]],
    sections: Iterable[str],
    script: str = "",
) -> str:
    """The whole page; `sections` are HTML already, `script` is the only one that runs in it."""
    template = Template(Path(__file__).with_name("template.html").read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return template.substitute(
        title=escape(title),
        paragraphs="\n".join(f"<p>{escape(text)}</p>" for text in paragraphs),
        facts="".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts
        ),
        sections="".join(sections),
        policy=f" script-src 'sha256-{digest}';" if script else "",
        script=f"<script>{script}</script>" if script else "",
    )


def section(title: str, body: str) -> str:
    """A heading, and below it HTML."""
    return f"<h2>{escape(title)}</h2>{body}"


def figures(drawn: Iterable[str]) -> str:
    """Figures side by side, as many as the screen is wide."""
    body = "".join(drawn)
    return f'<div class="figures">{body}</div>' if body else "<p>Nothing was logged yet.</p>"


def figure(
    svg: str, caption: str, *, columns: float = 1, keys: Iterable[tuple[str, str]] = ()
) -> str:
    """An SVG element above its caption; one of several columns scrolls where they do not fit.

    `keys` are the classes of its colours, each with what it stands for.
    """
    if columns > 1:
        # Within these bounds its text is about as large as that of its neighbours.
        width = f"min-width:{330 * columns:.0f}px;max-width:{600 * columns:.0f}px"
        svg = f'<div class="wide"><div style="{width}">{svg}</div></div>'
    kind = ' class="broad"' if columns > 1 else ""
    legend = "".join(f'<li><i class="{colour}"></i>{escape(name)}</li>' for colour, name in keys)
    words = escape(caption) + (legend and f"<ul>{legend}</ul>")
    return f"<figure{kind}>{svg}<figcaption>{words}</figcaption></figure>"


def gallery(items: Iterable[str], *, small: bool = False) -> str:
    """Pictures side by side, many in a row."""
    return f'<div class="gallery{" small" if small else ""}">{"".join(items)}</div>'


def picture(images: Iterable[NDArray[np.uint8]], caption: str, label: str) -> str:
    """Images (H, W, 3) side by side above a caption; `label` is what a screen reader says."""
    shown = "".join(_image(pixels, label) for pixels in images)
    words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{shown}{words}</figure>"


def _image(pixels: NDArray[np.uint8], label: str) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
    code = base64.b64encode(file.getvalue()).decode()
    height, width = pixels.shape[:2]
    size = f'width="{width}" height="{height}"'
    return f'<img src="data:image/jpeg;base64,{code}" alt="{escape(label)}" {size}>'


def table(rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> str:
    """Rows of text, which scroll where the screen is narrow."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table>{head and f"<tr>{head}</tr>"}{body}</table></div>'


def details(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    """A table that is folded away behind the count of its rows."""
    return f"<details><summary>{len(rows)} values</summary>{table(rows, header)}</details>"
