"""What a user of the console does; each calls what the command of the same name calls, and is logged by the name."""

from __future__ import annotations

import math

from starlette.responses import Response

from fedkit.errors import FederationError
from fedkit.federation.trail import stamped
from fedkit.web.desk import Visit
from fedkit.web.forms import BadForm
from fedkit_client import quarantining
from fedkit_client.console.site import Site
from fedkit_client.decisions import approve_run, deny_run
from fedkit_client.pausing import pause_site, reason_of, resume_site
from fedkit_client.withdrawals import unit_ids
from fedkit_client.withdrawing import used_text, withdraw_units

MOST_UNITS = 500
"""Ids of one form."""


def approve(site: Site, visit: Visit) -> Response:
    """Approve the job that the page has shown."""
    job = visit.request.path_params["job"]
    try:
        days = float(visit.form.get("days", ""))
    except ValueError:
        days = math.nan
    told = approve_run(site.folder, job, days, visit.now, by=visit.user)
    return visit.told(f"{told['run']} is approved until {stamped(told['until'])}.", "/requests")


def deny(site: Site, visit: Visit) -> Response:
    """Deny the job that the page has shown."""
    job, reason = visit.request.path_params["job"], visit.form.get("reason", "").strip()
    denied = deny_run(site.folder, job, reason, visit.now, by=visit.user)
    text = f"{denied.decision.run} is denied."
    if denied.unlogged:
        return visit.told(f"{text} The audit log does not tell of it: {denied.unlogged}", "/requests", "bad")
    return visit.told(text, "/requests")


def pause(site: Site, visit: Visit) -> Response:
    """Stop all release."""
    try:
        reason = reason_of(visit.form.get("reason", ""))
    except ValueError as error:
        raise BadForm(str(error)) from None
    done = pause_site(site.folder, reason, visit.now, by=visit.user, seconds=site.pause_seconds)
    if not done.quiet:
        said = "The site is paused, but did not let go of what it was sending: that one part may still arrive."
        return visit.told(said, "/", "bad")
    if done.unlogged:
        return visit.told(f"The site is paused. The audit log does not tell of it: {done.unlogged}", "/", "bad")
    return visit.told("The site is paused: nothing leaves until it is resumed.", "/")


def quarantine(site: Site, visit: Visit) -> Response:
    """Answer nothing any more and keep the evidence; to lift it is for whoever is at the machine."""
    if visit.form.get("sure") != "yes":
        raise BadForm("tick the box: a quarantine is lifted on the machine alone")
    try:
        reason = quarantining.reason_of(visit.form.get("reason", ""))
    except ValueError as error:
        raise BadForm(f"a reason {error}") from None
    done = quarantining.quarantine_site(site.folder, reason, visit.now, by=visit.user, seconds=site.pause_seconds)
    said = "The site is quarantined: nothing is answered until that is lifted on the machine."
    if done.evidence is not None:
        said += f" {len(done.evidence['files'])} files of evidence were kept: have the folder evidence/ copied away."
    return visit.told(
        " ".join([said, *(f"{each}." for each in done.problems)]), "/", "bad" if done.problems else "good"
    )


def resume(site: Site, visit: Visit) -> Response:
    """End a pause."""
    known = resume_site(site.folder, by=visit.user)
    return visit.told("The site was not paused." if known is None else "The site goes on.", "/")


def withdraw(site: Site, visit: Visit) -> Response:
    """Leave units out from the next round on, or take that back; who they are is in no page, log or message."""
    form = visit.form
    if form.get("sure") != "yes":
        raise BadForm("tick the box: a withdrawal counts from the next round on")
    what = form.get("what")
    if what not in ("withdraw", "revoke"):
        raise BadForm("choose whether units withdraw or a withdrawal is taken back")
    data = form.get("data", "")
    try:
        ids = unit_ids(form.get("units", "").splitlines())
    except FederationError as error:
        # The remedy for the command line is none for a page.
        raise FederationError(error.message, code=error.code, remedy="write one id a line") from None
    if len(ids) > MOST_UNITS:
        # Each is a line of the log, on disk before it counts.
        raise FederationError(
            f"{len(ids):,} ids at once; a page takes {MOST_UNITS:,}",
            code="FK595",
            remedy="give them in parts, or use `fedkit client withdraw --file`",
        )
    told = withdraw_units(site.opened(), data, ids, visit.now, revoke=what == "revoke", by=visit.user)
    how = "count again as the register and the table say" if told["revoked"] else "are left out"
    text = (
        f"{told['given']} of {data} {how} from the next round on; {told['given'] - told['changed']} of them were so"
        f" already. {used_text(told)}."
    )
    return visit.told(text, "/consent")
