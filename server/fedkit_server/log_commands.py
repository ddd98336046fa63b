"""``fedkit server log show | verify | export``: the coordinator's audit log, on its own host."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedkit_server.options import SETTINGS, Dir, Json, show

if TYPE_CHECKING:
    from fedkit_server.folder import ServerFolder

log_app = typer.Typer(
    help="The coordinator's audit log: look at it, verify it, keep the sites' heads elsewhere.\n\n"
    "Example: fedkit server log --help",
    pretty_exceptions_enable=False,
    **SETTINGS,
)


@log_app.command("show")
def show_(
    folder: Dir,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="A span such as 90min or 7d, or a date.")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option("--kind", metavar="KIND", help="Only events of this kind; repeatable.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what is appended, until Ctrl-C.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Print the log as it is, without verifying it.

    Example: fedkit server log show coordinator --since 7d --kind received
    """
    from fedkit.federation.trail import shown, shown_text, since_when
    from fedkit_server.folder import open_folder

    log = open_folder(folder).audit
    begin = 0.0 if since is None else since_when(since, time.time())
    for told in shown(log, since=begin, kinds=kind or (), follow=follow):
        sys.stdout.write((json.dumps(told) if json_ else shown_text(told)) + "\n")
        sys.stdout.flush()


@log_app.command()
def verify(
    folder: Dir,
    peer: Annotated[
        Path | None,
        typer.Option("--peer", metavar="FILE", help="What a site's `log export` wrote: finds a cut too."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--every-signature", help="Look at all signatures, ten times as slow.")
    ] = False,
    json_: Json = False,
) -> None:
    """Verify the whole log: exit status 0 if it is good, 1 if it is broken, with the first bad line and why.

    Example: fedkit server log verify coordinator --peer north.heads
    """
    from fedkit.federation.heads import coordinator_keys
    from fedkit.federation.keyring import COORDINATOR
    from fedkit.federation.trail import examine, examined_text
    from fedkit_server.folder import open_folder

    opened = open_folder(folder)
    keys = coordinator_keys(opened.keyring())
    found = examine(opened.audit, COORDINATOR, keys, _others(opened), peer=peer, every=every)
    show(found, examined_text(found), json_=json_)
    if not found["good"]:
        raise typer.Exit(1)


@log_app.command()
def export(
    folder: Dir,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A new file.")],
    json_: Json = False,
) -> None:
    """Write the sites' newest heads, as the coordinator keeps them, to a signed file: each verifies its log with it.

    Example: fedkit server log export coordinator --out coordinator.heads
    """
    from fedkit.federation.heads_file import export_heads
    from fedkit.federation.keyring import COORDINATOR
    from fedkit.storage.private import write_new
    from fedkit_server.folder import open_folder

    opened = open_folder(folder)
    text, count = export_heads(opened.audit, COORDINATOR, opened.key(), time.time())
    write_new(out, text.encode())
    show({"file": str(out), "heads": count}, f"{out}: {count} heads of sites' logs", json_=json_)


def _others(folder: ServerFolder) -> Any:
    from contextlib import closing

    from fedkit_server.store import Store

    with closing(Store(folder.database)) as store:
        known = {site.name: site.site_key for site in store.sites()}

    def keys(party: str) -> Sequence[bytes]:
        return (known[party],) if party in known else ()

    return keys
