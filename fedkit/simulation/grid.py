"""An in-process Grid: the round loop and Flower's strategies, unchanged, without Ray and without a SuperLink."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedkit.errors import FedkitError
from fedkit.federation.flower_internals import assign_id, empty_run


class Answers(Protocol):
    """What stands behind the Grid: live sites (``SiteRuntime``) or a record of them (``RecordedSites``)."""

    @property
    def sites(self) -> Mapping[str, Any]:
        """The sites by name."""

    def answer_query(self, name: str) -> RecordDict:
        """Who the site is."""

    def answer_train(self, names: Sequence[str], content: RecordDict) -> dict[str, RecordDict]:
        """The updates of a batch of sites; one that is missing did not answer."""

    def answer_evaluate(self, name: str, content: RecordDict) -> RecordDict:
        """The site's metrics."""


class InProcessGrid(Grid):
    """Hands each phase's messages to the sites as one batch.

    Args:
        runtime: answers for every site.
        order: a permutation applied to the replies of each phase, for tests of order-independence.
    """

    def __init__(self, runtime: Answers, order: Callable[[list[Message]], list[Message]] | None = None) -> None:
        self._runtime, self._order, self._run = runtime, order, empty_run()
        self.nodes = {1000 + index: name for index, name in enumerate(runtime.sites)}
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Set the run that messages belong to."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    def get_node_ids(self) -> Iterable[int]:
        """One node a site."""
        return list(self.nodes)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message from the loop to a site."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Answer all messages at once; replies wait until they are pulled."""
        batch = list(messages)
        ids = [assign_id(message) for message in batch]
        contents = self._answer(batch)
        for message, content in zip(batch, contents, strict=True):
            reply = Message(content, reply_to=message)
            assign_id(reply)
            self._replies[message.metadata.message_id] = reply
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Take the replies to these messages."""
        replies = [self._replies.pop(i) for i in message_ids if i in self._replies]
        return self._order(replies) if self._order else replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push and pull."""
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, batch: Sequence[Message]) -> list[RecordDict | Error]:
        if not batch:
            return []
        names = [self.nodes[message.metadata.dst_node_id] for message in batch]
        if batch[0].metadata.message_type == "train":
            replies = self._runtime.answer_train(names, batch[0].content)
            return [replies.get(name) or Error(code=2, reason="FK524") for name in names]
        return [self._answer_one(name, message) for name, message in zip(names, batch, strict=True)]

    def _answer_one(self, name: str, message: Message) -> RecordDict | Error:
        try:
            if message.metadata.message_type == "query":
                return self._runtime.answer_query(name)
            return self._runtime.answer_evaluate(name, message.content)
        except FedkitError as error:
            return Error(code=2, reason=error.code)
