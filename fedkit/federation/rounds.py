"""The one round loop: any Flower strategy over any Grid, in process or deployed.

Flower's own ``Strategy.start`` has no hook for a round, a quorum or a deadline, so the loop drives a strategy through
its four methods. A strategy sees full models and Flower's messages; the wire carries packed updates. In a private run
it sees nothing that is not charged: its ``aggregate_evaluate`` is never called.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedkit.config.experiment import FederationConfig
from fedkit.errors import FederationError, FedkitError
from fedkit.federation import wire
from fedkit.federation.admission import check_update
from fedkit.federation.chosen import ChosenSites
from fedkit.federation.flower_internals import local_identity, seeded_sampling
from fedkit.federation.public_codes import readable_reason
from fedkit.federation.strategy_guard import check_patience, strategy_errors
from fedkit.strategies import needs_statistics
from fedkit.types import ClientUpdate, Float32, Metrics, RoundReport


@dataclass(frozen=True)
class Finish:
    """How a run ended: ``complete``, ``degraded`` (some replies were missing) or ``failed`` (below quorum)."""

    parameters: Float32
    outcome: str
    rounds: int
    notes: tuple[str, ...] = ()


OnRound = Callable[[RoundReport, Float32, Sequence[ClientUpdate]], None]


@dataclass(frozen=True)
class RoundLoop:
    """A strategy, a Grid and the sites behind it.

    Attributes:
        shapes: parameter name to shape, in the order in which a model is packed.
        config: rounds, participation, quorum and deadline.
        sites: site to Flower node id, in the order in which replies are folded (so the sum is reproducible).
        epsilon_after: rounds done to epsilon spent a site.
        weights: site to the weight that its plan declares, which a reply must repeat; None leaves weights unchecked.
        measures: site to the rounds after which its plan releases histograms.
        cells: how many cells a site's histograms have together.
        private: the strategy is told no exact metrics: it could copy them into the model, which is not charged for
            them.
    """

    grid: Grid
    strategy: Strategy
    shapes: Mapping[str, tuple[int, ...]]
    seed: int
    config: FederationConfig
    sites: Mapping[str, int]
    trains: frozenset[str]
    evaluates: frozenset[str]
    epsilon_after: Callable[[int], Mapping[str, float]] = field(default=lambda _: {})
    weights: Mapping[str, float] | None = None
    measures: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    cells: int = 0
    private: bool = False

    def run(self, parameters: Float32, on_round: OnRound) -> Finish:
        """Run every round.

        Args:
            parameters: float32 [d], the untrained model.
            on_round: called after each round and once for the untrained model (round 0).

        Raises:
            FederationError: nobody can train, or the strategy raises, waits for ever or returns no finite model.
        """
        config, notes, degraded = self.config, [], False
        if not self.trains:
            raise FederationError("no site has enough records to train", code="FK520")
        check_patience(self.strategy, train=len(self.sample(1)), evaluate=len(self.evaluates & self.sites.keys()))
        start = time.perf_counter()
        with local_identity():
            measured, silent = self._evaluate(0, parameters)
            on_round(self._report(0, (), silent, measured, parameters, start), parameters, ())
            for number in range(1, config.num_rounds + 1):
                start = time.perf_counter()
                updates, failed, aggregated = self._train(number, parameters)
                if aggregated is None:
                    reasons = "; ".join(f"{site}: {why}" for site, why in failed.items())
                    notes.append(
                        f"round {number} stopped the run: {len(updates)} usable updates, at least"
                        f" {config.min_sites} needed ({reasons or 'the strategy returned no model'})"
                    )
                    return Finish(parameters, "failed", number - 1, tuple(notes))
                parameters, measured = aggregated, {}
                if number % config.evaluate_every == 0 or number == config.num_rounds:
                    measured, silent = self._evaluate(number, parameters)
                    failed = {**failed, **silent}
                histograms, silent = self._measure(number, parameters)
                failed = {**failed, **silent}
                if failed:
                    degraded = True
                    notes.append(
                        f"round {number}: {len(failed)} of {len(self.sites)} sites missing ("
                        + "; ".join(f"{site}: {why}" for site, why in failed.items())
                        + ")"
                    )
                trained = tuple(update.site for update in updates)
                report = self._report(number, trained, failed, measured, parameters, start)
                on_round(replace(report, histograms=histograms), parameters, updates)
        return Finish(parameters, "degraded" if degraded else "complete", config.num_rounds, tuple(notes))

    def sample(self, number: int) -> list[str]:
        """The sites that train in a round, a pure function of (seed, round).

        Guarantee: none is claimed from it; a plan is calibrated as if every site were called every round.
        """
        names = [site for site in self.sites if site in self.trains]
        count = max(math.ceil(self.config.fraction_train * len(names)), min(self.config.min_sites, len(names)))
        chosen = np.random.default_rng([self.seed, number]).permutation(len(names))[:count]
        return [names[i] for i in sorted(chosen)]

    def _train(self, number: int, parameters: Float32) -> tuple[list[ClientUpdate], dict[str, str], Float32 | None]:
        arrays = wire.to_record(parameters, self.shapes)
        grid = ChosenSites(self.grid, [self.sites[site] for site in self.sample(number)])
        with seeded_sampling(self.seed * 1_000_003 + number), strategy_errors("configure_train"):
            requests = list(self.strategy.configure_train(number, arrays, ConfigRecord(), grid))
        mu = _proximal_mu(requests)
        answers, failed = self._ask(requests, wire.pack_model(parameters, number, mu))
        updates: list[ClientUpdate] = []
        replies: list[Message] = []
        planned, needs_loss = self.weights or {}, needs_statistics(self.strategy)
        for site, reply in answers:
            try:
                update = wire.unpack_update(reply.content, site, len(parameters))
                check_update(update, parameters, weight=planned.get(site), needs_loss=needs_loss)
            except FedkitError as error:
                failed[site] = str(error)
                continue
            updates.append(update)
            replies.append(reply)
        if len(updates) < self.config.min_sites:
            return updates, failed, None
        # Flower refuses replies whose keys differ; a metric that one site leaves out is left out for all.
        shared = set.intersection(*(set(update.metrics) for update in updates)) if updates else set()
        for update, reply in zip(updates, replies, strict=True):
            reply.content = self._as_flower(parameters, update, shared)
        with strategy_errors("aggregate_train"):
            aggregated, _ = self.strategy.aggregate_train(number, replies)
            if aggregated is None:
                return updates, failed, None
            after = wire.from_record(aggregated, self.shapes)
        if not np.isfinite(after).all():
            raise FederationError(
                f"the model of round {number} holds NaN or infinity",
                code="FK521",
                remedy="lower training.learning_rate or the strategy's server learning rate",
            )
        return updates, failed, after

    def _as_flower(self, parameters: Float32, update: ClientUpdate, shared: Set[str]) -> RecordDict:
        full = wire.to_record(parameters + update.delta, self.shapes)
        numbers = {key: update.metrics[key] for key in sorted(shared)}
        return RecordDict({"arrays": full, "metrics": MetricRecord({wire.WEIGHT_KEY: update.weight, **numbers})})

    def _evaluate(self, number: int, parameters: Float32) -> tuple[dict[str, Metrics], dict[str, str]]:
        nodes = [node for site, node in self.sites.items() if site in self.evaluates]
        if not nodes:
            return {}, {}
        arrays = wire.to_record(parameters, self.shapes)
        with seeded_sampling(self.seed * 1_000_003 + number), strategy_errors("configure_evaluate"):
            requests = list(
                self.strategy.configure_evaluate(number, arrays, ConfigRecord(), ChosenSites(self.grid, nodes))
            )
        answers, failed = self._ask(requests, wire.pack_evaluation(parameters, number, histograms=False))
        measured: dict[str, Metrics] = {}
        heard: list[tuple[Message, float, Metrics]] = []
        for site, reply in answers:
            try:
                rows, measured[site] = wire.unpack_metrics(reply.content)
            except FedkitError as error:
                failed[site] = str(error)
                continue
            heard.append((reply, rows, measured[site]))
        if not self.private:
            self._tell_strategy(number, heard)
        return measured, failed

    def _measure(self, number: int, parameters: Float32) -> tuple[dict[str, tuple[float, ...]], dict[str, str]]:
        """The charged histograms of every site whose plan releases them after this round."""
        requests = [
            self.grid.create_message(RecordDict(), "evaluate", node, "", ttl=self.config.timeout)
            for site, node in self.sites.items()
            if number in self.measures.get(site, ())
        ]
        answers, failed = self._ask(requests, wire.pack_evaluation(parameters, number, histograms=True))
        found: dict[str, tuple[float, ...]] = {}
        for site, reply in answers:
            try:
                found[site] = tuple(wire.unpack_histograms(reply.content, self.cells).tolist())
            except FedkitError as error:
                failed[site] = str(error)
        return found, failed

    def _tell_strategy(self, number: int, heard: Sequence[tuple[Message, float, Metrics]]) -> None:
        # Flower refuses replies whose keys differ; a metric that one site cannot define is left out for all.
        if not heard:
            return
        shared = set.intersection(*({k for k, v in metrics.items() if v is not None} for _, _, metrics in heard))
        for reply, rows, metrics in heard:
            numbers = {key: float(metrics[key] or 0.0) for key in sorted(shared)}
            reply.content = RecordDict({"metrics": MetricRecord({wire.WEIGHT_KEY: rows, **numbers})})
        with strategy_errors("aggregate_evaluate"):
            self.strategy.aggregate_evaluate(number, [reply for reply, _, _ in heard])

    def _ask(
        self, requests: Iterable[Message], content: RecordDict
    ) -> tuple[list[tuple[str, Message]], dict[str, str]]:
        """Send one packed request to each addressed site; replies come back in the fixed order of sites."""
        names = {node: site for site, node in self.sites.items()}
        messages = [
            self.grid.create_message(
                content, r.metadata.message_type, r.metadata.dst_node_id, "", ttl=self.config.timeout
            )
            for r in requests
        ]
        addressed = {names[message.metadata.dst_node_id] for message in messages}
        answers: dict[str, Message] = {}
        failed: dict[str, str] = {}
        for reply in self.grid.send_and_receive(messages, timeout=self.config.timeout):
            site = names.get(reply.metadata.src_node_id, "")
            if site not in addressed or site in answers:
                continue
            if reply.has_error():
                failed[site] = readable_reason(reply.error.reason or "")
            else:
                answers[site] = reply
        for site in addressed - set(answers) - set(failed):
            failed[site] = f"no reply within {self.config.timeout:g} s"
        return [(s, answers[s]) for s in self.sites if s in answers], {s: failed[s] for s in self.sites if s in failed}

    def _report(
        self,
        number: int,
        trained: tuple[str, ...],
        failed: Mapping[str, str],
        measured: Mapping[str, Metrics],
        parameters: Float32,
        start: float,
    ) -> RoundReport:
        seconds = time.perf_counter() - start
        return RoundReport(number, trained, failed, measured, self.epsilon_after(number), digest(parameters), seconds)


def digest(parameters: Float32) -> str:
    """SHA-256 of a packed model's bytes."""
    return hashlib.sha256(np.ascontiguousarray(parameters, dtype="<f4").tobytes()).hexdigest()


def _proximal_mu(requests: Sequence[Message]) -> float:
    for request in requests:
        for config in request.content.config_records.values():
            if "proximal-mu" in config:
                return float(config["proximal-mu"])  # type: ignore[arg-type]
    return 0.0
