"""Flower's SuperLink inside our own process, and a Grid on it: everything private of flwr that a coordinator leans on.

``tests/federation/test_flower_link.py`` fails when flwr moves. Four things differ from a stock SuperLink, all on our
side of its API: a node that restarts is taken back at once; one that asks gets again what it has not answered whole; a
reply is handed on when its last byte is there, without polling; a SuperNode that asks to wait gets its next message the
moment that it is pushed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
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
from fedkit.federation.flower_handed import Handed
from fedkit.federation.flower_replies import Replies
from fedkit.federation.flower_store import FileObjectStore, every_part, part_names

_LOG = logging.getLogger("fedkit.link")
_KEEP_SECONDS = 15.0
_STATUS_SECONDS = 1.0
_MOST_STATUSES = 256
_BESIDE_ARRAYS = 8 * 2**20
"""Bytes of a reply beside its arrays, and room for one that is a little too large to be told so."""


class ObservedLinkState(SqlLinkState):
    """Flower's state in SQLite, which tells a :class:`Link` what arrives."""

    link: Link

    def get_run_status(self, run_ids: set[int]) -> dict[int, RunStatus]:
        """Ask the database once a second: Flower asks for every part of a model, with two statements each time."""
        asked, now = frozenset(run_ids), time.monotonic()
        found, known = self.link.statuses.get(asked, (0.0, None))
        if known is None or now - found > _STATUS_SECONDS:
            known = super().get_run_status(run_ids)
            if len(self.link.statuses) >= _MOST_STATUSES:
                # Whoever asks names the runs.
                self.link.statuses.clear()
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
            MessageIns.message_id.in_(self.link.replies.broken_off(node_id)),
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
        link, metadata = self.link, message.metadata
        if not metadata.reply_to_message_id:
            parts = part_names(object_tree)
            # Before it can be asked for.
            older = link.handed.add(metadata.dst_node_id, metadata.run_id, metadata.message_id, parts)
            stored, missing = super().store_message_and_object_tree(message, object_tree, session_id)
            if stored:
                self._drop(older)
            else:
                link.handed.drop([metadata.message_id])
            return stored, missing
        # By its own name alone a reply that was broken off is found again, and what it left with it.
        if metadata.message_id != object_tree.object_id:
            return False, []
        if (broken_off := link.replies.drop_broken_off(message)) is not None:
            with self.session() as session:
                session.execute(delete(MessageRes).where(MessageRes.message_id == broken_off))
            self.object_store.delete(broken_off)
        if link.replies.announced_otherwise(message, object_tree):
            return False, []
        # Which of its parts another site has brought is not for this one to know.
        with every_part(but=link.replies.brought(message)):
            stored, missing = super().store_message_and_object_tree(message, object_tree, session_id)
        if stored:
            link.replies.announced(message, object_tree, missing, session_id)
        return stored, missing

    def store_object(self, run_id: int, session_id: str, object_id: str, object_content: bytes) -> bool:
        """Store a part of a reply for the node that has announced it, and tell the link.

        Flower takes a part without a session for whoever announced one of that name.
        """
        replies, most = self.link.replies, self.link.most_reply(run_id)
        if not session_id or not replies.may_bring(session_id, object_id, len(object_content), most):
            return False
        stored = super().store_object(run_id, session_id, object_id, object_content)
        if stored:
            replies.stored(session_id, object_id)
        return bool(stored)

    def store_part_of_request(self, run_id: int, session_id: str, object_id: str, content: bytes) -> None:
        """Store a part of a message of our own."""
        super().store_object(run_id, session_id, object_id, content)

    def delete_messages(self, message_ins_ids: set[str]) -> None:
        """Delete messages and the replies to them; they are nobody's any more."""
        super().delete_messages(message_ins_ids)
        self.link.handed.drop(message_ins_ids)

    def _drop(self, requests: list[str]) -> None:
        """Drop messages that a run has given up, with whatever came of their replies."""
        for name in (*self.link.replies.drop(requests), *requests):
            self.object_store.delete(name)
        self.delete_messages(set(requests))


@dataclass
class Link:
    """The SuperLink's state, shared by the HTTP API and the round loop of one process.

    Attributes:
        on_wake: called with a node id when a message for it has been pushed, from any thread.
    """

    state: ObservedLinkState
    on_wake: Callable[[int], None] = lambda _: None
    replies: Replies = field(default_factory=Replies)
    handed: Handed = field(default_factory=Handed)
    statuses: dict[frozenset[int], tuple[float, dict[int, RunStatus]]] = field(default_factory=dict)
    _kept: dict[int, float] = field(default_factory=dict)
    _most: dict[int, int] = field(default_factory=dict)

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
        self._most.pop(run_id, None)
        self.statuses.clear()
        self.replies.drop_run(run_id)
        self.handed.drop_run(run_id)

    def bound_replies(self, run_id: int, most_bytes: int) -> None:
        """Take no more than this of one reply of a run, and a little beside: before it is whole nobody reads it."""
        self._most[run_id] = most_bytes

    def most_reply(self, run_id: int) -> int:
        """Bytes of one reply of a run; none for a run that has asked for nothing."""
        return self._most[run_id] + _BESIDE_ARRAYS if run_id in self._most else 0

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
