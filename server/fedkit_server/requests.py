"""What the sites of a run are sent: each message carries a signed order, the signed job and the keyring."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import RecordDict

from fedkit.federation.enrolled import make_enrolments
from fedkit.federation.events import Purpose
from fedkit.federation.job import Job
from fedkit.federation.keyring import Keyring
from fedkit.federation.order import Kind, make_order
from fedkit.federation.request import Request, pack_request
from fedkit.storage.keys import SigningKey
from fedkit.types import Float32

_MARGIN = 60.0


@dataclass
class Requests:
    """Makes a run's messages.

    Attributes:
        keyring: the newest one, asked for each time: a revocation counts from the next message on.
        key: the coordinator's.
        head: the newest signed head of its audit log, asked for each time.
        site_keys: the public keys of the sites that are enrolled now, likewise.
    """

    job: Job
    keyring: Callable[[], Keyring]
    key: SigningKey
    head: Callable[[], str]
    site_keys: Callable[[], Mapping[str, bytes]]
    _newest: tuple[Any, Callable[[], RecordDict | None]] = field(default=(None, lambda: None))
    _known: tuple[Callable[[], Float32 | None], str] = field(default=(lambda: None, ""))

    def __call__(self, site: str, purpose: Purpose, number: int, parameters: Float32, mu: float) -> RecordDict:
        """One site's message for a question of the round loop.

        Sites that are asked together get one and the same content: a large model is in memory once, and goes when
        the last message has gone.
        """
        asked, content = (purpose, number, id(parameters), mu), self._newest[1]()
        if content is None or self._newest[0] != asked:
            content = self.make("train" if purpose == "train" else "evaluate", number, parameters, mu)
            self._newest = asked, weakref.ref(content)
        return content

    def known(self, parameters: Float32, digest: str) -> None:
        """Say what the digest of the next round's parameters is: a large model's takes a while.

        A wrong one costs the round, and nothing else: every site compares it with the array.
        """
        self._known = weakref.ref(parameters), digest

    def make(self, kind: Kind, number: int, parameters: Float32, mu: float = 0.0) -> RecordDict:
        """A message with a fresh order, which lives for the round's deadline and a little more."""
        job, now = self.job, time.time()
        lifetime = job.deadline + _MARGIN
        known = self._known[1] if self._known[0]() is parameters else None
        order = make_order(
            job, kind, number, parameters, self.key, now, lifetime=lifetime, proximal_mu=mu, digest=known
        )
        enrolments = make_enrolments(job.federation, job.sites, self.site_keys(), self.key, now)
        ring = self.keyring().statements
        return pack_request(Request(order.text, job.signed.text, ring, parameters, self.head(), enrolments))
