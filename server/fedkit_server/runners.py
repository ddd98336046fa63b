"""What the coordinator's API asks of whatever runs the jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

OVER = ("finished", "failed")
"""States in which nothing happens any more; a run that failed can be resumed."""


def nothing() -> None:
    """What need not be done."""


class Runs(Protocol):
    """Runs jobs; may be called from any thread.

    An event is a mapping ``{n, at, kind, round, purpose, site, detail}``: ``n`` counts from 1 within a run, ``at`` is
    seconds since the epoch, the rest is a :class:`fedkit.federation.events.Event`. A status holds at least ``run``,
    ``name``, ``state`` (queued, running, finished, failed), ``outcome`` (None until it ends), ``round``, ``rounds``
    and ``bytes`` (received so far).
    """

    def submit(self, job_text: str) -> str:
        """Begin a run; returns its id.

        Raises:
            FedkitError: the job is refused.
        """

    def stop(self, run: str) -> None:
        """End a run for good.

        Raises:
            FedkitError: it is over, or not known.
        """

    def resume(self, run: str, first: Callable[[], object] = nothing) -> None:
        """Go on with a run that failed.

        Args:
            first: is done before it goes on, and not where it is refused.

        Raises:
            FedkitError: it cannot be resumed.
        """

    def events(self, run: str, after: int) -> list[dict[str, Any]]:
        """What happened after the event of that number."""

    def wait_events(self, run: str, after: int, timeout: float) -> list[dict[str, Any]]:
        """The same, waiting until there is something or the time, in seconds, is over."""

    def status(self, run: str) -> dict[str, Any]:
        """How a run stands."""

    def alive(self) -> bool:
        """Whether runs have their turn."""

    def close(self) -> None:
        """Stop so that the next start goes on, and return when that is done."""
