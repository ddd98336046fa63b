"""The coordinator's audit log: who joined and left, what was submitted, what came in from each site, what went out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from flwr.app import ConfigRecord, Message, RecordDict

from fedkit.federation.content import content_digest
from fedkit.federation.heads import CONTRADICTED, KEPT, Heard, seal_head
from fedkit.federation.keyring import COORDINATOR, Keyring
from fedkit.federation.public_codes import readable_reason
from fedkit.storage.audit import Log
from fedkit.storage.audit_line import Event, Scalar
from fedkit.storage.audit_verify import readable_lines
from fedkit.storage.chain import Head
from fedkit.storage.keys import SigningKey

HEAD = "head"
_LOG = logging.getLogger("fedkit.server")
_PURPOSES = {"train": "train", "evaluate": "evaluate", "query": "statistics"}
"""A Flower message's type to what a site is asked for by it."""
_BY_THE_SITE = 2
"""Flower's code of an error that a site sent, not one that Flower made in its place."""


class Trail:
    """The log of a running coordinator; may be used from any thread.

    Guarantee: what :meth:`record` and :meth:`arrived` were told is on disk when they return; where they raise, what
    they were told of must not go on.

    Args:
        path: the log.
        key: the coordinator's.
        site_key: a site's name to its raw key; None for a site that is not enrolled.
    """

    def __init__(self, path: Path, key: SigningKey, site_key: Callable[[str], bytes | None]) -> None:
        self.path, self._key, self._site_key = path, key, site_key
        self._log, self._lock = Log(path, key), threading.Lock()
        self._heard = Heard.of(readable_lines(path, KEPT)) if path.exists() else Heard()

    def record(self, kind: str, **fields: Scalar) -> Head:
        """Append one event.

        Raises:
            DeploymentError: FK770, FK771.
        """
        return self.append(Event(kind, fields))

    def append(self, event: Event) -> Head:
        """Append an event that is made already.

        Raises:
            DeploymentError: FK770, FK771.
        """
        return self._log.append(event)

    def told(self, kind: str, **fields: Scalar) -> None:
        """Append an event of something that has ended anyway; one that cannot be goes to ``server.log``."""
        try:
            self.record(kind, **fields)
        except Exception as error:
            _LOG.error("%s cannot be logged: %s", kind, error)

    def head(self) -> str:
        """The newest head, signed: what a message tells a site.

        Raises:
            DeploymentError: FK770, FK771.
        """
        return seal_head(COORDINATOR, self._log.head(), self._key)

    def arrived(self, run: str, number: int, nodes: Mapping[int, str], replies: Iterable[Message]) -> None:
        """Log what has come in, as it came, and the head that it tells, which is taken out of it; one flush for all.

        Args:
            number: the run's round.
            nodes: Flower's node id to a site's name.

        Raises:
            DeploymentError: FK770, FK771: none of it may be used.
        """
        events: list[Event] = []
        for reply in replies:
            site = nodes.get(reply.metadata.src_node_id, "")
            shown: dict[str, Scalar] = {"run": run, "site": site, "round": number}
            if reply.has_content():
                head = _taken_out(reply.content)
                digest, size = content_digest(reply.content)
                ended = _ended(reply.content)
                asked = reply.metadata.message_type
                purpose = "end" if ended else _PURPOSES.get(asked, "unknown")
                events.append(Event("received", shown | {"purpose": purpose, "digest": digest, "size": size}))
                events += self._kept(site, head, None if ended else (run, number))
            elif reply.has_error() and reply.error.code == _BY_THE_SITE:
                events.append(Event("refused", shown | {"code": readable_reason(reply.error.reason or "")}))
        if events:
            self._log.append(*events)

    def _kept(self, site: str, head: str, moment: object) -> list[Event]:
        public = self._site_key(site) if site and head else None
        if public is None:
            return []
        with self._lock:
            kept = self._heard.hear(site, head, [public], moment)
        if any(event.kind == CONTRADICTED for event in kept):
            _LOG.warning("the log of %s contradicts what it told before; see `fedkit server log show`", site)
        return kept


def user_changes(before: Keyring, after: Keyring) -> list[Event]:
    """What a new statement of the keyring says of users: ``user_added``, ``user_revoked``, ``user_rotated``."""
    old = {member.name: member for member in before.members.values()}
    new = {member.name: member for member in after.members.values()}
    found = []
    for name in sorted({*old, *new}):
        was, now = old.get(name), new.get(name)
        if was == now:
            continue
        what = "user_revoked" if now is None else "user_added" if was is None else "user_rotated"
        member = now or was
        if member is not None:
            found.append(Event(what, {"user": name, "role": member.role, "key": member.key}))
    return found


def _taken_out(content: RecordDict) -> str:
    found = content.pop(HEAD) if HEAD in content else None
    said = found.get(HEAD) if isinstance(found, ConfigRecord) else None
    return said if isinstance(said, str) else ""


def _ended(content: RecordDict) -> bool:
    config = content.get("config")
    return isinstance(config, ConfigRecord) and config.get("ended") is True
