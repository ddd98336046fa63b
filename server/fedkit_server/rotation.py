"""Renews what ages at the coordinator: the TLS certificate, and the coordinator's key by a signed statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fedkit.federation.keyring import open_keyring
from fedkit.federation.statements import replace_coordinator
from fedkit.storage.audit import ROTATED, Log
from fedkit.storage.audit_line import Event
from fedkit.storage.audit_verify import readable_lines
from fedkit.storage.keys import create_signing_key, fingerprint, load_signing_key
from fedkit_server import pki
from fedkit_server.authorities import forget_keys, newest_pair, sign_anew
from fedkit_server.folder import ServerFolder, write_certificate, write_settings


def renew_certificate(folder: ServerFolder, hosts: Sequence[str] = ()) -> None:
    """A new TLS key and certificate by the newest CA, which sites have pinned or follow: they notice nothing.

    The key of a CA that is no longer the newest is deleted.

    Args:
        hosts: new names and addresses, in place of those so far.

    Raises:
        DeploymentError: FK707, a host that is none.
    """
    settings = folder.settings()
    write_certificate(folder, pki.make_server(newest_pair(folder), hosts or settings.hosts))
    forget_keys(folder)
    if hosts:
        write_settings(folder, replace(settings, hosts=tuple(hosts)))


def renew_coordinator_key(folder: ServerFolder, now: float) -> str:
    """A new coordinator's key, introduced by a statement that the old one signs; returns its fingerprint.

    Sites follow the keyring; whoever has not joined yet needs a new invitation, which pins the new key.
    """
    keyring, old = folder.keyring(), folder.key()
    new = create_signing_key(folder.next_coordinator_key)
    folder.write_keyring(replace_coordinator(keyring, new.public, old, now))
    finish(folder)
    return new.fingerprint


def finish(folder: ServerFolder) -> None:
    """Complete, or take back, a rotation that a crash has cut in two: the keyring says which."""
    waiting = folder.next_coordinator_key
    if not waiting.exists():
        return
    settings = folder.settings()
    lines = folder.read(folder.keyring_file).decode("utf-8", errors="replace").splitlines()
    keyring = open_keyring(lines, federation=settings.federation, root=settings.root)
    new = load_signing_key(waiting).fingerprint
    if fingerprint(keyring.coordinator) == new:
        _hand_on(folder, new)
        sign_anew(folder, load_signing_key(waiting))
        waiting.replace(folder.coordinator_key)
    else:
        waiting.unlink()


def _hand_on(folder: ServerFolder, new: str) -> None:
    """The last line that the old key signs in the audit log names the new one; once, whatever a crash repeats."""
    before = (
        [line.fields.get("key") for line in readable_lines(folder.audit, (ROTATED,))] if folder.audit.exists() else []
    )
    if new not in before:
        Log(folder.audit, folder.key()).append(Event(ROTATED, {"key": new}))
