"""``retention:`` of a site's file: for how many days what the site stores is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedkit.governance.reading import Reader

KEPT: dict[str, str] = {
    "replies": "stored replies of a run that is over, from its end",
    "statistics": "stored answers about columns, from when they were given",
    "lineage": "whose records a round has read, from that round",
    "logs": "lines of client.log and usage.jsonl, from when they were written",
    "caches": "asked.json and plans.json, from their last change",
    "alerts": "alerts.sqlite: notices that no channel took, from when they were made, and what was told last then",
    "evidence": "evidence/, from the end of its quarantine",
}
"""What has a deadline, and from when it counts."""

MOST_DAYS = 36_500
DAY = 86_400


@dataclass(frozen=True)
class Retention:
    """Days by what is kept; what has none is kept until somebody deletes it."""

    days: Mapping[str, int] = field(default_factory=dict)

    def strictest(self, kept: str, *others: int | None) -> int | None:
        """The fewest days of the site's and of others, such as a study agreement's; None where nobody has a bound.

        >>> Retention({"replies": 30}).strictest("replies", 90), Retention().strictest("replies", 90)
        (30, 90)
        """
        return min((days for days in (self.days.get(kept), *others) if days is not None), default=None)


def retention_of(found: Reader, value: Any) -> Retention:
    """The checked values of a site's file."""
    raw = found.mapping(value, "retention", tuple(KEPT))
    return Retention(
        {
            name: found.whole(days, f"retention.{name}", 0, MOST_DAYS, "30")
            for name, days in raw.items()
            if name in KEPT and days is not None
        }
    )
