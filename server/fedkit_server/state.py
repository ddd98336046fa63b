"""The coordinator's state in one process: folder, store, link, and the keyring that only grows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fedkit.errors import DeploymentError, FederationError
from fedkit.federation.flower_link import Link
from fedkit.federation.keyring import Keyring, Member, extend
from fedkit.governance.terms import Allowed
from fedkit_server.folder import ServerFolder, Settings
from fedkit_server.store import SiteRow, Store


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
    _lock: threading.Lock = field(default_factory=threading.Lock)

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
        with self._lock:
            known = self._known()
            grown = extend(known, (*known.statements, statement))
            if grown.coordinator != known.coordinator:
                raise DeploymentError(
                    "a new coordinator's key is made where its private half stays",
                    code="FK723",
                    remedy="run `fedkit server rotate DIR --coordinator-key` on the coordinator's host",
                )
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

    def reconcile(self) -> None:
        """Make Flower's list of nodes follow ours, whatever a kill between two writes has left."""
        ours = {site.node_id for site in self.store.sites() if site.revoked_at is None}
        for node in self.link.state.get_node_info():
            if int(node.node_id) not in ours:
                unregister(self.link, int(node.node_id))


def unregister(link: Link, node_id: int) -> None:
    """Never let a node in again; it may be out already."""
    try:
        link.unregister(node_id)
    except ValueError:
        return
