"""How many samples a second a simulated federation trains on, by engine, beside the loop one would write with Opacus.

W1: 100 sites, 20 a round, 50 rounds of DP-SGD (Poisson lots of 20, clip 1, sigma 1). W3: 1,000 sites, 100 a round, 50
rounds of SGD. A site has 100 rows of 30 numbers, the model is an MLP 30-64-32-2, a round one local epoch. W2: 50 sites,
10 a round, 10 rounds of DP-SGD in lots of 32; a site has 200 images of 28 x 28, the model is a CNN of two convolutions.

All variants take turns with one torch thread, in one process but where it says two; a ratio is of two figures of the
same turn, and its median is told. *samples/s* is by the clock from the end of the first round on, so that no start is
in it; *with start* is of the whole call. *samples/CPU s*, which a busy machine changes less, is of the run's process
and half of its two workers, with their start. Data, plans and a warm-up are outside. Nothing is timed before fedkit's
engines have given the same models.

    python experiments/benchmarks/bench_simulation.py [--quick] [--works W2] [--write]
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from simulated import Ends, Work, fedkit_run, image_network, model_of, peer_run
from write import machine, put

from fedkit.simulation.local import one_thread

W1 = Work("W1", sites=100, a_round=20, rounds=50, private=True)
W2 = Work("W2", 50, 10, 10, True, 200, 32, (1, 28, 28), 10, image_network)
W3 = Work("W3", sites=1000, a_round=100, rounds=50, private=False)
WORKERS = 2


def chain() -> float:
    """Seconds of processors that the run could not have done without: its own, and a worker's."""
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + (workers.ru_utime + workers.ru_stime) / WORKERS


WORKS = {work.name: work for work in (W1, W2, W3)}


def engine_of(work: Work) -> str:
    """fedkit's fastest for a work."""
    return "taps" if work is W2 else "closed_form"


def check_same_models(work: Work) -> float:
    """Refuse to time two engines that do not give the same model.

    Raises:
        RuntimeError: they differ by more than 1e-5.
    """
    short = replace(work, rounds=1 if work is W2 else 3)
    ours, reference = (model_of(short, engine) for engine in (engine_of(work), "reference"))
    apart = float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))
    if not apart < 1e-5:
        raise RuntimeError(f"{work.name}: engines differ by {apart:g}; nothing is timed")
    return apart


def variants(work: Work, quick: bool) -> dict[str, tuple[Callable[[], Ends], int]]:
    """Name to what is timed and how many samples that are; slow ones run fewer rounds."""
    ours = engine_of(work)
    few = replace(work, rounds=2 if work.network is image_network or quick else 5)
    if quick:
        work = few if work.network is image_network else replace(work, rounds=20)
    found: dict[str, tuple[Callable[[], Ends], int]] = {}
    for noise in ("seeded", "secure") if work.private else ("seeded",):
        told = f", noise={noise}" if work.private else ""
        found[f"{ours}{told}"] = fedkit_run(work, ours, noise), work.samples
        found[f"{ours}, 2 workers{told}"] = fedkit_run(work, ours, noise, WORKERS), work.samples
        if find_spec("ray"):
            found[f"{ours}, 2 Ray actors{told}"] = fedkit_run(work, ours, noise, WORKERS, "ray"), work.samples
        if not quick:
            found[f"reference{told}"] = fedkit_run(few, "reference", noise), few.samples
    name = "Opacus loop" if work.private else "torch loop"
    if not work.private:
        found["vmap"] = fedkit_run(work, "vmap"), work.samples
    found[f"{name}, 2 processes"] = peer_run(work, few.rounds, WORKERS), few.samples
    found[name] = peer_run(work, few.rounds), few.samples
    return found


def measure(work: Work, turns: int, quick: bool) -> list[dict[str, Any]]:
    """Samples a second of each variant, and ratios to the loops of the same turn, of one process and of two."""
    timed = variants(work, quick)
    rates: dict[str, dict[str, list[float]]] = {name: {"steady": [], "clock": [], "cpu": []} for name in timed}
    for turn in range(-1, turns):  # the first turn warms up
        for name, (run, samples) in timed.items():
            gc.collect()
            clock, cpu = time.perf_counter(), chain()
            ends = run()
            if turn >= 0:
                rates[name]["cpu"].append(samples / (chain() - cpu))
                rates[name]["clock"].append(samples / (time.perf_counter() - clock))
                share = (len(ends) - 1) / len(ends)
                rates[name]["steady"].append(samples * share / (ends[-1] - ends[0]))
    *_, both, peer = timed
    return [
        {"work": work.name, "variant": name, "turns": turns}
        | {f"samples_s_{kind}": round(median(found[kind])) for kind in found}
        | {f"ratio_{kind}": _ratios(found[kind], rates[peer][kind]) for kind in found}
        | {"ratio_both": _ratios(found["steady"], rates[both]["steady"])}
        for name, found in rates.items()
    ]


def _ratios(ours: list[float], peers: list[float]) -> list[float]:
    """Median, least and greatest."""
    ratios = [a / b for a, b in zip(ours, peers, strict=True)]
    return [round(value, 2) for value in (median(ratios), min(ratios), max(ratios))]


def table(results: list[dict[str, Any]]) -> str:
    """A Markdown table; ratios are to the loop of the same work, in one process and in two."""
    lines = [
        "| work | variant | samples/s | x loop | x loop, 2 processes | with start | samples/CPU s | x loop | turns |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in results:
        one, both, cpu = (
            f"**{middle:.2f}** ({least:.2f} to {greatest:.2f})"
            for middle, least, greatest in (r["ratio_steady"], r["ratio_both"], r["ratio_cpu"])
        )
        cells = [f"{r['samples_s_steady']:,}", one, both, f"{r['samples_s_clock']:,}", f"{r['samples_s_cpu']:,}", cpu]
        lines.append(f"| {r['work']} | {r['variant']} | {' | '.join(cells)} | {r['turns']} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Run both works and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1 turn, fewer rounds: a look, not a result")
    parser.add_argument("--works", default=",".join(WORKS), help="which of them, such as W2")
    parser.add_argument("--write", action="store_true", help="write simulation.json and the table of README.md")
    chosen = parser.parse_args(arguments)
    if chosen.write and chosen.works != ",".join(WORKS):
        parser.error("--write takes all works: the table is written whole")
    warnings.filterwarnings("ignore")  # Opacus warns of its own hooks at every step
    results: list[dict[str, Any]] = []
    with one_thread():
        torch.manual_seed(0)
        for work in (WORKS[name] for name in chosen.works.split(",")):
            print(f"{work.name}: engines differ by {check_same_models(work):.1e}", flush=True)
            results += measure(work, 1 if chosen.quick else 7, chosen.quick)
            print(table([r for r in results if r["work"] == work.name]), flush=True)
    told: dict[str, Any] = {"machine": machine(), "results": results}
    if chosen.write:
        folder = Path(__file__).parent
        (folder / "simulation.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        m = told["machine"]
        about = f"{m['date']}, {m['cpu']}, {m['cores']} cores, load {m['load']} at the end, one torch thread."
        about = f"The small form (`--quick`). {about}" if chosen.quick else about
        put(folder / "README.md", "simulation", f"{table(results)}\n\n{about}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
