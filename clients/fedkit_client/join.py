"""``fedkit client join``: from a one-line invitation to a folder that trusts one federation and is known to it."""

from __future__ import annotations

import base64
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedkit.errors import ConfigError, DeploymentError
from fedkit_client.address import parted
from fedkit_client.folder import FORMAT, Enrolment, SiteFolder
from fedkit_client.joining_key import key_for, seal
from fedkit_client.moving import carry_over, close, require_nothing_near, require_open, taking_over

if TYPE_CHECKING:
    from fedkit.federation.authority import Authority
    from fedkit.federation.invite import Invitation
    from fedkit.governance.encryption import Encryption
    from fedkit.storage.audit_line import Scalar

_MOST_BYTES = 65536


@dataclass(frozen=True)
class Joined:
    """What a joining has made.

    Attributes:
        blank: ``site.yaml`` is the template, or as wanting: it is to be filled in.
        key: where the key comes from that the folder is encrypted by; empty where it is not.
    """

    folder: SiteFolder
    enrolment: Enrolment
    blank: bool
    key: str = ""


def read_token(file: str) -> str:
    """The invitation's text from a file, or from standard input for ``-``.

    Raises:
        DeploymentError: FK751, it cannot be read.
    """
    try:
        if file == "-":
            return sys.stdin.read(_MOST_BYTES)
        with Path(file).open(encoding="utf-8") as opened:
            return opened.read(_MOST_BYTES)
    except (OSError, ValueError) as error:
        raise DeploymentError(
            f"the invitation cannot be read from {file} ({getattr(error, 'strerror', None) or type(error).__name__})",
            code="FK751",
            remedy="save the line that the coordinator's admin gave you, and name the file; - reads standard input",
        ) from None


def join(
    address: str,
    token: str,
    folder: Path,
    site_yaml: Path | None = None,
    *,
    old: Path | None = None,
    empty_ledgers: bool = False,
) -> Joined:
    """Join a federation.

    Args:
        address: HOST or HOST:PORT of the coordinator.
        token: the invitation.
        folder: to be made.
        site_yaml: a site file to copy; None copies that of ``old``, or else writes the template.
        old: the folder of an earlier joining, whose ledgers, withdrawals, lineage and pause are taken along; it never
            runs again.
        empty_ledgers: budgets begin anew, although the coordinator knows the site from before.

    Raises:
        DeploymentError: FK740, the folder is taken; FK757, FK753, the old one; FK758, one near by; FK742 to FK750,
            the connection; what the coordinator refuses.
        FederationError: FK540, FK543, FK547, the invitation; FK541, FK542, FK544, a keyring that is not the pinned one.
        ConfigError: FK120, the site file.

    Guarantee: the secret leaves only over a connection whose certificate the pinned CA has issued; the folder is there
    as a whole or not at all, and its keys have never left this machine.
    """
    from fedkit.federation.invite import read_invitation

    invitation = read_invitation(token, time.time())
    host, port = parted(address, invitation.port)
    folder = folder.absolute()
    if folder.exists() or folder.is_symlink():
        raise DeploymentError(
            f"{folder} exists; a site's folder is made by joining, and never overwritten",
            code="FK740",
            remedy="name another with --folder, or move this one away",
        )
    content, encryption, blank = _site_file(site_yaml, invitation.site)
    if old is not None and (inherited := require_open(old).site_yaml).is_file() and site_yaml is None:
        content, encryption, blank = _inherited(inherited, invitation.site)
    if not empty_ledgers:
        near = [folder.parent, *([] if site_yaml is None else [site_yaml.absolute().parent])]
        require_nothing_near(invitation.site, near, old)

    from fedkit.federation.authority import trusted
    from fedkit_client.authorities import told_to_joiner
    from fedkit_client.trust import check_connection, fetch_authority

    first = fetch_authority(host, port, invitation.federation)
    later = told_to_joiner(host, port, invitation.federation, invitation.coordinator, invitation.authorities)
    authority = trusted(first, later, time.time())
    check_connection(host, port, authority)
    # Before the invitation is used up: a folder without its key would be of no use.
    with key_for(folder, encryption, old) as key:
        scrap = _scrap(folder)
        try:
            made = SiteFolder(scrap)
            with taking_over(old) as before:
                told: dict[str, Scalar] = {"budgets": "new, as was asked for" if empty_ledgers else "new"}
                if before is None:
                    made.ledgers.mkdir(mode=0o700)
                else:
                    told = {"budgets": "taken along", **carry_over(before, made)}
                seal(made, key)
                again = before is not None or empty_ledgers
                enrolment = _enrol(made, authority, host, port, invitation, again=again)
                _write(made, (first, later), enrolment, content, told)
                # Whoever made the folder meanwhile keeps it.
                if folder.exists():
                    raise FileExistsError(f"{folder} was made meanwhile")
                if before is not None:
                    close(before)
                scrap.rename(folder)
        except OSError as error:
            raise DeploymentError(
                f"{folder} cannot be made: {error}", code="FK740", remedy="name another folder"
            ) from None
        finally:
            shutil.rmtree(scrap, ignore_errors=True)
    return Joined(SiteFolder(folder), enrolment, blank=blank, key="" if key is None else key.shown)


