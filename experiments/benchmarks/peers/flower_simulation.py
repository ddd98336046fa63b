"""Flower's ``run_simulation`` over Ray, with a ClientApp that trains by Opacus as Flower's users write it.

Actors of one thread each, one a core, which was its fastest setting on two cores; FedAvg; no evaluation. Ray stays up
between turns. What the first turn has beyond the others is the start of Ray and of the actors, which import torch and
read the rows.

    python flower_simulation.py FOLDER ACTORS
"""

from __future__ import annotations

import logging
import os
import sys
import time
from itertools import chain
from pathlib import Path

import lines

if __name__ == "__main__":
    lines.take()
os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}

import flower_app
import torch
import works
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

LONGEST = 40
"""Of a folder that Ray's logs and sockets fit into: a socket's whole path has 107 characters at most."""


def main(folder: str, actors: int) -> None:
    """Serve turns until the pipe is closed.

    Raises:
        RuntimeError: a ClientApp did not answer; Flower itself goes on without it.
    """
    torch.set_num_threads(1)
    os.environ[flower_app.WORK] = folder
    logging.getLogger("flwr").setLevel(logging.ERROR)
    lines.ready()
    turns = lines.asked()
    first = next(turns, None)
    if first is None:
        return
    given = works.read(Path(folder))
    work, server = given.work, ServerApp()
    strategy = FedAvg(
        fraction_train=work.a_round / work.sites,
        fraction_evaluate=0.0,
        min_train_nodes=work.a_round,
        min_available_nodes=work.sites,
        train_metrics_aggr_fn=lambda records, _: MetricRecord({"answers": len(records)}),
    )

    @server.main()
    def rounds_of_turns(grid: Grid, context: Context) -> None:
        for rounds in chain([first], turns):
            start = time.perf_counter()
            arrays = ArrayRecord(dict(given.first))
            result = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=rounds)
            seconds = time.perf_counter() - start
            answers = [metrics["answers"] for metrics in result.train_metrics_clientapp.values()]
            if answers != [work.a_round] * rounds:
                raise RuntimeError(f"{answers} sites answered in {rounds} rounds, not {work.a_round} in each")
            lines.answer(rounds, rounds, seconds, given.moved(result.arrays.to_torch_state_dict()))

    init = {"num_cpus": actors, "logging_level": "ERROR", "log_to_driver": False}
    if len(folder) < LONGEST:
        init["_temp_dir"] = f"{folder}/ray"
    backend = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": init}
    run_simulation(server, flower_app.app, work.sites, backend_config=backend)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
