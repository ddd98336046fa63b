"""What an accountant's figure, a ledger's entry and a vector of noise cost, each beside what one would use without.

python experiments/benchmarks/bench_parts.py [--quick] [--write]
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from dp_accounting import DpEvent, GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from opacus.accountants import PRVAccountant
from turns import ratio, shown, take_turns
from write import leave, machine, options

from fedkit.privacy import accounting, pld
from fedkit.privacy.accounting import GaussianEvent
from fedkit.privacy.ledger.facts import Job, merged, rounded
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.ledger.messages import Message
from fedkit.privacy.randomness import Secure, Seeded

RATE, SIGMA, STEPS, DELTA = 0.1, 1.2, 150, 1e-5
SCALE = 1.2 * 2**26
"""Standard deviation of the noise on the lattice: sigma 1.2."""


@dataclass(frozen=True)
class Case:
    """One comparison of two functions; ``said`` is what they gave, for a reader to judge by."""

    name: str
    peer: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    calls: int
    turns: int
    said: str = ""


def forgetting() -> None:
    """Empty fedkit's caches of costs: the next figure is computed anew."""
    accounting._epsilon.cache_clear()
    accounting._rdp.cache_clear()
    pld.one_step.cache_clear()
    pld._log_moments.cache_clear()


def accountant_cases(quick: bool) -> list[Case]:
    """The epsilon of the heart disease run, anew and again."""
    turns = 3 if quick else 9

    def anew() -> float:
        forgetting()
        return accounting.epsilon(RATE, SIGMA, STEPS, DELTA)

    def prv() -> float:
        accountant = PRVAccountant()
        accountant.history = [(SIGMA, RATE, STEPS)]
        return float(accountant.get_epsilon(DELTA))

    def google() -> float:
        event: DpEvent = PoissonSampledDpEvent(RATE, GaussianDpEvent(SIGMA))
        return float(PLDAccountant().compose(event, STEPS).get_epsilon(DELTA))

    told = f"epsilon: fedkit {anew():.4f}, Opacus PRV {prv():.4f}, dp-accounting {google():.4f}"

    def again() -> float:
        return accounting.epsilon(RATE, SIGMA, STEPS, DELTA)

    return [
        Case("epsilon of 150 steps", "Opacus PRV", anew, prv, 1, turns, told),
        Case("epsilon of 150 steps", "dp-accounting PLD", anew, google, 1, turns),
        Case("the same figure again", "Opacus PRV", again, prv, 1, turns),
    ]


def ledger_case(folder: Path, quick: bool) -> Case:
    """A round's entry before a record is read, and its reply after: two commits, each on the disk when it returns."""
    ledger = Ledger.create(folder / "ledger.sqlite")
    ledger.create_budget("heart", unit="record", limit=50.0, delta=1e-5)
    calls, turns = 20, 5 if quick else 15
    most = calls * (turns + 1)
    one, reply, number = GaussianEvent(RATE, 10.0, 1), bytes(60), iter(range(1, most + 1))
    whole = merged([rounded(GaussianEvent(RATE, 10.0, most))])
    ledger.admit("heart", "run", "study", Job("record", accounting.ADJACENCY, whole), time.time() + 3600)

    def ours() -> None:
        message = Message("heart", "run", next(number), "train", "0" * 64)
        ledger.reserve(message, [one])
        ledger.commit(message, reply)

    raw = sqlite3.connect(folder / "raw.sqlite", isolation_level=None)
    raw.execute("pragma journal_mode = wal")
    raw.execute("pragma synchronous = full")
    raw.execute("create table entry (number integer primary key, body text, reply blob)")
    body = "x" * 400

    def theirs() -> None:
        for _ in range(2):
            raw.execute("begin immediate")
            raw.execute("insert into entry (body, reply) values (?, ?)", (body, reply))
            raw.execute("commit")

    return Case("ledger: reserve and commit", "two SQLite inserts", ours, theirs, calls, turns)


def noise_cases(quick: bool) -> list[Case]:
    """A million normals: real noise, replayable noise, and torch's float32 ones."""
    size, turns = 1_000_000, 3 if quick else 9
    secure, seeded, into = Secure(), Seeded("benchmark", 1), torch.empty(size)
    draws = {"secure": secure.rounded_gaussian, "seeded": seeded.rounded_gaussian}
    return [
        Case(f"1M {name} normals", "torch normal_", partial(draw, size, SCALE), into.normal_, 1, turns)
        for name, draw in draws.items()
    ]


def measure(case: Case) -> dict[str, Any]:
    """Time both sides in turns."""
    seconds = take_turns({"ours": case.ours, "theirs": case.theirs}, case.turns, case.calls)
    return {
        "case": case.name,
        "peer": case.peer,
        "fedkit_ms": round(median(seconds["ours"]) * 1000, 4),
        "peer_ms": round(median(seconds["theirs"]) * 1000, 4),
        "turns": case.turns,
        "said": case.said,
        **ratio(seconds["ours"], seconds["theirs"]),
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = ["| work | peer | fedkit, ms | peer, ms | peer / fedkit | turns |", "|---|---|---:|---:|---:|---:|"]
    for r in results:
        lines.append(
            f"| {r['case']} | {r['peer']} | {r['fedkit_ms']:,} | {r['peer_ms']:,} | {shown(r)} | {r['turns']} |"
        )
    return "\n".join([*lines, "", *(f"{r['said']}." for r in results if r["said"])])


def main(words: Sequence[str]) -> int:
    """Run every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options(parser, "a few turns: a look, not a result")
    chosen = parser.parse_args(words)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    np.random.seed(0)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        todo = [*accountant_cases(chosen.quick), ledger_case(Path(name), chosen.quick), *noise_cases(chosen.quick)]
        results = [measure(case) for case in todo]
    told = {"machine": machine(), "quick": chosen.quick, "results": results}
    print(table(results))
    leave(chosen, "parts", told, table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
