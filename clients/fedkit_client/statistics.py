"""A site's answer to a question about its columns: charged to the ledger that training spends from, noisy, for ever.

::

    FK354  the question failed while it was counted: it is closed
    FK370, FK371  columns or bins that the declaration does not have
    FK372  not enough is left of the budget
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np
from flwr.app import RecordDict

from fedkit.assurance.site_budgets import ask, charges
from fedkit.assurance.site_rows import read_rows, rows_by_site
from fedkit.assurance.statistics import site_reply, unit_of
from fedkit.errors import FedkitError, PrivacyError
from fedkit.federation import wire
from fedkit.federation.job import Job
from fedkit.governance.admission import Admitted
from fedkit.governance.statistics import Statistics, cost_of
from fedkit.privacy.accounting import ADJACENCY
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.ledger.messages import FAILED
from fedkit.privacy.randomness import Secure
from fedkit.storage.audit_line import Scalar
from fedkit_client.consents import Reading
from fedkit_client.findings import Findings
from fedkit_client.questions import question_of, request_of


def answer_statistics(
    job: Job,
    asked: Statistics,
    admitted: Admitted,
    ledger: Ledger,
    findings: Findings,
    reading: Callable[[], Reading],
) -> RecordDict:
    """The reply to a job that asks for statistics.

    Args:
        asked: what it asks for.
        admitted: the job, which the site's file lets in.
        reading: how the table is read now: by consent, without whoever has withdrawn.

    Raises:
        PrivacyError: see the module, and whatever the ledger refuses; nothing was read.
        FedkitError: the table cannot be read: the charge stands, and the question goes on from it when it comes again.

    Guarantee: the reply is ``histogram_event(noise_multiplier, columns)`` under add/remove of one unit with any rows,
    with secure noise; it was charged before a record was read and stored before it is returned. The same question of
    the same study and purpose has the same bytes for an answer, whichever job asks, and is charged once; one that
    failed while records were counted has failed.
    """
    data, site = admitted.config.data, admitted.site
    # The ledger's own delta, at which its limit holds; the job's is no larger.
    request = request_of(asked)
    question = question_of(admitted.config, asked, job.study, site, admitted.budget.delta)
    account = ""
    try:
        charge = charges({site: ledger}, question)[site]
        account = charge.run
    finally:
        findings.admitted(job, admitted, account)
    findings.promised(cost_of(asked), asked.delta, unit_of(data), ADJACENCY)
    new = None if charge.state == "answered" else reading()
    failures: list[Exception] = []

    def count(name: str) -> bytes:
        if new is None:
            raise PrivacyError("an answered question is not counted again", code="FK347")
        rows = rows_by_site(data, read_rows(data, new), [name])[name]
        new.leave()
        try:
            return site_reply(data, name, request, rows, Secure())
        except Exception as error:
            # Whether it fails may depend on records: nobody gets to see a second try.
            failures.append(error)
            return FAILED

    try:
        reply = ask({site: ledger}, question, {site: charge}, count)[site]
    finally:
        with suppress(FedkitError):
            if new is not None and _is_reserved(ledger, admitted.dataset, charge.run):
                said: dict[str, Scalar] = {"run": job.run, "purpose": "statistics", "round": 0}
                findings.reserved(ledger, admitted.dataset, said, again=charge.state != "new")
    if reply == FAILED:
        why = f" ({failures[0]})" if failures else ""
        raise PrivacyError(
            f"the question {charge.run} failed while it was counted and is closed{why}",
            code="FK354",
            remedy="ask anew, at full cost",
        ) from (failures[0] if failures else None)
    return wire.pack_statistics(np.frombuffer(reply, np.uint8))


def _is_reserved(ledger: Ledger, dataset: str, name: str) -> bool:
    run = ledger.account(dataset).runs.get(name)
    return run is not None and bool(run.reserved)
