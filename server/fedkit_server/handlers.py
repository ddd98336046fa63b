"""What the API answers, request by request: plain functions of the coordinator's state."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedkit import __version__
from fedkit.data.names import require_site_names
from fedkit.errors import DeploymentError
from fedkit.federation import enrolment as wire
from fedkit.federation import strict_json
from fedkit.federation.envelope import read
from fedkit.federation.heads import CONTRADICTED
from fedkit.federation.invite import invitation_line
from fedkit.federation.job import open_job
from fedkit.federation.keyring import Member
from fedkit.storage.audit import RECOVERED
from fedkit.storage.audit_verify import alerts
from fedkit.storage.keys import fingerprint
from fedkit_server import studies
from fedkit_server.access import Access
from fedkit_server.answers import unknown
from fedkit_server.authorities import certificate_end
from fedkit_server.away import away_of
from fedkit_server.curves import curves_of
from fedkit_server.enrolment import invite
from fedkit_server.runners import Runs
from fedkit_server.state import State
from fedkit_server.store import RunRow, SiteRow
from fedkit_server.tokens import new_token, token_hash


@dataclass(frozen=True)
class Call:
    """One request, by a user who was found to be allowed it."""

    state: State
    runs: Runs
    access: Access
    user: Member
    path: Mapping[str, str]
    body: dict[str, Any] = field(default_factory=dict, repr=False)

    def fields(self, types: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
        """The body's fields.

        Raises:
            FederationError: FK540.
        """
        return strict_json.fields(self.body, types, "the request")

    def run(self) -> RunRow:
        """The run that the path names.

        Raises:
            DeploymentError: FK722.
        """
        row = self.state.store.run(self.path["run"])
        if row is None:
            raise unknown("run", self.path["run"], [row.run for row in self.state.store.runs()])
        return row


def status(call: Call) -> dict[str, Any]:
    """How the federation stands."""
    state, settings = call.state, call.state.settings
    sites, online = [s for s in state.store.sites() if s.revoked_at is None], state.link.online()
    ends = certificate_end(state.folder)
    return {
        "name": settings.name,
        "federation": settings.federation,
        "version": __version__,
        "models": sorted(state.models),
        "wire": wire.version_text(),
        "you": {"name": call.user.name, "role": call.user.role},
        "sites": {"enrolled": len(sites), "online": sum(site.node_id in online for site in sites)},
        "runs": [_summary(call, row) for row in state.store.runs()[:10]],
        "log": alerts(state.folder.audit, (CONTRADICTED, RECOVERED)),
        "certificate_expires_at": ends.isoformat(),
        "time": time.time(),
    }


def sites(call: Call) -> dict[str, Any]:
    """Every site, and the invitations that are open."""
    store, online, now = call.state.store, call.state.link.online(), call.state.clock()
    open_now = [i for i in store.invitations() if i.used_at is None and i.void_at is None and i.expires_at > now]
    return {
        "sites": [_site(site, online) for site in store.sites()],
        "invited": [{"site": i.site, "expires_at": i.expires_at} for i in open_now],
    }


def _site(site: SiteRow, online: Mapping[int, float]) -> dict[str, Any]:
    offer = None if site.offer is None else strict_json.read(read(site.offer).payload, "the offer")
    return {
        "name": site.name,
        "state": "revoked" if site.revoked_at is not None else "online" if site.node_id in online else "offline",
        "node_id": str(site.node_id),
        "key": fingerprint(site.site_key),
        "enrolled_at": site.enrolled_at,
        "revoked_at": site.revoked_at,
        "online_until": online.get(site.node_id),
        "offered_at": site.offered_at,
        "offer": offer,
    }


def runs(call: Call) -> dict[str, Any]:
    """All runs, the newest first."""
    return {"runs": [_summary(call, row) for row in call.state.store.runs()]}


def _summary(call: Call, row: RunRow) -> dict[str, Any]:
    return {"submitted_at": row.submitted_at, "submitter": row.submitter, **call.runs.status(row.run)}


def run(call: Call) -> dict[str, Any]:
    """One run, with its job and the sites whose last answer is not there."""
    row = call.run()
    return {**_summary(call, row), "away": away_of(call.runs.events(row.run, 0)), "job": row.job}


def statistics(call: Call) -> dict[str, Any]:
    """What the sites of a question have answered so far, as it came."""
    # Imported here: it loads what asks sites.
    from fedkit_server.asking_statistics import read_answers

    run = call.run().run
    call.state.trail.record("pulled", run=run, user=call.user.name)
    return read_answers(call.state.folder.runs / run)


def curves(call: Call) -> dict[str, Any]:
    """What a run has released round by round; the log tells nothing of it: a page asks again and again."""
    return {"rounds": curves_of(call.state.folder.runs / call.run().run)}


def keyring(call: Call) -> dict[str, Any]:
    """The keyring's statements; whoever reads them verifies them."""
    return {"keyring": list(call.state.keyring.statements)}


