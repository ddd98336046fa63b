"""``fedkit client backup`` and ``restore``: a site's folder copied while it runs, and made anew from the copy."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fedkit_client.pause_commands import Json, SiteYaml


def backup(
    site_yaml: SiteYaml,
    target: Annotated[Path, typer.Argument(metavar="DEST", help="A folder that does not exist yet, on another disk.")],
    json_: Json = False,
) -> None:
    """Copy the site's folder, while it runs or not: ledgers, logs, keys, decisions; then read the copy again.

    The key that the folder is encrypted by is not among it, nor are tables. Keep the copy where nobody else reads:
    it holds the site's own keys.

    Example: fedkit client backup site/site.yaml elsewhere/north-monday
    """
    from fedkit_client.backup import make_backup
    from fedkit_client.log_commands import folder_of

    folder = folder_of(site_yaml)
    done = make_backup(folder, folder.enrolment().site, target)
    size = sum(each["size"] for each in done["files"].values())
    text = f"{target}: {len(done['files'])} files, {size:,} bytes, read again\n"
    text += "".join(f"  ledger {name}: {each['entries']} entries\n" for name, each in done["ledgers"].items())
    if done["left_out"]:
        text += f"  not fedkit's, and not copied: {', '.join(done['left_out'])}\n"
    if folder.vault_file.exists():
        text += "  without the folder's own key, which you keep elsewhere, it answers no round\n"
    _print(done, text, json_=json_)


def restore(
    source: Annotated[Path, typer.Argument(metavar="BACKUP", help="What `fedkit client backup` has made.")],
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="The site's folder, which does not exist yet.")],
    exports: Annotated[
        list[Path] | None,
        typer.Option("--export", metavar="FILE", help="A ledger's export, written since; repeatable."),
    ] = None,
    json_: Json = False,
) -> None:
    """Make a site's folder from a backup: paused, with every charge that an export shows, and no round left open.

    Whatever was spent since the backup and no export shows, the folder does not know. Never start the old folder again.

    Example: fedkit client restore elsewhere/north-monday site --export elsewhere/head.json
    """
    from fedkit.federation.trail import stamped
    from fedkit_client.restore import put_back_site

    done = put_back_site(source, target, exports or (), time.time())
    text = f"{target}: the folder of {done['site']}, as of {stamped(done['made_at'])}, paused\n"
    for name, each in done["ledgers"].items():
        shown = (
            f"{each['charged']} charged since, by its export"
            if each["export"]
            else "NO EXPORT: what was spent since is not known"
        )
        text += f"  {name}: {shown}; {each['closed']} rounds without an answer closed\n"
    path = target / "site.yaml"
    text += (
        f"  next: the key of what it stores, beside it or as {path} names it; tell the coordinator's operator of which"
        f" day the backup is;\n  look at `fedkit client status {path}` and `fedkit client study list {path}`; then"
        f" `fedkit client start {path}` and `fedkit client resume {path}`\n"
    )
    _print(done, text, json_=json_)


def _print(value: dict[str, Any], text: str, *, json_: bool) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n" if json_ else text)
    sys.stdout.flush()
