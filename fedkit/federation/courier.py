"""One question to some sites, journaled: who is asked, what comes back, who is left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from flwr.app import RecordDict
from flwr.serverapp import Grid

from fedkit.errors import FedkitError, RunError
from fedkit.federation import wire
from fedkit.federation.asking import ask, together_of
from fedkit.federation.direct import hear
from fedkit.federation.events import Event, EventKind, OnProgress, Purpose, unheard
from fedkit.federation.public_codes import readable_reason
from fedkit.runs.journal import Journal
from fedkit.runs.resume import Phase
from fedkit.types import ClientUpdate, Float32

T = TypeVar("T")
MakeRequest = Callable[[str, Purpose, int, Float32, float], RecordDict]
"""(site, purpose, round, parameters, proximal_mu) to what is sent; the same values must give the same question."""


@dataclass(frozen=True)
class Reception:
    """What is done with replies.

    Attributes:
        accept: a reply that has come; raises FedkitError to refuse it.
        restore: a reply that the journal holds.
        settle: a site of which nothing will come.
        note: a line for the run's notes.
        take: an update that came without a message, from a site of this process, in an array that is lent; raises
            FedkitError to refuse it. None: whoever receives wants messages.
    """

    accept: Callable[[str, RecordDict], None]
    restore: Callable[[str, Mapping[str, Any]], None]
    settle: Callable[[str], None]
    note: Callable[[str], None]
    take: Callable[[ClientUpdate], None] | None = None


@dataclass(frozen=True)
class Courier:
    """Carries a question to sites and their answers back.

    Attributes:
        nodes: site to Flower node id.
        timeout: seconds that a question may take.
    """

    grid: Grid
    nodes: Mapping[str, int]
    timeout: float
    journal: Journal | None
    make_request: MakeRequest | None
    stop: Callable[[], bool]
    on_progress: OnProgress

    def begin(
        self, number: int, purpose: Purpose, sites: Sequence[str], mu: float, phases: Mapping[str, Phase]
    ) -> Phase:
        """The question as the journal has it; a new one is written down before anybody is asked."""
        if purpose in phases:
            return phases[purpose]
        request = {"proximal_mu": mu}
        if self.journal:
            self.journal.ask(number, purpose, sites, request)
        return Phase(tuple(sites), request, {}, {}, None)

    def carry(
        self, number: int, purpose: Purpose, phase: Phase, parameters: Float32, reception: Reception
    ) -> dict[str, str]:
        """Ask whoever has not answered yet, and settle the question.

        Returns:
            site to the reason why nothing of it counts, in the order of sites.

        Raises:
            Stopped: somebody asked the run to stop.
        """
        failed = dict(phase.refused)
        for site in phase.asked:
            if site in phase.replies:
                reception.restore(site, phase.replies[site])
            elif site in failed:
                reception.settle(site)
        open_ = [site for site in phase.asked if site not in phase.replies and site not in failed]
        missing = phase.missing
        if missing is None:
            missing = self._ask(number, purpose, open_, phase, parameters, failed, reception) if open_ else {}
            if self.journal:
                self.journal.close_phase(number, purpose, missing)
        for site in missing:
            reception.settle(site)
        failed |= missing
        return {site: failed[site] for site in phase.asked if site in failed}

    def _ask(
        self,
        number: int,
        purpose: Purpose,
        sites: Sequence[str],
        phase: Phase,
        parameters: Float32,
        failed: dict[str, str],
        reception: Reception,
    ) -> dict[str, str]:
        def tell(kind: EventKind, site: str, detail: str = "") -> None:
            if self.on_progress is not unheard:
                self.on_progress(Event(kind, number, purpose, site, detail))

        def refuse(site: str, reason: str) -> None:
            failed[site] = reason
            if self.journal:
                self.journal.refuse(number, purpose, site, reason)
            reception.settle(site)
            tell("refused", site, reason)

        def receive(site: str, found: T, accept: Callable[[T], None]) -> None:
            try:
                accept(found)
            except FedkitError as error:
                # The coordinator's own disk is no site's failure.
                if isinstance(error, RunError):
                    raise
                refuse(site, str(error))
            else:
                tell("received", site)

        missing: dict[str, str] = {}
        mu = float(phase.request["proximal_mu"])
        for site in sites:
            tell("asked", site)
        updates = getattr(self.grid, "updates", None)
        if updates is not None and reception.take is not None and self.make_request is None:
            together = together_of(self.grid, 4 * len(parameters))
            heard = hear(updates, sites, parameters, number, mu, together=together, stop=self.stop)
            with closing(heard):
                for found in heard:
                    if isinstance(found, str):
                        refuse(found, readable_reason("FK524"))
                    else:
                        receive(found.site, found, reception.take)
            return missing
        for arrival in ask(
            self.grid,
            {site: self.nodes[site] for site in sites},
            lambda: self._requests(number, purpose, parameters, mu),
            message_type="train" if purpose == "train" else "evaluate",
            timeout=self.timeout,
            size=4 * len(parameters) if purpose == "train" else 0,
            stop=self.stop,
        ):
            site = arrival.site
            if arrival.kind == "ignored":
                reception.note(f"round {number}: {arrival.reason}{f' of {site}' if site else ''} was ignored")
                tell("ignored", site, arrival.reason)
            elif arrival.kind == "deferred":
                tell("deferred", site, arrival.reason)
            elif arrival.kind == "missing":
                missing[site] = arrival.reason
                tell("missing", site, arrival.reason)
            elif arrival.content is None:
                refuse(site, arrival.reason)
            else:
                receive(site, arrival.content, partial(reception.accept, site))
            # Held any longer, a reply would be in memory beside the next.
            del arrival
        return missing

    def _requests(self, number: int, purpose: Purpose, parameters: Float32, mu: float) -> Callable[[str], RecordDict]:
        make = self.make_request
        if make is not None:
            return lambda site: make(site, purpose, number, parameters, mu)
        if purpose == "train":
            shared = wire.pack_model(parameters, number, mu)
        else:
            shared = wire.pack_evaluation(parameters, number, histograms=purpose == "histograms")
        return lambda _: shared
