"""``fedkit client encrypt``: bring a site's folder under its key, or under another one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fedkit_client.start import Opened

SiteYaml = Annotated[Path, typer.Argument(metavar="SITE.yaml", help="The site's own file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]


def encrypt(
    site_yaml: SiteYaml,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Bring the key of `encryption` into force, in the place of `previous`.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Change nothing: open all that is encrypted.")] = False,
    json_: Json = False,
) -> None:
    """Encrypt what a stopped site's folder holds of records, or have it encrypted by another key.

    A kill leaves the key before or the one after in force; the same command then goes on. With --check, exit status 1
    if anything does not open.

    Example: fedkit client encrypt site/site.yaml --rotate
    """
    from fedkit_client import lock
    from fedkit_client.settling import seal_factors, settle
    from fedkit_client.start import open_site

    if rotate and check:
        raise typer.BadParameter("--check changes nothing; leave out --rotate")
    opened = open_site(site_yaml)
    if check:
        _check(opened, json_=json_)
        return
    with lock.hold(opened.folder.pid_file):
        said = [*settle(opened.folder, renew=rotate), *seal_factors(opened.folder)]
    keys = opened.folder.keys
    source = None if keys is None or keys.opened is None else keys.opened.source.shown
    text = "".join(f"{each}\n" for each in said) or f"what lies in {opened.folder.path} is encrypted by {source}\n"
    _print({"encrypted_by": source, "rotated": rotate, "said": said}, text, json_=json_)


def _check(opened: Opened, *, json_: bool) -> None:
    from fedkit_client.opening import unopened

    problems = unopened(opened.folder, list(opened.file.data))
    text = "".join(f"{each}\n" for each in problems) or "all that is encrypted opens with the site's key\n"
    _print({"ok": not problems, "problems": problems}, text, json_=json_)
    if problems:
        raise typer.Exit(1)


def _print(value: dict[str, Any], text: str, *, json_: bool) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n" if json_ else text)
    sys.stdout.flush()
