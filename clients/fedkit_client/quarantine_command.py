"""``fedkit client quarantine``: nothing is answered any more, and what shows what happened is kept."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fedkit.errors import DeploymentError, FedkitError
from fedkit_client.pause_commands import SECONDS, Json, SiteYaml, folder_of, logged, one_line, stamp


def quarantine(
    site_yaml: SiteYaml,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="For the site's own eyes; it never leaves.")
    ] = "",
    lift: Annotated[bool, typer.Option("--lift", help="End it; the site stays paused until `resume`.")] = False,
    json_: Json = False,
) -> None:
    """Stop all release, answer nothing, not even with a code, keep the evidence; `resume` is refused until --lift.

    Returns when nothing is being sent any more and what shows what happened was copied to evidence/ in the site's
    folder, with digests under the site's signature. Exit status 1 if either is not so; the quarantine stands then too.

    Example: fedkit client quarantine site/site.yaml --reason "a ledger that verify calls altered"
    """
    reason = one_line(reason)
    if not reason:
        raise typer.BadParameter("--reason is needed: who looks at it later must know why")
    if lift:
        _lift(site_yaml, reason, json_=json_)
        return
    folder, now = folder_of(site_yaml), time.time()
    # The pause too, so that a version of before, or a lift, leaves it paused; the quarantine first: it holds back more.
    since = folder.quarantine.put(reason, now)
    problems = []
    try:
        folder.pause.put(reason, now)
    except DeploymentError as error:
        problems.append(str(error))
    quiet = folder.pause.settled(SECONDS)
    if not quiet:
        problems.append(f"the site did not let go of what it was sending: `fedkit client stop {site_yaml}`")
    if unlogged := logged(site_yaml, "quarantined"):
        problems.append(f"the audit log does not tell of it: {unlogged}")
    kept = _kept(site_yaml, now, problems)
    told = {
        "quarantined": True,
        "since": since,
        "reason": reason,
        "quiet": quiet,
        "evidence": kept,
        "problems": problems,
    }
    text = (
        f"quarantined since {stamp(since)}; nothing is answered until `fedkit client quarantine {site_yaml} --lift`\n"
    )
    text += f"  evidence: {len(kept['files'])} files in {kept['folder']}\n" if kept else ""
    _print(told, text + "".join(f"  {problem}\n" for problem in problems), json_=json_)
    if problems:
        raise typer.Exit(1)


def _kept(site_yaml: Path, now: float, problems: list[str]) -> dict[str, Any] | None:
    from fedkit.storage.keys import load_signing_key
    from fedkit_client.evidence import keep_evidence

    folder = folder_of(site_yaml)
    try:
        kept = keep_evidence(folder, load_signing_key(folder.signing_key), now)
    except (FedkitError, OSError) as error:
        problems.append(f"no evidence was kept: {error}")
        return None
    problems += [f"{name} could not be copied ({why})" for name, why in kept["failed"].items()]
    return kept


def _lift(site_yaml: Path, reason: str, *, json_: bool) -> None:
    from fedkit_client.audit import record

    folder = folder_of(site_yaml)
    if not folder.quarantine.there():
        raise DeploymentError(
            "the site is not quarantined", code="FK787", remedy=f"`fedkit client status {site_yaml}` says how it stands"
        )
    # A site that was quarantined stays paused, whatever became of the pause meanwhile.
    folder.pause.put(f"quarantine lifted: {reason}"[:500], time.time())
    record(folder, "unquarantined")
    folder.quarantine.take_away()
    text = f"the quarantine is lifted, and the site paused: `fedkit client resume {site_yaml}` lets it go on\n"
    _print({"quarantined": False, "paused": True, "reason": reason}, text, json_=json_)


def _print(value: dict[str, Any], text: str, *, json_: bool) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n" if json_ else text)
    sys.stdout.flush()
