"""``fedkit server user …``: who may do what, by statements that an admin signs on their own machine."""

from __future__ import annotations

import base64
import binascii
import time
from pathlib import Path
from typing import Annotated

import typer

from fedkit_server.options import SETTINGS, Json, Profile, connect, show, stamp

user_app = typer.Typer(
    help="List, add and revoke users, and renew your own key.\n\nExample: fedkit server user key signing.key",
    **SETTINGS,
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="A user.")]


@user_app.command()
def key(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new key; FILE.pub gets its public half.")],
    json_: Json = False,
) -> None:
    """Make a signing key: FILE stays with you, FILE.pub goes to an admin.

    Example: fedkit server user key signing.key
    """
    from fedkit.storage.keys import create_signing_key
    from fedkit.storage.private import write_new

    public = file.with_name(f"{file.name}.pub")
    made = create_signing_key(file)
    write_new(public, base64.b64encode(made.public) + b"\n")
    found = {"key": str(file), "public": str(public), "fingerprint": made.fingerprint}
    show(found, f"{file}: keep it\n{public}: send it to an admin; fingerprint {made.fingerprint}", json_=json_)


@user_app.command()
def add(
    name: Name,
    role: Annotated[str, typer.Option("--role", metavar="viewer|operator|admin", help="What the user may do.")],
    key_file: Annotated[Path, typer.Option("--key", metavar="FILE.pub", help="The user's public key.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="The user's new profile; by default NAME-profile.")
    ] = None,
    profile: Profile = None,
    json_: Json = False,
) -> None:
    """Add a user: sign the statement here, and write their profile with a token, which lacks only their key.

    Example: fedkit server user add ben --role operator --key ben.key.pub --profile heart-admin
    """
    from fedkit.federation import statements
    from fedkit.storage.private import require_free
    from fedkit_server.profile import copy_authorities, write_profile
    from fedkit_server.remote import segment

    remote, place = connect(profile), out or Path(f"{name}-profile")
    require_free(place, "name a folder that does not exist yet: --out FOLDER")
    public = _public(key_file)
    grown = statements.add(remote.keyring(), name, role, public, remote.profile.key(), time.time())
    remote.post("/keyring", {"statement": grown.statements[-1]})
    token = remote.post(f"/users/{segment(name)}/token")["token"]
    about = remote.profile
    write_profile(place, address=about.address, name=name, root=about.root, ca=about.ca.read_bytes(), token=token)
    copy_authorities(about, place)
    found = {"name": name, "role": role, "profile": str(place)}
    text = (
        f"{name} is {role}\n{place}: hand it over by a way that you trust; {name} puts their key there as signing.key"
    )
    show(found, text, json_=json_)


@user_app.command("list")
def list_(profile: Profile = None, json_: Json = False) -> None:
    """List everybody who is or was a user, with role, key and times, from the keyring that your profile verifies.

    Example: fedkit server user list --profile heart-admin
    """
    from fedkit.federation.users import told, users

    found = users(connect(profile).keyring())
    lines = [f"{'user':<20} {'role':<9} {'since':<16}  key"]
    for user in found:
        gone = "" if user.revoked_at is None else f"  REVOKED {stamp(user.revoked_at)}"
        lines.append(f"{user.name:<20} {user.role:<9} {stamp(user.since)}  {user.key}{gone}")
    show({"users": [told(user) for user in found]}, "\n".join(lines), json_=json_)


@user_app.command()
def revoke(name: Name, profile: Profile = None, json_: Json = False) -> None:
    """Revoke a user: jobs by their key are refused by every site that hears of it, and their token is void.

    Example: fedkit server user revoke ben --profile heart-admin
    """
    from fedkit.federation import statements

    remote = connect(profile)
    grown = statements.revoke(remote.keyring(), name, remote.profile.key(), time.time())
    remote.post("/keyring", {"statement": grown.statements[-1]})
    show({"name": name, "revoked": True}, f"{name} is revoked", json_=json_)


@user_app.command()
def rotate(profile: Profile = None, json_: Json = False) -> None:
    """Renew your own signing key, by a statement that the old one signs, and your token.

    Example: fedkit server user rotate --profile heart-admin
    """
    from fedkit.federation import statements
    from fedkit.storage.keys import create_signing_key, load_signing_key
    from fedkit.storage.private import replace
    from fedkit_server.profile import KEY, TOKEN
    from fedkit_server.remote import segment

    remote = connect(profile)
    folder, name = remote.profile.path, remote.profile.name
    waiting = folder / f"{KEY}.new"
    keyring = remote.keyring()
    # A key that an interrupted rotation has left may count already.
    new = load_signing_key(waiting) if waiting.exists() else create_signing_key(waiting)
    if new.fingerprint not in keyring.members:
        grown = statements.rotate(keyring, new.public, remote.profile.key(), time.time())
        remote.post("/keyring", {"statement": grown.statements[-1]})
    waiting.replace(folder / KEY)
    token = remote.post(f"/users/{segment(name)}/token")["token"]
    replace(folder / TOKEN, f"{token}\n".encode())
    show({"name": name, "key": new.fingerprint}, f"{name} has a new key, {new.fingerprint}, and token", json_=json_)


@user_app.command()
def token(
    name: Name,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the token is written.")],
    profile: Profile = None,
    json_: Json = False,
) -> None:
    """Give a user a new token, such as one who lost theirs; the one before is void.

    Example: fedkit server user token ben --out token --profile heart-admin
    """
    from fedkit.storage.private import require_absent, write_new
    from fedkit_server.remote import segment

    require_absent(out, "delete it if it holds a token of before, or name another file: --out FILE")
    answer = connect(profile).post(f"/users/{segment(name)}/token")
    write_new(out, f"{answer['token']}\n".encode())
    show({"name": name, "file": str(out)}, f"{out}: the token of {name}; it goes into their profile", json_=json_)


_MAKE = "have the user make one with `fedkit server user key FILE`, which writes FILE.pub"


def _public(file: Path) -> bytes:
    from fedkit.errors import DeploymentError
    from fedkit.storage.keys import PUBLIC_BYTES

    try:
        text = file.read_bytes()
    except OSError as error:
        raise DeploymentError(
            f"{file} cannot be read: {error.strerror}", code="FK703", remedy=f"{_MAKE}, and name that file"
        ) from None
    if b"PRIVATE KEY" in text:
        raise DeploymentError(
            f"{file} is a private key, which stays with its owner", code="FK703", remedy=f"give {file}.pub"
        )
    try:
        public = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        public = b""
    if len(public) != PUBLIC_BYTES:
        raise DeploymentError(f"{file} holds no public key", code="FK703", remedy=f"{_MAKE}, and name that file")
    return public