def _inherited(path: Path, site: str) -> tuple[bytes, Encryption, bool]:
    """The old folder's own file: what the hospital has decided goes on; one with mistakes is mended there."""
    from fedkit.governance.encryption import Encryption

    with suppress(ConfigError):
        return _site_file(path, site)
    return path.read_bytes(), Encryption(), True


def _site_file(path: Path | None, site: str) -> tuple[bytes, Encryption, bool]:
    """What becomes site.yaml, where its key comes from, and whether it has blanks."""
    from fedkit.governance.encryption import Encryption
    from fedkit_client.template import site_template

    if path is None:
        return site_template(site).encode(), Encryption(), True
    from fedkit.governance.site_file import read_site_file

    # What it says of files is relative to where it will lie; here only its own words are judged.
    file = read_site_file(path)
    if file.site != site:
        raise DeploymentError(
            f"{path} is the file of {file.site}, and the invitation is for {site}",
            code="FK752",
            remedy=f"write site: {site}, or ask for an invitation of {file.site}",
        )
    return path.read_bytes(), file.encryption, False


def _scrap(folder: Path) -> Path:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.joining-"))
    except OSError as error:
        raise DeploymentError(
            f"{folder} cannot be made: {error.strerror}", code="FK740", remedy="name a folder that you may write"
        ) from None


def _enrol(
    made: SiteFolder, authority: bytes, host: str, port: int, invitation: Invitation, *, again: bool
) -> Enrolment:
    from fedkit.federation import strict_json
    from fedkit.federation.enrolment import JOIN, version_text
    from fedkit.federation.keyring import open_keyring
    from fedkit.storage.keys import create_node_key, create_signing_key
    from fedkit.storage.private import write_new
    from fedkit_client.enrol import call

    node, signing = create_node_key(made.node_key), create_signing_key(made.signing_key)
    answer = call(
        host,
        invitation.grpc_port,
        authority,
        JOIN,
        {
            "secret": invitation.secret,
            "site": invitation.site,
            "node_key": base64.b64encode(node.public_pem).decode(),
            "site_key": base64.b64encode(signing.public).decode(),
            "wire": version_text(),
            "again": again,
        },
    )
    fields = {"node_id": str, "keyring": list, "port": int, "grpc_port": int, "wire": str}
    values = strict_json.fields(answer, fields, "the coordinator's answer")
    keyring = open_keyring(
        [text for text in values["keyring"] if isinstance(text, str)],
        federation=invitation.federation,
        root=invitation.root,
        coordinator=invitation.coordinator,
    )
    write_new(made.keyring_file, "".join(f"{text}\n" for text in keyring.statements).encode())
    return Enrolment(
        FORMAT,
        invitation.site,
        invitation.federation,
        invitation.coordinator,
        invitation.root,
        host,
        port,
        invitation.grpc_port,
        values["node_id"],
        int(time.time()),
    )


def _log_joining(made: SiteFolder, enrolment: Enrolment, told: Mapping[str, Scalar]) -> None:
    from fedkit_client.audit import record

    record(
        made,
        "joined",
        site=enrolment.site,
        federation=enrolment.federation,
        coordinator=enrolment.coordinator,
        root=enrolment.root,
        node=enrolment.node_id,
        **told,
    )


Trusted = tuple[bytes, "tuple[Authority, ...]"]
"""The first CA, PEM, and those after it."""


def _write(
    made: SiteFolder, authorities: Trusted, enrolment: Enrolment, site_yaml: bytes, told: Mapping[str, Scalar]
) -> None:
    from fedkit.storage.private import write_new
    from fedkit_client.authorities import FILE

    first, later = authorities
    write_new(made.ca, first)
    if later:
        write_new(made.path / FILE, "".join(f"{each.text}\n" for each in later).encode())
    write_new(made.enrolment_file, enrolment.as_json())
    write_new(made.site_yaml, site_yaml)
    _log_joining(made, enrolment, told)
    handle = os.open(made.path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
