"""The view of a Grid that a strategy gets: just the sites that the loop chose for this round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run


class ChosenSites(Grid):
    """Some nodes of another Grid; everything else is passed through."""

    def __init__(self, grid: Grid, nodes: Sequence[int]) -> None:
        self._grid, self._nodes = grid, tuple(nodes)

    def set_run(self, run: Run) -> None:
        """Pass through."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run of the Grid behind."""
        return self._grid.run

    def get_node_ids(self) -> Iterable[int]:
        """The chosen nodes only."""
        return list(self._nodes)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Pass through."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass through."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pass through."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Pass through."""
        return self._grid.send_and_receive(messages, timeout=timeout)
