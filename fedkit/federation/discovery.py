"""Which node is which site."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from flwr.app import Error, RecordDict
from flwr.serverapp import Grid

from fedkit.errors import FederationError, FedkitError
from fedkit.federation import wire
from fedkit.federation.flower_internals import local_identity


def discover(grid: Grid, expected: Sequence[str], timeout: float) -> dict[str, tuple[int, wire.Roster]]:
    """Ask every node who it is until the expected sites have answered.

    Returns:
        site to (node id, its answer), in the order of ``expected``.

    Raises:
        FederationError: a site is missing after ``timeout`` seconds, or two nodes claim one name.
    """
    deadline = time.monotonic() + timeout
    found: dict[str, tuple[int, wire.Roster]] = {}
    known = frozenset(expected)
    asked: set[int] = set()
    unread: list[str] = []
    with local_identity():
        while True:
            fresh = [node for node in grid.get_node_ids() if node not in asked]
            for node, content in _answers(grid, fresh, timeout, deadline) if fresh else ():
                asked.add(node)
                try:
                    roster = wire.unpack_roster(content)
                except FedkitError as error:
                    unread.append(f"; node {node} gave no usable answer ({error})")
                    continue
                if roster.site not in known:
                    continue
                if roster.site in found:
                    raise FederationError(f"two nodes claim to be site {roster.site}", code="FK522")
                found[roster.site] = (node, roster)
            missing = [site for site in expected if site not in found]
            if not missing:
                return {site: found[site] for site in expected}
            if time.monotonic() > deadline:
                raise FederationError(
                    f"{len(missing)} of {len(expected)} sites did not join within {timeout:g} s: {', '.join(missing)}"
                    + "".join(unread),
                    code="FK523",
                    remedy="start the missing sites or raise federation.timeout",
                )
            time.sleep(0.5)


def _answers(grid: Grid, nodes: Sequence[int], timeout: float, deadline: float) -> Iterator[tuple[int, RecordDict]]:
    """What the nodes say that are there; in this process without the envelopes, see `fedkit.federation.asking`."""
    if (answers := getattr(grid, "answers", None)) is not None:
        question = RecordDict()
        found = answers([(node, question) for node in nodes], "query")
        yield from (
            (node, content) for node, content in zip(nodes, found, strict=True) if not isinstance(content, Error)
        )
        return
    messages = [grid.create_message(RecordDict(), "query", node, "", ttl=timeout) for node in nodes]
    for reply in grid.send_and_receive(messages, timeout=max(1.0, deadline - time.monotonic())):
        if not reply.has_error():
            yield reply.metadata.src_node_id, reply.content
