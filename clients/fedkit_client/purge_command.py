"""``fedkit client purge``: delete what is beyond its deadline, each after a signed receipt."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

SiteYaml = Annotated[Path, typer.Argument(metavar="SITE.yaml", help="The site's own file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]


def purge(
    site_yaml: SiteYaml,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be deleted, and delete nothing.")] = False,
    json_: Json = False,
) -> None:
    """Delete what is beyond the deadlines of `retention` and of signed study agreements; a running site does it hourly.

    Each deletion has its line in the audit log before it happens: digest, size, deadline and whose bound it was.

    Example: fedkit client purge site/site.yaml --dry-run
    """
    from fedkit.storage.audit import Log
    from fedkit.storage.keys import load_signing_key
    from fedkit_client.logs import printable
    from fedkit_client.retention import due, plain
    from fedkit_client.retention import purge as delete
    from fedkit_client.start import open_site

    opened, now = open_site(site_yaml), time.time()
    folder, site, retention = opened.folder, opened.file.site, opened.file.retention
    if dry_run:
        found = due(folder, site, retention, now)
    else:
        log = Log(folder.audit, load_signing_key(folder.signing_key))
        found = delete(folder, site, retention, now, log.append)
    verb = "is to be deleted" if dry_run else "is deleted"
    lines = [
        f"{each.what} {each.run or each.name} {verb}: {each.size:,} bytes, {each.reason}, since {_day(each.deadline)}"
        for each in found
    ]
    text = "".join(f"{printable(line)}\n" for line in lines) or "nothing is beyond its deadline\n"
    sys.stdout.write(json.dumps({"dry_run": dry_run, "deleted": plain(found)}) + "\n" if json_ else text)
    sys.stdout.flush()


def _day(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
