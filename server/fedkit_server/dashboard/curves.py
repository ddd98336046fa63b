"""A run's curves for a page: a line a site in a small picture, and the same figures as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from fedkit.reporting.text import describe, epsilon, number, ordered

WIDTH, HEIGHT = 640, 160
_MOST_LINES, _MOST_METRICS, _MOST_ROWS = 8, 6, 40
_MOST_ROUNDS, _LAST_ROUND, _LARGEST = 1000, 10**9, 1e100
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
    return [
        _curve(title, _few(series), number if place else epsilon)
        for place, (title, series) in enumerate(_series(rounds))
        if series
    ]


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


def _curve(title: str, series: dict[str, Points], shown: Callable[[float], str]) -> Curve:
    numbers = sorted({at for points in series.values() for at, _ in points})
    values = [value for points in series.values() for _, value in points]
    low, high = min(0.0, *values), max(values)
    high = high if high > low else low + 1.0
    span = max(1, numbers[-1] - numbers[0])

    def place(at: int, value: float) -> str:
        return f"{WIDTH * (at - numbers[0]) / span:.1f},{HEIGHT * (1 - (value - low) / (high - low)):.1f}"

    lines = tuple(
        Line(name, " ".join(place(*point) for point in points) if len(points) > 1 else "", shown(points[-1][1]))
        for name, points in series.items()
    )
    known = [dict(points) for points in series.values()]
    rows = tuple((at, tuple(shown(each[at]) if at in each else "none" for each in known)) for at in reversed(numbers))
    older = max(0, len(rows) - _MOST_ROWS)
    return Curve(title, lines, shown(low), shown(high), numbers[0], numbers[-1], rows[:_MOST_ROWS], older)