def submit(call: Call) -> dict[str, Any]:
    """Begin a run. The job's signature is its authority; the token says only who may speak here."""
    text = call.fields({"job": str})["job"]
    state = call.state
    job = open_job(text, state.keyring, state.settings.federation, state.clock(), models=state.models)
    if job.submitter != call.user.name:
        raise DeploymentError(
            f"the job is signed by {job.submitter}, and the token is {call.user.name}'s",
            code="FK721",
            remedy="submit it with the submitter's own profile",
        )
    studies.check_job(state, job)
    if state.store.run(job.run) is not None:
        raise DeploymentError(f"the run {job.run} is known already", code="FK723", remedy="sign a new job")
    return {"run": call.runs.submit(text)}


def stop(call: Call) -> dict[str, Any]:
    """End a run."""
    call.runs.stop(call.run().run)
    # After it: a full disk must not keep a run going.
    call.state.trail.record("run_stopped", run=call.path["run"], user=call.user.name)
    return call.runs.status(call.path["run"])


def resume(call: Call) -> dict[str, Any]:
    """Go on with a run."""
    run = call.run().run
    # Of a resume that is refused the log tells nothing.
    call.runs.resume(run, lambda: call.state.trail.record("run_resumed", run=run, user=call.user.name))
    return call.runs.status(call.path["run"])


def invites(call: Call) -> dict[str, Any]:
    """Make an invitation. The answer is the only place where its secret is ever seen."""
    values = call.fields({"site": str, "hours": strict_json.NUMBER})
    require_site_names([values["site"]], listed=True)
    call.state.trail.record("invited", site=values["site"], user=call.user.name)
    made = invite(call.state, values["site"], float(values["hours"]))
    return {"site": made.site, "expires_at": made.expires_at, "invitation": invitation_line(made)}


def revoke_site(call: Call) -> dict[str, Any]:
    """Let a site in no more."""
    store, name = call.state.store, call.path["name"]
    site = store.site(name)
    if site is None:
        if store.void_invitations(call.state.clock(), name):
            return {"site": name, "revoked": False, "invitation_withdrawn": True}
        raise unknown("site", name, [site.name for site in store.sites()])
    if site.revoked_at is not None:
        raise DeploymentError(f"{name} was revoked before", code="FK723", remedy="invite it again if it shall return")
    call.state.revoke(site)
    return {"site": name, "revoked": True, "invitation_withdrawn": False}


def extend_keyring(call: Call) -> dict[str, Any]:
    """Append a statement that the user has signed: an admin's about others, or a user's own rotation."""
    text = call.fields({"statement": str})["statement"]
    if read(text).key != call.user.key:
        raise DeploymentError(
            f"the statement is not signed by {call.user.name}, whose token was used",
            code="FK721",
            remedy="use the profile of the user who signed it",
        )
    call.access.may_state(call.user)
    return {"keyring": list(call.state.extend_keyring(text).statements)}


def renew_token(call: Call) -> dict[str, Any]:
    """Give a user a new token; the one before is void. An admin may for all, everybody for themselves."""
    name = call.path["name"]
    if name != call.user.name:
        call.access.require(call.user, "admin")
    member = call.state.member(name)
    if member is None:
        raise unknown("user", name, sorted(each.name for each in call.state.keyring.members.values()))
    token = new_token()
    call.state.store.put_token(name, token_hash(token), call.state.clock())
    return {"name": name, "role": member.role, "token": token}


Handler = Callable[[Call], dict[str, Any]]

HANDLERS: Mapping[tuple[str, str], tuple[str, Handler]] = {
    ("GET", "/status"): ("viewer", status),
    ("GET", "/sites"): ("viewer", sites),
    ("GET", "/runs"): ("viewer", runs),
    ("GET", "/runs/{run}"): ("viewer", run),
    ("GET", "/runs/{run}/statistics"): ("viewer", statistics),
    ("GET", "/runs/{run}/curves"): ("viewer", curves),
    ("GET", "/keyring"): ("viewer", keyring),
    ("GET", "/studies"): ("viewer", studies.listed),
    ("GET", "/studies/{study}"): ("viewer", studies.shown),
    ("POST", "/studies"): ("operator", studies.put),
    ("POST", "/runs"): ("operator", submit),
    ("POST", "/runs/{run}/stop"): ("operator", stop),
    ("POST", "/runs/{run}/resume"): ("operator", resume),
    ("POST", "/invites"): ("admin", invites),
    ("POST", "/sites/{name}/revoke"): ("admin", revoke_site),
    # Whose key has signed says what may be stated.
    ("POST", "/keyring"): ("viewer", extend_keyring),
    ("POST", "/users/{name}/token"): ("viewer", renew_token),
}
"""Method and path under /fedkit/v1 to the least role and what answers."""
