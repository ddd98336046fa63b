"""What a site has released to whom, under which guarantee: from its ledgers, and from its log where there is one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedkit.errors import PrivacyError
from fedkit.privacy.ledger.book import Run
from fedkit_client.folder import SiteFolder
from fedkit_client.reconciled import Presumed, presumed
from fedkit_client.told_charges import require_never_charged

MOST_LINE = 64 * 1024
"""Bytes of a log's line that may be one of ours."""


def accounts(folder: SiteFolder, dataset: str) -> dict[str, Any]:
    """A data set's budget and the runs that were charged to it; reads the ledger, and after a restore the log.

    Of each run ``presumed`` tells the rounds that left without the log knowing, None where there are none.

    A ledger that cannot be read is told by its code alone: its text names paths.
    """
    from fedkit.privacy.ledger.figures import summary
    from fedkit.privacy.ledger.ledger import Ledger

    path = folder.ledger(dataset)
    if not path.exists():
        try:
            require_never_charged(folder, dataset)
        except PrivacyError as error:
            return {"problem": f"the ledger is lost ({error.code}): `fedkit client status` says why", "runs": []}
        return {"problem": "no ledger yet: it is made at the first start", "runs": []}
    try:
        with Ledger(path, read_only=True) as ledger:
            told = summary(ledger, dataset, pld=False)
            account = ledger.account(dataset)
            gone = presumed(folder, ledger, dataset)
            runs = [_run(name, run, account, gone.get(name)) for name, run in account.runs.items()]
    except PrivacyError as error:
        return {"problem": f"the ledger cannot be used ({error.code}): `fedkit client status` says why", "runs": []}
    keys = ("unit", "adjacency", "delta", "limit", "epsilon_spent", "spent", "held", "left")
    return {"problem": "", **{key: told[key] for key in keys}, "runs": runs}


def _run(name: str, run: Run, account: Any, gone: Presumed | None) -> dict[str, Any]:
    from fedkit.privacy import rdp_filter
    from fedkit.privacy.ledger.book import charges
    from fedkit.privacy.ledger.figures import rounded_up

    budget = account.budget
    answered: dict[str, list[int]] = {}
    for (purpose, number), reservation in sorted(run.reserved.items()):
        if reservation.commit is not None and not reservation.failed:
            answered.setdefault(purpose, []).append(number)
    cost = account.cost(charges(run.spent))
    return {
        "run": name,
        "study": run.study,
        "state": run.state,
        "answered": answered,
        "presumed": None if gone is None else gone.plain(),
        "charged": len(run.reserved),
        "epsilon": rounded_up(rdp_filter.epsilon_of(cost, budget.order, budget.delta)) if cost else 0.0,
        "delta": budget.delta,
        "unit": budget.unit,
        "adjacency": budget.adjacency,
    }


def submitters(logs: Sequence[Path]) -> dict[tuple[str, str], str]:
    """(data set, run) to whoever submitted it, as the site's logs say; nothing where there is none.

    Lines that cannot be read are passed over: whether the log is whole is its own check.
    """
    found: dict[tuple[str, str], str] = {}
    for log in logs:
        _submitters(log, found)
    return found


def _submitters(log: Path, found: dict[tuple[str, str], str]) -> None:
    with suppress(OSError), log.open("rb") as file:
        for line in file:
            values = _line(line)
            said = [values.get(key) for key in ("dataset", "run", "submitter")]
            if values.get("kind") == "admitted" and all(isinstance(each, str) for each in said):
                dataset, run, submitter = map(str, said)
                # One question may be asked by many jobs: the first one has paid.
                account = values.get("account")
                found.setdefault((dataset, account if isinstance(account, str) else run), submitter)


def _line(line: bytes) -> dict[str, Any]:
    if len(line) > MOST_LINE:
        return {}
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
