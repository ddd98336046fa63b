"""``fedkit server backup`` and ``restore``: on the coordinator's own host."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedkit_server.options import Dir, Json, show


def backup(
    folder: Dir,
    target: Annotated[Path, typer.Argument(metavar="DEST", help="A folder that does not exist yet, on another disk.")],
    json_: Json = False,
) -> None:
    """Copy the coordinator's folder, while it runs or not: keys, sites, runs, logs; then read the copy again.

    Whoever has the copy has the coordinator's and the CA's key: keep it as closed as the folder.

    Example: fedkit server backup coordinator elsewhere/monday
    """
    from fedkit_server.backup import make_backup
    from fedkit_server.folder import open_folder

    done = make_backup(open_folder(folder), target)
    size = sum(each["size"] for each in done["files"].values())
    runs = f"{done['runs']} run{'s' * (done['runs'] != 1)}"
    text = f"{target}: {len(done['files'])} files, {runs}, {size:,} bytes, read again"
    text += "\n  not copied: Flower's link.db and objects, which a start makes anew"
    if done["tracking"]:
        text += "; tracking, which `fedkit server start --track` fills anew"
    show(done, text, json_=json_)


def restore(
    source: Annotated[Path, typer.Argument(metavar="BACKUP", help="What `fedkit server backup` has made.")],
    target: Annotated[Path, typer.Argument(metavar="DIR", help="The coordinator's folder, which does not exist yet.")],
    keyring: Annotated[
        Path | None,
        typer.Option("--keyring", metavar="FILE", help="A site's keyring.jsonl, where users or keys changed since."),
    ] = None,
    json_: Json = False,
) -> None:
    """Make a coordinator's folder from a backup; runs that were under way go on at the next start.

    Example: fedkit server restore elsewhere/monday coordinator --keyring north-keyring.jsonl
    """
    from fedkit_server.backup import put_back_coordinator, text_of

    done = put_back_coordinator(source, target, keyring)
    show(done, text_of(done), json_=json_)
