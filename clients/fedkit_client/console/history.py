"""A budget's past for a page: by day for a table, and as the line of a small picture."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from fedkit.errors import PrivacyError
from fedkit.privacy.ledger.history import Moment, history
from fedkit.privacy.ledger.ledger import Ledger
from fedkit_client.folder import SiteFolder

WIDTH, HEIGHT = 640, 120
_MOST_DAYS = 60


def past(folder: SiteFolder, dataset: str) -> dict[str, Any]:
    """What a page tells of how a budget was spent; nothing of a ledger that cannot be read, which the page says."""
    try:
        with Ledger(folder.ledger(dataset), read_only=True) as ledger:
            moments, limit = history(ledger, dataset), ledger.account(dataset).budget.limit
    except PrivacyError:
        return {"days": [], "older": 0, "line": ""}
    days = by_day(moments)
    return {"days": days[:_MOST_DAYS], "older": max(0, len(days) - _MOST_DAYS), "line": line_of(moments, limit)}


def by_day(moments: Sequence[Moment]) -> list[dict[str, Any]]:
    """Each day on which something was spent, the newest first, with where the budget stood at its end."""
    days: dict[str, dict[str, Any]] = {}
    for each in moments:
        day = datetime.fromtimestamp(each.at_ms / 1000, UTC).strftime("%Y-%m-%d")
        entries = days.get(day, {"entries": 0})["entries"] + 1
        days[day] = {"day": day, "entries": entries, "epsilon": each.epsilon, "left": max(0.0, 1 - each.spent)}
    return list(days.values())[::-1]


def line_of(moments: Sequence[Moment], limit: float) -> str:
    """Points of a step line, epsilon spent over time; nothing where there is less than a line.

    >>> line_of([Moment(0, 0.1, 1.0), Moment(1000, 0.2, 2.0)], 4.0)
    '0.0,90.0 640.0,90.0 640.0,60.0'
    """
    if len(moments) < 2 or limit <= 0:
        return ""
    first, last = moments[0].at_ms, moments[-1].at_ms
    points: list[str] = []
    height = 0.0
    for each in moments:
        x = WIDTH * (each.at_ms - first) / max(1, last - first)
        if points:
            points.append(f"{x:.1f},{height:.1f}")
        height = HEIGHT * (1 - min(1.0, each.epsilon / limit))
        points.append(f"{x:.1f},{height:.1f}")
    return " ".join(points)
