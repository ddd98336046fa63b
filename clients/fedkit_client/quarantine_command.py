"""``fedkit client quarantine``: nothing is answered any more, and what shows what happened is kept."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated, Any

import typer

from fedkit_client.pause_commands import Json, SiteYaml


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
    from fedkit.federation.trail import stamped
    from fedkit_client.quarantining import folder_to_quarantine, lift_site, quarantine_site, reason_of

    try:
        reason = reason_of(reason)
    except ValueError as error:
        raise typer.BadParameter(f"--reason {error}") from None
    folder = folder_to_quarantine(site_yaml)
    if lift:
        lift_site(folder, reason, time.time())
        text = f"the quarantine is lifted, and the site paused: `fedkit client resume {site_yaml}` lets it go on\n"
        _print({"quarantined": False, "paused": True, "reason": reason}, text, json_=json_)
        return
    done = quarantine_site(folder, reason, time.time())
    told = {"quarantined": True, "since": done.since, "reason": reason, "quiet": done.quiet,
            "evidence": done.evidence, "problems": done.problems}  # fmt: skip
    text = f"quarantined since {stamped(done.since)}; nothing is answered until it is lifted, with --lift\n"
    if done.evidence is not None:
        text += f"  evidence: {len(done.evidence['files'])} files in {done.evidence['folder']}\n"
    _print(told, text + "".join(f"  {problem}\n" for problem in done.problems), json_=json_)
    if done.problems:
        raise typer.Exit(1)


def _print(value: dict[str, Any], text: str, *, json_: bool) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n" if json_ else text)
    sys.stdout.flush()
