"""One alert: what somebody at the hospital should look at, in words that follow from no record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedkit.governance.alert_terms import SEVERITIES
from fedkit.storage.audit_line import Scalar


@dataclass(frozen=True)
class Alert:
    """What stands, and since when.

    Attributes:
        key: the same for the same matter, however often it is found.
        since: seconds since the epoch.
        count: how often it has happened.
        about: names of data sets, runs, codes, digests.
    """

    rule: str
    severity: str
    key: str
    since: float
    text: str
    remedy: str
    count: int = 1
    about: Mapping[str, Scalar] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "rule": self.rule, "severity": self.severity, "key": self.key, "since": round(self.since, 3),
            "count": self.count, "text": self.text, "remedy": self.remedy, "about": dict(self.about),
        }  # fmt: skip


def weight(severity: str) -> int:
    """The place of a severity, the least first."""
    return SEVERITIES.index(severity)


def at_least(severity: str, least: str) -> bool:
    """Whether one severity reaches another.

    >>> at_least("critical", "warning"), at_least("info", "warning")
    (True, False)
    """
    return weight(severity) >= weight(least)
