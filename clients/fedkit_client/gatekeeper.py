"""What every message passes before and while it is answered: runs in a child of its own, at the site, and nowhere else.

In order, as docs/deployment.md says: (sizes and types were looked at in the node's process) keyring, job, order,
parameters, config, the site's own file, the ledger. Whatever is refused is answered by a code.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NoReturn

import numpy as np
from flwr.app import ConfigRecord, RecordDict
from torch import nn

from fedkit.errors import FederationError, FedkitError, PrivacyError, TrainingError
from fedkit.federation import wire
from fedkit.federation.gate import HOLD_SECONDS, Gate, request_digest
from fedkit.federation.job import Job, open_job
from fedkit.federation.keyring import Keyring, extend
from fedkit.federation.order import Order, check_parameters, open_order
from fedkit.federation.public_codes import public_code
from fedkit.federation.request import Request
from fedkit.federation.site import SiteRuntime
from fedkit.governance.admission import Admitted
from fedkit.governance.allow import allowed_models
from fedkit.governance.clauses import WAITING
from fedkit.governance.consent_rules import filter_of
from fedkit.governance.terms import SiteFile
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.storage.mapped import slices
from fedkit.storage.private import replace as write_private
from fedkit.training.local import PARAMETER_LIMIT
from fedkit.types import ClientUpdate, PrivacyPlan, SiteState
from fedkit_client.admitting import key_of, let_in
from fedkit_client.consents import Reading, purpose_of, today
from fedkit_client.findings import Findings
from fedkit_client.folder import SiteFolder
from fedkit_client.frames import Bytes
from fedkit_client.limits import apply, work_a_little
from fedkit_client.lineage import Use
from fedkit_client.recalled import withdrawn
from fedkit_client.remembered import Rounds
from fedkit_client.statistics import answer_statistics
from fedkit_client.zygote import Handle

_LOG = logging.getLogger("fedkit.site")


@dataclass(frozen=True)
class Gatekeeper:
    """A site's will and its folder; holds no connection, no open ledger and no record.

    Guarantee: a child trains only for an order of the pinned coordinator, for a job that a current operator or admin
    signed, that the site's file lets in and its ledger has charged; nothing but what went through the ledger's gate
    leaves, or one of `PUBLIC_CODES`.
    """

    file: SiteFile
    folder: SiteFolder
    clock: Callable[[], float] = field(default=time.time)
    findings: Findings = field(default_factory=Findings, compare=False)

    def answer(self, kind: str, request: Request) -> RecordDict | str:
        """The reply to a message, or the code that stands in its place; the reason stays in the site's log.

        Args:
            kind: the Flower message's type.
        """
        try:
            apply(self.file, 8 * len(request.parameters))
            return self._answer(kind, request)
        except Exception as error:
            code = public_code(error)
            if code in WAITING:
                # It comes again until the round's deadline, and its reason is no fault.
                _LOG.info("a %s message waits: %s", kind[:20], error)
            else:
                _LOG.exception("a %s message was answered with %s", kind[:20], code)
            return code

    def probe(self) -> dict[str, Any]:
        """Take on the limits and do a little work under them; what is wrong, for the site's own eyes."""
        try:
            apply(self.file)
            work_a_little(self.file)
        except FedkitError as error:
            return {"problem": {"code": error.code, "message": error.message, "remedy": error.remedy}}
        return {}

    def _answer(self, kind: str, request: Request) -> RecordDict:
        now = self.clock()
        keyring = self._keyring(request.keyring)
        job = open_job(request.job, keyring, keyring.federation, now, models=self.file.models)
        if self.file.site not in job.sites:
            raise FederationError(
                f"the job is for {', '.join(job.sites)}, not for {self.file.site}", code="FK542", remedy="ask those"
            )
        order = open_order(request.order, keyring.coordinator, job, now)
        if order.kind != "end" and kind != ("query" if order.kind == "statistics" else order.kind):
            raise FederationError(f"a {kind[:20]} message carries an order to {order.kind}", code="FK542")
        check_parameters(order, request.parameters)
        if order.kind == "end":
            return self._end(job, order)
        vault = key_of(self.folder)
        admitted = let_in(job, request.enrolments, keyring, self.file, self.folder, now)
        if job.statistics is not None:
            # Begun only where a table is read: what was answered before comes from the ledger, and no table with it.
            self._remember(job, order, answered=True)
            reading = partial(self._begin, job, order, admitted)
            with Ledger(self.folder.ledger(admitted.dataset), clock=self.clock, vault=vault) as ledger:
                return answer_statistics(job, job.statistics, admitted, ledger, self.findings, reading)
        self.findings.admitted(job, admitted)
        if admitted.exact:
            return self._unprotected(job, order, request, admitted)
        return self._charged(job, order, request, admitted)

    def _keyring(self, received: tuple[str, ...]) -> Keyring:
        known = self.folder.keyring()
        newer = extend(known, received)
        if newer.statements != known.statements:
            write_private(self.folder.keyring_file, "".join(f"{text}\n" for text in newer.statements).encode())
        return newer

    def _end(self, job: Job, order: Order) -> RecordDict:
        rounds = Rounds(self.folder.rounds_file)
        rounds.check(job, order, answered=False)
        rounds.note(job, order, self.clock(), begun=False)
        dataset = job.config.data.name
        if dataset not in self.file.data:
            raise FederationError(f"the site has no data set {dataset}", code="FK560")
        if self.folder.ledger(dataset).exists():
            with Ledger(self.folder.ledger(dataset), clock=self.clock) as ledger:
                if job.run in ledger.account(dataset).runs:
                    ledger.end(dataset, job.run)
                    ledger.prune(dataset, job.run)
        self.findings.ended(job.run)
        return RecordDict({"config": ConfigRecord({"wire": wire.WIRE_VERSION, "ended": True})})

    def _charged(self, job: Job, order: Order, request: Request, admitted: Admitted) -> RecordDict:
        assert admitted.plan is not None and admitted.plan.privacy is not None  # noqa: S101  # admit has seen to it
        with Ledger(self.folder.ledger(admitted.dataset), clock=self.clock, vault=self.folder.vault()) as ledger:
            hold = max(HOLD_SECONDS, 2 * job.deadline)
            gate = Gate(ledger, admitted.dataset, job.run, admitted.plan.privacy, hold)
            answered = _answered(gate, order, request)
            self._remember(job, order, answered=answered)
            self.findings.vouched(admitted.plan.privacy)
            self.findings.bounded(admitted.plan, order, len(request.parameters))
            if answered:
                return _stored(gate, order, request)
            _check_request(admitted.plan.privacy, order, request)
            # What is refused for its model's or its purpose's sake holds no budget.
            model, reading = self._model(admitted, request), self._reading(job, order, admitted)
            run = ledger.account(admitted.dataset).runs.get(job.run)
            if run is None or run.state in ("held", "lost"):
                gate.admit(job.study)
            runtime = self._runtime(admitted, model, {admitted.site: gate}, reading)
            with self.findings.charging(gate, order):
                return _work(runtime, order, request, admitted)

    def _unprotected(self, job: Job, order: Order, request: Request, admitted: Admitted) -> RecordDict:
        self._remember(job, order, answered=False)
        model, reading = self._model(admitted, request), self._reading(job, order, admitted)
        return _work(self._runtime(admitted, model, {}, reading), order, request, admitted)

    def _remember(self, job: Job, order: Order, *, answered: bool) -> None:
        rounds = Rounds(self.folder.rounds_file)
        rounds.check(job, order, answered=answered)
        rounds.note(job, order, self.clock(), begun=not answered)

    def _model(self, admitted: Admitted, request: Request) -> nn.Module:
        from fedkit.training.model import declared_model

        config = admitted.config
        # Every parameter is the message's.
        model = declared_model(config, allowed_models(self.file.models, config.model.name), values=False)
        if (size := sum(part.numel() for part in model.parameters())) != len(request.parameters):
            raise TrainingError(
                f"the message holds {len(request.parameters):,} parameters, the model {size:,}",
                code="FK401",
                remedy="use the same model and arguments on both sides",
            )
        return model

    def _begin(self, job: Job, order: Order, admitted: Admitted) -> Reading:
        self._remember(job, order, answered=False)
        return self._reading(job, order, admitted)

    def _reading(self, job: Job, order: Order, admitted: Admitted) -> Reading:
        """How the round's table is read: its own day's consents, and who has withdrawn by now."""
        own, now, purpose = self.file.data[admitted.dataset], self.clock(), purpose_of(admitted.config)
        gone = withdrawn(self.folder, admitted.dataset)
        where = filter_of(own, admitted.dataset, gone, purpose, today(now))
        use = Use(
            job.run, order.round, order.kind, admitted.dataset, purpose or "", job.digest,
            admitted.config.model.name if job.statistics is None else "", int(now),
        )  # fmt: skip
        return Reading(self.file, self.folder, where, use)

    def _runtime(
        self, admitted: Admitted, model: nn.Module, gates: Mapping[str, Gate], reading: Reading
    ) -> SiteRuntime:
        from fedkit.data.load import load_site_dataset
        from fedkit.strategies import NEEDS_CLIENT_STATISTICS
        from fedkit.training.engine import reference_for
        from fedkit.training.plan import local_plans

        config, site = admitted.config, admitted.site
        private = not admitted.exact
        # The site's own word, which the run's was held against: whether a table has more units than that is a refusal,
        # and whoever could choose the number would learn the true one.
        own = replace(config.data, records={site: self.file.data[admitted.dataset].records})
        dataset = load_site_dataset(own, site, private=private, read=reading)
        reading.leave()
        for warning in dataset.warnings:
            _LOG.info("%s: %s", admitted.dataset, warning)
        plan, specs, tested = admitted.plan, admitted.specs, frozenset[str]()
        if plan is None:
            local = local_plans(replace(config, data=own), dataset)
            # Nothing leaves that nobody reads, though nothing protects it.
            plan = replace(local.sites[site], reports_loss=config.strategy.name in NEEDS_CLIENT_STATISTICS)
            specs, tested = (), frozenset(local.tested)
        sites, engine = {each.name: each for each in dataset.sites}, reference_for(self.file.device, "device")
        if device := engine.record().get("device"):
            _LOG.info("%s: gradients are computed on %s", admitted.dataset, device)
        return SiteRuntime(
            model, dataset.task, config.seed, sites, {site: plan}, tested, specs, exact=admitted.exact, gates=gates,
            engine=engine,
        )  # fmt: skip


