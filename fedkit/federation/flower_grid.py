"""The Grid of a deployed run: messages go to sites over the embedded SuperLink, replies come as they are whole."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from fedkit.federation import flower_internals  # noqa: F401  # first: it switches telemetry off

from flwr.app import Error, Message, RecordDict  # isort: skip
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.message_pb2 import ObjectTree
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedkit.errors import FederationError
from fedkit.federation.flower_arrays import assemble
from fedkit.federation.flower_link import Link

_LOG = logging.getLogger("fedkit.link")


class LinkGrid(Grid):
    """The Grid of a deployed run: messages go to sites over the SuperLink, replies come as they are whole."""

    def __init__(self, link: Link, run_id: int, *, most_bytes: int = 2**31, spool: Path | None = None) -> None:
        """A run's Grid.

        Args:
            most_bytes: of one reply's arrays; a reply with more is an error of its site. May be set later.
            spool: folder for replies that are too large for memory.
        """
        self._link, self._state = link, link.state
        self.most_bytes, self._spool = most_bytes, spool or Path(tempfile.gettempdir())
        self._run = link.state.get_run_info(run_ids=[run_id])[0]
        self._received: dict[int, int] = {}
        self._looked_for: set[str] = set()

    def set_run(self, run: Run) -> None:
        """Set the run that messages belong to."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    @property
    def bytes_by_node(self) -> Mapping[int, int]:
        """Node id to the bytes of its replies so far."""
        return self._received

    def get_node_ids(self) -> Iterable[int]:
        """Nodes that are online."""
        return list(self._link.online())

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message of this run."""
        before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, self._run.run_id, SUPERLINK_NODE_ID
        try:
            return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)
        finally:
            TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Store messages for their nodes; a message that Flower refuses has the id ""."""
        ids = []
        self._link.bound_replies(self._run.run_id, self.most_bytes)
        # One context for all: what several messages share is hashed once.
        with no_object_id_recompute():
            for message in messages:
                self._link.keep_run(self._run.run_id)
                message.metadata.__dict__["_message_id"] = message.object_id
                session = self._state.start_session(self._run.run_id)
                stored, missing = self._state.store_message_and_object_tree(
                    remove_content_from_message(message), get_object_tree(message), session
                )
                wanted = set(missing)
                for object_id, part in get_all_nested_objects(message).items() if wanted else ():
                    if object_id in wanted:
                        self._state.store_part_of_request(self._run.run_id, session, object_id, part.deflate())
                ids.append(message.metadata.message_id if stored else "")
                self._link.wake(message.metadata.dst_node_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have come in whole."""
        found = []
        wanted = list(message_ids)
        self._looked_for.update(wanted)
        for message, tree in self._link.replies.take(wanted):
            found.append(self._whole(message, tree))
            self._state.delete_messages({message.metadata.reply_to_message_id})
            self._state.object_store.delete(message.metadata.message_id)
            self._state.object_store.delete(message.metadata.reply_to_message_id)
        return found

    def _whole(self, message: Message, tree: ObjectTree) -> Message:
        node, store = message.metadata.src_node_id, self._state.object_store

        def get(object_id: str) -> bytes:
            content = store.get(object_id) or b""
            self._received[node] = self._received.get(node, 0) + len(content)
            return content

        try:
            return assemble(message, tree, get, most_bytes=self.most_bytes, spool=self._spool)
        except FederationError as error:
            _LOG.warning("a reply of node %s: %s", node, error)
            return make_message(metadata=message.metadata, error=Error(code=2, reason=error.code))

    def wait_for_reply(self, timeout: float) -> None:
        """Until something arrives, or the time is over; not at all if a reply that was looked for is there by now."""
        self._link.keep_run(self._run.run_id)
        looked_for, self._looked_for = self._looked_for, set()
        self._link.replies.wait(min(timeout, 15.0), looked_for)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push, then wait for every reply or the timeout."""
        waiting = {i for i in self.push_messages(messages) if i}
        end, found = time.monotonic() + (timeout if timeout is not None else 1e9), list[Message]()
        while waiting and time.monotonic() < end:
            for reply in self.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                found.append(reply)
            if waiting:
                self.wait_for_reply(max(0.0, end - time.monotonic()))
        return found
