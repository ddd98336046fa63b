"""The gate that every answer of a site passes: reserve before any record is read, commit before anything is sent.

The same in a simulation and at a deployed site. Knows no Flower, no network and no training.

::

    FK351  a round or purpose that the plan does not have
    FK352  bytes that are no reply, or a reply with something that nothing charges
    FK354  a round that failed while it was computed: it is closed
    FK357  a model whose reply the ledger could not keep
    and the ledger's own: FK342 seeded noise, FK345 no open hold, FK346 more than the hold has left, FK347 another
    message for the same round, FK349 a reply that is gone, FK330 to FK338 a file that cannot be trusted or written
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import FederationError, PrivacyError
from fedkit.federation import reply
from fedkit.federation.public_codes import COMMON, public_code
from fedkit.privacy.accounting import GaussianEvent
from fedkit.privacy.events import Purpose, round_events
from fedkit.privacy.ledger.facts import job_of, require_real_noise
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.ledger.messages import FAILED, Message
from fedkit.types import ClientUpdate, Float32, PrivacyPlan, SiteState

HOLD_SECONDS = 86_400.0
"""How long a hold outlives the last answer: what a killed process held is free again after a day."""
# SQLite keeps at most 1e9 bytes in one place.
_MOST_BYTES = 10**9 - 10**6
_DOMAIN = b"fedkit-request-1\n"
T = TypeVar("T")


@dataclass(frozen=True)
class Gate:
    """One site's way out, for one run.

    Guarantee: whatever :meth:`answer` returns was charged to the ledger before ``compute`` was called and was stored
    before it was returned; a request that was answered is answered with the same bytes for ever and computes nothing;
    a request that failed has failed for ever; a round serves one request a purpose. Hence everything that leaves
    through the gate, over all runs, is (limit, delta)-DP as the ledger's budget says, if each reply is as noisy as the
    ``events`` given with it. Holds across crashes at any point and among processes.

    Attributes:
        dataset: the declared population that is charged.
        plan: what the run promises; the hold is its whole cost.
        hold_seconds: how long the hold is made to last; renewed with each fresh answer once half of it has passed.
    """

    ledger: Ledger
    dataset: str
    run: str
    plan: PrivacyPlan
    hold_seconds: float = HOLD_SECONDS

    def admit(self, study: str) -> None:
        """Hold the whole run's cost; asking again changes nothing.

        Raises:
            PrivacyError: FK339, not enough is left; FK340, no budget for the data set; FK341, another unit or
                adjacency; FK342, seeded noise; FK345, FK346, the run is over or was admitted for another job.
        """
        self.ledger.admit(self.dataset, self.run, study, job_of(self.plan), self._later())

    def answer(
        self,
        purpose: Purpose,
        number: int,
        digest: str,
        events: Sequence[GaussianEvent],
        compute: Callable[[], tuple[bytes, bytes]],
    ) -> bytes:
        """The bytes to send for a request: those of the first answer, if there was one.

        Args:
            number: the run's round.
            digest: of the request, see :func:`request_digest`.
            events: everything that the reply releases.
            compute: reads records and returns the reply and the state after it; called at most once, with the charge
                on disk. If it raises, or its reply cannot be stored, the round is closed before the error goes on:
                whether it fails may depend on records, so nobody gets to see a second try. Only a process that died,
                or a disk that takes not even the closing, leaves the request to be computed again.

        Raises:
            PrivacyError: see the module; nothing was computed, except where the disk fails after it.
            Exception: what ``compute`` raised, if its code stays at the site; else FK354, raised from it.
        """
        require_real_noise(self.plan)
        if number not in self._rounds(purpose):
            raise PrivacyError(
                f"the plan of {self.plan.site} has nothing to {purpose} in round {number}; it has"
                f" {self.plan.rounds} rounds",
                code="FK351",
                remedy="submit a new run for more",
            )
        message = Message(self.dataset, self.run, number, digest, purpose)
        ticket = self.ledger.reserve(message, events)
        if ticket.reply is not None:
            return ticket.reply
        self._keep_hold()
        try:
            computed, state = compute()
            sent = self.ledger.commit(message, computed, state).reply
        except Exception as error:
            # Another process may have answered meanwhile: then that answer stands.
            sent = self.ledger.commit(message, FAILED).reply
            if sent == FAILED and public_code(error) == COMMON:
                raise
            if sent == FAILED:
                raise _closed(message, error) from error
        if sent == FAILED:
            raise _closed(message)
        return sent

    def update(
        self,
        number: int,
        parameters: Float32,
        proximal_mu: float,
        train: Callable[[SiteState], tuple[ClientUpdate, SiteState]],
    ) -> ClientUpdate:
        """The site's update for a round: trained once, however often it is asked for.

        Args:
            parameters: float32 [d], as received.
            train: from the state that the run's last answer left to the update and the next state.

        Raises:
            PrivacyError: see :meth:`answer`; FK357, before anything is charged; FK352, an update with metrics.
        """
        if 4 * len(parameters) > _MOST_BYTES:
            raise PrivacyError(
                f"an update of {len(parameters):,} parameters takes more than the {_MOST_BYTES:,} bytes that a ledger"
                " keeps of a reply",
                code="FK357",
                remedy="train a smaller model",
            )

        def compute() -> tuple[bytes, bytes]:
            update, after = train(self.state())
            return reply.update_to_bytes(update), reply.state_to_bytes(after)

        digest = request_digest(self.run, number, "train", parameters, proximal_mu)
        sent = self.answer("train", number, digest, round_events(self.plan, "train"), compute)
        return reply.update_from_bytes(sent, self.plan.site)

    def measurement(
        self,
        number: int,
        parameters: Float32,
        measure: Callable[[], reply.Arrays],
    ) -> dict[str, NDArray[Any]]:
        """The site's noisy histograms for a model: computed once, however often they are asked for.

        Args:
            measure: array name to its noisy values (float32, float64 or int64).

        Raises:
            PrivacyError: see :meth:`answer`.
        """
        digest = request_digest(self.run, number, "evaluate", parameters, 0.0)
        events = round_events(self.plan, "evaluate")
        sent = self.answer("evaluate", number, digest, events, lambda: (reply.arrays_to_bytes(measure()), b""))
        return reply.arrays_from_bytes(sent)

    def state(self) -> SiteState:
        """What the run's newest training left; empty before the first.

        Raises:
            PrivacyError: FK345, the run was never admitted; FK331, FK349, the state is not what was committed.
        """
        return reply.state_from_bytes(self.ledger.state(self.dataset, self.run) or b"")

    def end(self, reason: Literal["ended", "stopped"] = "ended") -> None:
        """Free what remains of the hold; what was reserved stays spent. Ending twice changes nothing.

        Raises:
            PrivacyError: FK345, the run was never admitted; FK336 to FK338.
        """
        self.ledger.end(self.dataset, self.run, reason)

    def _rounds(self, purpose: str) -> Collection[int]:
        if purpose == "train":
            return range(1, self.plan.rounds + 1)
        return self.plan.evaluation.rounds if purpose == "evaluate" and self.plan.evaluation is not None else ()

    def _later(self) -> float:
        return self.ledger.now_ms() / 1000 + self.hold_seconds

    def _keep_hold(self) -> None:
        # Only work renews: somebody who repeats an old request cannot keep budget from others for ever.
        run, now = self.ledger.account(self.dataset).runs[self.run], self.ledger.now_ms()
        if run.state == "held" and now < run.expires_ms < now + 500 * self.hold_seconds:
            self.ledger.renew(self.dataset, self.run, self._later())


@dataclass
class Recall(Generic[T]):
    """What a simulation without ledgers keeps in a gate's place: the newest round's reply of each site and purpose.

    Guarantee: while it lives, a site answers one request a purpose and round, with one reply, and one that failed
    stays failed. It charges nothing, holds over one run only, and is gone with the process.
    """

    _newest: dict[tuple[str, str], tuple[int, str, T | None]] = field(default_factory=dict)
    _held: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    _let_go: set[tuple[str, str]] = field(default_factory=set)

    def reply(self, site: str, purpose: Purpose, number: int, digest: str) -> T | None:
        """The reply that this request got before; None where the round is still to be answered.

        Raises:
            FederationError: FK535, another request had this round, or the round is past, at this site or at any.
            PrivacyError: FK354, the round failed.
        """
        newest, known, kept = self._newest.get((site, purpose), (-1, "", None))
        if number > newest:
            return None
        if (number, digest) != (newest, known) or (site, purpose) in self._let_go:
            raise FederationError(
                f"round {number} of {site} is past, or was answered for another request", code="FK535"
            )
        if kept is None:
            raise PrivacyError(
                f"round {number} of {site} failed while it was computed",
                code="FK354",
                remedy="go on with the next round",
            )
        return kept

    def keep(self, site: str, purpose: Purpose, number: int, digest: str, kept: T | None) -> None:
        """Remember the reply to a request; None says that it failed. Replies of rounds before need no memory."""
        held, sites = self._held.setdefault(purpose, (number, []))
        if number > held:
            for other in sites:
                at, known, _ = self._newest[other, purpose]
                self._newest[other, purpose] = (at, known, None)
                self._let_go.add((other, purpose))
            sites = []
            self._held[purpose] = (number, sites)
        sites.append(site)
        self._let_go.discard((site, purpose))
        self._newest[site, purpose] = (number, digest, kept)

    @contextmanager
    def failing(self, sites: Sequence[str], purpose: Purpose, number: int, digest: str) -> Iterator[None]:
        """Stands around the computing: where it fails on records, the round has failed for these sites."""
        try:
            yield
        except Exception as error:
            if public_code(error) == COMMON:
                for site in sites:
                    self.keep(site, purpose, number, digest, None)
            raise


def _closed(message: Message, error: Exception | None = None) -> PrivacyError:
    why = f" ({error})" if error is not None else " in another process"
    return PrivacyError(
        f"round {message.round} of run {message.run} failed while it was computed and is closed{why}",
        code="FK354",
        remedy="go on with the next round",
    )


def request_digest(run: str, number: int, purpose: str, parameters: Float32, proximal_mu: float) -> str:
    """SHA-256 of a request's canonical bytes, hex: two requests that differ in anything have two digests.

    Args:
        parameters: float32 [d]; hashed as little-endian bytes, so that every machine agrees.

    >>> digest = request_digest("r1", 1, "train", np.zeros(3, np.float32), 0.0)
    >>> digest == request_digest("r1", 1, "train", np.zeros(3, ">f4"), 0.0)
    True
    >>> digest == request_digest("r1", 1, "train", np.zeros(4, np.float32), 0.0)
    False
    """
    found = hashlib.sha256(_DOMAIN)
    for text in (run, purpose):
        data = text.encode()
        found.update(struct.pack("<Q", len(data)) + data)
    found.update(struct.pack("<qdQ", number, proximal_mu, len(parameters)))
    found.update(np.ascontiguousarray(parameters, dtype="<f4").data)
    return found.hexdigest()
