"""What the child that reads records tells of its work: the node's process, which holds the key, logs it.

The words are the site's own and few, so that nothing of a record can be among them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedkit.config.serialize import to_dict
from fedkit.errors import DeploymentError, FedkitError
from fedkit.storage.audit_line import Event, Scalar
from fedkit_client.norms import norm_bounds

if TYPE_CHECKING:
    # The node's process reads findings and must not load what answers messages.
    from fedkit.config.experiment import ExperimentConfig
    from fedkit.federation.gate import Gate
    from fedkit.federation.job import Job
    from fedkit.federation.order import Order
    from fedkit.governance.admission import Admitted
    from fedkit.privacy.ledger.ledger import Ledger
    from fedkit.types import LocalPlan, PrivacyPlan

KINDS = ("admitted", "reserved", "ended")


def config_digest(config: ExperimentConfig) -> str:
    """SHA-256 of what a job asks for, hex: equal for two jobs of one config, by whomever and whenever."""
    text = json.dumps(to_dict(config), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Findings:
    """Events of one message, and the guarantee of what is about to leave."""

    events: list[Event] = field(default_factory=list)
    guarantee: dict[str, Scalar] = field(default_factory=lambda: {"guarantee": "none"})

    def admitted(self, job: Job, admitted: Admitted, account: str = "") -> None:
        """The site's own file lets the run in.

        Args:
            account: what the ledger knows it by, where that is another name.
        """
        said: dict[str, Scalar] = {"run": job.run, "job": job.digest, "dataset": admitted.dataset}
        said |= {"submitter": job.submitter, "submitter_key": job.signed.key, "study": job.study}
        said |= {"for_purpose": admitted.config.purpose or "", "config": config_digest(job.config)}
        said |= {"account": account} if account else {}
        self.events.append(Event("admitted", said))

    def ended(self, run: str) -> None:
        """What remained of a run's hold is free."""
        self.events.append(Event("ended", {"run": run}))

    def vouched(self, plan: PrivacyPlan) -> None:
        """The reply is noisy: what is said here holds for the whole run."""
        self.promised(plan.epsilon, plan.delta, plan.unit, plan.adjacency)

    def bounded(self, plan: LocalPlan, order: Order, size: int) -> None:
        """The norms that a private update of the round can have, so that one which has another is seen."""
        if order.kind == "train":
            least, most = norm_bounds(plan, size, order.proximal_mu)
            self.guarantee |= {"norm_least": least, **({} if most is None else {"norm_most": most})}

    def promised(self, epsilon: float, delta: float, unit: str, adjacency: str) -> None:
        """The guarantee of all that leaves for the job."""
        said: dict[str, Scalar] = {"epsilon": epsilon, "delta": delta, "unit": unit, "adjacency": adjacency}
        self.guarantee = {"guarantee": "dp", **said}

    @contextmanager
    def charging(self, gate: Gate, order: Order) -> Iterator[None]:
        """Around the work on one round: tells what the ledger was charged, whether the work succeeds or fails."""
        again = _reserved(gate, order)
        try:
            yield
        finally:
            with suppress(FedkitError):
                if _reserved(gate, order):
                    said: dict[str, Scalar] = {"run": gate.run, "purpose": order.kind, "round": order.round}
                    self.reserved(gate.ledger, gate.dataset, said, again=again)

    def reserved(self, ledger: Ledger, dataset: str, said: Mapping[str, Scalar], *, again: bool) -> None:
        """The ledger was charged for an answer, now or by an attempt that failed (``again``)."""
        from fedkit.privacy import rdp_filter

        account = ledger.account(dataset)
        budget = account.budget
        # Shares of a round do not add up in epsilon: told is what the budget vouches for with it, over all runs.
        spent = math.ceil(rdp_filter.epsilon_of(account.spent, budget.order, budget.delta) * 1e6) / 1e6
        told = {**said, "dataset": dataset, "epsilon_spent": spent, "delta": budget.delta, "again": again}
        self.events.append(Event("reserved", told))

    def header(self) -> dict[str, Any]:
        """As it goes over the frame's header."""
        return {"events": [[event.kind, dict(event.fields)] for event in self.events], "guarantee": self.guarantee}


def read_findings(header: Mapping[str, Any]) -> tuple[list[Event], dict[str, Scalar]]:
    """What a child has told.

    Raises:
        DeploymentError: FK769, what no child says.
    """
    events = header.get("events", [])
    if not isinstance(events, list) or any(len(each) != 2 or each[0] not in KINDS for each in events):
        raise DeploymentError(
            "the executor's child told of what it has nothing to say about",
            code="FK769",
            remedy="start the site again; if it happens again, report it",
        )
    return [Event(kind, dict(fields)) for kind, fields in events], dict(header.get("guarantee", {}))


def _reserved(gate: Gate, order: Order) -> bool:
    run = gate.ledger.account(gate.dataset).runs.get(gate.run)
    return run is not None and (order.kind, order.round) in run.reserved
