"""A user's profile: where the coordinator is, what its certificate must hang on, who the user is."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedkit.errors import DeploymentError, FederationError
from fedkit.federation.authority import Authority, open_chain, trusted
from fedkit.federation.heads import coordinator_keys
from fedkit.federation.keyring import Keyring
from fedkit.storage.formats import require_known
from fedkit.storage.keys import SigningKey, load_signing_key
from fedkit.storage.private import make_folder, replace, require_private, write_new
from fedkit_server import pki
from fedkit_server.tokens import looks_like_token

VARIABLE = "FEDKIT_PROFILE"
FORMAT = 1
AUTHORITIES = "authorities.txt"
PROFILE, CA, KEY, TOKEN = "profile.json", "ca.crt", "signing.key", "token"


@dataclass(frozen=True)
class Profile:
    """A profile folder, read.

    Attributes:
        address: host:port of the coordinator's API.
        name: the user's.
        root: fingerprint that the keyring must begin with.
        federation: fingerprint of the CA.
    """

    path: Path
    address: str
    name: str
    root: str
    federation: str
    token: str = field(repr=False)

    @property
    def ca(self) -> Path:
        """The first CA, whose fingerprint names the federation."""
        return self.path / CA

    @property
    def option(self) -> str:
        """What a further command has to say to use this profile; nothing where the environment says it."""
        return "" if os.environ.get(VARIABLE) == str(self.path) else f" --profile {shlex.quote(str(self.path))}"

    def trusted(self) -> str:
        """The CAs that count now, PEM.

        Raises:
            FederationError: FK540, FK544, the profile's files are not what was written.
        """
        return trusted(self.ca.read_bytes(), self.authorities(), time.time()).decode("ascii")

    def authorities(self) -> tuple[Authority, ...]:
        """The CAs after the first that the user has accepted.

        Raises:
            FederationError: FK540, FK541, FK544, the profile's file is not what was written.
        """
        keys, texts = _accepted(self.path)
        return open_chain(texts, self.federation, keys)

    def key(self) -> SigningKey:
        """The user's signing key.

        Raises:
            DeploymentError: FK702, FK703.
        """
        if not (self.path / KEY).exists():
            raise DeploymentError(
                f"the profile {self.path} has no signing key yet",
                code="FK703",
                remedy=f"put the file that `fedkit server user key FILE` made, not FILE.pub, there as {KEY}, mode 0600",
            )
        return load_signing_key(self.path / KEY)


def open_profile(path: Path | None) -> Profile:
    """Read the profile that a command names, or the environment.

    Raises:
        DeploymentError: FK711, none is named or it cannot be read; FK706, others may read it; FK759, a newer fedkit has
            written it.
    """
    named = path or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if named is None:
        raise DeploymentError(
            f"no profile is named, by --profile or {VARIABLE}",
            code="FK711",
            remedy="name the folder that `fedkit server init` or `fedkit server user add` made: --profile FOLDER",
        )
    try:
        values = json.loads((named / PROFILE).read_text(encoding="utf-8"))
        require_known(named / PROFILE, values.get("format"), FORMAT, writer=values.get("fedkit"))
        address, name, root = (str(values[key]) for key in ("address", "name", "root"))
        token = (named / TOKEN).read_text(encoding="ascii").strip()
        ca = (named / CA).read_bytes()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        file = getattr(error, "filename", None) or PROFILE
        raise DeploymentError(
            f"the profile {named} cannot be read ({type(error).__name__}: {file})",
            code="FK711",
            remedy="name the folder that `fedkit server init` or `fedkit server user add` made: --profile FOLDER",
        ) from None
    require_private([named, *(named / part for part in (PROFILE, KEY, TOKEN, CA, AUTHORITIES))])
    if not looks_like_token(token):
        raise DeploymentError(
            f"{named / TOKEN} holds no token", code="FK711", remedy="ask an admin for `fedkit server user token NAME`"
        )
    return Profile(named, address, name, root, pki.certificate_fingerprint(ca), token)


def write_profile(path: Path, *, address: str, name: str, root: str, ca: bytes, token: str) -> None:
    """Make a profile folder, without a signing key.

    Raises:
        DeploymentError: FK700, FK704.
    """
    make_folder(path)
    fill_profile(path, address=address, name=name, root=root, ca=ca, token=token)


def fill_profile(path: Path, *, address: str, name: str, root: str, ca: bytes, token: str) -> None:
    """Write a profile's files, except for the signing key, into a folder.

    Raises:
        DeploymentError: FK700, FK704.
    """
    about = {"format": FORMAT, "address": address, "name": name, "root": root}
    write_new(path / CA, ca)
    write_new(path / TOKEN, f"{token}\n".encode())
    write_new(path / PROFILE, (json.dumps(about, indent=2) + "\n").encode())


def take_authorities(profile: Profile, texts: Sequence[str], keyring: Keyring) -> int:
    """Accept what the coordinator's key in force says of its CAs; returns how many are new.

    Args:
        keyring: verified, and in force as far as whoever gives it tells.

    Raises:
        FederationError: FK540 to FK544: nothing is changed then.
        DeploymentError: FK700.
    """
    known, coordinator = profile.authorities(), keyring.coordinator
    if set(_accepted(profile.path)[0]) - set(coordinator_keys(keyring)):
        # An older file would bring a key back into force that was replaced, perhaps because it was stolen.
        raise FederationError(
            "the keyring is an older state of the one by which CAs were accepted before",
            code="FK544",
            remedy="ask the coordinator's operator for the newest file of `fedkit server authority`",
        )
    chain = open_chain(texts, profile.federation, [coordinator], known)
    if len(chain) > len(known):
        keys = dict.fromkeys([*_accepted(profile.path)[0], coordinator])
        lines = [" ".join(key.hex() for key in keys), *(each.text for each in chain)]
        replace(profile.path / AUTHORITIES, "".join(f"{line}\n" for line in lines).encode())
    return len(chain) - len(known)


def copy_authorities(profile: Profile, place: Path) -> None:
    """Have another profile of the federation trust the same CAs.

    Raises:
        DeploymentError: FK700, FK704.
    """
    if (profile.path / AUTHORITIES).exists():
        write_new(place / AUTHORITIES, (profile.path / AUTHORITIES).read_bytes())


def _accepted(path: Path) -> tuple[list[bytes], list[str]]:
    """The coordinator's keys by which CAs were accepted, and the statements."""
    if not (path / AUTHORITIES).exists():
        return [], []
    try:
        keys, *texts = (path / AUTHORITIES).read_text(encoding="ascii").splitlines()
        return [bytes.fromhex(key) for key in keys.split()], texts
    except (OSError, ValueError):
        raise DeploymentError(
            f"{path / AUTHORITIES} cannot be read",
            code="FK711",
            remedy="move it away, and run `fedkit server trust --file FILE`",
        ) from None
