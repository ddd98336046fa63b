"""An in-process Grid: the round loop and Flower's strategies, unchanged, without Ray and without a SuperLink."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedkit.errors import FedkitError
from fedkit.federation.asking import Answers as Direct
from fedkit.federation.direct import Updates
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
    """Hands the messages whose replies are pulled together to the sites as one batch.

    Nothing is answered before it is pulled: a round of many sites is in memory only as far as it is being read.

    Args:
        runtime: answers for every site.
        order: a permutation applied to the replies that are pulled together, for tests of order-independence.
        updates: the same runtime's updates without messages, for strategies that fold one after the other.

    Attributes:
        answers: the same without envelopes, for the round loop; None where replies have an order of their own.
        updates: those given; None where replies have an order of their own.
        least_together: what the round loop pulls at once at least, however large a reply is: enough for every core.
    """

    least_together = 32

    def __init__(
        self,
        runtime: Answers,
        order: Callable[[list[Message]], list[Message]] | None = None,
        updates: Updates | None = None,
    ) -> None:
        self._runtime, self._order, self._run = runtime, order, empty_run()
        self.nodes = {1000 + index: name for index, name in enumerate(runtime.sites)}
        self._waiting: dict[str, Message] = {}
        self.answers: Direct | None = None if order else self._answers
        self.updates = None if order else updates
        self._ids = itertools.count(1)

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
        """Take messages in; they are answered when their replies are pulled."""
        ids = []
        for message in messages:
            ids.append(assign_id(message, f"request-{next(self._ids)}"))
            self._waiting[ids[-1]] = message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Answer these messages, those of one content together."""
        asked = [self._waiting.pop(i) for i in message_ids if i in self._waiting]
        replies = []
        for kind in dict.fromkeys(message.metadata.message_type for message in asked):
            batch = [message for message in asked if message.metadata.message_type == kind]
            answers = self._answers([(m.metadata.dst_node_id, m.content) for m in batch], kind)
            for message, content in zip(batch, answers, strict=True):
                replies.append(Message(content, reply_to=message))
                assign_id(replies[-1], f"reply-{next(self._ids)}")
        return self._order(replies) if self._order else replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push and pull."""
        return self.pull_messages(self.push_messages(messages))

    def _answers(self, asked: Sequence[tuple[int, RecordDict]], message_type: str) -> list[RecordDict | Error]:
        if message_type != "train":
            return [self._answer_one(self.nodes[node], content, message_type) for node, content in asked]
        batches: dict[int, list[str]] = {}
        contents = {id(content): content for _, content in asked}
        for node, content in asked:
            batches.setdefault(id(content), []).append(self.nodes[node])
        replies: dict[str, RecordDict] = {}
        for key, names in batches.items():
            replies |= self._runtime.answer_train(names, contents[key])
        missing = Error(code=2, reason="FK524")
        return [replies.get(self.nodes[node], missing) for node, _ in asked]

    def _answer_one(self, name: str, content: RecordDict, message_type: str) -> RecordDict | Error:
        try:
            if message_type == "query":
                return self._runtime.answer_query(name)
            return self._runtime.answer_evaluate(name, content)
        except FedkitError as error:
            return Error(code=2, reason=error.code)
