"""``fedkit client log show | verify | export``: the site's audit log; ``text``: what it tells nobody."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fedkit_client.folder import SiteFolder

SiteYaml = Annotated[Path, typer.Argument(metavar="SITE.yaml", help="The site's own file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]

log_app = typer.Typer(
    help="The site's audit log: look at it, verify it, keep the coordinator's head elsewhere.\n\n"
    "Example: fedkit client log --help",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@log_app.command()
def show(
    site_yaml: SiteYaml,
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

    Example: fedkit client log show site/site.yaml --since 7d --kind released
    """
    from fedkit.federation.trail import shown, shown_text, since_when

    log = folder_of(site_yaml).audit
    begin = 0.0 if since is None else since_when(since, time.time())
    for told in shown(log, since=begin, kinds=kind or (), follow=follow):
        sys.stdout.write((json.dumps(told) if json_ else shown_text(told)) + "\n")
        sys.stdout.flush()


@log_app.command()
def text(site_yaml: SiteYaml) -> None:
    """Print client.log, with what is encrypted in it; what does not open with the site's key stays as it is.

    Example: fedkit client log text site/site.yaml
    """
    from fedkit_client.logs import opened_lines, printable
    from fedkit_client.start import open_site

    folder = open_site(site_yaml).folder
    for line in opened_lines(folder.log, folder.vault()):
        for part in line.split("\n"):
            sys.stdout.write(printable(part) + "\n")


@log_app.command()
def verify(
    site_yaml: SiteYaml,
    peer: Annotated[
        Path | None,
        typer.Option("--peer", metavar="FILE", help="What the coordinator's `log export` wrote: finds a cut too."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--every-signature", help="Look at all signatures, ten times as slow.")
    ] = False,
    json_: Json = False,
) -> None:
    """Verify the whole log: exit status 0 if it is good, 1 if it is broken, with the first bad line and why.

    The logs of folders that were joined from are held against the line by which this one begins.

    Example: fedkit client log verify site/site.yaml --peer coordinator.heads
    """
    from fedkit.federation.trail import examined_text
    from fedkit_client.audit import examined
    from fedkit_client.before_logs import logs_before

    folder = folder_of(site_yaml)
    found = examined(folder, peer=peer, every=every)
    before = logs_before(folder)
    lines = [examined_text(found), *(_before_text(name, told) for name, told in before.items())]
    good = found["good"] and all(told["good"] for told in before.values())
    _print(found | {"before": before, "good": good}, json_, "\n".join(lines))
    if not good:
        raise typer.Exit(1)


@log_app.command()
def export(
    site_yaml: SiteYaml,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A new file.")],
    json_: Json = False,
) -> None:
    """Write the coordinator's newest heads, as this site keeps them, to a signed file: it verifies its log with it.

    Example: fedkit client log export site/site.yaml --out north.heads
    """
    from fedkit.federation.heads_file import export_heads
    from fedkit.storage.keys import load_signing_key
    from fedkit.storage.private import write_new

    folder = folder_of(site_yaml)
    key = load_signing_key(folder.signing_key)
    text, count = export_heads(folder.audit, folder.enrolment().site, key, time.time())
    write_new(out, text.encode())
    _print({"file": str(out), "heads": count}, json_, f"{out}: {count} heads of the coordinator's log")


def _before_text(name: str, told: dict[str, Any]) -> str:
    if told["good"]:
        return f"{name}: {told['lines']:,} lines, which end where the log after it says"
    return f"{name} is BROKEN: {told['why']}"


def folder_of(site_yaml: Path) -> SiteFolder:
    """The folder of a site's file, even of one that cannot be read any more."""
    from fedkit.errors import ConfigError
    from fedkit_client.folder import SiteFolder
    from fedkit_client.start import open_site
    from fedkit_client.unlinked import require_unlinked

    try:
        return open_site(site_yaml).folder
    except ConfigError:
        # A file that was broken since must not keep anybody from looking.
        folder = SiteFolder(site_yaml.absolute().parent)
        folder.enrolment()
        require_unlinked(folder.path)
        return folder


def _print(value: dict[str, Any], json_: bool, text: str) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n" if json_ else f"{text}\n")
    sys.stdout.flush()
