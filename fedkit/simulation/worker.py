"""One worker process of a simulation: trains the sites that it is told, one thread, until its connection closes.

It is forked: model, plans and records are those that the run has in memory, once, and none of them travels. What
comes in is a round's model, in memory that both share; what goes out are updates, in memory that both share too, a
piece at a time.
"""

from __future__ import annotations

import mmap
import pickle
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import torch
from torch import nn

from fedkit.errors import TrainingError
from fedkit.training.engine import Engine
from fedkit.types import ClientUpdate, Float32, LocalPlan, RoundPlan, Site, SiteState, Task

PIECE_BYTES = 64 << 20
"""What a worker's updates may take in the memory that it shares, if one is not larger."""

READY, PIECE, FAILED = "ready", "piece", "failed"


@dataclass(frozen=True)
class Work:
    """What a run's workers train with; all of it is in memory before they are forked.

    Attributes:
        sites: by name; a worker looks up its own, so a mapping may make them when they are asked for.
        size: parameters of the model.
    """

    engine: Engine
    model: nn.Module
    task: Task
    sites: Mapping[str, Site]
    plans: Mapping[str, LocalPlan]
    size: int

    @property
    def piece(self) -> int:
        """Updates that are in shared memory together."""
        return piece(self.size)

    def train(
        self, names: Sequence[str], plan: RoundPlan, state: Mapping[str, SiteState]
    ) -> tuple[list[ClientUpdate], dict[str, SiteState]]:
        """Updates and next states of some sites, in this process."""
        return self.engine.train(self.model, self.task, [self.sites[name] for name in names], plan, state)


def piece(size: int) -> int:
    """Updates of a model of so many parameters that are to be in memory together."""
    return max(1, PIECE_BYTES // (4 * size))


@dataclass(frozen=True)
class Share:
    """A worker's part of a round: all of the round's plan but its parameters, which lie in shared memory."""

    seed: int
    round: int
    proximal_mu: float
    names: tuple[str, ...]
    state: Mapping[str, SiteState]


@dataclass(frozen=True)
class Trained:
    """The updates of a piece, in the order of the share's names: all of them but their deltas.

    Attributes:
        metrics, states: by site, of those that have any.
        seconds: that they took.
    """

    sites: list[str]
    weights: list[float]
    seconds: float
    metrics: Mapping[str, Mapping[str, float]]
    states: Mapping[str, SiteState]


def floats(memory: mmap.mmap, rows: int, size: int) -> Float32:
    """float32 [rows, size] over shared memory."""
    return np.frombuffer(memory, dtype=np.float32, count=rows * size).reshape(rows, size)


def serve(connection: Connection, work: Work, model: mmap.mmap, updates: mmap.mmap) -> None:
    """What the process does; it ends with its connection, and so with whoever started it.

    Args:
        model: the round's parameters. updates: where the deltas of a piece are put.

    Raises:
        EOFError, OSError: whoever started it has gone.
    """
    # Ctrl-C reaches every process of a terminal; the run's own decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    # What a fork breaks, it breaks here and not in a round: torch refuses gradients where a device had threads.
    torch.zeros(1, requires_grad=True).sum().backward()  # type: ignore[no-untyped-call]
    connection.send((READY, None))
    while True:
        _round(connection, connection.recv(), work, model, updates)


def _round(connection: Connection, share: Share, work: Work, model: mmap.mmap, updates: mmap.mmap) -> None:
    parameters = floats(model, 1, work.size)[0]
    parameters.setflags(write=False)
    deltas = floats(updates, work.piece, work.size)
    for first in range(0, len(share.names), work.piece):
        names = share.names[first : first + work.piece]
        plans = {name: work.plans[name] for name in names}
        plan = RoundPlan(share.seed, share.round, parameters, share.proximal_mu, plans)
        begun = time.perf_counter()
        try:
            found, state = work.train(names, plan, share.state)
        except Exception as error:
            connection.send((FAILED, carried(error)))
            return
        for row, update in enumerate(found):
            deltas[row] = update.delta
        told = Trained(
            [update.site for update in found],
            [update.weight for update in found],
            time.perf_counter() - begun,
            {update.site: update.metrics for update in found if update.metrics},
            {name: kept for name, kept in state.items() if kept},
        )
        # Let go of before the next piece is trained beside it.
        del found
        connection.send((PIECE, told))
        if first + work.piece < len(share.names):
            connection.recv()


def carried(error: Exception) -> Exception:
    """An error as it can travel: itself where it pickles, else its text."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - what this line has just written
    except Exception:
        return TrainingError(f"a worker process failed: {type(error).__name__}: {error}", code="FK420")
    return error