def _work(runtime: SiteRuntime, order: Order, request: Request, admitted: Admitted) -> RecordDict:
    if order.kind == "train":
        return runtime.train([admitted.site], request.parameters, order.round, order.proximal_mu)[admitted.site]
    return runtime.evaluate(admitted.site, request.parameters, order.round, histograms=not admitted.exact)


def _check_request(plan: PrivacyPlan, order: Order, request: Request) -> None:
    """Refuse before the table is read what would be refused after it, and be charged nothing.

    How long a table takes to read tells how many rows it has, and a refusal can be asked for without end.

    Raises:
        FederationError: FK535, an evaluation that the plan does not have; FK536, parameters out of bounds.
    """
    if order.kind == "evaluate" and (plan.evaluation is None or order.round not in plan.evaluation.rounds):
        raise FederationError(f"the plan has no evaluation after round {order.round}", code="FK535")
    for part in slices(request.parameters):
        if not float(np.abs(request.parameters[part]).max(initial=0.0)) <= PARAMETER_LIMIT:
            raise FederationError(
                f"the request has a parameter beyond {PARAMETER_LIMIT:g}, or one that is no number", code="FK536"
            )


def _answered(gate: Gate, order: Order, request: Request) -> bool:
    """Whether the ledger holds the answer to exactly this request."""
    run = gate.ledger.account(gate.dataset).runs.get(gate.run)
    found = run.reserved.get((order.kind, order.round)) if run is not None else None
    mu = order.proximal_mu if order.kind == "train" else 0.0
    digest = request_digest(gate.run, order.round, order.kind, request.parameters, mu)
    return found is not None and found.commit is not None and found.digest == digest


