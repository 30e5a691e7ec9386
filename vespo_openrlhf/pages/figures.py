"""matplotlib figures in a page: drawn in the page's colours, inlined as SVG, text left as text."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from .blocks import Block, optional

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Colours of data series, told apart by colour-blind readers as well. `page.css` holds a lighter
#: one of each for dark screens.
SERIES = (
    "#2f6fb3",
    "#c8691c",
    "#3a8a5f",
    "#7a5bb0",
    "#b8434e",
    "#1f8791",
    "#967619",
    "#68707c",
)
INK, MUTED, LINE = "#1d2127", "#5f6772", "#e0ded8"
_DASHES = ("-", "--", ":")

#: What a colour of a figure is called in `page.css`.
_VARIABLES = {
    **{colour: f"var(--series-{index})" for index, colour in enumerate(SERIES)},
    INK: "var(--ink)",
    "#000000": "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    "#ffffff": "var(--card)",
}
# A figure wider than this (in points) takes a row of its own, and scrolls on a phone.
_WIDE = 450.0


def line_style(index: int) -> dict[str, Any]:
    """Colour and dashes of the run with this index, as keywords of `Axes.plot`."""
    return {
        "color": SERIES[index % len(SERIES)],
        "linestyle": _DASHES[index // len(SERIES) % len(_DASHES)],
    }


@contextmanager
def plotting() -> Iterator[None]:
    """Figures that are made in this context match the page; on their own they are on white.

    The default size, 4.8 x 2.8 inches, reads well from a phone's width upwards. Make a figure with
    `matplotlib.figure.Figure()`, which needs no display and no closing.
    """
    import matplotlib
    from cycler import cycler

    with matplotlib.rc_context(
        {
            "figure.figsize": (4.8, 2.8),
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "text.color": INK,
            "axes.edgecolor": MUTED,
            "axes.labelcolor": MUTED,
            "axes.linewidth": 0.8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "axes.titlesize": 10,
            "axes.titlecolor": INK,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.prop_cycle": cycler(color=SERIES),
            "grid.color": LINE,
            "grid.linewidth": 0.8,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "xtick.major.width": 0.8,
            "ytick.major.width": 0.8,
            "lines.linewidth": 1.8,
            "lines.solid_capstyle": "round",
            "legend.frameon": False,
            "legend.fontsize": 9,
            "image.interpolation": "none",
        }
    ):
        yield


def figure(drawing: Figure, caption: str, alt: str = "", *, title: str = "") -> Block:
    """A matplotlib figure as SVG that follows the reader's light or dark scheme.

    Args:
        drawing: any figure; one made under `plotting()` matches the page.
        caption: under it; what to see in it.
        alt: what a reader who cannot see it is told; the title and caption if empty.
        title: above it: the quantity and its unit.
    """
    label = alt or " ".join(filter(None, (title, caption)))
    width = 72 * drawing.get_size_inches()[0]
    drawn = _svg(drawing, label)
    if width > _WIDE:
        drawn = Markup(
            '<div class="scroll" tabindex="0" role="region" aria-label="{}">'
            '<div style="min-width: {:.0f}px">{}</div></div>'
        ).format(label, width, drawn)
    html = Markup("<figure{}>{}{}{}</figure>").format(
        Markup(' class="wide"') if width > _WIDE else "",
        optional("<h3>{}</h3>", title),
        drawn,
        optional("<figcaption>{}</figcaption>", caption),
    )
    return Block(html, is_figure=True)


def _svg(drawing: Figure, label: str) -> Markup:
    import matplotlib

    stream = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    # A fixed salt: the same data make the same page, byte for byte.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "page"}):
        drawing.savefig(stream, format="svg", transparent=True, metadata=metadata)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    # matplotlib's style rule says "*", which here would mean the whole page.
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"#[0-9a-f]{6}\b", lambda hit: _VARIABLES.get(hit[0], hit[0]), text)
    # Names are unique within a figure only.
    prefix = "f" + hashlib.sha256(text.encode()).hexdigest()[:8]
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{prefix}-", text)
    text = re.sub(r">\s+<", "><", text)
    opening = Markup('<svg role="img" aria-label="{}" ').format(label)
    return Markup(
        re.sub(r'^<svg[^>]*?(viewBox="[^"]*")[^>]*>', lambda hit: f"{opening}{hit[1]}>", text)
    ).strip()
