"""The report's figures: one look, one colour a site, no names inside (the legend is HTML, and escaped there)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from fedkit.reporting import svg, text
from fedkit.reporting.reader import RunView
from fedkit.reporting.statistics import SMALL, calibration, pooled, roc

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MANY = 12
"""Above this number of sites a figure shows their spread instead of one line each."""


@dataclass(frozen=True)
class Figure:
    """One figure of the report.

    Attributes:
        legend: (chip, label) pairs, labels untrusted.
        caption: one or two plain sentences.
    """

    title: str
    svg: Markup
    caption: str
    legend: tuple[tuple[Markup, str], ...] = ()


def site_legend(view: RunView, shown: Sequence[str]) -> tuple[tuple[Markup, str], ...]:
    """Chips of the sites that a figure shows; empty where it shows the spread of many."""
    if len(view.sites) > MANY:
        return ()
    return tuple((svg.chip(i), site) for i, site in enumerate(view.sites) if site in set(shown))


def curve(view: RunView, metric: str) -> Figure | None:
    """One metric at every site over the rounds; None where it was never defined."""
    series = {site: points for site in view.sites if (points := view.series(site, metric))}
    if not series:
        return None
    words, key = text.describe(metric), f"curve-{metric}"
    with svg.axes(key, "round", "", left=0.085) as (figure, ax):
        _lines(view, series, ax)
        if metric == "auroc":
            ax.axhline(0.5, color=svg.MUTED, lw=1, ls=(0, (4, 3)))
        _rounds_axis(view, ax)
        shape = svg.to_svg(figure, key, f"{words.label} over rounds", f"{words.label} of each site after each round.")
    missing = [s for s in view.sites if s not in series]
    caption = f"{words.meaning} Round 0 is the untrained model. {words.better.capitalize()} is better."
    if metric == "auroc":
        caption += " Dashed: a coin."
    if len(view.sites) > MANY:
        caption += f" {_SPREAD}"
    if missing:
        caption += f" Undefined at {_names(missing)}: {words.undefined}."
    return Figure(words.label, shape, caption.strip(), site_legend(view, tuple(series)))


_SPREAD = "Band: smallest to largest site; dark band: the middle half; line: median."


def _names(sites: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(sites[:most])
    return shown if len(sites) <= most else f"{shown} and {len(sites) - most} more"


def _rounds_axis(view: RunView, ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_xlim(-0.02 * max(view.num_rounds, 1), max(view.num_rounds, 1) * 1.02)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def _lines(view: RunView, series: dict[str, list[tuple[int, float]]], ax: Axes) -> None:
    if len(view.sites) <= MANY:
        for i, site in enumerate(view.sites):
            if site not in series:
                continue
            x, y = np.array(series[site], float).T
            every = max(1, len(x) // 8)
            mark = slice(min(i, every - 1), None, every)
            ax.plot(x, y, color=svg.colour(i), marker=svg.marker(i), markevery=mark)
        return
    rounds = sorted({r for points in series.values() for r, _ in points})
    values = [[dict(points).get(r, np.nan) for r in rounds] for points in series.values()]
    low, q1, median, q3, high = np.nanquantile(np.array(values), (0, 0.25, 0.5, 0.75, 1), axis=0)
    ax.fill_between(rounds, low, high, color=svg.colour(0), alpha=0.15, lw=0)
    ax.fill_between(rounds, q1, q3, color=svg.colour(0), alpha=0.3, lw=0)
    ax.plot(rounds, median, color=svg.colour(0))


def epsilon_curve(view: RunView) -> Figure | None:
    """Epsilon of each site over the rounds beside the target; None without privacy."""
    series: dict[str, list[tuple[int, float]]] = {}
    for line in view.rounds:
        for site, value in (line.get("epsilon") or {}).items():
            if value is not None:
                series.setdefault(site, []).append((int(line["round"]), float(value)))
    if not series:
        return None
    privacy = view.config.get("privacy") or {}
    target = privacy.get("epsilon")
    with svg.axes("epsilon", "round", "", left=0.085) as (figure, ax):
        _lines(view, series, ax)
        _rounds_axis(view, ax)
        if target is not None:
            ax.axhline(float(target), color=svg.INK, lw=1.1, ls=(0, (4, 3)))
            label = f"target ε = {float(target):g}"
            ax.annotate(label, (0.01, float(target)), (0, 4), ("axes fraction", "data"), textcoords="offset points")
        top = max([v for points in series.values() for _, v in points] + [float(target or 0)])
        ax.set_ylim(0, top * 1.12 or 1)
        shape = svg.to_svg(
            figure, "epsilon", "Epsilon over rounds", "Epsilon that each site has spent after each round."
        )
    if view.manifest.get("private"):
        caption = "Spent by each site, composed over all rounds so far."
    else:
        caption = (
            "What real noise would have cost each site, composed over all rounds so far; with seeded noise the run "
        )
        caption += "has no guarantee."
    if target is None:
        caption += " The plan fixes the noise, not a target."
    if len(view.sites) > MANY:
        caption += f" {_SPREAD}"
    elif len(series) > 1 and len({tuple(points) for points in series.values()}) == 1:
        caption += " The sites' lines coincide: all have the same plan."
    return Figure("Epsilon spent", shape, caption, site_legend(view, tuple(series)))


def roc_curves(view: RunView) -> Figure | None:
    """ROC of the final model on each site's test rows; None for regression or without predictions."""
    if not view.predictions or view.kind == "regression":
        return None
    many = len(view.sites) > MANY
    curves = {s: c for s, p in view.predictions.items() if (c := roc(p)) is not None}
    shown = [(0, roc(pooled(list(view.predictions.values()))))] if many else []
    shown = shown or [(i, curves[s]) for i, s in enumerate(view.sites) if s in curves]
    with svg.axes("roc", "false positive rate", "true positive rate", 3.6) as (figure, ax):
        ax.plot([0, 1], [0, 1], color=svg.MUTED, lw=1, ls=(0, (4, 3)))
        for i, known in shown:
            if known is not None:
                ax.plot(*known, color=svg.colour(i), marker=svg.marker(i), markevery=0.13)
        ax.set_xlim(-0.02, 1.02)
        ax.set_ylim(-0.02, 1.02)
        shape = svg.to_svg(
            figure, "roc", "ROC", "True positive rate over false positive rate on each site's test rows."
        )
    caption = "Final model, exact test rows. Dashed: a coin."
    if view.kind == "multiclass":
        caption += " Mean of the one-vs-rest curves."
    if many:
        caption += f" All {len(view.predictions)} sites' test rows together."
    undefined = [s for s in view.sites if s in view.predictions and s not in curves]
    if undefined:
        caption += f" Undefined at {_names(undefined)}: {text.describe('auroc').undefined}; no curve is drawn."
    return Figure("ROC", shape, caption, site_legend(view, () if many else tuple(curves)))


