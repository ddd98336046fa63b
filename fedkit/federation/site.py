"""A site's answers to the coordinator, the same in a simulation and in a ClientApp."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from flwr.app import RecordDict
from torch import nn

from fedkit.errors import FederationError
from fedkit.federation import wire
from fedkit.federation.gate import Gate
from fedkit.federation.public_codes import on_records
from fedkit.privacy.histogram import noisy_histogram
from fedkit.privacy.randomness import Secure, Seeded, Source
from fedkit.training.evaluate import predict
from fedkit.training.histograms import HistogramSpec, cells_of
from fedkit.training.local import check_model, train
from fedkit.training.metrics import metrics
from fedkit.types import ClientUpdate, Examples, Float32, LocalPlan, RoundPlan, Site, SiteState, Task


@dataclass
class SiteRuntime:
    """The sites that one process answers for: all of them in a simulation, one in a ClientApp.

    Attributes:
        plans: sites that train; one that is too small has no plan.
        evaluates: sites with enough test rows for exact metrics.
        specs: the histograms of a charged evaluation.
        exact: admit requests for exact metrics: a simulation's privilege.
        gates: site to the ledger's gate that its answers pass; where any site has one, a private site without answers
            nothing.
        state: what each site keeps from round to round; where it has a gate, the ledger keeps it.
    """

    model: nn.Module
    task: Task
    seed: int
    sites: Mapping[str, Site]
    plans: Mapping[str, LocalPlan]
    evaluates: frozenset[str]
    specs: tuple[HistogramSpec, ...] = ()
    exact: bool = True
    gates: Mapping[str, Gate] = field(default_factory=dict)
    state: dict[str, SiteState] = field(default_factory=dict)

    def answer_query(self, name: str) -> RecordDict:
        """Who the site is and what it takes part in."""
        return wire.pack_roster(wire.Roster(name, name in self.plans, self.exact and name in self.evaluates))

    def answer_train(self, names: Sequence[str], content: RecordDict) -> dict[str, RecordDict]:
        """Train a batch of sites on one request.

        Raises:
            FederationError: FK535, a round that a site's plan does not contain.
        """
        parameters, server_round, proximal_mu = wire.unpack_model(content)
        for name in names:
            privacy = self.plans[name].privacy if name in self.plans else None
            if privacy is not None and not 1 <= server_round <= privacy.rounds:
                raise FederationError(f"the plan has no round {server_round}", code="FK535")
        plan = RoundPlan(self.seed, server_round, parameters, proximal_mu, {n: self.plans[n] for n in names})
        gates = {name: self._gate(name) for name in names}
        free = [self.sites[name] for name, gate in gates.items() if gate is None]
        updates, state = train(self.model, self.task, free, plan, self.state) if free else ([], {})
        self.state.update(state)
        updates += [self._through_gate(gate, self.sites[name], plan) for name, gate in gates.items() if gate]
        return {update.site: wire.pack_update(update) for update in updates}

    def _gate(self, name: str) -> Gate | None:
        """The gate that a site's answers pass; None where no site of this process keeps a ledger."""
        if not self.gates:
            return None
        gate, local = self.gates.get(name), self.plans.get(name)
        # What is charged must be what is done.
        if gate is None or local is None or gate.plan != local.privacy:
            raise FederationError(f"{name} has no ledger for its plan", code="FK535")
        return gate

    def _through_gate(self, gate: Gate, site: Site, plan: RoundPlan) -> ClientUpdate:
        # A model that is refused must not cost budget: it is looked at before anything is reserved.
        check_model(self.model, self.task, [site], plan)

        def once(state: SiteState) -> tuple[ClientUpdate, SiteState]:
            updates, after = train(self.model, self.task, [site], plan, {site.name: state})
            return updates[0], after[site.name]

        return gate.update(plan.round, plan.parameters, plan.proximal_mu, once)

    def answer_evaluate(self, name: str, content: RecordDict) -> RecordDict:
        """The charged histograms of the site's test units, or its exact metrics, which are not protected.

        Raises:
            FederationError: FK535, an evaluation that the site's plan does not contain.
        """
        parameters, server_round, _ = wire.unpack_model(content)
        if wire.asks_for_histograms(content):
            gate = self._gate(name)
            if gate is None:
                return wire.pack_histograms(self.histograms(name, parameters, server_round))
            found = gate.measurement(
                server_round, parameters, lambda: {"counts": self.histograms(name, parameters, server_round)}
            )
            return wire.pack_histograms(found["counts"])
        if not self.exact:
            raise FederationError("exact metrics are not released by this site", code="FK535")
        test = self.sites[name].test
        return wire.pack_metrics(len(test), metrics(self.task, predict(self.model, parameters, self.task, test)))

    def histograms(self, name: str, parameters: Float32, server_round: int) -> wire.Float64:
        """What a charged evaluation releases, float64 [cells of all specs].

        Raises:
            FederationError: FK535, the plan has no evaluation after this round.

        Guarantee: one Gaussian mechanism of the plan's evaluation noise a histogram; neither the length of the result
        nor any error depends on a record.
        """
        local = self.plans.get(name)
        privacy = local.privacy if local else None
        evaluation = privacy.evaluation if privacy else None
        if privacy is None or evaluation is None or server_round not in evaluation.rounds:
            raise FederationError(f"the plan has no evaluation after round {server_round}", code="FK535")
        test = self.sites[name].test
        nobody = Examples(np.zeros((1, *test.x.shape[1:]), np.float32), np.zeros(1, np.int64), np.zeros(1, np.int64))
        # What is wrong with the model is said before a record is used, and also by a site that has none.
        predict(self.model, parameters, self.task, nobody, finite=False)
        source: Source
        source = Secure() if privacy.noise == "secure" else Seeded(self.seed, server_round, name, "evaluation")
        sigma = evaluation.noise_multiplier
        with on_records():
            predictions = predict(self.model, parameters, self.task, test, finite=False)
            cells = [cells_of(spec, predictions, test.subgroups) for spec in self.specs]
            parts = [
                noisy_histogram(mine, test.unit, spec.size, sigma, source)
                for mine, spec in zip(cells, self.specs, strict=True)
            ]
            return np.concatenate(parts)
