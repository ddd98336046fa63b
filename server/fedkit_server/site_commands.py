"""``fedkit server invite | sites | revoke``: which hospitals belong to the federation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fedkit_server.options import Json, Profile, connect, show, stamp


def invite(
    sites: Annotated[list[str], typer.Argument(metavar="SITE...", help="Names of hospitals.")],
    hours: Annotated[float, typer.Option("--hours", help="For how long the invitation can be used.")] = 72.0,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where SITE.token is written.")] = Path("."),
    profile: Profile = None,
    json_: Json = False,
) -> None:
    """Write an invitation for each site: one line, good for one joining, to be handed over by a trusted way.

    Example: fedkit server invite north south --out invitations --profile heart-admin
    """
    from fedkit.data.names import require_site_names
    from fedkit.storage.private import require_absent, write_new

    require_site_names(sites, listed=True)
    remote = connect(profile)
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = {site: out / f"{site}.token" for site in dict.fromkeys(sites)}
    for site, file in files.items():
        # Before anything is asked for: the new invitation makes the one in the file void.
        require_absent(
            file,
            f"to invite {site} again delete that file, whose invitation was used or is void once there is a new one; or"
            " write elsewhere: --out FOLDER",
        )
    made = []
    for site, file in files.items():
        answer = remote.post("/invites", {"site": site, "hours": hours})
        write_new(file, f"{answer['invitation']}\n".encode())
        made.append({"site": site, "file": str(file), "expires_at": answer["expires_at"]})
    lines = [f"{each['file']}: for {each['site']}, until {stamp(each['expires_at'])}" for each in made]
    lines.append("hand each to its site by a way that you trust; there: `fedkit client join`")
    show({"invitations": made}, "\n".join(lines), json_=json_)


def sites(profile: Profile = None, json_: Json = False) -> None:
    """List the sites: online or not, and what they offer.

    Example: fedkit server sites --profile heart-admin
    """
    found = connect(profile).get("/sites")
    if json_:
        show(found, "", json_=True)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("site", "state", "joined", "offers", title=None)
    for site in found["sites"]:
        table.add_row(*map(Text, (site["name"], site["state"], stamp(site["enrolled_at"]), _offer(site["offer"]))))
    for each in found["invited"]:
        table.add_row(Text(each["site"]), "invited", Text(f"until {stamp(each['expires_at'])}"), "")
    if table.row_count:
        Console().print(table)
    else:
        show({}, "no site yet; invite one: `fedkit server invite SITE`", json_=False)


def _offer(offer: Any) -> str:
    if not offer:
        return "nothing yet"
    return "\n".join(
        f"{name}: {data['records']} {data['unit']}s, epsilon up to {data['max_epsilon']:g}, "
        f"{', '.join(data['models'])}; {', '.join(data['strategies'])}"
        for name, data in offer["datasets"].items()
    )


def revoke(
    site: Annotated[str, typer.Argument(metavar="SITE", help="A site.")], profile: Profile = None, json_: Json = False
) -> None:
    """Let a site in no more, and withdraw its open invitation; its records never left it.

    Example: fedkit server revoke north --profile heart-admin
    """
    from fedkit_server.remote import segment

    answer = connect(profile).post(f"/sites/{segment(site)}/revoke")
    done = "can not connect any more" if answer["revoked"] else "had not joined; its invitation is void"
    show(answer, f"{site} {done}", json_=json_)
