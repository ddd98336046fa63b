"""A site's answers to the coordinator, the same in a simulation and in a ClientApp."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from flwr.app import RecordDict
from torch import nn

from fedkit.errors import FederationError
from fedkit.federation import wire
from fedkit.federation.bounds import check_request
from fedkit.federation.gate import Gate, Recall, request_digest
from fedkit.federation.public_codes import on_records
from fedkit.federation.reduced import Reduced, Reducer
from fedkit.privacy.histogram import noisy_histogram
from fedkit.privacy.randomness import Secure, Seeded, Source
from fedkit.training.engine import REFERENCE, Engine
from fedkit.training.evaluate import predict
from fedkit.training.histograms import HistogramSpec, cells_of
from fedkit.training.metrics import metrics
from fedkit.types import ClientUpdate, Examples, Float32, LocalPlan, RoundPlan, Site, SiteState, Task

Trainer = Callable[
    [Sequence[str], RoundPlan, Mapping[str, SiteState]],
    Iterator[tuple[ClientUpdate, SiteState]],
]
"""Some sites' names -> their updates and next states, in any order; a delta holds until the next is asked for."""


@dataclass
class SiteRuntime:
    """The sites that one process answers for: all of them in a simulation, one in a ClientApp.

    Attributes:
        plans: sites that train; one that is too small has no plan.
        evaluates: sites with enough test rows for exact metrics.
        specs: the histograms of a charged evaluation.
        exact: this is a simulation on one machine: exact metrics are told, and a private site may answer without a
            ledger. Anywhere else it stays False.
        gates: site to the ledger's gate that its answers pass; where any site has one, a private site without answers
            nothing.
        recall: the histograms that a private site of a simulation released in the newest round, where it has no gate.
        updated: its update of the newest round, likewise.
        state: what each site keeps from round to round; where it has a gate, the ledger keeps it.
        engine: what trains them.
        trainer: what trains those without a gate, where it is not the engine in this process.
        reducer: what trains them and adds up their updates, in a simulation that asks for it.
    """

    model: nn.Module
    task: Task
    seed: int
    sites: Mapping[str, Site]
    plans: Mapping[str, LocalPlan]
    evaluates: frozenset[str]
    specs: tuple[HistogramSpec, ...] = ()
    exact: bool = False
    gates: Mapping[str, Gate] = field(default_factory=dict)
    state: dict[str, SiteState] = field(default_factory=dict)
    recall: Recall[RecordDict] = field(default_factory=Recall)
    updated: Recall[ClientUpdate] = field(default_factory=Recall)
    engine: Engine = REFERENCE
    trainer: Trainer | None = None
    reducer: Reducer | None = None

    def answer_query(self, name: str) -> RecordDict:
        """Who the site is and what it takes part in."""
        return wire.pack_roster(wire.Roster(name, name in self.plans, self.exact and name in self.evaluates))

    def answer_train(self, names: Sequence[str], content: RecordDict) -> dict[str, RecordDict]:
        """Train a batch of sites on one request, as :meth:`train`."""
        return self.train(names, *wire.unpack_model(content))

    def train(
        self, names: Sequence[str], parameters: Float32, server_round: int, proximal_mu: float
    ) -> dict[str, RecordDict]:
        """The replies of a batch of sites, which hold what :meth:`updates` gives."""
        found = self.updates(names, parameters, server_round, proximal_mu)
        return {update.site: wire.pack_update(update) for update in found}

    def updates(
        self, names: Sequence[str], parameters: Float32, server_round: int, proximal_mu: float
    ) -> Generator[ClientUpdate, None, None]:
        """Train a batch of sites; they come in any order, and a delta holds until the next is asked for.

        Args:
            parameters: float32 [d].

        Raises:
            FederationError: FK535, a round that a site's plan does not contain or another request had, or a private
                site that keeps no ledger; FK536, parameters or proximal_mu out of bounds.
        """
        plan = self._plan(names, parameters, server_round, proximal_mu)
        # Nothing to ask for in a simulation without ledgers.
        gates = {name: self._gate(name) for name in names} if self.gates or not self.exact else {}
        yield from self._free([name for name in names if gates.get(name) is None], plan)
        for name, gate in gates.items():
            if gate:
                yield self._through_gate(gate, self.sites[name], plan)

    def reduced(
        self,
        server_round: int,
        names: Sequence[str],
        parameters: Float32,
        proximal_mu: float,
        weights: Mapping[str, float] | None,
    ) -> Reduced:
        """Train a batch of sites of a simulation and add up their updates, which none of them sends by itself.

        Raises:
            FederationError: as :meth:`train`; sites with ledgers, whose answers leave through their gates.
        """
        plan = self._plan(names, parameters, server_round, proximal_mu)
        if self.reducer is None or not self.exact or any(self._gate(name) for name in names):
            raise FederationError("a site's answer is not added to others' before it has left it", code="FK535")
        digest = request_digest("", plan.round, "train", plan.parameters, plan.proximal_mu)
        once = [name for name in names if self._secure(name)]
        if any(self.updated.reply(name, "train", plan.round, digest) is not None for name in once):
            raise FederationError(f"round {server_round} was answered update by update", code="FK535")
        try:
            found = self.reducer(names, plan, self.state, weights)
        finally:
            # There is no reply to give again: noise is not drawn for a second one.
            for name in once:
                self.updated.keep(name, "train", plan.round, digest, None)
        self.state.update({name: state for name, state in found.state.items() if state or name in self.state})
        return found

    def _plan(self, names: Sequence[str], parameters: Float32, server_round: int, proximal_mu: float) -> RoundPlan:
        self._check_request(names, parameters, proximal_mu)
        for name in names:
            privacy = self.plans[name].privacy if name in self.plans else None
            if privacy is not None and not 1 <= server_round <= privacy.rounds:
                raise FederationError(f"the plan has no round {server_round}", code="FK535")
        return RoundPlan(self.seed, server_round, parameters, proximal_mu, {n: self.plans[n] for n in names})

    def _free(self, names: Sequence[str], plan: RoundPlan) -> Iterator[ClientUpdate]:
        """The updates of sites without a gate; those with real noise train once a round."""
        once = {name for name in names if self._secure(name)}
        if not once:
            yield from self._new(names, plan)
            return
        digest = request_digest("", plan.round, "train", plan.parameters, plan.proximal_mu)
        before = {name: self.updated.reply(name, "train", plan.round, digest) for name in names if name in once}
        yield from (update for update in before.values() if update is not None)
        new = [name for name in names if before.get(name) is None]
        with self.updated.failing([name for name in new if name in once], "train", plan.round, digest):
            for update in self._new(new, plan):
                if update.site in once:
                    kept = replace(update, delta=update.delta.copy())
                    self.updated.keep(update.site, "train", plan.round, digest, kept)
                yield update

    def _new(self, names: Sequence[str], plan: RoundPlan) -> Iterator[ClientUpdate]:
        if not names:
            return
        for update, state in (self.trainer or self._trained)(names, plan, self.state):
            # Nothing is kept of those that keep nothing: they may be very many.
            if state or update.site in self.state:
                self.state[update.site] = state
            yield update

    def _trained(
        self, names: Sequence[str], plan: RoundPlan, state: Mapping[str, SiteState]
    ) -> Iterator[tuple[ClientUpdate, SiteState]]:
        sites = [self.sites[name] for name in names]
        updates, after = self.engine.train(self.model, self.task, sites, plan, state)
        return ((update, after[update.site]) for update in updates)

    def _check_request(self, names: Sequence[str], parameters: Float32, proximal_mu: float) -> None:
        if not self.exact and any(self._noise(name) == "seeded" for name in names):
            raise FederationError("seeded noise protects nobody; it exists in a simulation only", code="FK535")
        private = any(name in self.plans and self.plans[name].privacy is not None for name in names)
        check_request(parameters, proximal_mu, private=private)

    def _noise(self, name: str) -> str | None:
        local = self.plans.get(name)
        return local.privacy.noise if local is not None and local.privacy is not None else None

    def _secure(self, name: str) -> bool:
        return self._noise(name) == "secure"

    def _gate(self, name: str) -> Gate | None:
        """The gate that a site's answers pass; None in a simulation without ledgers, and where nothing is private."""
        if not self.gates:
            if self._secure(name) and not self.exact:
                raise FederationError(f"{name} keeps no ledger, and would answer for ever", code="FK535")
            return None
        gate, local = self.gates.get(name), self.plans.get(name)
        # What is charged must be what is done.
        if gate is None or local is None or gate.plan != local.privacy:
            raise FederationError(f"{name} has no ledger for its plan", code="FK535")
        return gate

    def _through_gate(self, gate: Gate, site: Site, plan: RoundPlan) -> ClientUpdate:
        # A model that is refused must not cost budget: it is looked at before anything is reserved.
        self.engine.check(self.model, self.task, [site], plan)

        def once(state: SiteState) -> tuple[ClientUpdate, SiteState]:
            updates, after = self.engine.train(self.model, self.task, [site], plan, {site.name: state})
            return updates[0], after[site.name]

        return gate.update(plan.round, plan.parameters, plan.proximal_mu, once)

    def answer_evaluate(self, name: str, content: RecordDict) -> RecordDict:
        """Answer an evaluate request, as :meth:`evaluate`."""
        parameters, server_round, _ = wire.unpack_model(content)
        return self.evaluate(name, parameters, server_round, histograms=wire.asks_for_histograms(content))

    def evaluate(self, name: str, parameters: Float32, server_round: int, *, histograms: bool) -> RecordDict:
        """The charged histograms of the site's test units, or its exact metrics, which are not protected.

        Args:
            parameters: float32 [d].

        Raises:
            FederationError: FK535, an evaluation that the site's plan does not contain or another request had, or a
                private site that keeps no ledger; FK536, parameters out of bounds.
        """
        if histograms:
            self._check_request([name], parameters, 0.0)
            gate = self._gate(name)
            if gate is None:
                return self._measured(name, parameters, server_round)
            # What is refused must not cost budget.
            self._check_evaluation(name, parameters, server_round)
            found = gate.measurement(
                server_round, parameters, lambda: {"counts": self.histograms(name, parameters, server_round)}
            )
            return wire.pack_histograms(found["counts"])
        if not self.exact:
            raise FederationError("exact metrics are not released by this site", code="FK535")
        test = self.sites[name].test
        return wire.pack_metrics(len(test), metrics(self.task, predict(self.model, parameters, self.task, test)))

    def _measured(self, name: str, parameters: Float32, server_round: int) -> RecordDict:
        """The histograms of a site without a gate; one with real noise measures once a round."""
        if not self._secure(name):
            return wire.pack_histograms(self.histograms(name, parameters, server_round))
        digest = request_digest("", server_round, "evaluate", parameters, 0.0)
        found = self.recall.reply(name, "evaluate", server_round, digest)
        if found is None:
            with self.recall.failing([name], "evaluate", server_round, digest):
                found = wire.pack_histograms(self.histograms(name, parameters, server_round))
            self.recall.keep(name, "evaluate", server_round, digest, found)
        return found

    def histograms(self, name: str, parameters: Float32, server_round: int) -> wire.Float64:
        """What a charged evaluation releases, float64 [cells of all specs].

        Raises:
            FederationError: FK535, the plan has no evaluation after this round, or one of another number of histograms.

        Guarantee: one Gaussian mechanism of the plan's evaluation noise a histogram; neither the length of the result
        nor any error depends on a record.
        """
        sigma = self._check_evaluation(name, parameters, server_round)
        test, source = self.sites[name].test, self._source(name, server_round)
        with on_records():
            predictions = predict(self.model, parameters, self.task, test, places=source)
            cells = [cells_of(spec, predictions, test.subgroups) for spec in self.specs]
            parts = [
                noisy_histogram(mine, test.unit, spec.size, sigma, source)
                for mine, spec in zip(cells, self.specs, strict=True)
            ]
            return np.concatenate(parts)

    def _check_evaluation(self, name: str, parameters: Float32, server_round: int) -> float:
        """The evaluation's noise multiplier, once the request is found to be one of the plan's.

        What is wrong with the model is said before a record is used, and also by a site that has none.
        """
        local = self.plans.get(name)
        evaluation = local.privacy.evaluation if local and local.privacy else None
        if evaluation is None or server_round not in evaluation.rounds:
            raise FederationError(f"the plan has no evaluation after round {server_round}", code="FK535")
        # What is charged must be what is released.
        if len(self.specs) != evaluation.histograms:
            raise FederationError(
                f"the site would release {len(self.specs)} histograms; its plan pays for {evaluation.histograms}",
                code="FK535",
                remedy="make the plan and the site from one config",
            )
        shape = self.sites[name].test.x.shape[1:]
        nobody = Examples(np.zeros((1, *shape), np.float32), np.zeros(1, np.int64), np.zeros(1, np.int64))
        predict(self.model, parameters, self.task, nobody, places=Secure())
        return evaluation.noise_multiplier

    def _source(self, name: str, server_round: int) -> Source:
        return Secure() if self._secure(name) else Seeded(self.seed, server_round, name, "evaluation")
