"""The pages that only show; each calls what the command of the same name calls."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

from starlette.responses import HTMLResponse, JSONResponse, Response

from fedkit import __version__
from fedkit.errors import DeploymentError
from fedkit.federation.trail import page
from fedkit.reporting.inventory import inventory_page
from fedkit.storage.audit_verify import readable_lines
from fedkit.web.desk import Visit
from fedkit.web.shield import POLICY
from fedkit_client.approvals import DAYS, MOST_DAYS, Approvals, Decision
from fedkit_client.audit import examined
from fedkit_client.console.history import HEIGHT, WIDTH, past
from fedkit_client.console.site import Site
from fedkit_client.deciding import asked_for, described
from fedkit_client.inventory import inventory
from fedkit_client.ledgers import budgets
from fedkit_client.status import status
from fedkit_client.withdrawals import read_withdrawn

SIZE = 50
_NEWEST = 20
_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
SHOWN = (
    "released",
    "withheld",
    "refused",
    "reserved",
    "approved",
    "denied",
    "withdrawn",
    "revoked",
    "paused",
    "resumed",
)
"""Kinds of events that the page of the log offers to choose from."""


def overview(site: Site, visit: Visit) -> Response:
    """How the site stands, and the button that stops everything."""
    opened = site.opened()
    found, waiting = status(opened), _requests(site, visit)["open"]
    alerts = site.standing.alerts(opened, visit.now)
    return visit.page("overview", "Overview", found=found, waiting=waiting, alerts=alerts)


def budgets_page(site: Site, visit: Visit) -> Response:
    """What is left of each budget, and how it was spent."""
    opened = site.opened()
    told = budgets(opened.file, opened.folder)
    sets = [{"name": name, "told": each, "past": past(opened.folder, name)} for name, each in told.items()]
    return visit.page("budgets", "Budgets", sets=sets, width=WIDTH, height=HEIGHT)


def requests_page(site: Site, visit: Visit) -> Response:
    """Runs that wait for a person, and what was decided last."""
    return visit.page("requests", "Requests", **_requests(site, visit))


def request_page(site: Site, visit: Visit) -> Response:
    """One run: who asks, for what, what is new in it, and the two forms."""
    job = visit.request.path_params["job"]
    record = Approvals(site.folder.approvals_file).read()
    run = record.requests.get(job)
    if run is None:
        raise DeploymentError(f"no run with the digest {job[:80]} has asked", code="FK763", remedy="see the requests")
    told = described(run, record, visit.now)
    whole = {} if told["last_approved"] is not None else asked_for(told)
    return visit.page(
        "request", f"Request {run.run}", told=told, whole=whole, days=f"{DAYS:g}", most_days=f"{MOST_DAYS:g}"
    )


def log_page(site: Site, visit: Visit) -> Response:
    """What left the building, or whatever else the audit log tells of; the newest first."""
    kind, number = visit.request.query_params.get("kind", "released"), _number(visit)
    kinds = () if kind == "all" else (kind,)
    if kind != "all" and kind not in SHOWN:
        raise DeploymentError("there is no such kind of event here", code="FK773", remedy="choose one of the list")
    path = site.folder.audit
    lines, total = page(path, kinds=kinds, number=number, size=SIZE) if path.exists() else ([], 0)
    pages = max(1, -(-total // SIZE))
    return visit.page(
        "log", "What left", lines=lines, total=total, kind=kind, kinds=SHOWN, number=number, pages=pages, size=SIZE
    )


def verify_page(site: Site, visit: Visit) -> Response:
    """Whether the log is what was written; looked at whenever the page is."""
    folder = site.folder
    found = examined(folder) if folder.audit.exists() else None
    return visit.page("verify", "Verify the log", found=found)


def consent_page(site: Site, visit: Visit) -> Response:
    """By what rule records may be used, how many have withdrawn, and the form for another one."""
    opened = site.opened()
    sets: list[dict[str, Any]] = []
    for name, own in opened.file.data.items():
        told: dict[str, Any] = {"name": name, "ids": own.ids, "unit": own.unit, "rules": [], "withdrawn": None}
        if own.consent is not None and own.consent.column is not None:
            first, *more = own.consent.column.columns
            told["rules"].append(f"the column {first} says so{', with ' + ', '.join(more) if more else ''}")
        if own.consent is not None and own.consent.register is not None:
            told["rules"].append("a register of consents, by purpose and day")
        if own.ids is not None:
            told["withdrawn"] = len(read_withdrawn(opened.folder.withdrawals, name, opened.folder.vault()))
        sets.append(told)
    path = site.folder.audit
    kinds = ("withdrawn", "revoked", "rectified")
    lines, total = page(path, kinds=kinds, size=_NEWEST) if path.exists() else ([], 0)
    return visit.page("consent", "Consent", sets=sets, lines=lines, total=total)


def inventory_html(site: Site, visit: Visit) -> Response:
    """The site's data card, as `fedkit client inventory` writes it."""
    text = inventory_page(inventory(site.opened(), visit.now), __version__)
    found = _STYLE.search(text)
    digest = base64.b64encode(hashlib.sha256(found[1].encode() if found else b"").digest()).decode()
    # The file has its style within: that one style is let in, by its hash.
    policy = POLICY.replace("style-src 'self'", f"style-src 'sha256-{digest}'")
    return HTMLResponse(text, headers={"content-security-policy": policy})


def inventory_json(site: Site, visit: Visit) -> Response:
    """The same as JSON, to be kept."""
    headers = {"content-disposition": 'attachment; filename="inventory.json"'}
    return JSONResponse(inventory(site.opened(), visit.now), headers=headers)


def _requests(site: Site, visit: Visit) -> dict[str, Any]:
    now, record = visit.now, Approvals(site.folder.approvals_file).read()
    told = [described(run, record, now) for run in record.open(now)]
    newest: list[Decision] = sorted(record.decisions.values(), key=lambda each: -each.at)[:_NEWEST]
    who = _who(site) if newest else {}
    decided = [
        {"decision": each, "standing": record.standing(each.job, now), "by": who.get((each.kind, each.job), "")}
        for each in newest
    ]
    return {"open": told, "decided": decided}


def _who(site: Site) -> dict[tuple[str, str], str]:
    """(approved or denied, job) to the console's user who did it last, as the log tells."""
    path, found = site.folder.audit, dict[tuple[str, str], str]()
    if path.exists():
        for line in readable_lines(path, ("approved", "denied")):
            found[line.kind, str(line.fields.get("job"))] = str(line.fields.get("by", "command line"))
    return found


def _number(visit: Visit) -> int:
    text = visit.request.query_params.get("page", "1")
    if not (text.isascii() and text.isdecimal() and 1 <= len(text) <= 9 and int(text) > 0):
        raise DeploymentError("there is no such page", code="FK773", remedy="use the links below the table")
    return int(text)
