"""The sheet that every chart is drawn on: inline SVG; the one file that imports matplotlib.

Colours are written as marks that the page's style sheet fills in, so that one drawing serves light
and dark; text stays text, in the page's font.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bnnkit.run.reporting.wording import clean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "ACCENT",
    "ACCENT_RGB",
    "INK",
    "MUTED",
    "RULE",
    "SERIES",
    "WARM",
    "new_figure",
    "quiet_style",
    "to_svg",
]

INK, MUTED, RULE, ACCENT, WARM = "#010101", "#020202", "#030303", "#040404", "#050505"
# A colour for each of the compared methods, in their order; the first is the reference.
SERIES = tuple(f"#0a0b{i:02x}" for i in range(10))
_VARIABLES = {
    **{INK: "ink", MUTED: "muted", RULE: "rule", ACCENT: "accent", WARM: "warm"},
    **{mark: f"series{i}" for i, mark in enumerate(SERIES)},
}
ACCENT_RGB = (0.16, 0.45, 0.80)
_STYLE: Any = {  # a dictionary of matplotlib's own literal keys
    "svg.fonttype": "none",
    "svg.hashsalt": "bnnkit",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
}


@contextmanager
def quiet_style() -> Iterator[None]:
    """Draw in our style; letters that a font lacks are the page's business, not a warning."""
    import matplotlib

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of `width` by `height` CSS pixels."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def to_svg(figure: Figure, key: str, label: str) -> str:
    """Return the figure as an SVG element that can stand in a page beside others.

    Args:
        figure: A drawn figure.
        key: What sets its ids apart from those of other figures.
        label: What a screen reader says.
    """
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'\bid="', f'id="{key}-', text)
    text = text.replace("url(#", f"url(#{key}-").replace('href="#', f'href="#{key}-')
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for mark, name in _VARIABLES.items():
        text = text.replace(mark, f"var(--{name})")
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    safe = clean(label).replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return text.replace("<svg", f'<svg role="img" aria-label="{safe}"', 1)
