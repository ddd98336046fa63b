"""What a site remembers of the messages that it took: how far each run is, so that nothing old is done again.

::

    FK542  a run whose name another job had
    FK543  a message that is older than what was answered
    FK581  a round that was begun too often and never answered
    FK764  the file cannot be read
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkit.errors import DeploymentError, FederationError
from fedkit.federation.job import Job
from fedkit.federation.order import TOO_OFTEN, Order
from fedkit.storage.private import replace

_DAY = 86_400.0
MOST_BEGUN = 10
"""Times that one round is begun: a site that is killed, paused or cut off goes on under the charge that was made, and a
coordinator that lets its orders expire has a site train for nothing."""


@dataclass(frozen=True)
class Rounds:
    """``rounds.json``: run to its job's digest, its newest round of each kind and how often that was begun, its end.

    A run is forgotten a day after its job has expired: from then on the job itself is refused.
    """

    path: Path

    def check(self, job: Job, order: Order, *, answered: bool) -> None:
        """Refuse what comes too late.

        Args:
            answered: the ledger holds an answer to exactly this round; it may be given again at any time.

        Raises:
            FederationError: FK542, FK543, FK581.
        """
        known = self._read().get(job.run)
        if known is None:
            return
        if known["job"] != job.digest:
            raise FederationError(
                f"the run {job.run} belongs to another job", code="FK542", remedy="give the new job a run of its own"
            )
        if order.kind == "end" or answered:
            return
        newest = known["newest"].get(order.kind, 0)
        if known["ended"] or order.round < newest:
            why = "the run has ended" if known["ended"] else f"round {newest} was answered"
            raise FederationError(
                f"the message is for round {order.round}, and {why}", code="FK543", remedy="go on with the next round"
            )
        begun = known.get("begun", {}).get(order.kind, 0)
        if order.round == newest and begun >= MOST_BEGUN:
            raise FederationError(
                f"round {order.round} was begun {begun} times and never answered",
                code=TOO_OFTEN,
                remedy="go on with the next round, with a deadline that leaves the site time; client.log tells more",
            )

    def note(self, job: Job, order: Order, now: float, *, begun: bool) -> None:
        """Remember a message that passed every check, before it is answered.

        Args:
            begun: there is work to do for it.

        Raises:
            DeploymentError: FK700, FK764.
        """
        runs = {run: entry for run, entry in self._read().items() if entry["until"] > now}
        fresh: dict[str, Any] = {"job": job.digest, "newest": {}, "ended": False, "until": job.expires_at + _DAY}
        entry = runs.setdefault(job.run, fresh)
        before = json.dumps(entry)
        if order.kind == "end":
            entry["ended"] = True
        else:
            newest, times = entry["newest"], entry.setdefault("begun", {})
            if order.round > newest.get(order.kind, -1):
                newest[order.kind], times[order.kind] = order.round, 0
            if begun and order.round == newest[order.kind]:
                times[order.kind] = times.get(order.kind, 0) + 1
        if before != json.dumps(entry) or entry is fresh:
            replace(self.path, (json.dumps(runs) + "\n").encode())

    def _read(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            for entry in found.values():
                _ = entry["job"], entry["newest"], entry["ended"], entry["until"]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DeploymentError(
                f"{self.path} cannot be read ({type(error).__name__})",
                code="FK764",
                remedy="restore it from a backup; without it, rounds of unprotected runs could be trained again",
            ) from None
        return found
