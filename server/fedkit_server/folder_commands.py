"""``fedkit server init | start | halt | rotate | hash``: on the coordinator's own host."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from fedkit_server.options import Dir, Json, show

Hosts = Annotated[
    list[str], typer.Option("--host", metavar="HOST", help="A name or address that sites use; repeatable.")
]
NewHosts = Annotated[
    list[str] | None, typer.Option("--host", metavar="HOST", help="Names and addresses in place of those so far.")
]


def init(
    folder: Dir,
    hosts: Hosts,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="The federation's name.")],
    port: Annotated[int, typer.Option("--port", help="Of the API and the sites' messages.")] = 9443,
    grpc_port: Annotated[int, typer.Option("--grpc-port", help="Of enrolment.")] = 9444,
    admin: Annotated[str, typer.Option("--admin", metavar="NAME", help="The first admin.")] = "admin",
    profile: Annotated[
        Path | None, typer.Option("--profile", metavar="FOLDER", help="The admin's; by default NAME-admin beside DIR.")
    ] = None,
    json_: Json = False,
) -> None:
    """Make a federation: its certificate authority, the coordinator's key, and the first admin's profile.

    Example: fedkit server init coordinator --name heart --host fl.example.org --host 192.0.2.7
    """
    from fedkit.storage.keys import create_signing_key
    from fedkit.storage.private import make_folder, require_free
    from fedkit_server.folder import check_choices, create_folder
    from fedkit_server.profile import KEY, fill_profile
    from fedkit_server.store import Store
    from fedkit_server.tokens import new_token, token_hash

    place = profile or folder.absolute().parent / f"{name}-admin"
    # All that can be refused is refused before a folder is made.
    check_choices(name, hosts, port, grpc_port, admin)
    require_free(folder, "name another folder for the coordinator, which does not exist yet")
    require_free(place, "name another folder for the admin's profile, which does not exist yet: --profile FOLDER")
    make_folder(place)
    root = create_signing_key(place / KEY)
    now = time.time()
    made = create_folder(
        folder, name=name, hosts=hosts, port=port, grpc_port=grpc_port, admin=admin, root=root, now=now
    )
    settings, token = made.settings(), new_token()
    store = Store(made.database)
    store.put_token(admin, token_hash(token), now)
    store.close()
    ca = made.read(made.ca)
    fill_profile(place, address=settings.address, name=admin, root=root.fingerprint, ca=ca, token=token)
    found = {
        "folder": str(folder),
        "profile": str(place),
        "name": name,
        "address": settings.address,
        "federation": settings.federation,
        "coordinator": made.key().fingerprint,
        "root": root.fingerprint,
    }
    text = (
        f"{folder}: the federation {name} at {settings.address}\n"
        f"  federation id {settings.federation}\n"
        f"{place}: the profile of {admin}, with the key that decides who belongs to the federation\n"
        "  move it off this host now, to where you work: a stolen coordinator must not hold it\n"
        f"next: `fedkit server start {folder}` here; then `fedkit server invite SITE --profile {place}`, or where you"
        " have moved it"
    )
    show(found, text, json_=json_)


def start(
    folder: Dir,
    bind: Annotated[
        str | None, typer.Option("--bind", metavar="ADDRESS", help="Listen on this address only; by default on all.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Start in the background; return once everything answers.")
    ] = False,
    track: Annotated[
        str | None,
        typer.Option("--track", metavar="mlflow|tensorboard", help="Mirror the runs' metrics, from DIR alone."),
    ] = None,
    json_: Json = False,
) -> None:
    """Start the coordinator; SIGTERM or Ctrl-C ends it, and the next start takes up what was under way.

    Example: fedkit server start coordinator --detach
    """
    from fedkit_server.folder import joined, open_folder

    opened = open_folder(folder)
    settings = opened.settings()
    facts = {"folder": str(folder), "address": settings.address, "port": settings.port}
    if detach:
        from fedkit_server.detach import start_detached

        pid = start_detached(opened, bind, track)
        where = joined(bind or settings.bind, settings.port)
        text = f"{settings.name} is served on {where} by process {pid}; stop it with `fedkit server halt {folder}`"
        show({**facts, "pid": pid}, text, json_=json_)
        return
    from fedkit_server.detach import after_detaching, detached
    from fedkit_server.rotation import finish
    from fedkit_server.service import run

    def up() -> None:
        if detached():
            after_detaching()
        elif json_:
            show({**facts, "pid": os.getpid()}, "", json_=True)

    finish(opened)
    run(opened, bind=bind, track=track, screen=not detached() and not json_, up=up)


def halt(
    folder: Dir,
    timeout: Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="How long to wait.")] = 60.0,
    json_: Json = False,
) -> None:
    """End the coordinator of a folder; a run that is under way goes on at the next start.

    Example: fedkit server halt coordinator
    """
    from fedkit_server.folder import open_folder
    from fedkit_server.lock import halt as end

    pid = end(open_folder(folder).pid_file, timeout)
    text = "no coordinator was running" if pid is None else f"process {pid} has ended"
    show({"folder": str(folder), "pid": pid, "halted": pid is not None}, text, json_=json_)


def rotate(
    folder: Dir,
    hosts: NewHosts = None,
    coordinator_key: Annotated[
        bool, typer.Option("--coordinator-key", help="Also make a new coordinator's key, signed by the old one.")
    ] = False,
    authority: Annotated[
        float | None,
        typer.Option("--authority", metavar="DAYS", help="Also make a new CA; the old one counts so long beside it."),
    ] = None,
    json_: Json = False,
) -> None:
    """Renew the TLS certificate for a year, while the coordinator is stopped; enrolled sites go on.

    A new CA takes two steps: with --authority sites and users hear of it, and the certificate stays one of the old CA;
    the next `rotate`, before those days are over, has the new CA issue it.

    Example: fedkit server rotate coordinator --coordinator-key
    """
    from fedkit_server import authorities, rotation
    from fedkit_server.folder import open_folder
    from fedkit_server.lock import hold
    from fedkit_server.store import Store

    opened = open_folder(folder)
    fingerprint, voided, made = None, 0, None
    with hold(opened.pid_file):
        rotation.finish(opened)
        if authority is not None:
            authorities.require_next(opened, authority)
        rotation.renew_certificate(opened, hosts or ())
        if coordinator_key:
            fingerprint = rotation.renew_coordinator_key(opened, time.time())
            store = Store(opened.database)
            voided = store.void_invitations(time.time())
            store.close()
        if authority is not None:
            made = authorities.begin_authority(opened, authority, time.time())
    ends = authorities.certificate_end(opened)
    text = f"the TLS certificate is good until {ends:%Y-%m-%d}\n"
    if fingerprint is not None:
        text += f"the coordinator's key is now {fingerprint}; {voided} open invitations are void, make them anew\n"
    if made is not None:
        text += (
            f"CA {made.serial + 1} is made: sites follow when they connect, users with `fedkit server trust`; run"
            f" `fedkit server rotate {folder}` before {ends:%Y-%m-%d %H:%M} UTC, for then the old CA counts no more\n"
        )
    found = {
        "authority": made and made.serial,
        "certificate_expires_at": ends.isoformat(),
        "coordinator": fingerprint,
        "voided_invitations": voided,
    }
    show(found, f"{text}next: `fedkit server start {folder}`", json_=json_)


def hash_(
    function: Annotated[str, typer.Argument(metavar="PACKAGE.MODULE:NAME", help="What allow.yaml is to list.")],
    json_: Json = False,
) -> None:
    """The hash of an installed package, to be written into DIR/allow.yaml; runs none of it.

    Example: fedkit server hash our_package.models:two_layers
    """
    from fedkit.governance.allow import package_hash

    found = package_hash(function)
    show({"import": function, "sha256": found}, f"import: {function}\nsha256: {found}", json_=json_)
