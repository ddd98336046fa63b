"""A run in progress: what the round loop knows between two steps."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import RecordDict

from fedkit.errors import FederationError, RunError
from fedkit.federation import wire
from fedkit.federation.admission import check_update
from fedkit.federation.courier import Courier, Reception
from fedkit.federation.driving import Driver, Heard, Sum
from fedkit.federation.events import Event, EventKind, Purpose, Stopped
from fedkit.federation.folding import InOrder
from fedkit.federation.outcome import Finish, reasons, round_note
from fedkit.federation.packed import all_finite
from fedkit.federation.reduced import Reduce, taken
from fedkit.runs.resume import Phase, Resume
from fedkit.strategies.streaming import ServerState
from fedkit.types import ClientUpdate, Float32, Metrics, RoundReport

if TYPE_CHECKING:
    from fedkit.federation.rounds import RoundLoop

OnRound = Callable[[RoundReport, Float32, Sequence[ClientUpdate]], None]
"""(report, model, the round's updates in the order of sites)."""


def pick_up(loop: RoundLoop, driver: Driver, parameters: Float32) -> Resume:
    """Where the run stands: at its beginning, or where its journal says.

    Raises:
        RunError: FK633, the journal is another run's.
    """
    identity = loop.identity(driver.name, len(parameters))
    found = loop.journal.load() if loop.journal else None
    if found is None:
        state = driver.init(len(parameters))
        if loop.journal:
            loop.journal.begin(identity, parameters, state)
        return Resume(identity, 0, parameters, state, False, {}, (), False, None, ())
    different = sorted(key for key in identity if found.identity.get(key) != identity[key])
    if different:
        raise RunError(
            f"the journal {loop.journal.folder if loop.journal else ''} is of a run with other {', '.join(different)}",
            code="FK633",
            remedy="start the run with the config that it was begun with, or a new run",
        )
    return found


@dataclass
class Running:
    """One run, from where it was picked up to its outcome."""

    loop: RoundLoop
    driver: Driver
    courier: Courier
    on_round: OnRound
    at: Resume
    parameters: Float32 = field(init=False)
    state: ServerState = field(init=False)
    notes: list[str] = field(init=False)
    degraded: bool = field(init=False)
    phases: Mapping[str, Phase] = field(init=False)
    _round_notes: list[str] = field(default_factory=list)
    _digest: str = ""

    def __post_init__(self) -> None:
        self.parameters, self.state = self.at.parameters, self.at.state
        self.notes, self.degraded, self.phases = list(self.at.notes), self.at.degraded, self.at.phases

    def run(self) -> Finish:
        """Every round that is left.

        Raises:
            FederationError, RunError: as :meth:`RoundLoop.run` says.
        """
        at, last = self.at, self.loop.config.num_rounds
        if at.outcome is not None:
            return Finish(self.parameters, at.outcome, max(0, at.round - 1), at.notes)
        aggregated = at.aggregated
        # Its arrays live on in this object alone, which lets go of them round by round.
        self.at = Resume(at.identity, at.round, np.zeros(0, np.float32), {}, False, {}, (), False, None, ())
        first = at.round
        del at
        for number in range(first, last + 1):
            if self.loop.stop():
                return self._finish("stopped", max(0, number - 1))
            self._tell("round_started", number)
            ended = self._round(number, aggregated=aggregated)
            if ended is not None:
                return ended
            aggregated, self.phases = False, {}
        return self._finish("degraded" if self.degraded else "complete", last)

    def _round(self, number: int, *, aggregated: bool) -> Finish | None:
        loop, start = self.loop, time.perf_counter()
        self._round_notes, self._digest = [], ""
        order, failed = InOrder((), lambda _: None, loop.journal, number), dict[str, str]()
        stopped = False
        if number:
            try:
                order, failed, missed = self._train(number, aggregated=aggregated)
            except Stopped:
                self.notes += self._round_notes
                return self._finish("stopped", number - 1)
            if missed is not None:
                self.notes += [*self._round_notes, missed]
                return self._finish("failed", number - 1)
        measured: dict[str, Metrics] = {}
        histograms: dict[str, tuple[float, ...]] = {}
        silent: dict[str, str] = {}
        try:
            if number % loop.config.evaluate_every == 0 or number == loop.config.num_rounds:
                measured, silent = self._evaluate(number)
            histograms, unmeasured = self._measure(number)
            silent |= unmeasured
        except Stopped:
            # The model is made and paid for: the round ends without what was not measured.
            stopped = True
        note = round_note(number, order.asked, failed, silent, loop.declared or loop.weights) if number else None
        degraded = note is not None
        self._round_notes += [note] if note else []
        report = RoundReport(
            number,
            order.taken(),
            {**failed, **silent},
            measured,
            loop.epsilon_after(number),
            self._digest or digest(self.parameters),
            time.perf_counter() - start,
            histograms,
        )
        self.on_round(report, self.parameters, order.updates())
        if loop.journal:
            loop.journal.end(number, asdict(report), self._round_notes, degraded=degraded)
        self.notes += self._round_notes
        self.degraded = self.degraded or degraded
        self._tell("round_finished", number)
        return self._finish("stopped", number) if stopped else None

    def _train(self, number: int, *, aggregated: bool) -> tuple[InOrder, dict[str, str], str | None]:
        """Ask for updates and fold them; the last value says why there is no model."""
        loop = self.loop
        if aggregated:
            phase = self.phases["train"]
            order = InOrder(phase.asked, lambda _: None, loop.journal, number)
            order.accepted = dict(phase.replies)
            return order, {**phase.refused, **(phase.missing or {})}, None
        chosen, mu = self.driver.trains(number, self.parameters, loop.sample(number))
        phase = self.courier.begin(number, "train", chosen, mu, self.phases)
        total = self.driver.begin(number, self.parameters, self.state)
        order = InOrder(phase.asked, total.add, loop.journal, number, loop.keep_updates or total.holds)
        planned, declared, needs_loss = loop.weights or {}, loop.declared or {}, self.driver.needs_loss
        if loop.reduce is not None:
            return self._folded(order, total, self._reduced(loop.reduce, phase.asked, mu, order, total))

        def check(update: ClientUpdate, squared: float | None = None) -> None:
            check_update(
                update,
                self.parameters,
                weight=planned.get(update.site),
                most_weight=declared.get(update.site),
                needs_loss=needs_loss,
                squared=squared,
            )

        def accept(site: str, content: RecordDict) -> None:
            update = wire.unpack_update(content, site, len(self.parameters))
            check(update)
            order.accept(update)

        def take(update: ClientUpdate) -> None:
            update, squared = wire.as_read(update, len(self.parameters))
            check(update, squared)
            order.accept(update, lent=True)

        reception = Reception(accept, order.restore, order.settle, self._note, None if total.lasting else take)
        return self._folded(order, total, self.courier.carry(number, "train", phase, self.parameters, reception))

    def _reduced(self, reduce: Reduce, asked: Sequence[str], mu: float, order: InOrder, total: Sum) -> dict[str, str]:
        """One mean in all updates' place; who sent none that counts, and why."""
        found = reduce(order.round, asked, self.parameters, mu, self.loop.weights)
        mean, order.accepted, failed = taken(found, asked, len(self.parameters))
        if mean is not None:
            total.add(mean)
        return failed

    def _folded(self, order: InOrder, total: Sum, failed: dict[str, str]) -> tuple[InOrder, dict[str, str], str | None]:
        loop, number = self.loop, order.round
        least = max(loop.config.min_sites, total.least)
        after = total.finish(order.updates()) if len(order.accepted) >= least else None
        if not loop.keep_updates:
            order.kept.clear()
        if after is None:
            return (
                order,
                failed,
                (
                    f"round {number} stopped the run: {len(order.accepted)} usable updates, at least {least} needed"
                    f" ({reasons(failed) or 'the strategy returned no model'})"
                ),
            )
        if not all_finite(after[0]):
            raise FederationError(
                f"the model of round {number} holds NaN or infinity",
                code="FK521",
                remedy="lower training.learning_rate or the strategy's server learning rate",
            )
        self.parameters, self.state = after
        # It holds the model of before.
        order.take = lambda _: None
        if loop.journal:
            self._digest = loop.journal.keep_model(number, self.parameters, self.state)
        return order, failed, None

    def _evaluate(self, number: int) -> tuple[dict[str, Metrics], dict[str, str]]:
        """The exact metrics of a simulation's sites, which a private run's strategy is not told."""
        loop = self.loop
        sites = [site for site in loop.sites if site in loop.evaluates] if loop.evaluates else []
        if not sites:
            return {}, {}
        heard: dict[str, Heard] = {}

        def read(site: str, reply: Mapping[str, Any]) -> None:
            heard[site] = (site, float(reply["rows"]), dict(reply["metrics"]))

        def accept(site: str, content: RecordDict) -> dict[str, Any]:
            rows, metrics = wire.unpack_metrics(content)
            return {"rows": rows, "metrics": dict(metrics)}

        chosen = self.driver.evaluates(number, self.parameters, sites)
        failed = self._question(number, "exact", chosen, accept, read)
        in_order = [heard[site] for site in loop.sites if site in heard]
        if not loop.private:
            self.driver.tell(number, in_order)
        return {site: metrics for site, _, metrics in in_order}, failed

    def _measure(self, number: int) -> tuple[dict[str, tuple[float, ...]], dict[str, str]]:
        """The charged histograms of every site whose plan releases them after this round."""
        loop = self.loop
        sites = [site for site in loop.sites if number in loop.measures.get(site, ())] if loop.measures else []
        if not sites:
            return {}, {}
        found: dict[str, tuple[float, ...]] = {}

        def read(site: str, reply: Mapping[str, Any]) -> None:
            found[site] = tuple(reply["counts"])

        def accept(site: str, content: RecordDict) -> dict[str, Any]:
            return {"counts": wire.unpack_histograms(content, loop.cells).tolist()}

        failed = self._question(number, "histograms", sites, accept, read)
        return {site: found[site] for site in loop.sites if site in found}, failed

    def _question(
        self,
        number: int,
        purpose: Purpose,
        sites: Sequence[str],
        unpack: Callable[[str, RecordDict], dict[str, Any]],
        read: Callable[[str, Mapping[str, Any]], None],
    ) -> dict[str, str]:
        journal = self.loop.journal

        def accept(site: str, content: RecordDict) -> None:
            reply = unpack(site, content)
            if journal:
                journal.keep_reply(number, purpose, site, reply)
            read(site, reply)

        phase = self.courier.begin(number, purpose, sites, 0.0, self.phases)
        return self.courier.carry(
            number, purpose, phase, self.parameters, Reception(accept, read, lambda _: None, self._note)
        )

    def _note(self, line: str) -> None:
        if line not in self._round_notes:
            self._round_notes.append(line)

    def _tell(self, kind: EventKind, number: int, detail: str = "") -> None:
        self.loop.on_progress(Event(kind, number, detail=detail))

    def _finish(self, outcome: str, rounds: int) -> Finish:
        if self.loop.journal:
            self.loop.journal.finish(outcome, self.notes)
        self._tell("finished", rounds, outcome)
        return Finish(self.parameters, outcome, rounds, tuple(self.notes))


def digest(parameters: Float32) -> str:
    """SHA-256 of a packed model's bytes."""
    return hashlib.sha256(np.ascontiguousarray(parameters, dtype="<f4").data).hexdigest()
