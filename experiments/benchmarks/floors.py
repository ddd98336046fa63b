"""What is promised of speed, what was measured, and whether it holds: from the results files, nothing measured here.

python experiments/benchmarks/floors.py [--results FOLDER] [--write]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulation_table import from_call, from_nothing, from_plans
from write import put

HERE = Path(__file__).parent
FILES = ("simulation", "step", "population", "aggregation")
PEERS = {"flower": "Flower", "loop2": "the loop in 2 processes", "pfl": "pfl-research"}
SPEED = (
    # work, engine (any but the generic one where it is empty), noise, peer, at least so many times
    ("W1", "", "seeded", "flower", 60.0),
    ("W1", "", "seeded", "loop2", 40.0),
    ("W1", "", "seeded", "pfl", 35.0),
    ("W1", "", "secure", "flower", 20.0),
    ("W2", "", "seeded", "flower", 2.4),
    ("W2", "", "seeded", "loop2", 1.9),
    ("W2", "", "seeded", "pfl", 4.0),
    ("W3", "", "", "flower", 100.0),
    ("W3", "vmap", "", "flower", 45.0),
    ("W3", "", "", "loop2", 25.0),
    ("W3", "", "", "pfl", 28.0),
)
END_TO_END, RAY, TRAINING_S, FLAT = 100.0, 10.0, 0.3, 1.25
ROBUST, BANDWIDTH = 5.0, 0.5


@dataclass(frozen=True)
class Floor:
    """One promise.

    Attributes:
        measured: with its unit and on what; empty where nothing was measured.
        holds: None where nothing was measured.
    """

    promise: str
    measured: str = ""
    holds: bool | None = None

    @property
    def verdict(self) -> str:
        """In a word or two."""
        return "not measured" if self.holds is None else "holds" if self.holds else "**missed**"


def floors(told: Mapping[str, Mapping[str, Any]]) -> list[Floor]:
    """Every promise, whether it was measured or not.

    Args:
        told: name of a results file to what is in it; those that are not there are not measured.
    """
    rows: Sequence[Mapping[str, Any]] = told.get("simulation", {}).get("results", ())
    return [
        *(_speed(rows, *floor) for floor in SPEED),
        *_end_to_end(rows),
        _ray(rows),
        _training(told.get("step", {}).get("results", ())),
        *_flat(told.get("population", {}).get("results", ())),
        *_aggregation(told.get("aggregation", {}).get("results", ())),
    ]


def _best(rows: Sequence[Mapping[str, Any]], work: str, engine: str, noise: str) -> Mapping[str, Any] | None:
    """fedkit's fastest side of a work: one process or two, whichever measured better."""
    fitting = [
        row
        for row in rows
        if row["work"] == work
        and row["kind"] == "fedkit"
        and row["noise"] == noise
        # The generic engine is asked for by name.
        and (row["engine"] == engine if engine else row["engine"] != "vmap")
    ]
    return max(fitting, key=lambda row: row["samples_s"], default=None)


def _speed(rows: Sequence[Mapping[str, Any]], work: str, engine: str, noise: str, peer: str, least: float) -> Floor:
    how = [f"noise={noise}"] if noise else []
    how += ["the generic engine"] if engine else []
    promise = f"{', '.join([work, *how])}: at least {least:g} x {PEERS[peer]}"
    best = _best(rows, work, engine, noise)
    if best is None or f"ratio_{peer}" not in best:
        return Floor(promise)
    middle = best[f"ratio_{peer}"][0]
    return Floor(promise, f"{middle:g} x ({best['variant']})", middle >= least)


def _end_to_end(rows: Sequence[Mapping[str, Any]]) -> list[Floor]:
    promises = {
        f"W1 with the start of processes, plans made: at least {END_TO_END:g} x Flower": from_plans,
        f"W1 with start and plans, libraries imported: at least {END_TO_END:g} x Flower": from_call,
        f"W1 from the start of the process: at least {END_TO_END:g} x Flower": from_nothing,
    }
    peer = next((row for row in rows if row["work"] == "W1" and row["kind"] == "flower"), None)
    ours = [row for row in rows if row["work"] == "W1" and row["kind"] == "fedkit" and row["noise"] == "seeded"]
    if peer is None or not ours:
        return [Floor(promise) for promise in promises]
    found = []
    for promise, times in promises.items():
        best = min(ours, key=lambda row: float(row["with_start_s"]))
        ratio = times(peer, best)
        found.append(Floor(promise, f"{ratio:.1f} x ({best['variant']})", ratio >= END_TO_END))
    return found


