"""One thing that a run is held against, as a value: see `fedkit.governance.clauses` for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WAITING = frozenset({"FK576", "FK577"})
"""Codes of what may be otherwise in an hour: such a message is asked again until the round's deadline."""

Verdict = Literal["admitted", "waits", "refused"]


@dataclass(frozen=True)
class Clause:
    """One thing that a site's file, or a study agreement that the site has signed, says of a run.

    Attributes:
        key: where it stands in the site's file; without a dot, beside ``policy``; ``study.`` in the agreement.
        what: what is compared, such as ``the number of rounds``.
        value: the run's, in words.
        bound: the site's, in words.
        remedy: what would make the run fit.
        holds: whether the run fits.
    """

    key: str
    code: str
    what: str
    value: str
    bound: str
    remedy: str
    holds: bool

    @property
    def verdict(self) -> Verdict:
        """``waits`` for what a person or the clock may still change, without another run."""
        if self.holds:
            return "admitted"
        return "waits" if self.code in WAITING else "refused"

    def why(self, site: str) -> str:
        """The clause as a refusal says it, value and bound in it."""
        return f"{self.key}: {self.what} is {self.value}, and {site} allows {self.bound}"
