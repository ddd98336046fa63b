"""``fedkit client pause | resume``: stop all release at once, and let it go on."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from fedkit.errors import ConfigError
from fedkit.governance.pause import MOST_REASON
from fedkit_client.folder import SiteFolder

_SECONDS = 60.0
"""What may be sent when a pause begins is one part of an answer; Flower's largest have 5 MiB."""

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
    reason = reason.strip()
    if len(reason) > MOST_REASON or not reason.isprintable():
        raise typer.BadParameter(f"--reason is one line of at most {MOST_REASON} characters; it has {len(reason)}")
    file = _folder(site_yaml).pause
    made = file.put(reason, time.time())
    # A log that cannot be written must keep nobody from pausing.
    logged = _logged(site_yaml, "paused")
    quiet = file.settled(_SECONDS)
    since = _stamp(made.since)
    text = f"paused since {since}; every message is answered with FK580 until `fedkit client resume {site_yaml}`\n"
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
    folder = _folder(site_yaml)
    # Before the log tells of what would then be refused.
    folder.quarantine.refuse()
    if folder.pause.there():
        from fedkit_client.audit import record

        record(folder, "resumed")
    known = folder.pause.take_away()
    if known is None:
        text = "the site was not paused\n"
    else:
        text = f"the site goes on; it was paused since {_stamp(known.since)}\n"
    since = None if known is None else known.since
    _print({"paused": False, "was_paused": known is not None, "since": since}, text, json_=json_)


def _logged(site_yaml: Path, kind: str) -> str:
    """Why the audit log does not tell of it; nothing where it does."""
    from fedkit.errors import FedkitError
    from fedkit_client.audit import record

    try:
        record(_folder(site_yaml), kind)
    except (FedkitError, OSError) as error:
        return str(error)
    return ""


def _folder(site_yaml: Path) -> SiteFolder:
    from fedkit.governance.site_file import read_site_file

    try:
        folder = SiteFolder(read_site_file(site_yaml).folder.resolve())
    except ConfigError:
        # Neither a file that was broken since nor a mode too loose may keep a site from being paused.
        folder = SiteFolder(site_yaml.absolute().parent)
    folder.enrolment()
    return folder


def _stamp(seconds: float | None) -> str:
    if seconds is None:
        return "an unknown time"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _print(value: dict[str, Any], text: str, *, json_: bool) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n" if json_ else text)
    sys.stdout.flush()
