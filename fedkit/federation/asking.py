"""Ask sites over any Grid and hand out each reply as it comes, so that nobody need hold all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from fedkit.federation.events import Stopped
from fedkit.federation.public_codes import MAY_CHANGE, readable_reason

# One request for many replies is cheap, but a Grid returns them together, all in memory.
_TOGETHER_BYTES = 8 << 20
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
_RETRY_SECONDS, _LONGEST_RETRY = 5.0, 60.0
_MAY_PASS = frozenset({3, 4, 5, 8})
"""Flower's codes of a message or reply that was lost, a node that is away, an app that crashed."""


Answers = Callable[[Sequence[tuple[int, RecordDict]], str], list[RecordDict | Error]]
"""What a Grid of this process may have as ``answers``: (node, request) pairs and the type of all to their answers."""


@dataclass(frozen=True)
class Arrival:
    """What became of one site's request.

    Attributes:
        kind: ``reply``, ``refused`` (the site's own code), ``deferred`` (a code that may change; the site is asked
            again), ``missing`` (not before the deadline) or ``ignored`` (a reply that nobody waits for: a second one,
            another site's, another run's).
        site: empty where an ignored reply is no known site's.
    """

    kind: Literal["reply", "refused", "deferred", "missing", "ignored"]
    site: str
    content: RecordDict | None = None
    reason: str = ""


@dataclass
class _Asked:
    """Who was sent what."""

    run_id: int = 0
    waiting: dict[str, str] = field(default_factory=dict)
    of: dict[str, list[str]] = field(default_factory=dict)
    sent: dict[str, str] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)
    unsent: dict[str, str] = field(default_factory=dict)
    deferred: dict[str, str] = field(default_factory=dict)
    pauses: dict[str, float] = field(default_factory=dict)
    due: dict[str, float] = field(default_factory=dict)

    def defer(self, site: str, code: str) -> Arrival | None:
        """Ask again later, and ever later: a request carries the model. A code is told once until it changes."""
        pause = min(_LONGEST_RETRY, 2 * self.pauses[site]) if site in self.pauses else _RETRY_SECONDS
        self.pauses[site], self.due[site] = pause, time.monotonic() + pause
        self.unsent[site] = f"its last answer was {code}; no other"
        if self.deferred.get(site) == code:
            return None
        self.deferred[site] = code
        return Arrival("deferred", site, reason=code)


def ask(
    grid: Grid,
    nodes: Mapping[str, int],
    make: Callable[[], Callable[[str], RecordDict]],
    *,
    message_type: str,
    timeout: float,
    size: int,
    stop: Callable[[], bool],
) -> Iterator[Arrival]:
    """Send each site its request and yield what comes back until all have answered or the time is over.

    A site that is not online is tried again until the deadline, and so is one whose process or node broke, whose ledger
    resends what it computed, and one that answers with one of `MAY_CHANGE`.

    Args:
        nodes: site to Flower node id, of the sites that are asked, in order.
        make: gives a function from a site to its request, which is let go of once the messages are sent.
        timeout: seconds until the deadline; the messages' time to live.
        size: bytes of a reply, about.
        stop: polled while waiting.

    Raises:
        Stopped: ``stop`` said so.
    """
    together = together_of(grid, size)
    if (answers := getattr(grid, "answers", None)) is not None:
        yield from _at_once(answers, nodes, make, message_type, together, stop)
        return
    end = time.monotonic() + timeout
    asked = _Asked(unsent=dict.fromkeys(nodes, "was not online"))
    pause, retry = _FIRST_PAUSE, 0.0
    wait = getattr(grid, "wait_for_reply", time.sleep)
    while True:
        now = time.monotonic()
        if asked.unsent and now >= retry and now < end:
            _send(grid, nodes, make, message_type, end - now, asked)
            retry = now + _RETRY_SECONDS
        heard = False
        ids = list(asked.waiting)
        for start in range(0, len(ids), together):
            for reply in grid.pull_messages(ids[start : start + together]):
                heard = True
                if (arrival := _read(reply, nodes, asked)) is not None:
                    yield arrival
                # Held any longer, a reply would be in memory beside the next.
                del reply, arrival
        if not asked.waiting and not asked.unsent:
            return
        if stop():
            raise Stopped
        left = end - time.monotonic()
        if left <= 0:
            break
        pause = _FIRST_PAUSE if heard else min(_LONGEST_PAUSE, pause * 1.5)
        wait(min(_LONGEST_PAUSE if wait is not time.sleep else pause, left))
    for site in nodes:
        if site not in asked.answered:
            yield Arrival("missing", site, reason=f"{asked.unsent.get(site, 'no reply')} within {timeout:g} s")


