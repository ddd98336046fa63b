"""What the ledger would say to a run, as one more clause for ``fedkit client explain``: nothing is written or held.

::

    FK332 to FK347  as the ledger refuses a run
    FK372           a question about statistics that the budget does not afford
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedkit.errors import PrivacyError
from fedkit.governance.clause import Clause
from fedkit.governance.terms import SiteData
from fedkit.privacy import rdp_filter
from fedkit.privacy.accounting import ADJACENCY
from fedkit.privacy.ledger.facts import Created, Job
from fedkit.privacy.rdp_filter import Charge
from fedkit_client.folder import SiteFolder
from fedkit_client.standing import Named

if TYPE_CHECKING:
    from fedkit.privacy.ledger.book import Account

_WHAT = "epsilon of all runs on the data set, as the ledger's filter counts it"
_REMEDY = "lower privacy.epsilon or federation.num_rounds; what was spent never comes back"


def ledger_clause(
    folder: SiteFolder,
    dataset: str,
    own: SiteData,
    charges: tuple[Charge, ...],
    name: Named,
    study: str,
    now: float,
    *,
    question: bool = False,
) -> Clause:
    """Whether what is left of the data set's budget affords a run; a ledger that cannot be read affords none.

    Args:
        own: the data set's entry in the site's file.
        charges: what the run asks of the ledger.
        name: under which the ledger knows it; empty for a run that nobody has submitted.
        question: about statistics.
    """
    from fedkit.privacy.ledger import checks
    from fedkit.privacy.ledger.book import Account
    from fedkit.privacy.ledger.ledger import Ledger
    from fedkit_client.told_charges import require_known, require_never_charged, told_charges

    path, job = folder.ledger(dataset), Job(own.unit, ADJACENCY, charges)
    try:
        order = rdp_filter.best_order(own.max_epsilon, own.delta)
        wanted = Created(dataset, own.unit, ADJACENCY, float(own.max_epsilon), float(own.delta), order)
        if not path.exists():
            require_never_charged(folder, dataset)
            return _of(
                Account(wanted, rdp_filter.capacity(wanted.limit, wanted.delta, order)),
                job,
                "",
                study,
                now,
                question=question,
            )
        with Ledger(path, read_only=True) as ledger:
            account = ledger.account(dataset)
            checks.same_budget(account.budget, wanted, given_order=False)
            require_known(path, dataset, account, told_charges(folder).get(dataset, {}))
            return _of(account, job, name if isinstance(name, str) else name(account), study, now, question=question)
    except PrivacyError as error:
        return Clause("ledger", error.code, _WHAT, "not known", "what its ledger affords", str(error), False)


def _of(account: Account, job: Job, name: str, study: str, now: float, *, question: bool) -> Clause:
    from fedkit.privacy.ledger import checks

    budget, now_ms = account.budget, int(now * 1000)
    there, taken = account.runs.get(name), account.spent + account.held(now_ms)
    # What the run was charged, or holds already, is asked of nobody again.
    asks, words, code, remedy = True, "with this run", "FK372" if question else "FK339", _REMEDY
    holds = True
    try:
        checks.fits(account, job)
        if there is not None and question and there.reserved:
            asks, words = False, "which this question was charged to already"
        elif there is not None and there.state in ("ended", "stopped"):
            asks, words = False, f"of which this run asks nothing more; it was {there.state}"
        elif there is not None and checks.same_job(there, name, study, job):
            checks.unexpired(there, name, now_ms)
            asks, words = False, "with what this run holds"
        if asks:
            checks.affordable(account, budget.dataset, job, now_ms)
    except PrivacyError as error:
        holds, remedy = False, error.remedy or _REMEDY
        code = code if error.code == "FK339" else error.code
    units = taken + (account.cost(job.charges) if asks else 0)
    epsilon = rdp_filter.epsilon_of(units, budget.order, budget.delta)
    return Clause(
        "ledger", code, _WHAT, f"{epsilon:.6g} {words}", f"at most {budget.limit:g} at delta {budget.delta:g}", remedy,
        holds,
    )  # fmt: skip
