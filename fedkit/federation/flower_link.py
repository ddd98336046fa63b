"""Flower's SuperLink inside our own process, and a Grid on it: everything private of flwr that a coordinator leans on.

``tests/federation/test_flower_link.py`` fails when flwr moves. Four things differ from a stock SuperLink, all on our
side of its API: a node that restarts is taken back at once; one that asks gets again what it has not answered whole; a
reply is handed on when its last byte is there, without polling; a SuperNode that asks to wait gets its next message the
moment that it is pushed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fedkit.federation import flower_internals  # noqa: F401  # first: it switches telemetry off

from flwr.app import Message  # isort: skip
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SubStatus
from flwr.proto.message_pb2 import ObjectTree
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.run import RunStatus
from flwr.supercore.state.schema.linkstate_models import MessageIns, MessageRes
from flwr.supercore.utils import uint64_to_int64
from flwr.superlink.federation import NoOpFederationManager
from sqlalchemy import delete, exists, or_, update

from fedkit.errors import FederationError
from fedkit.federation.flower_store import FileObjectStore

_LOG = logging.getLogger("fedkit.link")
_KEEP_SECONDS = 15.0
_STATUS_SECONDS = 1.0


class ObservedLinkState(SqlLinkState):
    """Flower's state in SQLite, which tells a :class:`Link` what arrives."""

    link: Link

    def get_run_status(self, run_ids: set[int]) -> dict[int, RunStatus]:
        """Ask the database once a second: Flower asks for every part of a model, with two statements each time."""
        asked, now = frozenset(run_ids), time.monotonic()
        found, known = self.link.statuses.get(asked, (0.0, None))
        if known is None or now - found > _STATUS_SECONDS:
            known = super().get_run_status(run_ids)
            self.link.statuses[asked] = (now, known)
        return dict(known)

    def store_traffic(self, run_id: int, *, bytes_sent: int, bytes_recv: int) -> None:
        """Nothing: a run's own Grid counts what came in, and each part would cost a write of the database."""

    def activate_node(self, node_id: int, heartbeat_interval: float) -> bool:
        """Take a node back even if it is thought to be online: a site that was killed comes back within seconds."""
        self.deactivate_node(node_id)
        found = super().activate_node(node_id, heartbeat_interval)
        if found:
            self.link.wake(node_id)
        return bool(found)

    def get_message_ins(self, node_id: int, limit: int | None, *, run_id: int | None = None) -> list[Message]:
        """A node that asks works on nothing: what it was given and has not answered was lost on the way to it."""
        self._hand_out_again(node_id)
        return list(super().get_message_ins(node_id, limit, run_id=run_id))

    def _hand_out_again(self, node_id: int) -> None:
        """What was delivered and never answered whole is undelivered again."""
        unanswered = or_(
            ~exists().where(MessageRes.reply_to_message_id == MessageIns.message_id),
            MessageIns.message_id.in_(self.link.broken_off(node_id)),
        )
        with self.session() as session:
            session.execute(
                update(MessageIns)
                .where(MessageIns.dst_node_id == uint64_to_int64(node_id), MessageIns.delivered_at != "", unanswered)
                .values(delivered_at="")
            )

    def store_message_and_object_tree(
        self, message: Message, object_tree: ObjectTree, session_id: str
    ) -> tuple[bool, list[str]]:
        """Store, and tell the link of a reply; one that was announced is not announced again with other parts.

        A later reply takes the place of one that was broken off: Flower would refuse it, and the site be missing.
        """
        if message.metadata.reply_to_message_id:
            # By its own name alone a reply that was broken off is found again, and what it left with it.
            if message.metadata.message_id != object_tree.object_id:
                return False, []
            if (broken_off := self.link.drop_broken_off(message)) is not None:
                with self.session() as session:
                    session.execute(delete(MessageRes).where(MessageRes.message_id == broken_off))
                self.object_store.delete(broken_off)
            if self.link.announced_otherwise(message, object_tree):
                return False, []
        stored, missing = super().store_message_and_object_tree(message, object_tree, session_id)
        if stored and message.metadata.reply_to_message_id:
            self.link.reply_announced(message, object_tree, missing)
        return stored, missing

    def store_object(self, run_id: int, session_id: str, object_id: str, object_content: bytes) -> bool:
        """Store, and tell the link."""
        stored = super().store_object(run_id, session_id, object_id, object_content)
        if stored:
            self.link.object_stored(object_id)
        return bool(stored)


@dataclass
class _Arriving:
    message: Message
    tree: ObjectTree
    missing: set[str]


