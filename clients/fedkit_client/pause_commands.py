"""``fedkit client pause | resume``: stop all release at once, and let it go on."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

SiteYaml = Annotated[Path, typer.Argument(metavar="SITE.yaml", help="The site's own file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]


def pause(
    site_yaml: SiteYaml,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="For the site's own eyes; it never leaves.")
    ] = "",
    json_: Json = False,
) -> None:
    """Stop all release at once, an answer that is computed and has not left included; also across restarts.

    Work on a round is given up; what was charged for it stays charged, and the round is answered under that charge
    once the site goes on. Returns when nothing is being sent any more; exit status 1 if that is not known.

    Example: fedkit client pause site/site.yaml --reason "the ethics board has questions"
    """
    from fedkit_client.pausing import folder_to_pause, pause_site, reason_of

    try:
        reason = reason_of(reason)
    except ValueError as error:
        raise typer.BadParameter(f"--reason: {error}") from None
    done = pause_site(folder_to_pause(site_yaml), reason, time.time())
    made, quiet, logged = done.pause, done.quiet, done.unlogged
    since = _stamp(made.since)
    text = f"paused since {since}; every message is answered with FK580 until `fedkit client resume {site_yaml}`\n"
    if made.problem:
        text += f"  {made.problem}\n"
    if not quiet:
        text += (
            "  the site did not let go of what it was sending; that one part may still arrive:"
            f" `fedkit client stop {site_yaml}`\n"
        )
    if logged:
        text += f"  the audit log does not tell of it: {logged}\n"
    told = {"paused": True, "since": made.since, "reason": made.reason, "quiet": quiet, "logged": not logged}
    _print(told, text, json_=json_)
    if not quiet:
        raise typer.Exit(1)


def resume(site_yaml: SiteYaml, json_: Json = False) -> None:
    """End a pause: a round whose deadline has not passed is answered after all, without a second charge.

    Example: fedkit client resume site/site.yaml
    """
    from fedkit_client.pausing import folder_to_pause, resume_site

    known = resume_site(folder_to_pause(site_yaml))
    if known is None:
        text = "the site was not paused\n"
    else:
        text = f"the site goes on; it was paused since {_stamp(known.since)}\n"
    since = None if known is None else known.since
    _print({"paused": False, "was_paused": known is not None, "since": since}, text, json_=json_)


def _stamp(seconds: float | None) -> str:
    if seconds is None:
        return "an unknown time"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _print(value: dict[str, Any], text: str, *, json_: bool) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n" if json_ else text)
    sys.stdout.flush()
