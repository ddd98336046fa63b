"""What a running site does by the clock: have what is beyond its deadline deleted, once an hour."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedkit.errors import DeploymentError, FedkitError
from fedkit.storage.audit_line import Event
from fedkit_client.executor import Executor
from fedkit_client.retention import read_due

EVERY = 3600.0
_LOG = logging.getLogger("fedkit.node")


@dataclass
class Upkeep:
    """The node's process signs what a child finds and deletes: that reads no key of the site's, this no record.

    Args:
        tell: writes an event of the audit log, or raises.
        clock: seconds since the epoch; what is due goes by it.
    """

    executor: Executor
    tell: Callable[[Event], object]
    clock: Callable[[], float] = time.time
    _next: float = field(default=0.0)

    def __call__(self) -> None:
        """Look, if it is time; what cannot be deleted is tried again an hour later, and stops no run.

        Raises:
            DeploymentError: FK767, FK768, the executor is gone for good; FK770, FK771, the log.
        """
        now = self.clock()
        # A clock that was set back does not put off what is due.
        if self._next - EVERY <= now < self._next:
            return
        self._next = now + EVERY
        for each in read_due(self._asked({"purge": "due", "now": now}).get("due", [])):
            self.tell(each.receipt())
            told = self._asked({"purge": "delete", "now": now, "due": [vars(each)]})
            if told:
                _LOG.info("%s of %s was deleted: its deadline has passed", each.what, each.run or each.name)

    def _asked(self, header: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            done = self.executor.ask(dict(header), b"")
        except FedkitError as error:
            if isinstance(error, DeploymentError) and error.code in ("FK767", "FK768"):
                raise
            _LOG.warning("what is beyond its deadline is not deleted: %s", error)
            return {}
        if done.header is None or "problem" in done.header:
            _LOG.warning("what is beyond its deadline is not deleted; see the lines of the child")
            return {}
        return done.header
