"""Sites that are plain functions: no data, no training, every failure on demand."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from flwr.serverapp.strategy import FedAvg

from fedkit.config.experiment import FederationConfig
from fedkit.federation import wire
from fedkit.federation.discovery import discover
from fedkit.federation.rounds import RoundLoop
from fedkit.simulation.grid import InProcessGrid
from fedkit.types import ClientUpdate

SHAPES = {"w": (3,)}
START = np.array([1.0, 2.0, 3.0], dtype=np.float32)


@dataclass
class FakeSites:
    sites: dict[str, float]
    weights: dict[str, float] = field(default_factory=dict)
    update: Callable[[str, int], np.ndarray | None] | None = None
    asked: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)

    def answer_query(self, name):
        return wire.pack_roster(wire.Roster(name, True, True))

    def answer_train(self, names, content):
        _, number, _ = wire.unpack_model(content)
        self.asked.append((number, tuple(names)))
        replies = {}
        for name in names:
            delta = self.update(name, number) if self.update else np.full(3, self.sites[name], np.float32)
            if delta is not None:
                replies[name] = wire.pack_update(ClientUpdate(name, delta, self.weights.get(name, 1.0)))
        return replies

    def answer_evaluate(self, name, content):
        parameters, _, _ = wire.unpack_model(content)
        return wire.pack_metrics(10, {"rmse": float(parameters[0]), "auroc": None if name == "b" else 0.5})


def run(
    fake,
    *,
    strategy=None,
    order=None,
    on_round=None,
    seed=0,
    num_rounds=2,
    planned: Mapping[str, float] | None = None,
    measures: Mapping[str, tuple[int, ...]] | None = None,
    cells: int = 0,
    private: bool = False,
    **federation,
):
    grid = InProcessGrid(fake, order)
    roster = discover(grid, list(fake.sites), 1.0)
    names = frozenset(fake.sites)
    config = FederationConfig("local", num_rounds, **federation)
    loop = RoundLoop(
        grid,
        strategy or FedAvg(1.0, 1.0, 1, 1, 1),
        SHAPES,
        seed,
        config,
        {s: n for s, (n, _) in roster.items()},
        names,
        names,
        weights=planned,
        measures=measures or {},
        cells=cells,
        private=private,
    )
    reports = []

    def record(report, parameters, updates):
        reports.append(report)
        if on_round:
            on_round(report, parameters, updates)

    return loop.run(START, record), reports
