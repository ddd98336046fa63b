"""A site's answers to the coordinator, the same in a simulation and in a ClientApp."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import RecordDict
from torch import nn

from fedkit.federation import wire
from fedkit.training.evaluate import predict
from fedkit.training.local import train
from fedkit.training.metrics import metrics
from fedkit.types import LocalPlan, RoundPlan, Site, SiteState, Task


@dataclass
class SiteRuntime:
    """The sites that one process answers for: all of them in a simulation, one in a ClientApp.

    Attributes:
        plans: sites that train; one that is too small has no plan.
        evaluates: sites with enough test rows.
        state: what each site keeps from round to round.
    """

    model: nn.Module
    task: Task
    seed: int
    sites: Mapping[str, Site]
    plans: Mapping[str, LocalPlan]
    evaluates: frozenset[str]
    state: dict[str, SiteState] = field(default_factory=dict)

    def answer_query(self, name: str) -> RecordDict:
        """Who the site is and what it takes part in."""
        return wire.pack_roster(wire.Roster(name, name in self.plans, name in self.evaluates))

    def answer_train(self, names: Sequence[str], content: RecordDict) -> dict[str, RecordDict]:
        """Train a batch of sites on one request."""
        parameters, server_round, proximal_mu = wire.unpack_model(content)
        plan = RoundPlan(self.seed, server_round, parameters, proximal_mu, {n: self.plans[n] for n in names})
        updates, state = train(self.model, self.task, [self.sites[n] for n in names], plan, self.state)
        self.state.update(state)
        return {update.site: wire.pack_update(update) for update in updates}

    def answer_evaluate(self, name: str, content: RecordDict) -> RecordDict:
        """Exact metrics of the model on the site's test rows: a simulation's privilege, not protected."""
        parameters, _, _ = wire.unpack_model(content)
        test = self.sites[name].test
        return wire.pack_metrics(len(test), metrics(self.task, predict(self.model, parameters, self.task, test)))