def _stored(gate: Gate, order: Order, request: Request) -> RecordDict:
    """The answer that was given before, bit for bit; no record is read."""
    if order.kind == "train":

        def never(_: SiteState) -> tuple[ClientUpdate, SiteState]:
            _refuse()

        return wire.pack_update(gate.update(order.round, request.parameters, order.proximal_mu, never))
    counts = gate.measurement(order.round, request.parameters, _refuse)["counts"]
    return wire.pack_histograms(counts)


def _refuse() -> NoReturn:
    raise PrivacyError("an answered round is not computed again", code="FK347")


def handle(keeper: Gatekeeper) -> Handle:
    """The gatekeeper as the executor calls it: a frame to a frame."""

    def run(header: dict[str, Any], body: Bytes) -> tuple[dict[str, Any], Bytes]:
        import numpy as np

        from fedkit_client.answers import to_frame

        if header.get("probe"):
            return keeper.probe(), b""
        parameters, enrolments = np.frombuffer(body, dtype="<f4"), tuple(header.get("enrolments", ()))
        request = Request(header["order"], header["job"], tuple(header["keyring"]), parameters, enrolments=enrolments)
        reply = keeper.answer(header["kind"], request)
        told, body = ({"code": reply}, b"") if isinstance(reply, str) else to_frame(reply)
        return told | keeper.findings.header(), body

    return run
