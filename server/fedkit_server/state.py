"""The coordinator's state in one process: folder, store, link, and the keyring that only grows."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fedkit.errors import DeploymentError, FederationError, first_line
from fedkit.federation.flower_link import Link
from fedkit.federation.keyring import Keyring, Member, extend
from fedkit.governance.terms import Allowed
from fedkit_server.audit import Trail, user_changes
from fedkit_server.folder import ServerFolder, Settings
from fedkit_server.store import SiteRow, Store

_LOG = logging.getLogger("fedkit.server")


@dataclass
class State:
    """What API and enrolment share; may be used from any thread.

    Attributes:
        clock: seconds since the epoch.
        models: those that this coordinator has installed beside fedkit's own, as ``allow.yaml`` lists them.
    """

    folder: ServerFolder
    settings: Settings
    store: Store
    link: Link
    clock: Callable[[], float] = time.time
    models: Mapping[str, Allowed] = field(default_factory=dict)
    failed_logins: int = 0
    _keyring: Keyring | None = None
    _trail: Trail | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def trail(self) -> Trail:
        """The audit log."""
        with self._lock:
            if self._trail is None:
                self._trail = Trail(self.folder.audit, self.folder.key(), self.store.site_key)
            return self._trail

    @property
    def keyring(self) -> Keyring:
        """The current keyring."""
        with self._lock:
            return self._known()

    def _known(self) -> Keyring:
        if self._keyring is None:
            self._keyring = self.folder.keyring()
        return self._keyring

    def extend_keyring(self, statement: str) -> Keyring:
        """Append a statement that its signer may make, durably; a revoked user's token goes with the key.

        Raises:
            FederationError: it is refused.
            DeploymentError: FK723, it would replace the coordinator's key, whose private half lies here.
        """
        trail = self.trail
        with self._lock:
            known = self._known()
            grown = extend(known, (*known.statements, statement))
            if grown.coordinator != known.coordinator:
                raise DeploymentError(
                    "a new coordinator's key is made where its private half stays",
                    code="FK723",
                    remedy="run `fedkit server rotate DIR --coordinator-key` on the coordinator's host",
                )
            for event in user_changes(known, grown):
                trail.record(event.kind, **event.fields)
            self.folder.write_keyring(grown)
            self._keyring = grown
        left = {member.name for member in grown.members.values()}
        for member in known.members.values():
            if member.name not in left:
                self.store.drop_tokens(member.name)
        return grown

    def member(self, user: str) -> Member | None:
        """A user whose key counts now."""
        try:
            return self.keyring.named(user)
        except FederationError:
            return None

    def revoke(self, site: SiteRow) -> None:
        """Let a site in no more: its node, its key, its open invitations."""
        now = self.clock()
        self.store.revoke_site(site.name, now)
        self.store.void_invitations(now, site.name)
        unregister(self.link, site.node_id)
        # After it: a full disk must not keep a site in.
        self.trail.record("revoked", site=site.name)

    def reconcile(self) -> None:
        """Make Flower's list of nodes follow ours, whatever a kill between two writes, or a lost file, has left."""
        ours = set()
        for site in self.store.sites():
            if site.revoked_at is not None:
                continue
            try:
                node_id = self.link.register(site.node_key, site.name)
            except ValueError:
                _LOG.error("%s cannot be let in: its key was taken off Flower's list; invite it again", site.name)
                continue
            if node_id != site.node_id:
                _LOG.warning("%s was not on Flower's list, and is again", site.name)
                self.store.set_node_id(site.name, node_id)
            ours.add(node_id)
        for node in self.link.state.get_node_info():
            if int(node.node_id) not in ours:
                unregister(self.link, int(node.node_id))


@contextmanager
def readable_link(folder: ServerFolder) -> Iterator[None]:
    """Tell of a ``link.db`` that is broken, before and while the coordinator starts with it.

    Raises:
        DeploymentError: FK705.
    """
    from sqlalchemy.exc import SQLAlchemyError

    try:
        _check_whole(folder.link)
        yield
    except (SQLAlchemyError, _Broken) as error:
        raise DeploymentError(
            f"{folder.link} cannot be used: {first_line(error)[:200]}",
            code="FK705",
            remedy=f"unless the disk is full, delete {folder.link.name}, {folder.link.name}-wal and"
            f" {folder.link.name}-shm and start again: enrolled sites are let in from fedkit.db",
        ) from None


class _Broken(Exception):
    pass


def _check_whole(database: Path) -> None:
    if not database.exists():
        return
    try:
        with closing(sqlite3.connect(database, timeout=10.0)) as opened:
            (found,) = opened.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        raise _Broken(str(error)) from None
    if found != "ok":
        raise _Broken(found)


def unregister(link: Link, node_id: int) -> None:
    """Never let a node in again; it may be out already."""
    try:
        link.unregister(node_id)
    except ValueError:
        return
