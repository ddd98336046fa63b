"""The loop that one writes without a framework: a round's sites one by one, averaged; Opacus where it is private.

    python opacus_loop.py FOLDER PROCESSES

With more processes than one, each takes its share of a round's sites, with one thread, and answers with one sum.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
import warnings
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import lines

if __name__ == "__main__":
    lines.take()
import numpy as np
import torch
import works


def summed(given: works.Given, received: works.State, sites: Sequence[int]) -> works.State:
    """The sum of what sites send."""
    model = given.work.model()
    total = {name: torch.zeros_like(value) for name, value in received.items()}
    for site in sites:
        for name, value in works.train_site(given, model, received, site).items():
            total[name] += value
    return total


def share(given: works.Given, connection: Connection) -> None:
    """What a helper does: sums of its sites, until its connection is closed."""
    try:
        while True:
            received, sites = connection.recv()
            state = {name: torch.from_numpy(value) for name, value in received.items()}
            connection.send({name: value.numpy() for name, value in summed(given, state, sites).items()})
    except EOFError:
        return


def main(folder: Path, processes: int) -> None:
    """Serve turns until the pipe is closed."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # Opacus warns of its own hooks at every step
    if works.about(folder).private:
        import opacus  # noqa: F401
    helpers: list[Connection] = []
    fork = multiprocessing.get_context("fork")

    def turn(rounds: int) -> dict[str, float]:
        given = works.read(folder)
        work, state = given.work, given.first
        while len(helpers) < processes > 1:
            ours, its = fork.Pipe()
            fork.Process(target=share, args=(given, its), daemon=True).start()
            helpers.append(ours)
        begun = time.perf_counter()
        for number in range(rounds):
            chosen = np.random.default_rng(number).choice(work.sites, work.a_round, replace=False).tolist()
            if helpers:
                for index, helper in enumerate(helpers):
                    told = {name: value.numpy() for name, value in state.items()}
                    helper.send((told, chosen[index :: len(helpers)]))
                parts = [helper.recv() for helper in helpers]
                total = {name: torch.from_numpy(sum(part[name] for part in parts)) for name in state}
            else:
                total = summed(given, state, chosen)
            state = {name: value / work.a_round for name, value in total.items()}
        return {"counted": rounds, "seconds": time.perf_counter() - begun, "moved": given.moved(state)}

    lines.serve(turn)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
