"""How many samples a second a simulated federation trains on, beside Flower's simulation, pfl-research and a loop.

W1: 100 sites, 20 a round, 50 rounds of DP-SGD (Poisson lots of 20, clip 1, sigma 1). W3: 1,000 sites, 100 a round, 50
rounds of SGD. A site has 100 rows of 30 numbers, the model is an MLP 30-64-32-2, a round one local epoch. W2: 50 sites,
10 a round, 10 rounds of DP-SGD in lots of 32; a site has 200 images of 28 x 28, the model is a CNN of two convolutions.

Every side is a process of its own with whatever it starts, one torch thread each; all sides of a work are up together
and take turns, A B A B ...; a ratio is of two figures of the same turn, and its median is told. Nothing is timed before
fedkit's engines have given the same models. A peer that is missing leaves its column empty.

    python experiments/benchmarks/bench_simulation.py [--quick] [--works W2] [--write]
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import simulated
from environment import PYTHON, Environment, look, refusal
from peers import works
from peers.works import WORKS, Work
from processes import machine_seconds
from sides import Side, SideFailed, Turn
from simulation_table import tables
from variants import Variant, engine_of, variants
from write import leave, machine, options

from fedkit.simulation.local import one_thread

PATIENCE = 900.0
"""Seconds that a side may take for a turn, whatever the machine is busy with."""
AGAINST = ("flower", "loop2", "pfl")
Figures = dict[str, dict[str, list[float]]]


def check_same_models(folder: Path, quick: bool) -> float:
    """Refuse to time two engines that do not give the same model.

    Raises:
        RuntimeError: they differ by more than 1e-5.
    """
    given = works.read(folder)
    rounds = 1 if quick or given.work.network == "image" else 3
    if quick:
        given = replace(given, work=replace(given.work, a_round=4))
    ours, reference = (
        simulated.trained(given, simulated.prepared(given, simulated.words(given, rounds, engine, "seeded", 1)), [])
        for engine in (engine_of(given.work), "reference")
    )
    size = replace(given, first={name: value * 0 for name, value in reference.items()}).moved(reference)
    apart = replace(given, first=reference).moved(ours) / size
    if not apart < 1e-5:
        raise RuntimeError(f"{given.work.name}: engines differ by {apart:g}; nothing is timed")
    return apart


def measure(
    work: Work, sides: Sequence[Variant], turns: int, folder: Path, missing: dict[str, str], *, together: bool
) -> list[dict[str, Any]]:
    """Start every side, take turns, end them.

    Args:
        missing: told of a peer that fails, and why; the others go on.
        together: start all at once, so that the figures of a start are of a busy machine.

    Raises:
        SideFailed: one of fedkit's own did.
    """
    left, up, first = {side.name: side for side in sides}, dict[str, Side](), dict[str, Turn]()
    figures: Figures = {side.name: {"rate": [], "cpu": []} for side in sides}
    with ExitStack() as stack:

        def begin(side: Variant) -> Side:
            name = side.name.replace(" ", "-").replace("=", "-")
            started = Side.start(f"{work.name}, {side.name}", side.command, folder / f"{name}.log")
            stack.callback(started.end)
            return started

        def drop(side: Variant, error: SideFailed) -> None:
            if side.kind == "fedkit":
                raise error
            missing[side.kind] = str(error)
            print(f"left out: {error}", file=sys.stderr, flush=True)
            del left[side.name]

        def first_turn(side: Variant) -> SideFailed | None:
            try:
                up[side.name].ready(PATIENCE)
                first[side.name] = up[side.name].ask(side.first, PATIENCE)
            except SideFailed as error:
                return error
            return None

        for group in [sides] if together else [[side] for side in sides]:
            up |= {side.name: begin(side) for side in group}
            with ThreadPoolExecutor(len(group)) as pool:
                try:
                    failed = list(pool.map(first_turn, group))
                except BaseException:
                    # The pool waits for its threads, and they for an answer: minutes after a Ctrl-C.
                    _interrupt([up[side.name].popen for side in group])
                    raise
            for side, error in zip(group, failed, strict=True):
                if error is not None:
                    drop(side, error)
        for _ in range(turns):
            for side in list(left.values()):
                try:
                    turn = up[side.name].ask(side.rounds, PATIENCE)
                except SideFailed as error:
                    drop(side, error)
                    continue
                counted, seconds = turn.told["counted"], turn.told["seconds"]
                figures[side.name]["rate"].append(work.samples * counted / seconds)
                figures[side.name]["cpu"].append(work.samples * side.rounds / max(turn.cpu, 0.01))
    return [_result(work, side, figures, first[side.name], up[side.name], left.values()) for side in left.values()]


def _result(
    work: Work, side: Variant, figures: Figures, first: Turn, up: Side, measured: Iterable[Variant]
) -> dict[str, Any]:
    """One row: medians, ratios to the peers of the same turn, start, memory."""
    rate = median(figures[side.name]["rate"])
    rest = max(0, work.rounds - side.first) * work.samples / rate
    found: dict[str, Any] = {
        "work": work.name,
        "variant": side.name,
        "kind": side.kind,
        "engine": side.engine,
        "noise": side.noise,
        "workers": side.workers,
        "turns": len(figures[side.name]["rate"]),
        "samples_s": round(rate),
        # Processes that Ray ends within a turn take their figures with them.
        "samples_cpu_s": None if side.kind == "ray" else round(median(figures[side.name]["cpu"])),
        "import_s": round(up.imported, 3),
        "with_start_s": round(first.wall + rest, 3),
        "plans_s": round(first.told.get("prepared", 0.0), 3),
        "peak_mb": round(up.peak / 1e6),
        "processes": up.processes,
    }
    for peer in measured:
        if peer.kind in AGAINST:
            found[f"ratio_{peer.kind}"] = ratios(figures[side.name]["rate"], figures[peer.name]["rate"])
    return found


def ratios(ours: Sequence[float], peers: Sequence[float]) -> list[float]:
    """Median, least and greatest of the ratios of the same turn."""
    found = [a / b for a, b in zip(ours, peers, strict=True)]
    return [round(value, 2) for value in (median(found), min(found), max(found))]


def main(arguments: list[str]) -> int:
    """Run the works and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options(parser, "1 turn, fewer rounds, all sides started at once: a look, not a result")
    parser.add_argument("--works", default=",".join(WORKS), help="which of them, such as W2")
    parser.add_argument("--turns", type=int, help="how often every side is asked (7; 1 with --quick)")
    parser.add_argument("--peers", type=Path, default=PYTHON, help="the interpreter of the peers' environment")
    chosen = parser.parse_args(arguments)
    if unknown := sorted({*chosen.works.split(",")} - {*WORKS}):
        parser.error(f"--works {','.join(unknown)}: there are {', '.join(WORKS)}")
    if chosen.write and chosen.works != ",".join(WORKS):
        parser.error("--write takes all works: the table is written whole")
    peers = look(chosen.peers)
    missing = dict(peers.missing)
    for peer, why in missing.items():
        print(f"{peer} is missing: {why}", file=sys.stderr, flush=True)
    if chosen.write and missing:
        parser.error(refusal(missing))
    begun, turns = time.monotonic(), chosen.turns or (1 if chosen.quick else 7)
    load, busy = round(os.getloadavg()[0], 1), machine_seconds()
    # Whoever ends this script ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = _all(chosen, peers, turns, missing)
    seconds = time.monotonic() - begun
    told = {
        "machine": machine(), "quick": chosen.quick, "turns": turns, "seconds": round(seconds), "load_before": load,
        "others_cores": round(max(0.0, machine_seconds() - busy - own_seconds()) / seconds, 2),
        "peers": dict(peers.versions), "missing": missing, "results": results,
    }  # fmt: skip
    print(f"\n{tables(told)}")
    if missing and chosen.write:
        print(f"nothing is written: {', '.join(missing)} failed, see above", file=sys.stderr)
        return 1
    leave(chosen, "simulation", told, tables(told))
    return 0


def own_seconds() -> float:
    """CPU seconds of this process and of all sides, which have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _all(chosen: Any, peers: Environment, turns: int, missing: dict[str, str]) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="fedkit-bench-", ignore_cleanup_errors=True) as place, one_thread():
        for name in chosen.works.split(","):
            folder = works.write(WORKS[name], Path(place) / name)
            print(f"{name}: engines differ by {check_same_models(folder, chosen.quick):.1e}", flush=True)
            sides = variants(WORKS[name], folder, peers, chosen.quick)
            found = measure(WORKS[name], sides, turns, folder, missing, together=chosen.quick)
            results += found
            _say(found)
    return results


def _interrupt(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Have them clean up after themselves, for a moment, then kill them."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    end = time.monotonic() + 10
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, end - time.monotonic()))
        process.kill()


def _say(found: Sequence[Mapping[str, Any]]) -> None:
    for row in found:
        print(f"  {row['variant']}: {row['samples_s']:,} samples/s, {row['with_start_s']} s with start", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
