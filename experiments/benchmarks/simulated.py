"""The works of the simulation benchmark, and the loops that one writes for them with Opacus or torch alone."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fedkit.config.compose import compose
from fedkit.simulation.forked import Forked, fork
from fedkit.simulation.local import run_local
from fedkit.simulation.prepare import Prepared, prepare
from fedkit.types import Task

Ends = list[float]
"""When each round ended, by ``time.perf_counter``."""
RATE, CLIP, SIGMA = 0.05, 1.0, 1.0


def table_network() -> nn.Module:
    """An MLP of 4,130 parameters."""
    return nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))


def image_network() -> nn.Module:
    """A CNN of 105,866 parameters."""
    stages = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    stages += [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*stages, nn.Flatten(), nn.Linear(1568, 64), nn.ReLU(), nn.Linear(64, 10))


@dataclass(frozen=True)
class Work:
    """One federation: sites of so many rows, one local epoch in batches or Poisson lots of ``batch``."""

    name: str
    sites: int
    a_round: int
    rounds: int
    private: bool
    rows: int = 100
    batch: int = 20
    shape: tuple[int, ...] = (30,)
    classes: int = 2
    network: Callable[[], nn.Module] = table_network

    @property
    def samples(self) -> int:
        """Rows that are trained on, expected where lots are drawn."""
        return self.rounds * self.a_round * self.rows

    @cached_property
    def data(self) -> dict[str, dict[str, Any]]:
        """Site to its rows; a few for testing, which nothing here looks at."""
        draw = np.random.default_rng(1234)
        weights = draw.standard_normal((math.prod(self.shape), self.classes))
        found = {}
        for k in range(self.sites):
            x = draw.standard_normal((self.rows, *self.shape)).astype(np.float32)
            y = (x.reshape(self.rows, -1) @ weights).argmax(1).astype(np.int64)
            y[: self.classes] = range(self.classes)
            found[f"site{k:05d}"] = {"x": x, "y": y, "x_test": x[:10], "y_test": y[:10]}
        return found

    def prepared(self, engine: str, noise: str = "seeded", workers: int = 1, federation: str = "local") -> Prepared:
        """The federation as `fedkit.simulate` would run it."""
        private = [
            "privacy=record_dp", f"privacy.noise={noise}", f"privacy.noise_multiplier={SIGMA}", "privacy.epsilon=null",
            f"privacy.max_grad_norm={CLIP}", f"privacy.sample_rate={self.batch / self.rows}",
        ]  # fmt: skip
        plain = ["privacy=none", "privacy.sample_rate=null", f"training.batch_size={self.batch}"]
        words = [
            *(private if self.private else plain), f"training.engine={engine}",
            f"federation={federation}", f"training.workers={workers}", "training.local_steps=null",
            "training.local_epochs=1", f"training.learning_rate={RATE}", f"federation.num_rounds={self.rounds}",
            f"federation.fraction_train={self.a_round / self.sites}", f"federation.evaluate_every={self.rounds}",
        ]  # fmt: skip
        task = Task("multiclass", tuple(f"class{k}" for k in range(self.classes)))
        return prepare(compose(None, words), model=self.network, data=self.data, task=task)


def fedkit_run(
    work: Work, engine: str, noise: str = "seeded", workers: int = 1, federation: str = "local"
) -> Callable[[], Ends]:
    """All rounds through fedkit's loop, messages and checks included; data and plans ready, no evaluation."""
    prepared = work.prepared(engine, noise, workers, federation)

    def run() -> Ends:
        ends: Ends = []
        run_local(
            prepared, lambda report, *_: ends.append(time.perf_counter()) if report.round else None, evaluate=False
        )
        return ends

    return run


def model_of(work: Work, engine: str) -> Any:
    """The model that a federation ends with, float32 [d]."""
    return run_local(work.prepared(engine), lambda *_: None, evaluate=False).parameters


def peer_run(work: Work, rounds: int, processes: int = 1) -> Callable[[], Ends]:
    """So many rounds of the loop as users write it: a model, an optimizer and a loader a site, one after another.

    Args:
        processes: that share the sites of a round, each with one thread; each answers with one sum.
    """
    sites = [TensorDataset(torch.from_numpy(part["x"]), torch.from_numpy(part["y"])) for part in work.data.values()]
    model = work.network()

    def summed(received: dict[str, Any], chosen: Any) -> dict[str, Any]:
        total = {name: torch.zeros_like(value) for name, value in received.items()}
        for k in chosen:
            for name, value in _train(model, received, sites[k], work).items():
                total[name] += value
        return total

    def serve(connection: Any) -> None:
        torch.set_num_threads(1)
        while True:
            received, chosen = connection.recv()
            parts = summed({name: torch.from_numpy(value) for name, value in received.items()}, chosen)
            connection.send({name: value.numpy() for name, value in parts.items()})

    def run() -> Ends:
        helpers: list[Forked] = []
        ends: Ends = []
        try:
            for _ in range(processes if processes > 1 else 0):
                helpers.append(fork(serve, helpers))
            received = {name: value.clone() for name, value in model.state_dict().items()}
            for number in range(rounds):
                chosen = np.random.default_rng(number).choice(len(sites), work.a_round, replace=False)
                if helpers:
                    for index, helper in enumerate(helpers):
                        told = {name: value.numpy() for name, value in received.items()}
                        helper.connection.send((told, chosen[index :: len(helpers)]))
                    parts = [helper.connection.recv() for helper in helpers]
                    total = {name: torch.from_numpy(sum(part[name] for part in parts)) for name in received}
                else:
                    total = summed(received, chosen)
                received = {name: value / work.a_round for name, value in total.items()}
                ends.append(time.perf_counter())
        finally:
            for helper in helpers:
                helper.end()
        return ends

    return run


def _train(model: nn.Module, received: dict[str, Any], site: TensorDataset, work: Work) -> dict[str, Any]:
    mine: Any = copy.deepcopy(model).train()
    mine.load_state_dict(received)
    optimizer: Any = torch.optim.SGD(mine.parameters(), lr=RATE)
    loader: Any = DataLoader(site, batch_size=work.batch, shuffle=True)
    loss = nn.CrossEntropyLoss()
    if work.private:
        mine, optimizer, loader = PrivacyEngine().make_private(
            module=mine, optimizer=optimizer, data_loader=loader, noise_multiplier=SIGMA, max_grad_norm=CLIP
        )
    for x, y in loader:
        optimizer.zero_grad()
        loss(mine(x), y).backward()
        optimizer.step()
    return dict((mine._module if work.private else mine).state_dict())
