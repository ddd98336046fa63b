"""From a matplotlib figure to inline SVG that follows the page: its fonts, its colours, its dark mode."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins that no figure needs as colours of their own; they become CSS variables, so that one SVG serves light
# and dark pages alike.
INK, MUTED, LINE, SURFACE = "#010203", "#020304", "#030405", "#040506"
_VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", SURFACE: "--surface"}
COLOURS = 8
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
_GLYPHS = (
    '<circle cx="13" cy="6" r="3.4"/>',
    '<rect x="10" y="3" width="6" height="6"/>',
    '<path d="M13 2 16.8 9H9.2Z"/>',
    '<path d="M13 1.8 17.2 6 13 10.2 8.8 6Z"/>',
    '<path d="M13 10 9.2 3h7.6Z"/>',
    '<path d="M11.8 2h2.4v2.8H17v2.4h-2.8V10h-2.4V7.2H9V4.8h2.8Z"/>',
    '<path d="M10.6 2 13 4.4 15.4 2 17 3.6 14.6 6 17 8.4 15.4 10 13 7.6 10.6 10 9 8.4 11.4 6 9 3.6Z"/>',
    '<path d="M13 2 17 5 15.5 9.6h-5L9 5Z"/>',
)


def colour(index: int) -> str:
    """The stand-in of a series' colour; the same index has the same colour in every figure."""
    return f"#05060{index % COLOURS}"


def marker(index: int) -> str:
    """A series' marker: whoever cannot tell two colours apart can tell two shapes apart."""
    return MARKERS[index % COLOURS]


def chip(index: int, variable: str = "", *, line: bool = True) -> Markup:
    """A legend's line with its marker, as a small SVG beside an HTML label.

    Args:
        index: of the series; fixes colour and marker.
        variable: a CSS variable in place of the series' colour.
    """
    stroke = f"var({variable or f'--s{index % COLOURS}'})"
    bar = '<path d="M1 6H25" stroke="currentColor" stroke-width="2" fill="none"/>' if line else ""
    return Markup(  # noqa: S704
        f'<svg class="chip" viewBox="0 0 26 12" width="26" height="12" aria-hidden="true" style="color:{stroke}">'
        f'{bar}<g fill="currentColor">{_GLYPHS[index % COLOURS]}</g></svg>'
    )


@contextmanager
def axes(key: str, xlabel: str, ylabel: str, height: float = 3.1, left: float = 0.105) -> Iterator[tuple[Figure, Axes]]:
    """One pair of axes in the report's style; the user's matplotlibrc has no say.

    Args:
        key: unique in the page; salts and prefixes all ids.
        height: inches; the width is 5.4.
        left: share of the width that is left to the y axis' labels.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_style(key))
        figure = Figure(figsize=(5.4, height))
        ax = figure.add_axes((left, 0.15 * 3.1 / height, 0.98 - left, 1 - (0.15 * 3.1 + 0.09) / height))
        ax.set_xlabel(xlabel)
        ax.set_ylabel(ylabel)
        ax.set_axisbelow(True)
        yield figure, ax


def _style(key: str) -> Any:
    return {
        "svg.hashsalt": key,
        "svg.fonttype": "none",
        "text.parse_math": False,
        "axes.unicode_minus": True,
        "font.size": 8.5,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": LINE,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": LINE,
        "grid.linewidth": 0.6,
        "xtick.color": LINE,
        "ytick.color": LINE,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "xtick.major.pad": 5,
        "ytick.major.pad": 5,
        "lines.linewidth": 1.6,
        "lines.markersize": 4,
        "lines.markeredgewidth": 0,
        "path.simplify_threshold": 0.4,
    }


def _shorter(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")


def to_svg(figure: Figure, key: str, title: str, description: str, names: Sequence[str] = ()) -> Markup:
    """Inline SVG without dates, metadata, fonts, outside references or ids that could clash.

    Args:
        title: read out as the figure's name; untrusted text is escaped.
        description: what it shows, for a reader who does not see it.
        names: untrusted texts; the figure says ``@0@`` for the first of them, so that none reaches matplotlib
            (mathtext, missing glyphs).

    Returns:
        The element, byte-identical for equal figures.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    # Called inside axes() or after it: saving reads the style again, and the salt must be the figure's own.
    with matplotlib.rc_context({"svg.hashsalt": key, "svg.fonttype": "none"}):
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(buffer, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    body = buffer.getvalue()
    body = body[body.index("<svg") :].strip()
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r"<style\b.*?</style>", "", body, flags=re.S)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.S)
    opening, body = body.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', opening)
    body = body.replace("xlink:href=", "href=")
    body = re.sub(r'\bid="', f'id="{key}-', body)
    body = re.sub(r'href="#', f'href="#{key}-', body)
    body = re.sub(r"url\(#", f"url(#{key}-", body)
    # Two decimals of a point are plenty; only inside tags, since a tick's label is a number, too.
    body = re.sub(r"<[^>]+>", lambda tag: re.sub(r"\d+\.\d{3,}(?=\W)", _shorter, tag[0]), body)
    body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body)
    body = re.sub(r">@(\d+)@<", lambda m: f">{escape(names[int(m[1])])}<", body)
    for stand_in, variable in _VARIABLES.items():
        body = body.replace(stand_in, f"var({variable})")
    body = re.sub(r"#05060(\d)", r"var(--s\1)", body)
    body = re.sub(r"\n\s*", "\n", body)
    head = (
        f'<svg class="figure" role="img" aria-labelledby="{key}-t {key}-d" {view[0] if view else ""}>'
        f'<title id="{key}-t">{escape(title)}</title><desc id="{key}-d">{escape(description)}</desc>'
    )
    # matplotlib escapes its texts, and ours are escaped above.
    return Markup(head + body)  # noqa: S704
