"""Which messages are a node's, and of which parts: nobody else is told whether the coordinator has those."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class _Request:
    run: int
    parts: frozenset[str]


@dataclass
class Handed:
    """The messages that wait for nodes or are at work there; may be used from any thread."""

    _nodes: dict[int, dict[str, _Request]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, node: int, run: int, message: str, parts: Iterable[str]) -> list[str]:
        """A message for a node; returns those of the same run that it takes the place of.

        A run asks a node one thing at a time: what it asked before, it has given up.
        """
        with self._lock:
            own = self._nodes.setdefault(node, {})
            older = [name for name, request in own.items() if request.run == run and name != message]
            own[message] = _Request(run, frozenset(parts))
        return older

    def drop(self, messages: Iterable[str]) -> None:
        """These messages are no more."""
        gone = set(messages)
        self._keep(lambda name, _: name not in gone)

    def drop_run(self, run: int) -> None:
        """A run's messages are no more."""
        self._keep(lambda _, request: request.run != run)

    def is_message(self, node: int, message: str) -> bool:
        """Whether a message is this node's."""
        with self._lock:
            return message in self._nodes.get(node, {})

    def has_part(self, node: int, run: int, part: str) -> bool:
        """Whether a message of this run for this node has such a part."""
        with self._lock:
            return any(part in each.parts for each in self._nodes.get(node, {}).values() if each.run == run)

    def _keep(self, wanted: Callable[[str, _Request], bool]) -> None:
        with self._lock:
            left = {node: {k: v for k, v in own.items() if wanted(k, v)} for node, own in self._nodes.items()}
            self._nodes = {node: own for node, own in left.items() if own}
