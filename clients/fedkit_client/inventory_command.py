"""``fedkit client inventory``: prints or writes the site's data card."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fedkit_client.pause_commands import Json, SiteYaml


def inventory(
    site_yaml: SiteYaml,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write inventory.json and inventory.html there.")
    ] = None,
    json_: Json = False,
) -> None:
    """The site's data card: columns, sensitivity, rules, budgets, and what was released to whom. Reads no row.

    Without --out a short text, or the whole card as JSON. Files that an earlier call wrote are replaced.

    Example: fedkit client inventory site/site.yaml --out inventory
    """
    from fedkit_client.inventory import inventory as make
    from fedkit_client.start import open_site

    card = make(open_site(site_yaml), time.time())
    files = [] if out is None else _written(card, out)
    if json_:
        sys.stdout.write(json.dumps({**card, "files": files} if files else card, allow_nan=False) + "\n")
        return
    sys.stdout.write(inventory_text(card) + "".join(f"{file} is written\n" for file in files))


def _written(card: dict[str, Any], out: Path) -> list[str]:
    from fedkit import __version__
    from fedkit.errors import DeploymentError
    from fedkit.reporting.inventory import inventory_page
    from fedkit.storage.private import replace

    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DeploymentError(
            f"{out} cannot be made: {error.strerror}", code="FK700", remedy="name a folder that you may write"
        ) from None
    contents = {
        "inventory.json": json.dumps(card, indent=2, allow_nan=False) + "\n",
        "inventory.html": inventory_page(card, __version__),
    }
    for name, content in contents.items():
        replace(out / name, content.encode())
    return [str(out / name) for name in contents]


def _rounds(answered: str, gone: dict[str, Any] | None) -> str:
    from fedkit.reporting.incident import presumed_text

    if gone is None:
        return f"{answered or 'nothing'} released"
    return f"{answered} released; {presumed_text(gone)}" if answered else presumed_text(gone)


def inventory_text(card: dict[str, Any]) -> str:
    """A few lines a data set."""
    from fedkit_client.logs import printable

    lines = [f"{card['site']}, {card['at']}; no row was read"]
    for name, data in (card["datasets"] | card["no_longer_offered"]).items():
        budget = data["budget"]
        spent = budget["problem"] or (
            f"epsilon {budget['epsilon_spent']:g} of {budget['limit']:g} spent at delta {budget['delta']:g} for one"
            f" {budget['unit']}, {budget['left']:.1%} of the budget left"
        )
        lines.append(f"{name}: {spent}")
        if "columns" in data:
            unsaid = [column for column, told in data["columns"].items() if told["sensitivity"] == "undeclared"]
            said = f"; sensitivity undeclared: {', '.join(unsaid)}" if unsaid else ""
            lines.append(f"  {len(data['columns'])} columns, {data['records']} {data['unit']}s declared{said}")
        else:
            lines.append("  not offered any more")
        for run in data["released"]:
            rounds = ", ".join(f"{len(numbers)} {purpose}" for purpose, numbers in run["answered"].items())
            who = run["submitter"] or "(not recorded)"
            lines.append(
                f"  {run['run']}: {_rounds(rounds, run['presumed'])}, submitted by {who};"
                f" epsilon {run['epsilon']:g} as the ledger's filter counts it alone"
            )
        lines += [f"  {run['run']}: admitted and never charged, for {run['submitter']}" for run in data["uncharged"]]
    lines += [f"study {each['study']}: {each['standing']}" for each in card["studies"]]
    return "\n".join(map(printable, lines)) + "\n"
