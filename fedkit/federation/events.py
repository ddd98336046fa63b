"""What a live watch of a run is told, and how a run is told to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Purpose = Literal["train", "exact", "histograms", "statistics"]
"""What a site is asked for: an update, a simulation's exact metrics, the charged histograms of a model's predictions,
or those of its columns."""

EventKind = Literal[
    "round_started", "asked", "received", "refused", "deferred", "missing", "ignored", "round_finished", "finished"
]


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        site: empty where the event is the round's or the run's.
        detail: the reason why a site was refused, is asked again, is missing or was ignored; the outcome of a run.
    """

    kind: EventKind
    round: int
    purpose: Purpose | None = None
    site: str = ""
    detail: str = ""


OnProgress = Callable[[Event], None]


def unheard(_: Event) -> None:
    """Where nobody listens; known by its name, so that no event is made for it."""


class Stopped(Exception):
    """Somebody asked the run to stop; never leaves the round loop."""