def together_of(grid: Grid, size: int) -> int:
    """How many sites are asked at once for replies of so many bytes."""
    return max(int(getattr(grid, "least_together", 1)), _TOGETHER_BYTES // max(1, size))


def _at_once(
    answers: Answers,
    nodes: Mapping[str, int],
    make: Callable[[], Callable[[str], RecordDict]],
    message_type: str,
    together: int,
    stop: Callable[[], bool],
) -> Iterator[Arrival]:
    """Without envelopes, which cost more than small sites' training: who answers in this process is who was asked."""
    request, sites = make(), list(nodes)
    for start in range(0, len(sites), together):
        if start and stop():
            raise Stopped
        some = sites[start : start + together]
        # Taken from its end, so that no reply is in memory beside those after it.
        found = answers([(nodes[site], request(site)) for site in some], message_type)[::-1]
        for site in some:
            content = found.pop()
            if isinstance(content, RecordDict):
                yield Arrival("reply", site, content)
            else:
                yield Arrival("refused", site, reason=readable_reason(content.reason or ""))
            del content


def _send(
    grid: Grid,
    nodes: Mapping[str, int],
    make: Callable[[], Callable[[str], RecordDict]],
    message_type: str,
    ttl: float,
    asked: _Asked,
) -> None:
    now = time.monotonic()
    sites = [site for site in nodes if site in asked.unsent and asked.due.get(site, now) <= now]
    if not sites:
        return
    request = make()
    messages = [grid.create_message(request(site), message_type, nodes[site], "", ttl=ttl) for site in sites]
    asked.run_id = messages[0].metadata.run_id
    # A Grid may give None for a node that it cannot reach now.
    for site, message_id in zip(sites, grid.push_messages(messages), strict=False):
        if message_id:
            asked.waiting[message_id] = asked.sent[message_id] = site
            asked.of.setdefault(site, []).append(message_id)
            del asked.unsent[site]


def _read(reply: Message, nodes: Mapping[str, int], asked: _Asked) -> Arrival | None:
    # An error that Flower made bears the coordinator's own node: the request says whose it is.
    site = asked.sent.get(reply.metadata.reply_to_message_id)
    if site is None:
        known = {node: name for name, node in nodes.items()}
        source = known.get(reply.metadata.src_node_id, "")
        return Arrival("ignored", source, reason="a reply to no request of this round")
    if reply.metadata.run_id != asked.run_id:
        return Arrival("ignored", site, reason="a reply of another run")
    if site in asked.answered:
        return Arrival("ignored", site, reason="a second reply")
    if not reply.has_error() and reply.metadata.src_node_id != nodes[site]:
        return Arrival("ignored", site, reason="a reply in this site's place, by another node")
    for message_id in asked.of.pop(site, ()):
        asked.waiting.pop(message_id, None)
    if reply.has_error() and reply.error.code in _MAY_PASS:
        asked.unsent[site] = "its process or connection broke; no reply"
        return None
    if reply.has_error() and reply.error.reason in MAY_CHANGE:
        return asked.defer(site, reply.error.reason)
    asked.unsent.pop(site, None)
    asked.answered.add(site)
    if reply.has_error():
        return Arrival("refused", site, reason=readable_reason(reply.error.reason or ""))
    return Arrival("reply", site, reply.content)
