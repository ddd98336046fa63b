"""The sides of each work of the simulation benchmark: what is started, and how many rounds a turn of it has."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from environment import PEERS, Environment, with_ray
from peers.works import Work

HERE = Path(__file__).parent
CORES = 2
"""Processes, actors and workers of every side that has several; one torch thread each."""


@dataclass(frozen=True)
class Variant:
    """One side of a work.

    Attributes:
        kind: fedkit, loop, loop2, flower or pfl; ratios are to the last three.
        first, rounds: of its first turn, which has its start in it, and of every other.
        engine, noise, workers: of fedkit's.
    """

    name: str
    kind: str
    command: Sequence[str]
    first: int
    rounds: int
    engine: str = ""
    noise: str = ""
    workers: int = 0


def engine_of(work: Work) -> str:
    """fedkit's fastest for a work."""
    return "taps" if work.network == "image" else "closed_form"


def variants(work: Work, folder: Path, peers: Environment, quick: bool) -> list[Variant]:
    """fedkit's sides and those peers that can be had, in the order in which they take turns."""
    images = work.network == "image"
    ours = (2 if images else min(20, work.rounds)) if quick else work.rounds
    few = (1 if images else 2) if quick else (2 if images else 5)
    found = [_fedkit(work, folder, ours, engine_of(work), *how) for how in _ways(work, quick)]
    if not work.private:
        found.append(_fedkit(work, folder, ours, "vmap", "seeded", 1))
    # Each Ray takes ten seconds to start, which is most of a look: it is looked at where something is promised of it.
    if with_ray() and not (quick and (images or not work.private)):
        ways = [(noise, workers) for noise, workers in _ways(work, quick) if workers == CORES][: 1 if quick else None]
        found += [_fedkit(work, folder, ours, engine_of(work), *how, "federation=ray") for how in ways]
    loop = "Opacus loop" if work.private else "torch loop"
    script = str(PEERS / "opacus_loop.py")
    for processes in (CORES,) if quick else (1, CORES):
        name = loop if processes == 1 else f"{loop}, {processes} processes"
        command = [sys.executable, script, str(folder), str(processes)]
        found.append(Variant(name, "loop" if processes == 1 else "loop2", command, 1, few))
    rest = {
        "flower": ("Flower run_simulation", "flower_simulation.py", [str(CORES)]),
        "pfl": ("pfl-research", "pfl_simulation.py", []),
    }
    for kind, (name, program, more) in rest.items():
        if kind not in peers.missing:
            command = [str(peers.python), str(PEERS / program), str(folder), *more]
            found.append(Variant(name, kind, command, 1, few))
    return found


def _ways(work: Work, quick: bool) -> list[tuple[str, int]]:
    """Noise and workers."""
    noises = ("seeded", "secure") if work.private else ("seeded",)
    return [(noise, workers) for noise in noises for workers in ((CORES,) if quick else (1, CORES))]


def _fedkit(work: Work, folder: Path, rounds: int, engine: str, noise: str, workers: int, *more: str) -> Variant:
    told = engine
    if more:
        told += f", {workers} Ray actors"
    elif workers > 1:
        told += f", {workers} workers"
    if work.private:
        told += f", noise={noise}"
    command = [sys.executable, str(HERE / "simulated.py"), str(folder), engine, noise, str(workers), *more]
    kind = "ray" if more else "fedkit"
    return Variant(f"fedkit {told}", kind, command, rounds, rounds, engine, noise if work.private else "", workers)
