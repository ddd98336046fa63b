"""The dashboard's pages and actions: what the coordinator tells and does for the profile's user."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

from starlette.responses import HTMLResponse, Response

from fedkit.errors import DeploymentError
from fedkit.federation.code_texts import with_text
from fedkit.federation.keyring import ROLES
from fedkit.web.desk import Visit
from fedkit.web.shield import POLICY
from fedkit_server.dashboard.curves import HEIGHT, WIDTH, Curve, curves
from fedkit_server.dashboard.part import Part
from fedkit_server.dashboard.results import Coordinator, Results
from fedkit_server.remote import segment
from fedkit_server.runners import OVER
from fedkit_server.watching import View, waits_for

MOST = 1000
"""Characters of one value that a page shows: what a coordinator tells may have any length."""

_NEWEST = 60
_RUNS, _SITES, _MOST_OFFERS, _ROWS = 100, 25, 100, 500
_DISCLOSED = ("purposes", "studies", "release", "max_rounds", "max_epsilon_per_run", "min_other_sites")


@dataclass(frozen=True)
class Federation:
    """What pages and actions are about."""

    remote: Coordinator
    results: Results

    def ask(self, path: str, **query: Any) -> dict[str, Any]:
        """What the coordinator tells, no text of it longer than a page shows one.

        Raises:
            DeploymentError: what it refuses, or that it is away.
        """
        found: dict[str, Any] = _cut(self.remote.get(path, **query))
        return found


def overview(federation: Federation, visit: Visit) -> Response:
    """How the federation stands."""
    found = federation.ask("/status")
    going = any(run["state"] not in OVER for run in found["runs"])
    return visit.page("overview", "Federation", going=going, found=found, runs=found["runs"][:_NEWEST])


def sites(federation: Federation, visit: Visit) -> Response:
    """Every site, and what it offers and discloses."""
    found = federation.ask("/sites")
    part = Part.of(visit, found["sites"], _SITES)
    rows = [{**site, "offers": list(islice(_offers(site["offer"]), _MOST_OFFERS))} for site in part.rows]
    invited = found["invited"]
    return visit.page("sites", "Sites", sites=rows, part=part, invited=invited[:_RUNS], more=len(invited[_RUNS:]))


def runs(federation: Federation, visit: Visit) -> Response:
    """All runs, the newest first."""
    part = Part.of(visit, federation.ask("/runs")["runs"], _RUNS)
    return visit.page("runs", "Runs", runs=part.rows, part=part)


def run(federation: Federation, visit: Visit) -> Response:
    """One run: whom the round has asked and who has answered, and what can be done."""
    name = str(visit.request.path_params["run"])
    found = federation.ask(f"/runs/{segment(name)}")
    events = federation.ask(f"/runs/{segment(name)}/events", after=0, wait=0)["events"]
    view = View(name)
    for event in events:
        view.take(event)
    role = federation.ask("/status")["you"]["role"]
    told = [{**each, "detail": with_text(str(each.get("detail") or ""))} for each in reversed(events[-_NEWEST:])]
    return visit.page(
        "run",
        f"Run {name}",
        name=name,
        found=found,
        rows=list(islice(view.rows(visit.now), _ROWS)),
        unshown=max(0, len(view.sites) - _ROWS),
        waits=waits_for(found),
        events=told,
        older=max(0, len(events) - _NEWEST),
        over=found["state"] in OVER,
        going=found["state"] not in OVER,
        curves=_curves(federation, name),
        width=WIDTH,
        height=HEIGHT,
        may=ROLES.index(role) >= ROLES.index("operator"),
        fetched=federation.results.known(name),
    )


def refresh(to: str, federation: Federation, visit: Visit) -> Response:
    """Have pages refresh themselves, or no longer, until the end of the session."""
    visit.session.refreshing = not visit.session.refreshing
    said = "Pages refresh themselves." if visit.session.refreshing else "Pages no longer refresh themselves."
    return visit.told(said, to.format(run=segment(str(visit.request.path_params.get("run", "")))))


def _curves(federation: Federation, name: str) -> list[Curve]:
    try:
        return curves(federation.ask(f"/runs/{segment(name)}/curves")["rounds"])
    except DeploymentError as error:
        # A coordinator of before has none to tell.
        if error.code != "FK722":
            raise
        return []


def act(what: str, done: str, federation: Federation, visit: Visit) -> Response:
    """Stop or resume a run; whether the user may is the coordinator's to say."""
    name = str(visit.request.path_params["run"])
    federation.remote.post(f"/runs/{segment(name)}/{what}")
    return visit.told(f"{name} {done}.", f"/runs/{segment(name)}")


def fetch(federation: Federation, visit: Visit) -> Response:
    """Fetch a run's folder, of which the coordinator's log tells, and show its report."""
    name = str(visit.request.path_params["run"])
    federation.results.fetch(name)
    return visit.told(f"The report of {name} was made of its folder as it is now.", f"/runs/{segment(name)}")


def report(federation: Federation, visit: Visit) -> Response:
    """A run's report, with its curves."""
    html = federation.results.report(str(visit.request.path_params["run"])).html
    # The report has styles within and runs nothing; no form of it goes anywhere.
    policy = POLICY.replace("style-src 'self'", "style-src 'unsafe-inline'").replace("img-src 'self'", "img-src data:")
    return HTMLResponse(
        html, headers={"content-security-policy": policy.replace("form-action 'self'", "form-action 'none'")}
    )


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= MOST else f"{value[:MOST]} ... ({len(value) - MOST:,} characters more)"
    if isinstance(value, dict):
        return {_cut(name): _cut(each) for name, each in value.items()}
    return [_cut(each) for each in value] if isinstance(value, list) else value


def _offers(offer: Any) -> Any:
    for name, data in (offer or {}).get("datasets", {}).items():
        policy = data.get("policy") or {}
        said = [f"{key.replace('_', ' ')}: {_words(policy[key])}" for key in _DISCLOSED if policy.get(key) is not None]
        yield {
            "name": name,
            "records": f"{data['records']} {data['unit']}s",
            "epsilon": f"{data['max_epsilon']:g} at delta {data['delta']:g}",
            "models": ", ".join(data["models"]),
            "strategies": ", ".join(data["strategies"]),
            "policy": "; ".join(said),
        }


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
