"""FedAvg that waits for every node and writes down how long each round took, without evaluation."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class TimedFedAvg(FedAvg):
    """FedAvg; a line of JSON a round: when it began and ended, and how many replies it has."""

    def __init__(self, times: Path, nodes: int, fraction: float) -> None:
        super().__init__(fraction, 0.0, min_train_nodes=nodes, min_available_nodes=nodes)
        self._times, self._begin = times, 0.0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The clock starts."""
        self._begin = time.time()
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The clock stops when the model is aggregated."""
        answered = sum(not reply.has_error() for reply in replies)
        result = super().aggregate_train(server_round, replies)
        line = {"round": server_round, "begin": self._begin, "end": time.time(), "answered": answered}
        with self._times.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return result


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds; a last line holds what came out."""
    run, times = context.run_config, Path(str(context.run_config["times"]))
    if run["work"] == "heart":
        zeros = {"weight": np.zeros((1, int(run["columns"])), np.float32), "bias": np.zeros(1, np.float32)}
    else:
        parts = np.array_split(np.zeros(int(run["size"]), np.float32), int(run["tensors"]))
        zeros = {f"tensor-{index}": part for index, part in enumerate(parts)}
    strategy = TimedFedAvg(times, int(run["nodes"]), float(run["fraction"]))
    initial = ArrayRecord({name: Array(value) for name, value in zeros.items()})
    result = strategy.start(grid=grid, initial_arrays=initial, num_rounds=int(run["rounds"]))
    finals = [array.numpy() for array in result.arrays.values()]
    with times.open("a", encoding="utf-8") as file:
        least, greatest = min(float(f.min()) for f in finals), max(float(f.max()) for f in finals)
        file.write(json.dumps({"least": least, "greatest": greatest}) + "\n")
