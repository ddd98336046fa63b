"""One measurement beside what the plan says of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Group = Literal["release", "noise", "independence", "sampling", "clipping", "accounting", "lower bound"]
Status = Literal["holds", "contradiction", "not measured"]


@dataclass(frozen=True)
class Finding:
    """One thing that was measured.

    Attributes:
        check: stable name for scripts, such as ``noise.sigma``.
        site: the site whose releases were looked at, or ``all``.
        what: the quantity in words, with its unit.
        estimate: None where nothing could be measured.
        low, high: confidence interval of the estimate, or for a test the range that a correct mechanism stays in;
            None where the reading is exact, or one side is open.
        expected: what the plan says; None where there is no single number.
        verdict: a few words for a person.
    """

    check: str
    group: Group
    site: str
    what: str
    estimate: float | None
    low: float | None
    high: float | None
    expected: float | None
    status: Status
    verdict: str

    def __post_init__(self) -> None:
        for name in ("estimate", "low", "high", "expected"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, float(value) if math.isfinite(value) else None)


def compared(
    check: str,
    group: Group,
    site: str,
    what: str,
    estimate: float,
    interval: tuple[float, float],
    expected: float,
    *,
    below: str,
    above: str,
    margin: float = 0.0,
) -> Finding:
    """A finding that holds where the interval of the estimate meets ``[expected, expected * (1 + margin)]``.

    Args:
        below, above: the verdict where the whole interval lies under or over what is expected.

    >>> compared("noise.sigma", "noise", "a", "sigma", 1.0, (0.99, 1.01), 2.0, below="less noise", above="more").verdict
    'less noise'
    """
    low, high = interval
    if not all(map(math.isfinite, (estimate, low, high))):
        return Finding(check, group, site, what, None, None, None, expected, "contradiction", "not a finite number")
    if high < expected:
        return Finding(check, group, site, what, estimate, low, high, expected, "contradiction", below)
    if low > expected * (1 + margin):
        return Finding(check, group, site, what, estimate, low, high, expected, "contradiction", above)
    return Finding(check, group, site, what, estimate, low, high, expected, "holds", "as planned")


def within(
    check: str,
    group: Group,
    site: str,
    what: str,
    estimate: float,
    allowed: tuple[float | None, float | None],
    expected: float | None,
    *,
    broken: str,
    holds: str = "as planned",
) -> Finding:
    """A finding that holds where the estimate lies in the range that a correct mechanism stays in."""
    low, high = allowed
    inside = math.isfinite(estimate) and (low is None or estimate >= low) and (high is None or estimate <= high)
    status: Status = "holds" if inside else "contradiction"
    return Finding(check, group, site, what, estimate, low, high, expected, status, holds if inside else broken)


def not_measured(check: str, group: Group, site: str, what: str, why: str) -> Finding:
    """A finding that says why there is none."""
    return Finding(check, group, site, what, None, None, None, None, "not measured", why)
