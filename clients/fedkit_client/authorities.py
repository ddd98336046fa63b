"""The CAs that took the place of the pinned one: followed by a running site by itself, or by a person's command.

Each is believed for the coordinator's signature alone, whoever brought it.

::

    FK742  a coordinator that tells of no CA after the pinned one, or of fewer than an invitation
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedkit.errors import DeploymentError, FederationError, FedkitError
from fedkit.federation.authority import Authority, authority_fingerprint, open_chain, trusted
from fedkit.federation.authority_file import read_file, read_told
from fedkit.federation.heads import coordinator_keys
from fedkit.federation.keyring import extend
from fedkit.storage.keys import fingerprint
from fedkit.storage.private import replace
from fedkit_client.address import joined
from fedkit_client.trust import fetch_authorities

if TYPE_CHECKING:
    from fedkit_client.folder import SiteFolder

FILE = "authorities.jsonl"
FOLLOWED = "authority"
_LOG = logging.getLogger("fedkit.node")


def chain_of(folder: SiteFolder) -> tuple[Authority, ...]:
    """The CAs after the pinned one that the site has accepted.

    Raises:
        DeploymentError: FK741. FederationError: they are not what the coordinator's keys have signed.
    """
    path = folder.path / FILE
    if not path.exists():
        return ()
    texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return open_chain(texts, folder.enrolment().federation, coordinator_keys(folder.keyring()))


def with_later(folder: SiteFolder, first: bytes) -> bytes:
    """The CAs that the site trusts now, PEM, the newest last."""
    return trusted(first, chain_of(folder), time.time())


def take(folder: SiteFolder, texts: Sequence[str], coordinator: bytes) -> int:
    """Accept what the coordinator's key in force says; returns how many CAs are new.

    Raises:
        FederationError: FK540 to FK544: nothing is changed then.
        DeploymentError: FK700, FK770.
    """
    from fedkit_client.audit import record

    known = chain_of(folder)
    chain = open_chain(texts, folder.enrolment().federation, [coordinator], known)
    fresh = chain[len(known) :]
    if not fresh:
        return 0
    for each in fresh:
        record(folder, FOLLOWED, serial=each.serial, digest=authority_fingerprint(each.certificate), until=each.until)
    replace(folder.path / FILE, "".join(f"{each.text}\n" for each in chain).encode())
    return len(fresh)


def follow(folder: SiteFolder) -> bytes:
    """Ask the coordinator, over TLS that is trusted so far, for CAs to come; returns those to trust from now on.

    Whatever goes wrong leaves what is trusted as it is, and is in the log.
    """
    enrolment, before = folder.enrolment(), folder.authority()
    try:
        body = fetch_authorities(enrolment.host, enrolment.port, before)
        if body is None:
            return before
        if take(folder, read_told(body)[1], folder.keyring().coordinator):
            _LOG.warning("the coordinator's CA is replaced; the new one is trusted from now on")
    except FedkitError as error:
        # Without a connection the node says so itself, in a moment.
        _LOG.info("no CA is followed: %s", error)
    return folder.authority()


def trust_by_hand(folder: SiteFolder, file: Path | None) -> int:
    """Accept the CAs of a file, or of whoever answers at the coordinator's address; returns how many are new.

    Raises:
        FederationError: FK540 to FK544.
        DeploymentError: FK742, there is nothing to follow; FK746 to FK748; FK700, FK770.
    """
    keyring = folder.keyring()
    if file is not None:
        statements, texts = read_file(file)
        # Of two states of one chain the longer one counts.
        if tuple(statements) != keyring.statements[: len(statements)]:
            keyring = extend(keyring, statements)
            replace(folder.keyring_file, "".join(f"{text}\n" for text in keyring.statements).encode())
        return take(folder, texts, keyring.coordinator)
    enrolment = folder.enrolment()
    # Unverified: it is the signature that counts, and nothing is sent that anybody could not.
    body = fetch_authorities(enrolment.host, enrolment.port, None)
    if body is None:
        raise DeploymentError(
            f"the coordinator at {enrolment.address} tells of no CA after the pinned one",
            code="FK742",
            remedy="ask its operator for the file of `fedkit server authority`, and name it with --file",
        )
    return take(folder, read_told(body)[1], keyring.coordinator)


def told_to_joiner(host: str, port: int, federation: str, coordinator: str, least: int) -> tuple[Authority, ...]:
    """The CAs after the first, for a site that joins and has pinned the coordinator's key by its fingerprint.

    None where whoever answers tells of none that can be read: the connection, which the first CA alone is trusted for
    then, says what stands between.

    Args:
        least: that the invitation knows of.

    Raises:
        FederationError: FK541, FK542, FK544.
        DeploymentError: FK746 to FK748; FK742, fewer than the invitation knows of.
    """
    body = fetch_authorities(host, port, None)
    try:
        key, texts = (b"", []) if body is None else read_told(body)
    except FederationError:
        key, texts = b"", []
    chain = open_chain(texts, federation, [key] if fingerprint(key) == coordinator else [])
    if len(chain) < least:
        raise DeploymentError(
            f"whoever answers at {joined(host, port)} tells of {len(chain)} CAs after the first, and the invitation"
            f" knows of {least}: the first may be in other hands",
            code="FK742",
            remedy="ask the coordinator's admin by phone; nothing secret was sent",
        )
    return chain
