"""``fedkit server authority | trust``: a CA that was replaced, for sites that were away, and in a user's profile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedkit_server.options import Dir, Json, Profile, connect, show


def authority(
    folder: Dir,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A new file, to be given by any way.")],
    json_: Json = False,
) -> None:
    """Write who is trusted after the first CA, signed by the coordinator's key: for `trust` at sites and users.

    Example: fedkit server authority coordinator --out heart.authorities
    """
    from fedkit.federation.authority_file import as_file
    from fedkit.storage.private import write_new
    from fedkit_server.authorities import chain_of
    from fedkit_server.folder import open_folder

    opened = open_folder(folder)
    chain = chain_of(opened)
    write_new(out, as_file(chain, opened.keyring()).encode())
    show({"file": str(out), "authorities": len(chain)}, f"{out}: {len(chain)} CAs after the first", json_=json_)


def trust(
    profile: Profile = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", metavar="FILE", help="What `fedkit server authority` wrote; else the coordinator is asked."
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Trust the CA that took the place of the profile's, where the coordinator's key says so.

    Example: fedkit server trust --profile heart-admin
    """
    from fedkit.federation.authority_file import read_file
    from fedkit.federation.keyring import open_keyring
    from fedkit_server.profile import take_authorities

    remote = connect(profile)
    about = remote.profile
    if file is None:
        keyring, texts = remote.keyring(), remote.authorities()
    else:
        statements, texts = read_file(file)
        keyring = open_keyring(statements, federation=about.federation, root=about.root)
    fresh = take_authorities(about, texts, keyring)
    text = (
        f"{fresh} further CA{'' if fresh == 1 else 's'} trusted"
        if fresh
        else "nothing new: the CA is the one that is known"
    )
    show({"profile": str(about.path), "trusted": fresh}, text, json_=json_)
