"""The privacy-utility curve as one SVG file that reads well on a light and on a dark page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from fedkit.reporting.svg import axes, colour, marker, to_svg

KEY = "privacy-utility"
# The report's colours. The picture brings its own ground, so that it can be read whatever page it stands on.
LIGHT = {
    "surface": "#ffffff", "ink": "#18202b", "muted": "#566070", "line": "#e2e6ec",
    "s0": "#0067a8", "s1": "#c24f00", "s2": "#007f5b", "s3": "#a8417f", "s4": "#9a6a00", "s5": "#3b8fc9",
}  # fmt: skip
DARK = {
    "surface": "#191f28", "ink": "#e7ebf1", "muted": "#a3adbb", "line": "#2d3642",
    "s0": "#5fb0ea", "s1": "#ff8f52", "s2": "#3ecb9d", "s3": "#e58fc2", "s4": "#eebb4a", "s5": "#9bd2f7",
}  # fmt: skip


class Spread(Protocol):
    """A mean and its interval."""

    @property
    def mean(self) -> float:
        """Of the seeds."""

    @property
    def low(self) -> float:
        """Lower end."""

    @property
    def high(self) -> float:
        """Upper end."""


def draw(series: Mapping[str, Mapping[str, Spread]]) -> str:
    """The curve: AUROC over epsilon, strongest privacy on the left, none on the right.

    Args:
        series: title to level (``none`` or an epsilon) to AUROC; every series has the same levels.

    Returns:
        A whole SVG file; equal bytes for equal series.
    """
    levels = sorted({level for found in series.values() for level in found}, key=_order)
    with axes(KEY, "epsilon of a site, whole run (delta 1e-5)", "AUROC, mean and 95 % interval", height=3.3) as (
        figure,
        ax,
    ):
        for index, (title, found) in enumerate(series.items()):
            # A little beside each other, so that no interval hides another.
            at = [levels.index(level) + 0.06 * (index - (len(series) - 1) / 2) for level in levels]
            spread = [found[level] for level in levels]
            below = [one.mean - one.low for one in spread]
            above = [one.high - one.mean for one in spread]
            means = [one.mean for one in spread]
            ax.errorbar(
                at, means, yerr=[below, above], color=colour(index), marker=marker(index), capsize=3, elinewidth=1.3,
                label=title,
            )  # fmt: skip
        ax.set_xticks(range(len(levels)), ["no privacy" if level == "none" else level for level in levels])
        ax.margins(x=0.06)
        ax.legend(loc="lower right", frameon=False, labelcolor="linecolor")
        told = "; ".join(
            f"{title}: {', '.join(f'{found[level].mean:.3f} at {level}' for level in levels)}"
            for title, found in series.items()
        )
        svg = to_svg(figure, KEY, "AUROC over epsilon", told)
    return _file(str(svg))


def _order(level: str) -> float:
    return float("inf") if level == "none" else float(level)


def _file(svg: str) -> str:
    """An SVG element made for a page, as a file of its own."""
    width, height = (round(float(size)) for size in svg.split('viewBox="', 1)[1].split('"', 1)[0].split()[2:])
    opening, rest = svg.split(">", 1)
    opening = opening.replace('<svg class="figure"', '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    light, dark = (";".join(f"--{name}:{value}" for name, value in theme.items()) for theme in (LIGHT, DARK))
    style = (
        f"<style>svg{{{light};font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}}"
        f"@media (prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
        f'<rect width="100%" height="100%" rx="8" style="fill:var(--surface)"/>'
    )
    # After the title, which a browser reads from the first child.
    head, body = rest.split("</desc>", 1)
    return f'{opening} width="{width * 2}" height="{height * 2}">{head}</desc>{style}{body}\n'
