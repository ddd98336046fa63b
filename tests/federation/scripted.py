"""A Grid whose replies come when a script says so: in any order, late, twice, by another node, never."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from fedkit.config.experiment import FederationConfig
from fedkit.federation import wire
from fedkit.federation.flower_internals import assign_id, empty_run
from fedkit.federation.gate import request_digest
from fedkit.federation.rounds import RoundLoop
from fedkit.strategies.streaming import STREAMING
from fedkit.types import ClientUpdate

SIZE = 7
CELLS = 2


def delta_of(site: str, number: int, parameters: np.ndarray) -> np.ndarray:
    """What an honest site answers: a pure function of what it is asked, as a ledger's resend is."""
    seed = [number, *site.encode(), int(abs(float(parameters.sum())) * 1e6) % 2**31]
    return np.random.default_rng(seed).normal(size=len(parameters)).astype(np.float32)


def honest(site: str, message: Message) -> RecordDict:
    """An update, exact metrics or histograms."""
    parameters, number, _ = wire.unpack_model(message.content)
    if message.metadata.message_type == "train":
        return wire.pack_update(ClientUpdate(site, delta_of(site, number, parameters), float(len(site))))
    if wire.asks_for_histograms(message.content):
        return wire.pack_histograms(np.array([number, float(parameters.sum())]))
    return wire.pack_metrics(10, {"rmse": float(abs(parameters).sum()), "r2": None})


class ScriptedGrid(Grid):
    """Answers are made when they are pulled, one model in memory at a time.

    Args:
        sites: site to how it answers: (site, request) to a content, an Error, several whole messages, or None for
            never; None in place of the function is an honest site.
        order: which of the waiting requests are answered next, as a function of (sites, how many waits before).
    """

    def __init__(
        self,
        sites: Mapping[str, Callable[[str, Message], Any] | None],
        order: Callable[[list[str], int], list[str]] = lambda waiting, _: waiting,
    ) -> None:
        self.sites, self.order, self._run = dict(sites), order, empty_run()
        self.nodes = {1000 + index: site for index, site in enumerate(sites)}
        self.offline: set[str] = set()
        self.waiting: dict[str, tuple[str, Message]] = {}
        self.asked: list[tuple[str, int, str, str]] = []
        self.waits = 0
        self.on_wait: Callable[[int], None] = lambda _: None

    def set_run(self, run):
        self._run = run

    @property
    def run(self):
        return self._run

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages):
        ids = []
        for message in messages:
            site = self.nodes[message.metadata.dst_node_id]
            if site in self.offline:
                ids.append(None)
                continue
            ids.append(assign_id(message))
            parameters, number, mu = wire.unpack_model(message.content)
            kind = message.metadata.message_type
            if kind == "evaluate":
                kind = "histograms" if wire.asks_for_histograms(message.content) else "exact"
            self.asked.append((site, number, kind, request_digest("", number, kind, parameters, mu)))
            self.waiting[ids[-1]] = (site, message)
        return ids

    def pull_messages(self, message_ids):
        wanted = {self.waiting[i][0]: i for i in message_ids if i in self.waiting}
        for site in self.order(list(wanted), self.waits):
            answer = self.sites[site] or honest
            said = answer(site, self.waiting[wanted[site]][1])
            if said is None:
                continue
            _, message = self.waiting.pop(wanted[site])
            if isinstance(said, list):
                yield from said
            else:
                yield self.reply(message, said)

    def reply(self, message: Message, content: RecordDict | Error) -> Message:
        reply = Message(content, reply_to=message)
        assign_id(reply)
        return reply

    def wait_for_reply(self, timeout: float) -> None:
        self.waits += 1
        self.on_wait(self.waits)

    def send_and_receive(self, messages, *, timeout=None):
        raise NotImplementedError


@dataclass
class Recorder:
    """What a run directory would hold."""

    rounds: dict[int, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    reports: list[Any] = field(default_factory=list)
    updates: dict[int, list[tuple[str, bytes]]] = field(default_factory=dict)

    def __call__(self, report, parameters, updates):
        self.rounds[report.round] = (report.digest, report.trained)
        self.reports.append(report)
        self.updates[report.round] = [(update.site, update.delta.tobytes()) for update in updates]


def loop_over(grid: ScriptedGrid, *, strategy=None, num_rounds=3, size=SIZE, **changes) -> RoundLoop:
    names = frozenset(grid.sites)
    federation = {"timeout": 60.0, **{k: changes.pop(k) for k in ("timeout", "min_sites", "fraction_train")
                                     if k in changes}}  # fmt: skip
    return RoundLoop(
        grid,
        strategy or STREAMING["fedadam"](),
        {"w": (size,)},
        changes.pop("seed", 5),
        FederationConfig("local", num_rounds, **federation),
        {site: node for node, site in grid.nodes.items()},
        names,
        changes.pop("evaluates", names),
        weights=changes.pop("weights", {site: float(len(site)) for site in grid.sites}),
        measures=changes.pop("measures", {site: (1, num_rounds) for site in grid.sites}),
        cells=CELLS,
        **changes,
    )
