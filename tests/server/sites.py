"""Hospitals that train nothing: threads that answer over a real link what a test tells them to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import httpx
import numpy as np
from fedkit_server.runner import Runner
from fedkit_server.store import Store
from flwr.app import ConfigRecord, RecordDict
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from fedkit.config.compose import compose
from fedkit.federation import statements, wire
from fedkit.federation.envelope import read
from fedkit.federation.job import make_job
from fedkit.federation.request import Request, unpack_request
from fedkit.storage.keys import fingerprint, new_signing_key
from fedkit.types import ClientUpdate
from tests.federation.link import Served

FEDERATION = fingerprint(b"a certificate of this test")
ROOT, COORDINATOR = new_signing_key(), new_signing_key()
RECORDS = {"north": 60, "south": 40}
Order = dict[str, Any]


def keyring():
    return statements.start(FEDERATION, "anna", ROOT, COORDINATOR.public, time.time() - 100)


@cache
def config(*overrides: str):
    made = compose("heart_disease", ["privacy=none", "federation.num_rounds=2", *overrides])
    return replace(made, data=replace(made.data, records=dict(RECORDS)))


def job_text(run: str, *overrides: str, **changes: Any) -> str:
    said = {
        "run": run, "study": "heart", "submitter": "anna", "min_sites": 2, "deadline": 60.0, "lifetime": 3600.0,
        "key": ROOT,
    } | changes  # fmt: skip
    return make_job(config(*overrides), federation=FEDERATION, now=time.time(), **said).text


def honest(site: str, order: Order, request: Request) -> RecordDict | str:
    """One more of every parameter; accuracy one half."""
    if order["kind"] == "train":
        return wire.pack_update(ClientUpdate(site, np.ones_like(request.parameters), float(RECORDS[site] // 2)))
    if order["kind"] == "evaluate":
        return wire.pack_metrics(10, {"accuracy": 0.5})
    return RecordDict({"config": ConfigRecord({"ended": True})})


@dataclass
class FakeSite:
    """Answers until it is closed.

    Attributes:
        answer: what it does with an order.
        asked: (run, kind, round) of every message.
    """

    here: Served
    name: str
    answer: Callable[[str, Order, Request], RecordDict | str] = honest
    asked: list[tuple[str, str, int]] = field(default_factory=list)
    _over: bool = False

    def __post_init__(self) -> None:
        self.node = self.here.node(self.name, wait=0.3)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._over:
            received = self.node.receive()
            if received is None:
                continue
            request = unpack_request(received.message.content, most_parameters=10**6)
            order = json.loads(read(request.order).payload)
            self.asked.append((order["run"], order["kind"], order["round"]))
            try:
                self.node.answer(received, self.answer(self.name, order, request), 0.0)
            except httpx.HTTPStatusError:
                # The run that had asked is over.
                self.node.activate()

    def close(self) -> None:
        self._over = True
        self._thread.join(20)


@dataclass
class World:
    """A coordinator's runner, its store and two hospitals."""

    here: Served
    folder: Any
    sites: dict[str, FakeSite]
    store: Store
    runner: Runner | None = None

    def start(self, **more: Any) -> Runner:
        self.runner = Runner(self.folder, self.here.link, self.store, COORDINATOR, keyring, **{"goodbye": 2.0, **more})
        return self.runner

    def restart(self) -> Runner:
        self.close_runner()
        return self.start()

    def close_runner(self) -> None:
        if self.runner is not None:
            self.runner.close()
            assert not self.runner._thread.is_alive()
            self.runner = None

    def until(self, run: str, *states: str, seconds: float = 60.0) -> dict[str, Any]:
        assert self.runner is not None
        end = time.monotonic() + seconds
        while (found := self.runner.status(run))["state"] not in states:
            assert time.monotonic() < end, (found, self.runner.events(run, 0))
            time.sleep(0.05)
        return found

    def over(self, run: str) -> dict[str, Any]:
        return self.until(run, "finished", "failed")

    def json(self, run: str, name: str) -> Any:
        return json.loads((self.folder / "runs" / run / name).read_text())


def make_world(here: Served, folder: Any) -> World:
    folder.mkdir()
    store = Store(folder / "fedkit.db")
    sites = {name: FakeSite(here, name) for name in RECORDS}
    for name, site in sites.items():
        public = public_key_to_bytes(here.keys[name].public_key())
        store.put_site(name, site.node.node_id, public, b"0" * 32, time.time())
    return World(here, folder, sites, store)


@dataclass
class Held:
    """Holds a site's answer back until it is released, for the orders that it is told to."""

    kind: str = "train"
    round: int = 1
    run: str = ""
    reached: threading.Event = field(default_factory=threading.Event)
    free: threading.Event = field(default_factory=threading.Event)

    def __call__(self, site: str, order: Order, request: Request) -> RecordDict | str:
        if (order["kind"], order["round"]) == (self.kind, self.round) and self.run in ("", order["run"]):
            self.reached.set()
            assert self.free.wait(60)
        return honest(site, order, request)
