"""What a job asks for that trains nothing: one noisy histogram of each named column."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fedkit.privacy.accounting import MAX_SIGMA, MIN_SIGMA

MOST_COLUMNS = 10_000
MOST_BINS = 1000
_LABEL = re.compile(r"[A-Za-z0-9._-]{0,100}")
_FIELDS = ("columns", "bins", "noise_multiplier", "delta", "anew")


@dataclass(frozen=True)
class Statistics:
    """A question about a data set's declared columns; the declaration says what the cells are.

    Attributes:
        columns: each once.
        bins: equal bins of a number's declared range.
        noise_multiplier: standard deviation of the noise on every cell, in units of privacy.
        delta: at which its cost is told; the sites' own is no less.
        anew: with another label the same question is asked, and paid for, again.
        outside: how many numbers lie outside their declared range is asked too; a site of before refuses that.
    """

    columns: tuple[str, ...]
    bins: int
    noise_multiplier: float
    delta: float
    anew: str = ""
    outside: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        told = {**asdict(self), "columns": list(self.columns)}
        if not self.outside:
            del told["outside"]
        return told


def statistics_of(values: Mapping[str, Any]) -> Statistics:
    """A question from its plain values.

    Raises:
        ValueError: what is wrong with it, in words.

    >>> statistics_of({"columns": ["age"], "bins": 10, "noise_multiplier": 8.0, "delta": 1e-5, "anew": ""}).bins
    10
    """
    if set(values) not in ({*_FIELDS}, {*_FIELDS, "outside"}):
        raise ValueError(f"has other fields than {', '.join(_FIELDS)}")
    columns, bins, anew = values["columns"], values["bins"], values["anew"]
    if not isinstance(columns, list) or not all(isinstance(name, str) and name for name in columns):
        raise ValueError("names columns that are no list of texts")
    if not 1 <= len(set(columns)) == len(columns) <= MOST_COLUMNS:
        raise ValueError(f"names no column, one twice, or more than {MOST_COLUMNS}")
    if type(bins) is not int or not 2 <= bins <= MOST_BINS:
        raise ValueError(f"has bins that are not 2 to {MOST_BINS}")
    sigma, delta = (_number(values[name]) for name in ("noise_multiplier", "delta"))
    if not MIN_SIGMA <= sigma <= MAX_SIGMA:
        raise ValueError(f"has a noise_multiplier that is not {MIN_SIGMA:g} to {MAX_SIGMA:g}")
    if not 0 < delta < 1:
        raise ValueError("has a delta that is not between 0 and 1")
    if not isinstance(anew, str) or not _LABEL.fullmatch(anew):
        raise ValueError("has a label that is no 0 to 100 letters, digits, . _ and -")
    if values.get("outside", True) is not True:
        raise ValueError("has an outside that is not true")
    return Statistics(tuple(columns), bins, sigma, delta, anew, "outside" in values)


def cost_of(asked: Statistics) -> float:
    """Epsilon of an answer at the question's own delta, by PLD.

    Raises:
        PrivacyError: FK302, a delta out of the accountant's range.
    """
    # Imported here: whoever only reads a job prices nothing.
    from fedkit.privacy.accounting import epsilon_of
    from fedkit.privacy.column_histogram import histogram_event
    from fedkit.privacy.events import gaussian_delta

    event = histogram_event(asked.noise_multiplier, len(asked.columns))
    return float(epsilon_of([event], gaussian_delta(asked.delta)))


def _number(value: Any) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if good else math.nan
