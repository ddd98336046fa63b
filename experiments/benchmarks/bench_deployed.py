"""``make bench-deployed``: a deployed federation on loopback beside stock Flower's, on the same work in the same run.

Both federations are up all the time; their runs take turns, and the one that waits is idle. A round's time is taken
where it is decided: at the coordinator's round loop and in Flower's ServerApp, from the question to the aggregated
model. The first round of a run is left out on both sides, and so is evaluation. Ratios are taken between rounds of
the same turn with the same number.

    python experiments/benchmarks/bench_deployed.py [--quick] [--only heart|array] [--tensors] [--write]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from deployed import SITES, Deployed
from processes import Peak, Process, ended, idle_percent, machine_seconds, resident
from stock import Stock
from write import machine, put

from fedkit.config.compose import compose
from fedkit.simulation.prepare import prepare

SIGMA = 2.1
HIDDEN = 4992
COLUMNS = 13
SIZE = COLUMNS * HIDDEN + HIDDEN + HIDDEN * HIDDEN + HIDDEN + HIDDEN + 1
"""Parameters of an mlp with two hidden layers over the heart disease table: 24,999,937, 100 MB."""
MODEL_BYTES = 4 * SIZE
_PATIENCE = 1800.0

HEART = ("privacy.epsilon=null", f"privacy.noise_multiplier={SIGMA}", "privacy.evaluation.share=null")
ARRAY = (
    "privacy=none",
    "model=mlp",
    f"model.hidden=[{HIDDEN},{HIDDEN}]",
    "training.local_steps=1",
    "federation.evaluate_every=100000",
)

LARGE = {"work": "large", "size": SIZE, "hidden": HIDDEN, "columns": COLUMNS, "steps": 1, "learning_rate": 0.5}
"""The same network and one step over stock Flower, its parameters in one flat array, which suits Flower best."""

Rounds = list[dict[str, float]]


@dataclass(frozen=True)
class Case:
    """One comparison: a run of some rounds on each side.

    Attributes:
        ours, theirs: begin a run with that many rounds to be counted, and return those.
        rounds: counted in a turn.
    """

    name: str
    ours: Callable[[int], Rounds]
    theirs: Callable[[int], Rounds]
    rounds: int
    turns: int


def site_rows(folder: Path) -> list[dict[str, str]]:
    """Write each hospital's training rows as fedkit encodes them, for the peer; returns its nodes' configs."""
    folder.mkdir()
    dataset = prepare(compose("heart_disease", ["privacy.noise=secure"])).dataset
    for site in dataset.sites:
        np.savez(folder / f"{site.name}.npz", x=site.train.x, y=site.train.y)
    return [{"rows": str(folder / f"{site}.npz")} for site in SITES]


def cases(fedkit: Deployed, stock: Stock, chosen: argparse.Namespace) -> list[Case]:
    """What is compared."""
    heart = {"work": "heart", "columns": COLUMNS, "steps": 10, "sample_rate": 0.1, "learning_rate": 0.5}
    heart |= {"noise_multiplier": SIGMA, "max_grad_norm": 1.0}
    three = SITES[:3]

    def array(tensors: int) -> Callable[[int], Rounds]:
        return lambda n: stock.run(_PATIENCE, 3, **LARGE, tensors=tensors, rounds=n + 1)[1:-1]

    found = [
        Case(
            "heart disease, DP-SGD, 4 sites",
            lambda n: fedkit.run(_PATIENCE, SITES, n + 1, *HEART)[1:],
            lambda n: stock.run(_PATIENCE, 4, rounds=n + 1, **heart)[1:-1],
            2 if chosen.quick else 4,
            1 if chosen.quick else 4,
        ),
        Case(
            "a model of 100 MB, 3 sites",
            # Without privacy there is an evaluation before the first round and in the last one.
            lambda n: fedkit.run(_PATIENCE, three, n + 2, *ARRAY)[1:-1],
            array(1),
            1 if chosen.quick else 2,
            1 if chosen.quick else 3,
        ),
    ]
    if chosen.only:
        found = [found[("heart", "array").index(chosen.only)]]
    return found


def measure(case: Case, fedkit: Deployed, stock: Stock) -> dict[str, Any]:
    """Take turns.

    Returns:
        Seconds of every counted round, their medians, the median, least and greatest ratio stock / fedkit of a pair,
        the coordinator's memory on both sides (megabytes before, and the most by which it grew), and the CPU seconds
        of a whole run at the coordinator and all sites, which depend less on what else the machine does.
    """
    seconds: dict[str, list[float]] = {"fedkit": [], "stock": []}
    idle: dict[str, list[int]] = {"fedkit": [], "stock": []}
    growth: dict[str, list[int]] = {"fedkit": [], "stock": []}
    cpu: dict[str, list[float]] = {"fedkit": [], "stock": []}
    sides = {"fedkit": (case.ours, fedkit.processes), "stock": (case.theirs, stock.processes)}
    for turn in range(case.turns):
        for side, (run, processes) in sides.items():
            root, used = processes[0].popen.pid, sum(process.cpu_seconds() for process in processes)
            idle[side].append(resident(root))
            with Peak(root) as peak:
                rounds = run(case.rounds)
            growth[side].append(peak.total - idle[side][-1])
            cpu[side].append(sum(process.cpu_seconds() for process in processes) - used)
            seconds[side] += [line["end"] - line["begin"] for line in rounds]
            told = ", ".join(f"{value:.2f}" for value in seconds[side][-case.rounds :])
            print(
                f"{case.name}, turn {turn + 1}, {side}: {told} s; coordinator {idle[side][-1] / 1e6:.0f} MB"
                f" and {growth[side][-1] / 1e6:.0f} more; {cpu[side][-1]:.1f} CPU-s in all;"
                f" load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    ratios = [theirs / ours for ours, theirs in zip(seconds["fedkit"], seconds["stock"], strict=True)]
    return {
        "case": case.name,
        "fedkit_s": round(median(seconds["fedkit"]), 3),
        "stock_s": round(median(seconds["stock"]), 3),
        "ratio": round(median(ratios), 2),
        "least": round(min(ratios), 2),
        "greatest": round(max(ratios), 2),
        "pairs": len(ratios),
        "seconds": {side: [round(value, 3) for value in values] for side, values in seconds.items()},
        "idle_mb": {side: round(median(values) / 1e6) for side, values in idle.items()},
        "growth_mb": {side: round(max(values) / 1e6) for side, values in growth.items()},
        "run_cpu_s": {side: round(median(values), 1) for side, values in cpu.items()},
    }


def tensors_case(stock: Stock, quick: bool) -> dict[str, Any]:
    """The peer alone, with the same model in 96 tensors, as a network of that size has."""
    try:
        rounds = stock.run(_PATIENCE, 3, **LARGE, tensors=96, rounds=2 if quick else 3)[1:-1]
    except RuntimeError as error:
        return {"failed": str(error)[:500]}
    return {"stock_s": round(median(line["end"] - line["begin"] for line in rounds), 2), "rounds": len(rounds)}


def own_seconds(processes: Sequence[Process]) -> float:
    """CPU seconds of the benchmark so far: of this process, of the commands that it called, of both federations."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds: float = sum(u.ru_utime + u.ru_stime for u in used)
    return seconds + sum(process.cpu_seconds() for process in processes)