@dataclass
class Link:
    """The SuperLink's state, shared by the HTTP API and the round loop of one process.

    Attributes:
        on_wake: called with a node id when a message for it has been pushed, from any thread.
    """

    state: ObservedLinkState
    on_wake: Callable[[int], None] = lambda _: None
    _lock: threading.Condition = field(default_factory=threading.Condition)
    _arriving: dict[str, _Arriving] = field(default_factory=dict)
    statuses: dict[frozenset[int], tuple[float, dict[int, RunStatus]]] = field(default_factory=dict)
    _kept: dict[int, float] = field(default_factory=dict)

    @classmethod
    def open(cls, database: Path, objects: Path) -> Link:
        """Open the state in a SQLite file; made if it is not there.

        Args:
            objects: folder for messages under way, emptied here.
        """
        store = FileObjectStore(objects)
        state = ObservedLinkState(str(database), NoOpFederationManager(simulation=False), store)
        state.initialize()
        state.link = cls(state)
        return state.link

    def register(self, public_key: bytes, name: str) -> int:
        """Let a site's key in; returns its node id. A key that is known keeps its id."""
        known = self.state.get_node_id_by_public_key(public_key)
        if known is not None:
            return int(known)
        return int(self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, public_key, 0, name=name))

    def unregister(self, node_id: int) -> None:
        """Never let a node's key in again."""
        self.state.delete_node(NOOP_FLWR_AID, node_id)

    def online(self) -> dict[int, float]:
        """Node id to the time until which its last sign of life counts, for nodes that are online now."""
        now = time.time()
        nodes = self.state.get_node_info()
        return {int(n.node_id): float(n.online_until) for n in nodes if n.online_until and n.online_until > now}

    def begin_run(self) -> int:
        """A Flower run to which messages belong; it holds no code."""
        run_id = self.state.create_run(
            "fedkit/run", "1.0.0", None, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        task = self._task(run_id)
        if self.state.claim_task(task) is None:
            raise FederationError("the run was taken by another process", code="FK500", remedy="submit it again")
        self.state.activate_task(task)
        self.statuses.clear()
        return int(run_id)

    def keep_run(self, run_id: int) -> None:
        """A heartbeat in the run's name; without one a minute Flower takes it for dead.

        To be called as often as one likes: the last one counts for a while, and each is a write of the database.
        """
        now = time.monotonic()
        if now - self._kept.get(run_id, -_KEEP_SECONDS) >= _KEEP_SECONDS:
            self.state.acknowledge_task_heartbeat(self._task(run_id))
            self._kept[run_id] = now

    def end_run(self, run_id: int) -> None:
        """Drop a run's messages and objects."""
        self.state.finish_task(self._task(run_id), SubStatus.COMPLETED, "")
        self.state.cleanup_run(run_id)
        self._kept.pop(run_id, None)
        self.statuses.clear()
        with self._lock:
            self._arriving = {k: v for k, v in self._arriving.items() if v.message.metadata.run_id != run_id}

    def _task(self, run_id: int) -> int:
        return int(self.state.get_run_info(run_ids=[run_id])[0].primary_task_id or 0)

    def end_all_runs(self) -> None:
        """Drop what a killed process left; its rounds are asked for anew, and ledgers resend what they had sent."""
        for run in self.state.get_run_info():
            if run.status.status != "finished":
                self.end_run(run.run_id)

    def wake(self, node_id: int) -> None:
        """Tell whoever holds this node's request open."""
        self.on_wake(node_id)

    def broken_off(self, node_id: int) -> list[str]:
        """The requests to which a node has begun to send a reply, parts of which are not there."""
        with self._lock:
            return [
                request
                for request, arriving in self._arriving.items()
                if arriving.missing and arriving.message.metadata.src_node_id == node_id
            ]

    def drop_broken_off(self, message: Message) -> str | None:
        """Forget what came of another reply by the same node to the same request; its message id, if there is one."""
        with self._lock:
            arriving = self._arriving.get(message.metadata.reply_to_message_id)
            if arriving is None or not arriving.missing:
                return None
            other = arriving.message.metadata
            if other.src_node_id != message.metadata.src_node_id or other.message_id == message.metadata.message_id:
                return None
            del self._arriving[message.metadata.reply_to_message_id]
            return str(other.message_id)

    def announced_otherwise(self, message: Message, tree: ObjectTree) -> bool:
        """Whether a reply to the same request has been announced with other parts.

        Flower takes a reply of the same name again, and every new part with it: a site could fill the disk.
        """
        with self._lock:
            arriving = self._arriving.get(message.metadata.reply_to_message_id)
            return arriving is not None and arriving.tree != tree

    def reply_announced(self, message: Message, tree: ObjectTree, missing: Iterable[str]) -> None:
        """A node has begun to send a reply."""
        with self._lock:
            arriving = self._arriving[message.metadata.reply_to_message_id] = _Arriving(message, tree, set(missing))
            if not arriving.missing:
                self._lock.notify_all()

    def object_stored(self, object_id: str) -> None:
        """A part of some reply is there."""
        with self._lock:
            for arriving in self._arriving.values():
                if object_id in arriving.missing:
                    arriving.missing.discard(object_id)
                    if not arriving.missing:
                        self._lock.notify_all()

    def take_replies(self, message_ids: Iterable[str]) -> list[tuple[Message, ObjectTree]]:
        """The replies to these messages that are whole; each is handed out once."""
        with self._lock:
            whole = [i for i in message_ids if i in self._arriving and not self._arriving[i].missing]
            taken = [self._arriving.pop(i) for i in whole]
        return [(arriving.message, arriving.tree) for arriving in taken]

    def wait(self, timeout: float, message_ids: Collection[str] = ()) -> None:
        """Until something arrives, or the time is over; not at all if a reply to one of these messages is whole."""
        with self._lock:
            # It may have come since they were looked for: nobody would be told of it again.
            if not any(i in self._arriving and not self._arriving[i].missing for i in message_ids):
                self._lock.wait(timeout)