def calibration_curves(view: RunView) -> Figure | None:
    """Reliability of the final model on each site's test rows; None without predictions."""
    if not view.predictions:
        return None
    kind, many = view.kind, len(view.sites) > MANY
    low, high = (view.data.get("task") or {}).get("range") or (0.0, 1.0)
    scale = (float(low), float(high)) if kind == "regression" else (0.0, 1.0)
    known = {s: c for s, p in view.predictions.items() if (c := calibration(p, kind)) is not None}
    drawn = [(i, known[s]) for i, s in enumerate(view.sites) if s in known]
    if many:
        everyone = calibration(pooled(list(view.predictions.values())), kind)
        drawn = [] if everyone is None else [(0, everyone)]
    labels = {
        "binary": ("predicted probability", "observed share of positives"),
        "multiclass": ("confidence in the predicted class", "accuracy"),
        "regression": ("predicted", "observed mean"),
    }[kind]
    with svg.axes("calibration", *labels, 3.6) as (figure, ax):
        ax.plot(scale, scale, color=svg.MUTED, lw=1, ls=(0, (4, 3)))
        for i, (x, y) in drawn:
            x, y = (scale[0] + v * (scale[1] - scale[0]) for v in (x, y))
            ax.plot(x, y, color=svg.colour(i), marker=svg.marker(i), ms=5)
        pad = 0.02 * (scale[1] - scale[0])
        ax.set_xlim(scale[0] - pad, scale[1] + pad)
        ax.set_ylim(scale[0] - pad, scale[1] + pad)
        shape = svg.to_svg(
            figure, "calibration", "Calibration", "Observed outcome over prediction, in bins of test rows."
        )
    caption = f"Bins of equal size with at least {SMALL} test rows each. Dashed: perfectly calibrated."
    if many:
        caption += f" All {len(view.predictions)} sites' test rows together."
    few = [s for s in view.sites if s in view.predictions and s not in known]
    if few and not many:
        caption += f" Not shown for {_names(few)}: fewer than {SMALL} test rows."
    return Figure("Calibration", shape, caption, site_legend(view, () if many else tuple(known)))


_LOOKS = {
    "federated": (svg.INK, "--ink", 0),
    "pooled": (svg.MUTED, "--muted", 3),
    "local only": (svg.MUTED, "--muted", 4),
}


def baseline_dots(view: RunView, metric: str, series: Mapping[str, Mapping[str, float | None]]) -> Figure | None:
    """One metric at each site: federated, pooled, local only, as dots on one line a site.

    Args:
        series: ``federated``, ``pooled`` or ``local only`` to site to value.
    """
    sites = [s for s in view.sites if any(values.get(s) is not None for values in series.values())]
    if not sites or len(view.sites) > MANY:
        return None
    words, key = text.describe(metric), f"dots-{metric}"
    with svg.axes(key, words.label, "", 0.65 + 0.3 * len(sites), 0.2) as (figure, ax):
        for row, site in enumerate(sites):
            known = [v for values in series.values() if (v := values.get(site)) is not None]
            ax.plot((min(known), max(known)), (row, row), color=svg.LINE, lw=4, solid_capstyle="round", zorder=1)
        for name, values in series.items():
            points = [(v, row) for row, s in enumerate(sites) if (v := values.get(s)) is not None]
            if points:
                ink, _, look = _LOOKS[name]
                ax.plot(*zip(*points, strict=True), ls="", color=ink, marker=svg.MARKERS[look], ms=6.5)
        ax.set_yticks(range(len(sites)), [f"@{row}@" for row in range(len(sites))])
        ax.set_ylim(len(sites) - 0.4, -0.6)
        ax.grid(visible=False, axis="y")
        ax.spines["left"].set_visible(False)
        title, description = f"{words.label}: baselines", f"{words.label} of each site, three ways of training."
        shape = svg.to_svg(figure, key, title, description, [s if len(s) <= 16 else s[:15] + "…" for s in sites])
    legend = tuple(
        (svg.chip(look, variable, line=False), name) for name in series for _, variable, look in [_LOOKS[name]]
    )
    return Figure(words.label, shape, f"{words.better.capitalize()} is better.", legend)
