"""``fedkit client incident``: writes, rehearses and verifies what left a site."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedkit_client.pause_commands import Json, SiteYaml

if TYPE_CHECKING:
    from fedkit_client.start import Opened


def incident(
    site_yaml: SiteYaml,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="A span such as 90min or 7d, or a date or time.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Likewise; by default now.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="A new folder.")] = None,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Drill it on a made-up site in DIR; the real folder is not opened.")
    ] = False,
    verify: Annotated[
        Path | None, typer.Option("--verify", metavar="DIR", help="Whether a folder is what this site has signed.")
    ] = None,
    json_: Json = False,
) -> None:
    """What left in a time, to whom and under which guarantee, and a draft of the notifications. Reads no row.

    Exit status 1 if the log or a ledger is not what was written: then what is told may be wrong, or not be all.

    Example: fedkit client incident site/site.yaml --since 7d --out incident
    """
    if verify is not None:
        _verify(site_yaml, verify, json_=json_)
        return
    if out is None or (since is None and not rehearse):
        raise typer.BadParameter("give --since TIME and --out DIR; or --rehearse and --out DIR; or --verify DIR")
    from fedkit.federation.trail import since_when
    from fedkit.storage.private import make_folder
    from fedkit_client.start import open_site

    now = time.time()
    begin, end = since_when(since or "3d", now), now if until is None else since_when(until, now)
    opened = None if rehearse else open_site(site_yaml)
    make_folder(out)
    if opened is None:
        from fedkit_client.rehearsal import make_up

        opened = open_site(make_up(out / "made-up-site", now).site_yaml)
    found, files = _written(opened, out, begin, end, now, rehearsal=rehearse)
    broken = {name: told["why"] for name, told in found["chains"].items() if not told["good"]}
    text = _text(found) + "".join(f"{name} is not what was written: {why}\n" for name, why in broken.items())
    _print({**found, "files": files}, text + "".join(f"{file} is written\n" for file in files), json_=json_)
    if broken:
        raise typer.Exit(1)


def _written(
    opened: Opened, out: Path, since: float, until: float, now: float, *, rehearsal: bool
) -> tuple[dict[str, Any], list[str]]:
    from fedkit import __version__
    from fedkit.reporting.incident import MARK, incident_page, notification_draft
    from fedkit.storage.backup import described
    from fedkit.storage.keys import load_signing_key
    from fedkit.storage.private import write_new
    from fedkit_client.evidence import MANIFEST, plain_json, write_manifest
    from fedkit_client.incident import incident as collect

    key = load_signing_key(opened.folder.signing_key)
    found = collect(opened, since, until, now, rehearsal=rehearsal)
    contents = {
        "incident.json": plain_json(found),
        "incident.html": incident_page(found, __version__),
        "notification.md": notification_draft(found),
        **({"REHEARSAL.txt": f"{MARK}.\n"} if rehearsal else {}),
    }
    for name, content in contents.items():
        write_new(out / name, content.encode())
    files = {name: described(out / name) for name in contents}
    values = {"site": found["site"], "made_at": int(now), "rehearsal": rehearsal, "files": files}
    write_manifest(out, "incident", values, key)
    return found, [str(out / name) for name in (*contents, MANIFEST)]


def _verify(site_yaml: Path, folder: Path, *, json_: bool) -> None:
    from fedkit.errors import DeploymentError
    from fedkit.storage.keys import load_signing_key
    from fedkit_client.evidence import check_manifest
    from fedkit_client.folder import SiteFolder
    from fedkit_client.start import open_site

    made_up = SiteFolder(folder / "made-up-site")
    site = made_up if made_up.path.is_dir() else open_site(site_yaml).folder
    values = check_manifest(folder, "incident", load_signing_key(site.signing_key).public)
    rehearsal = values.get("rehearsal") is True
    if site is made_up and not rehearsal:
        # Whoever puts a key of their own beside an incident would sign for the hospital.
        raise DeploymentError(
            f"{folder} is signed by the key of a made-up site, and does not say that it is a rehearsal",
            code="FK788",
            remedy="take the folder as the site wrote it",
        )
    text = f"{folder}: {len(values['files'])} files as {values.get('site')} signed them"
    _print(
        {"good": True, "files": sorted(values["files"]), "rehearsal": rehearsal},
        f"{text}{'; REHEARSAL' if rehearsal else ''}\n",
        json_=json_,
    )


def _text(found: dict[str, Any]) -> str:
    from fedkit.reporting.incident import presumed_text
    from fedkit_client.logs import printable

    lines = [f"{'REHEARSAL: ' if found['rehearsal'] else ''}{found['site']}, {found['since']} to {found['until']}"]
    for run in found["runs"]:
        told = run["guarantee"]
        bound = f"epsilon {told['epsilon']:g}" if told["guarantee"] == "dp" else "WITHOUT A GUARANTEE"
        count = sum(run["answers"].values())
        lines.append(f"  {run['run']}: {count} answers on {run['dataset']}, submitted by {run['submitter']}; {bound}")
    for each in found["presumed"]:
        lines.append(f"  {each['run']} on {each['dataset']}: {presumed_text(each)}; epsilon {each['epsilon']:g}")
    if not found["runs"]:
        lines.append("  by the log no answer left" + (" beside these" if found["presumed"] else ""))
    return "\n".join(map(printable, lines)) + "\n"


def _print(value: dict[str, Any], text: str, *, json_: bool) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n" if json_ else text)
    sys.stdout.flush()
