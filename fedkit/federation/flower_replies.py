"""Replies on their way in: which parts of which reply a node has brought itself, and how much of it."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from fedkit.federation import flower_internals  # noqa: F401  # first: it switches telemetry off

from flwr.app import Message  # isort: skip
from flwr.proto.message_pb2 import ObjectTree


@dataclass
class _Arriving:
    message: Message
    tree: ObjectTree
    missing: set[str]
    session: str
    brought: set[str] = field(default_factory=set)
    size: int = 0


@dataclass
class Replies:
    """The replies that nodes have begun to send; may be used from any thread.

    A part counts for a reply only once its own node has brought it: what another node's reply holds, and whether it
    holds a part at all, cannot be told from what is asked for here.
    """

    _changed: threading.Condition = field(default_factory=threading.Condition)
    _arriving: dict[str, _Arriving] = field(default_factory=dict)

    def broken_off(self, node_id: int) -> list[str]:
        """The requests to which a node has begun to send a reply, parts of which are not there."""
        with self._changed:
            return [
                request
                for request, arriving in self._arriving.items()
                if arriving.missing and arriving.message.metadata.src_node_id == node_id
            ]

    def drop_broken_off(self, message: Message) -> str | None:
        """Forget what came of another reply by the same node to the same request; its message id, if there is one."""
        with self._changed:
            arriving = self._arriving.get(message.metadata.reply_to_message_id)
            if arriving is None or not arriving.missing:
                return None
            other = arriving.message.metadata
            if other.src_node_id != message.metadata.src_node_id or other.message_id == message.metadata.message_id:
                return None
            del self._arriving[message.metadata.reply_to_message_id]
            return str(other.message_id)

    def drop(self, requests: Iterable[str]) -> list[str]:
        """Forget the replies to these requests; returns the message ids of those that had begun."""
        with self._changed:
            dropped = [self._arriving.pop(request, None) for request in requests]
        return [str(arriving.message.metadata.message_id) for arriving in dropped if arriving is not None]

    def drop_run(self, run_id: int) -> None:
        """Forget a run's replies."""
        with self._changed:
            self._arriving = {k: v for k, v in self._arriving.items() if v.message.metadata.run_id != run_id}

    def announced_otherwise(self, message: Message, tree: ObjectTree) -> bool:
        """Whether a reply to the same request has been announced with other parts.

        Flower takes a reply of the same name again, and every new part with it: a site could fill the disk.
        """
        with self._changed:
            arriving = self._arriving.get(message.metadata.reply_to_message_id)
            return arriving is not None and arriving.tree != tree

    def brought(self, message: Message) -> frozenset[str]:
        """The parts of exactly this reply that its node has brought before."""
        with self._changed:
            arriving = self._arriving.get(message.metadata.reply_to_message_id)
            if arriving is None or arriving.message.metadata.message_id != message.metadata.message_id:
                return frozenset()
            return frozenset(arriving.brought)

    def announced(self, message: Message, tree: ObjectTree, missing: Iterable[str], session: str) -> None:
        """A node has begun to send a reply, or goes on with it."""
        request, wanted = message.metadata.reply_to_message_id, set(missing)
        with self._changed:
            before = self._arriving.get(request)
            arriving = self._arriving[request] = _Arriving(message, tree, wanted, session)
            if before is not None:
                arriving.brought, arriving.size = before.brought - wanted, before.size
            if not wanted:
                self._changed.notify_all()

    def may_bring(self, session: str, object_id: str, size: int, most: int) -> bool:
        """Whether a part belongs to a reply that is under way by this session, and has room; it then counts.

        Args:
            most: bytes that one reply may have, parts that were refused or came twice included.
        """
        with self._changed:
            for arriving in self._arriving.values():
                if arriving.session == session and object_id in arriving.missing and arriving.size + size <= most:
                    arriving.size += size
                    return True
        return False

    def stored(self, session: str, object_id: str) -> None:
        """A part of a reply is there."""
        with self._changed:
            for arriving in self._arriving.values():
                if arriving.session == session and object_id in arriving.missing:
                    arriving.missing.discard(object_id)
                    arriving.brought.add(object_id)
                    if not arriving.missing:
                        self._changed.notify_all()

    def take(self, message_ids: Iterable[str]) -> list[tuple[Message, ObjectTree]]:
        """The replies to these messages that are whole; each is handed out once."""
        with self._changed:
            whole = [i for i in message_ids if i in self._arriving and not self._arriving[i].missing]
            taken = [self._arriving.pop(i) for i in whole]
        return [(arriving.message, arriving.tree) for arriving in taken]

    def wait(self, timeout: float, message_ids: Collection[str] = ()) -> None:
        """Until something arrives, or the time is over; not at all if a reply to one of these messages is whole."""
        with self._changed:
            # It may have come since they were looked for: nobody would be told of it again.
            if not any(i in self._arriving and not self._arriving[i].missing for i in message_ids):
                self._changed.wait(timeout)
