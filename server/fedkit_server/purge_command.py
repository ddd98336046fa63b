"""``fedkit server purge``: on the coordinator's own host."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from fedkit_server.options import Dir, Json, show


def purge(
    folder: Dir,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be deleted, and delete nothing.")] = False,
    json_: Json = False,
) -> None:
    """Delete recorded updates and journals of runs beyond retention_days of their study or of server.json.

    Model, result, digests and report stay. Each deletion has its line in the audit log before it happens. A running
    coordinator does it by itself once an hour.

    Example: fedkit server purge coordinator --dry-run
    """
    from fedkit.storage.audit import Log
    from fedkit_server.folder import open_folder
    from fedkit_server.retention import due, plain
    from fedkit_server.retention import purge as delete
    from fedkit_server.store import Store

    opened, now = open_folder(folder), time.time()
    store = Store(opened.database)
    try:
        found = (
            due(opened, store, now) if dry_run else delete(opened, store, now, Log(opened.audit, opened.key()).append)
        )
    finally:
        store.close()
    verb = "are to be deleted" if dry_run else "are deleted"
    lines = [f"updates and journal of {each.run} {verb}: {each.size:,} bytes, {each.reason}" for each in found]
    show(
        {"dry_run": dry_run, "deleted": plain(found)}, "\n".join(lines) or "nothing is beyond its deadline", json_=json_
    )
