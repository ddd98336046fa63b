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

    So do lines of server.log, and of what it was rotated to, beyond log_days of server.json. Model, result, digests of
    runs and their report stay. Each deletion has its line in the audit log before it happens. A running coordinator
    does it by itself once an hour.

    Example: fedkit server purge coordinator --dry-run
    """
    from fedkit.storage.audit import Log
    from fedkit_server.folder import open_folder
    from fedkit_server.log_retention import due_lines, plain_lines, purge_log
    from fedkit_server.retention import due, plain
    from fedkit_server.retention import purge as delete
    from fedkit_server.store import Store

    opened, now = open_folder(folder), time.time()
    tell = Log(opened.audit, opened.key()).append
    store = Store(opened.database)
    try:
        found = due(opened, store, now) if dry_run else delete(opened, store, now, tell)
    finally:
        store.close()
    lines = due_lines(opened, now) if dry_run else purge_log(opened, now, tell)
    verb = "are to be deleted" if dry_run else "are deleted"
    said = [f"updates and journal of {each.run} {verb}: {each.size:,} bytes, {each.reason}" for each in found]
    said += [f"{each.count:,} lines of {each.name} {verb}: {each.size:,} bytes, {each.reason}" for each in lines]
    told = {"dry_run": dry_run, "deleted": plain(found), "lines": plain_lines(lines)}
    show(told, "\n".join(said) or "nothing is beyond its deadline", json_=json_)
