"""sweep.html and sweep.json: a table of a sweep's cells and its privacy-utility plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedkit.errors import RunError
from fedkit.reporting import page, svg, text
from fedkit.reporting.figures import Figure
from fedkit.storage.atomic import write_json

EPSILON = "privacy.epsilon"
REPLICATE = "seed"
Point = tuple[float, float]


def write_sweep(folder: Path | str, cells: Sequence[Mapping[str, Any]]) -> Path:
    """Write ``sweep.html`` and ``sweep.json`` into a folder; may be called again as cells come in.

    Args:
        cells: ``{"overrides": {key: value}, "result": result.json or None, "error": text or None, "status": text}``.

    Returns:
        Path of ``sweep.html``; equal cells give equal bytes.

    Raises:
        RunError: FK614, the folder cannot be written.
    """
    folder = Path(folder)
    try:
        # Round trip first: a cell that is no JSON must not leave one file new and the other old.
        plain = json.loads(json.dumps([dict(cell) for cell in cells], allow_nan=False))
        write_json(folder / "sweep.json", {"format": 1, "cells": plain})
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"{folder / 'sweep.json'} cannot be written: {reason}", code="FK614") from error
    return page.write(folder / "sweep.html", page.render("sweep.html.j2", _context(folder.resolve().name, plain)))


def max_epsilon(result: Mapping[str, Any]) -> float | None:
    """The largest epsilon of any site in a result; None without privacy."""
    known = (site.get("epsilon") for site in (result.get("sites") or {}).values())
    return max((float(e) for e in known if e is not None), default=None)


def swept_keys(cells: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The overrides that some cell sets, in order of appearance."""
    return tuple(dict.fromkeys(key for cell in cells for key in cell["overrides"]))


def metric_names(cells: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The metrics overall that some cell has, in order of display."""
    return text.ordered({name for cell in cells for name in (cell.get("result") or {}).get("overall") or {}})


def _context(name: str, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    results = [cell.get("result") or {} for cell in cells]
    names = metric_names(cells)
    drawn = [m for pair in text.HEADLINE.values() for m in pair if m in names]
    axis = _axis(cells)
    figures = [f for m in dict.fromkeys(drawn or names[:1]) if axis and (f := _figure(cells, axis, m))]
    return {
        "name": name,
        "keys": swept_keys(cells),
        "metrics": names,
        "rows": [
            {"cell": cell, "overall": result.get("overall") or {}, "epsilon": max_epsilon(result), "done": bool(result)}
            for cell, result in zip(cells, results, strict=True)
        ],
        "figures": figures,
        "seeded": any(result.get("noise") == "seeded" for result in results),
        "private": bool(results) and all(result.get("private") for result in results if result),
        "finished": sum(bool(result) for result in results),
    }


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _axis(cells: Sequence[Mapping[str, Any]]) -> str | None:
    if len({max_epsilon(cell.get("result") or {}) for cell in cells} - {None}) > 1:
        return EPSILON
    for key in swept_keys(cells):
        numbers = {_number(cell["overrides"].get(key)) for cell in cells}
        if key != REPLICATE and None not in numbers and len(numbers) > 1:
            return key
    return None


def _position(cell: Mapping[str, Any], axis: str) -> float | None:
    if axis == EPSILON:
        # What the plan costs, not what was asked for: a fixed noise multiplier has its place here, too.
        return max_epsilon(cell.get("result") or {})
    return _number(cell["overrides"].get(axis))


def _figure(cells: Sequence[Mapping[str, Any]], axis: str, metric: str) -> Figure | None:
    lines: dict[str, dict[float, list[float]]] = {}
    levels: dict[str, list[float]] = {}
    # Cells that share their epsilon's override share a place: sites differ a little from seed to seed.
    for cell in cells:
        value = ((cell.get("result") or {}).get("overall") or {}).get(metric)
        if value is None:
            continue
        rest = {k: v for k, v in cell["overrides"].items() if k not in (axis, REPLICATE)}
        label = ", ".join(f"{k}={v}" for k, v in rest.items()) or "all cells"
        place = _position(cell, axis)
        if place is None:
            levels.setdefault(label, []).append(float(value))
        else:
            lines.setdefault(label, {}).setdefault(round(place, 2), []).append(float(value))
    if not lines:
        return None
    words, key = text.describe(metric), f"sweep-{metric}"
    labels = list(dict.fromkeys([*lines, *levels]))
    with svg.axes(key, "epsilon (ε), largest site" if axis == EPSILON else f"@{len(labels)}@", "", 3.4, 0.09) as (
        figure,
        ax,
    ):
        for i, label in enumerate(labels):
            spots: list[tuple[float, list[float]]] = sorted(lines.get(label, {}).items())
            if spots:
                x, means = [p for p, _ in spots], [sum(v) / len(v) for _, v in spots]
                ax.plot(x, means, color=svg.colour(i), marker=svg.marker(i), ms=5)
                if any(len(v) > 1 for _, v in spots):
                    low, high = [min(v) for _, v in spots], [max(v) for _, v in spots]
                    ax.fill_between(x, low, high, color=svg.colour(i), alpha=0.15, lw=0)
            if label in levels:
                ax.axhline(sum(levels[label]) / len(levels[label]), color=svg.colour(i), lw=1.1, ls=(0, (4, 3)))
        if axis == EPSILON:
            _log_axis(ax, sorted({p for points in lines.values() for p in points}))
        where = "epsilon" if axis == EPSILON else axis
        shape = svg.to_svg(figure, key, f"{words.label} over {where}", f"{words.label} of each cell.", [*labels, axis])
    caption = f"{words.label} overall. {words.better.capitalize()} is better."
    if levels:
        caption += " Dashed: without privacy."
    if any(len(v) > 1 for points in lines.values() for v in points.values()):
        caption += " Line: mean over seeds; band: smallest to largest."
    return Figure(words.label, shape, caption, tuple((svg.chip(i), label) for i, label in enumerate(labels)))


def _log_axis(ax: Any, places: Sequence[float]) -> None:
    from matplotlib.ticker import NullLocator

    ax.set_xscale("log")
    shown = [p for i, p in enumerate(places) if i == 0 or p / places[i - 1] > 1.2]
    ax.set_xticks(shown, [f"{p:g}" for p in shown])
    ax.xaxis.set_minor_locator(NullLocator())