def _ray(rows: Sequence[Mapping[str, Any]]) -> Floor:
    promise = f"W1, 2 Ray actors on one machine: at least {RAY:g} x Flower"
    row = next((row for row in rows if row["work"] == "W1" and row["kind"] == "ray" and row["noise"] == "seeded"), None)
    if row is None or "ratio_flower" not in row:
        return Floor(promise)
    return Floor(promise, f"{row['ratio_flower'][0]:g} x", row["ratio_flower"][0] >= RAY)


def _training(rows: Sequence[Mapping[str, Any]]) -> Floor:
    promise = f"heart disease, 4 sites, 15 rounds: training under {TRAINING_S:g} s"
    row = next((row for row in rows if row["case"].startswith("federation")), None)
    if row is None:
        return Floor(promise)
    return Floor(promise, f"{row['fedkit_ms'] / 1000:.2f} s", row["fedkit_ms"] < 1000 * TRAINING_S)


def _flat(rows: Sequence[Mapping[str, Any]]) -> list[Floor]:
    found = []
    for private, name in ((False, "SGD"), (True, "DP-SGD")):
        costs: dict[int, float] = {}
        for row in rows:
            if row["private"] == private and row["workers"] == "1":
                costs.setdefault(row["a_round"], row["us_a_site"])
        promise = f"{name}: a site's cost does not grow from 10 to 10,000 a round (at most {FLAT:g} x that of fewer)"
        if not {10, 10_000} <= {*costs}:
            found.append(Floor(promise))
            continue
        ordered = [costs[size] for size in sorted(costs)]
        growth = max(later / min(ordered[:place]) for place, later in enumerate(ordered) if place)
        each = ", ".join(f"{cost:,} us at {size:,}" for size, cost in sorted(costs.items()))
        found.append(Floor(promise, f"{growth:.2f} x ({each})", growth <= FLAT))
    return found


def _aggregation(rows: Sequence[Mapping[str, Any]]) -> list[Floor]:
    promise = f"median, trimmed mean, Krum: at least {ROBUST:g} x Flower"
    robust = [row for row in rows if not row["case"].startswith("fed") or row["case"].startswith(("fedmed", "fedtrim"))]
    mean = next((row for row in rows if "of_copy" in row), None)
    found = [Floor(promise)]
    if robust:
        least = min(robust, key=lambda row: float(row["ratio"]))
        found = [Floor(promise, f"{least['ratio']:g} x at least ({least['case']})", least["ratio"] >= ROBUST)]
    promise = f"the mean at no less than {BANDWIDTH:.0%} of what NumPy copies"
    if mean is None:
        return [*found, Floor(promise)]
    return [*found, Floor(promise, f"{mean['of_copy']:.0%}", mean["of_copy"] >= BANDWIDTH)]


def read(folder: Path) -> dict[str, Any]:
    """The results files that a folder has."""
    paths = {name: folder / f"{name}.json" for name in FILES}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.is_file()}


def table(told: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table of all promises, and when the files were written."""
    lines = ["| promise | measured | |", "|---|---|---|"]
    lines += [f"| {floor.promise} | {floor.measured} | {floor.verdict} |" for floor in floors(told)]
    dates = (f"{name} {one['machine']['date']}{' (small form)' * bool(one.get('quick'))}" for name, one in told.items())
    return "\n".join([*lines, "", f"From the results files: {', '.join(dates) or 'none'}."])


def main(words: Sequence[str]) -> int:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE, help="the folder of the results files")
    parser.add_argument("--write", action="store_true", help="write the section of README.md, from the recorded files")
    chosen = parser.parse_args(words)
    if chosen.write and chosen.results != HERE:
        parser.error("--write takes the recorded results only")
    shown = table(read(chosen.results))
    print(shown)
    if chosen.write:
        put(HERE / "README.md", "floors", shown)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
