"""A run's curves for a page: a line a site in a small picture, and the same figures as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from fedkit.reporting.evaluation import estimate, label
from fedkit.reporting.text import describe, epsilon, number, ordered

WIDTH, HEIGHT = 640, 160
_MOST_LINES, _MOST_METRICS, _MOST_ROWS = 8, 6, 40
_MOST_ROUNDS, _LAST_ROUND, _LARGEST = 1000, 10**9, 1e100
_TOLD = ("auroc", "accuracy", "rmse", "mae", "sensitivity", "specificity")
"""Of many estimates these first; the rest is in the report."""

Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Line:
    """One line of a curve.

    Attributes:
        points: as SVG's polyline takes them; empty where there is less than a line.
        last: value after the last round that has one, as it is shown.
    """

    name: str
    points: str
    last: str


@dataclass(frozen=True)
class Curve:
    """One figure.

    Attributes:
        low: value at the bottom of the picture, as it is shown; high: at its top.
        rows: round and a value a line, "none" where there is none; the newest first.
        older: rounds that the table leaves out.
    """

    title: str
    lines: tuple[Line, ...]
    low: str
    high: str
    first: int
    final: int
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    older: int


def curves(rounds: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Epsilon and each metric over the rounds; nothing of what no round has.

    Args:
        rounds: as `fedkit_server.curves.curves_of` returns them.
    """
    # Of an epsilon nobody sees less than was spent.
    drawn = [
        _curve(title, _few(series), number if place else epsilon)
        for place, (title, series) in enumerate(_series(rounds))
        if series
    ]
    return [*drawn, *_charged(rounds)]


def _series(rounds: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, Points]]]:
    spent: dict[str, Points] = {}
    metrics: dict[str, dict[str, Points]] = {}
    for each in rounds[:_MOST_ROUNDS]:
        at = each["round"]
        # The coordinator may tell anything; what is no figure is not drawn.
        if not _is_figure(at) or not 0 <= at <= _LAST_ROUND:
            continue
        at = int(at)
        for site, value in each["epsilon"].items():
            if _is_figure(value):
                spent.setdefault(str(site), []).append((at, float(value)))
        for site, told in each["sites"].items():
            for name, value in told.items():
                if _is_figure(value):
                    metrics.setdefault(str(name), {}).setdefault(str(site), []).append((at, float(value)))
    yield "Epsilon spent by this run, by site", spent
    for name in ordered(metrics)[:_MOST_METRICS]:
        yield f"{describe(name).label}, by site", metrics[name]


def _charged(rounds: Sequence[Mapping[str, Any]]) -> Iterator[Curve]:
    """What the charged histograms say, with its intervals: of a private run nothing else is released."""
    metrics: dict[str, dict[str, Points]] = {}
    words: dict[str, dict[tuple[str, int], str]] = {}
    sigmas = set[float]()
    for each in rounds[:_MOST_ROUNDS]:
        at, told = each["round"], each.get("charged")
        if told is None or not _is_figure(at) or not 0 <= at <= _LAST_ROUND or not _is_figure(told["noise_multiplier"]):
            continue
        sigmas.add(float(told["noise_multiplier"]))
        for site, estimates in told["sites"].items():
            for name, found in estimates.items():
                if all(_is_figure(found[end]) for end in ("value", "low", "high")):
                    metrics.setdefault(str(name), {}).setdefault(str(site), []).append((int(at), float(found["value"])))
                    words.setdefault(str(name), {})[str(site), int(at)] = estimate(str(name), found)
    noise = " to ".join(f"{sigma:g}" for sigma in sorted({min(sigmas), max(sigmas)})) if sigmas else ""
    named = [name for name in _TOLD if name in metrics] + [name for name in sorted(metrics) if name not in _TOLD]
    for name in named[:_MOST_METRICS]:
        title = f"{label(name)}, charged: estimates from noisy histograms (sigma {noise}), with 95 % intervals"
        yield _curve(title, _few(metrics[name]), number, words[name])


def _is_figure(value: Any) -> bool:
    """Whether it is a number that can be drawn: beyond 10^100 differences are none any more."""
    return type(value) in (int, float) and abs(value) <= _LARGEST


def _few(series: dict[str, Points]) -> dict[str, Points]:
    """The sites, or of many the smallest, the middle and the largest of each round."""
    if len(series) <= _MOST_LINES:
        return dict(sorted(series.items()))
    by_round: dict[int, list[float]] = {}
    for points in series.values():
        for at, value in points:
            by_round.setdefault(at, []).append(value)
    kinds: Mapping[str, Callable[[list[float]], float]] = {"smallest": min, "median": median, "largest": max}
    return {name: [(at, float(of(by_round[at]))) for at in sorted(by_round)] for name, of in kinds.items()}


def _curve(
    title: str,
    series: dict[str, Points],
    shown: Callable[[float], str],
    words: Mapping[tuple[str, int], str] | None = None,
) -> Curve:
    """A figure.

    Args:
        words: of a line and a round what the table says in place of the value.
    """
    said = words or {}
    numbers = sorted({at for points in series.values() for at, _ in points})
    values = [value for points in series.values() for _, value in points]
    low, high = min(0.0, *values), max(values)
    high = high if high > low else low + 1.0
    span = max(1, numbers[-1] - numbers[0])

    def place(at: int, value: float) -> str:
        return f"{WIDTH * (at - numbers[0]) / span:.1f},{HEIGHT * (1 - (value - low) / (high - low)):.1f}"

    def told(name: str, at: int, value: float) -> str:
        return said.get((name, at)) or shown(value)

    lines = tuple(
        Line(name, " ".join(place(*point) for point in points) if len(points) > 1 else "", told(name, *points[-1]))
        for name, points in series.items()
    )
    known = [(name, dict(points)) for name, points in series.items()]
    rows = tuple(
        (at, tuple(told(name, at, each[at]) if at in each else "none" for name, each in known))
        for at in reversed(numbers)
    )
    older = max(0, len(rows) - _MOST_ROWS)
    return Curve(title, lines, shown(low), shown(high), numbers[0], numbers[-1], rows[:_MOST_ROWS], older)