def claims(results: Sequence[Mapping[str, Any]], idle: Mapping[str, float]) -> list[dict[str, Any]]:
    """What is promised, what was measured, whether it holds."""
    found: list[tuple[str, str, bool]] = []
    for result in results:
        ratio = f"{result['ratio']:.1f} times"
        if "heart" in result["case"]:
            found.append(
                ("heart disease: a round takes at most 3 s", f"{result['fedkit_s']:.2f} s", result["fedkit_s"] <= 3)
            )
            found.append(("heart disease: stock Flower takes at least 8 times as long", ratio, result["ratio"] >= 8))
        else:
            models = result["growth_mb"]["fedkit"] * 1e6 / MODEL_BYTES
            found.append(("100 MB: stock Flower takes at least 2 times as long", ratio, result["ratio"] >= 2))
            found.append(("100 MB: the coordinator grows by less than 3 models", f"{models:.1f} models", models < 3))
    found.append(
        ("an idle site takes less than 2 % of a core", f"{idle['fedkit site']:.2f} %", idle["fedkit site"] < 2)
    )
    return [{"claim": claim, "measured": measured, "holds": holds} for claim, measured, holds in found]


def tables(told: Mapping[str, Any]) -> str:
    """The README's section."""
    lines = ["| round of | fedkit, s | stock Flower, s | stock / fedkit | rounds |", "|---|---:|---:|---:|---:|"]
    lines += [
        f"| {r['case']} | {r['fedkit_s']:.2f} | {r['stock_s']:.2f} |"
        f" **{r['ratio']:.1f}** ({r['least']:.1f} to {r['greatest']:.1f}) | {r['pairs']} |"
        for r in told["results"]
    ]
    if "stock_s" in told["tensors"]:
        t = told["tensors"]
        lines.append(f"| the same model in 96 tensors | | {t['stock_s']:.2f} | | {t['rounds']} |")
    elif told["tensors"]:
        lines.append("| the same model in 96 tensors | | the run failed | | |")
    lines += ["", "| memory of the coordinator's host | fedkit, MB | stock Flower, MB |", "|---|---:|---:|"]
    for r in told["results"]:
        lines += [
            f"| {r['case']}: {what} | {r[key]['fedkit']:,} | {r[key]['stock']:,} |"
            for what, key in (("before a run", "idle_mb"), ("grows in a run by at most", "growth_mb"))
        ]
    lines += ["", "| CPU of a run, coordinator and sites | fedkit, s | stock Flower, s |", "|---|---:|---:|"]
    lines += [
        f"| {r['case']} | {r['run_cpu_s']['fedkit']:.1f} | {r['run_cpu_s']['stock']:.1f} |" for r in told["results"]
    ]
    idle = told["idle_percent"]
    lines += ["", f"| idle for {told['idle_seconds']:.0f} s, % of a core | fedkit | stock Flower |", "|---|---:|---:|"]
    lines += [
        f"| {name} | {idle[f'fedkit {name}']:.2f} | {idle[f'stock {name}']:.2f} |" for name in ("coordinator", "site")
    ]
    lines += ["", "| claim | measured | |", "|---|---:|---|"]
    lines += [f"| {c['claim']} | {c['measured']} | {'holds' if c['holds'] else '**missed**'} |" for c in told["claims"]]
    m = told["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in m["versions"].items())
    lines += [
        "",
        f"{m['date']}, {m['cpu']}, {m['cores']} cores, of which other programs took {told['others_cores']:.2f}"
        f" on average over the {told['seconds']:.0f} s; load {told['load_before']} before; {versions}.",
    ]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Start both federations, take turns, print and perhaps write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one turn a case: a look, not a result")
    parser.add_argument("--only", choices=("heart", "array"), help="one of the cases")
    parser.add_argument("--tensors", action="store_true", help="also stock Flower alone, the model in 96 tensors")
    parser.add_argument("--idle", type=float, default=60.0, metavar="SECONDS", help="how long idle CPU is measured")
    parser.add_argument("--write", action="store_true", help="write deployed.json and the section of README.md")
    chosen = parser.parse_args(arguments)
    if chosen.write and (chosen.quick or chosen.only):
        parser.error("--write is for a whole run")
    # Whoever ends this script ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    load, start, busy = round(os.getloadavg()[0], 1), time.monotonic(), machine_seconds()
    folder = Path(tempfile.mkdtemp(prefix="fedkit-bench-"))
    keep = False
    fedkit, stock = Deployed(folder / "fedkit"), Stock(folder / "stock", site_rows(folder / "rows"))
    try:
        with ended(fedkit.processes), ended(stock.processes):
            stock.start()
            fedkit.start()
            print(f"both federations are up after {time.monotonic() - start:.0f} s", flush=True)
            # What a first run imports is in memory before any is measured.
            fedkit.run(_PATIENCE, SITES, 1, *HEART)
            results = [measure(case, fedkit, stock) for case in cases(fedkit, stock, chosen)]
            tensors = tensors_case(stock, chosen.quick) if chosen.tensors else {}
            groups = {"coordinator": ([fedkit.coordinator], [stock.link]), "site": (fedkit.sites, stock.sites)}
            both = {
                f"{side} {name}": pair[i] for name, pair in groups.items() for i, side in enumerate(("fedkit", "stock"))
            }
            idle = {name: round(value, 3) for name, value in idle_percent(both, chosen.idle).items()}
            own = own_seconds([*fedkit.processes, *stock.processes])
            others = max(0.0, machine_seconds() - busy - own) / (time.monotonic() - start)
    except BaseException:
        keep = True
        print(f"logs are in {folder}", file=sys.stderr)
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - start
    told: dict[str, Any] = {
        "machine": machine(),
        "load_before": load,
        "others_cores": round(others, 2),
        "seconds": round(seconds, 1),
        "model_bytes": MODEL_BYTES,
        "results": results,
        "tensors": tensors,
        "idle_seconds": chosen.idle,
        "idle_percent": idle,
        "claims": claims(results, idle),
    }
    print("\n" + tables(told))
    if chosen.write:
        place = Path(__file__).parent
        (place / "deployed.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        put(place / "README.md", "deployed", tables(told))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
