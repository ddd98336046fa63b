"""How long a coordinator takes to make a round's updates one model, beside Flower's classes on the same updates.

Both sides take turns in one process on updates that lie in memory; fedkit's robust strategies also read them from
files as a journal has them. Flower's ``aggregate_train`` gets its own messages, made outside the clock. Nothing is
timed before both sides have given the same model. Peak memory is measured in processes of their own.

    python experiments/benchmarks/bench_aggregation.py [--quick] [--write]
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray
from turns import free_memory, peak_in_a_process, peak_of, ratio, shown
from write import leave, machine, options

from fedkit.federation.flower_internals import local_identity
from fedkit.runs.updates import as_safetensors, mapped_update
from fedkit.strategies import STRATEGIES
from fedkit.strategies.robust import ROBUST
from fedkit.strategies.streaming import STREAMING, fold
from fedkit.types import ClientUpdate

Flat = NDArray[np.float32]
LEAST = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
LAYERS, DISTINCT = 20, 4
SAME = 2e-5
"""How far the two sides' models may be apart: Flower's sums are in float32."""
SHARE, WIDER = 0.02, 0.1
"""How far the first update lies from the others, of the model, and by what share of that each one more: sites that
train from one model agree more than they differ, and Flower's distances are off by 2 %: it could choose otherwise."""


@dataclass(frozen=True)
class Case:
    """One aggregation: so many updates of so many parameters."""

    strategy: str
    updates: int
    parameters: int
    turns: int
    arguments: dict[str, Any]

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.strategy}, {self.updates} x {self.parameters / 1e6:g}M"


def cases(quick: bool) -> list[Case]:
    """The mean that streams, and what must see all updates at once."""
    many, few, turns = (20, 2_000_000, 2) if quick else (100, 25_000_000, 5)
    wide = 1_000_000 if quick else 10_000_000
    liars = {"num_malicious_nodes": 3}
    if quick:
        names = {"fedavg": {}, "fedmedian": {}, "krum": liars}
        return [Case(name, 20, few if name == "fedavg" else wide, turns, how) for name, how in names.items()]
    return [
        Case("fedavg", many, few, turns, {}),
        *(
            Case(name, 20, wide, turns, arguments)
            for name, arguments in (("fedmedian", {}), ("fedtrimmedavg", {}), ("krum", liars), ("multikrum", liars))
        ),
        *(Case(name, 100, wide // 10, turns, {}) for name in ("fedmedian", "fedtrimmedavg", "krum")),
    ]


def update(index: int, size: int) -> Flat:
    """The update of one site: the same for the same index."""
    common = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
    own = np.random.default_rng(index + 1).standard_normal(size, dtype=np.float32)
    own *= np.float32(SHARE * (1 + WIDER * index))
    own += common
    return own


def messages(updates: Sequence[Flat], count: int) -> list[Message]:
    """What Flower's classes are given: full models, here from 0 on, in 20 layers; equal updates share their bytes."""
    ends = np.linspace(0, len(updates[0]), LAYERS + 1).astype(int)
    models = [{f"{i}": Array(u[a:b]) for i, (a, b) in enumerate(itertools.pairwise(ends))} for u in updates]
    replies = []
    with local_identity():
        for index in range(count):
            arrays = ArrayRecord(dict(models[index % len(models)]))
            content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": _weight(index)})})
            request = Message(RecordDict(), dst_node_id=index + 1, message_type="train")
            replies.append(Message(content, reply_to=request))
    return replies


def _weight(index: int) -> float:
    return float(index % 7 + 1)


def theirs(case: Case, replies: Sequence[Message]) -> Flat:
    """Flower's own class."""
    record, _ = STRATEGIES[case.strategy](**LEAST, **case.arguments).aggregate_train(1, replies)
    if record is None:
        raise RuntimeError(f"Flower's {case.strategy} gave no model")
    return np.concatenate([record[f"{layer}"].numpy().reshape(-1) for layer in range(LAYERS)]).astype(np.float32)


def ours(case: Case, updates: Sequence[Flat]) -> Flat:
    """fedkit's value of the same name; a mean takes one update at a time, whoever holds them."""
    start, size = np.zeros(case.parameters, np.float32), case.updates
    if case.strategy in ROBUST:
        several = [updates[index % len(updates)] for index in range(size)]
        return ROBUST[case.strategy](**case.arguments).finish(start, several, [_weight(i) for i in range(size)])
    strategy, mean, total = STREAMING[case.strategy](**case.arguments), np.zeros(case.parameters, np.float32), 0.0
    for index in range(size):
        total = fold(mean, total, updates[index % len(updates)], _weight(index))
    return strategy.finish(start, mean, strategy.init(case.parameters), 1)[0]


def stored(folder: Path, case: Case) -> list[Flat]:
    """The updates as a journal has them: a file each, mapped."""
    found = []
    for index in range(case.updates):
        path = folder / f"{index}.safetensors"
        with path.open("wb") as file:
            for part in as_safetensors([ClientUpdate("site", update(index, case.parameters), 1.0)]):
                file.write(part)
        found.append(mapped_update(path, "site"))
    return found


def copies(case: Case, updates: Sequence[Flat], target: Flat) -> None:
    """As many copies as there are updates: what memory gives, at the same time and under the same load."""
    for index in range(case.updates):
        np.copyto(target, updates[index % len(updates)])


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def timed(case: Case, held: Sequence[Flat], mapped: Sequence[Flat]) -> dict[str, list[float]]:
    """Seconds of each side, A B A B ...; a first turn warms up and is not kept."""
    third = "journal" if mapped else "copy"
    seconds: dict[str, list[float]] = {"ours": [], "theirs": [], third: []}
    target = np.zeros(0 if mapped else case.parameters, np.float32)
    for turn in range(-1, case.turns):
        # Flower takes its messages apart, so that each turn needs its own, made outside the clock.
        replies = messages(held, case.updates)
        spent = {"ours": _seconds(lambda: ours(case, held))}
        spent["theirs"] = _seconds(lambda replies=replies: theirs(case, replies))
        spent[third] = _seconds(lambda: ours(case, mapped) if mapped else copies(case, held, target))
        if turn >= 0:
            for side, value in spent.items():
                seconds[side].append(value)
    return seconds


def measure(case: Case) -> dict[str, Any]:
    """Time both sides of one case, and ask processes of their own for the peaks.

    Raises:
        RuntimeError: the two sides do not give the same model; nothing is timed.
    """
    robust = case.strategy in ROBUST
    with tempfile.TemporaryDirectory() as name:
        # A mean of a hundred large updates: four stand in for all, which would not fit.
        held = [update(index, case.parameters) for index in range(case.updates if robust else DISTINCT)]
        mapped = stored(Path(name), case) if robust else []
        off = float(np.abs(theirs(case, messages(held, case.updates)) - ours(case, held)).max())
        if not off < SAME:
            raise RuntimeError(f"{case.name}: fedkit and Flower differ by {off:g}; nothing is timed")
        seconds = timed(case, held, mapped)
        del held, mapped
    result: dict[str, Any] = {
        "case": case.name,
        "fedkit_s": round(median(seconds["ours"]), 3),
        "peer_s": round(median(seconds["theirs"]), 3),
        "turns": case.turns,
        **ratio(seconds["ours"], seconds["theirs"]),
    }
    if robust:
        result["journal_s"] = round(median(seconds["journal"]), 3)
    else:
        model = 4e-9 * case.parameters * case.updates
        share = [(3 / mean) / (2 / copy) for mean, copy in zip(seconds["ours"], seconds["copy"], strict=True)]
        result |= {
            "mean_gb_s": round(3 * model / median(seconds["ours"]), 1),
            "copy_gb_s": round(2 * model / median(seconds["copy"]), 1),
            "of_copy": round(median(share), 2),
        }
    words = (case.strategy, str(case.updates), str(case.parameters), json.dumps(case.arguments))
    fits = 4 * case.parameters * (3 * case.updates + 6) < free_memory()
    for side, wanted in (("fedkit", True), ("peer", fits)):
        found = peak_in_a_process(Path(__file__), side, *words) if wanted else None
        result[f"{side}_mb"] = None if found is None else round(found / 1e6, 1)
    return result


def peak(side: str, strategy: str, updates: int, parameters: int, arguments: dict[str, Any]) -> int:
    """Bytes that one side needs beside the model before the round, all updates different and as they come to it.

    To Flower's class they come as messages, all of them; to a mean one at a time; to a robust strategy of fedkit's as
    files.
    """
    case, small = Case(strategy, updates, parameters, 1, arguments), Case(strategy, updates, 1000, 1, arguments)
    few = [update(0, 1000)]
    if side == "peer":
        theirs(small, messages(few, updates))
        return peak_of(lambda: theirs(case, [m for i in range(updates) for m in messages([update(i, parameters)], 1)]))
    ours(small, few)
    if strategy not in ROBUST:
        only = [update(0, parameters)]
        return peak_of(lambda: ours(case, _Arriving(only)))
    with tempfile.TemporaryDirectory() as name:
        mapped = stored(Path(name), case)
        return peak_of(lambda: ours(case, mapped))


class _Arriving(list[Flat]):
    """Updates that are made when they are asked for."""

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(index).copy()


def table(results: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of all cases."""
    lines = [
        "| updates | fedkit, s | from a journal, s | Flower, s | Flower / fedkit | fedkit, MB | Flower, MB | turns |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in results:
        peer = "too much to measure" if r["peer_mb"] is None else f"{r['peer_mb']:,}"
        cells = [r["case"], f"{r['fedkit_s']:g}", f"{r['journal_s']:g}" if "journal_s" in r else "", f"{r['peer_s']:g}"]
        cells += [shown(r), f"{r['fedkit_mb']:,}", peer, str(r["turns"])]
        lines.append(f"| {' | '.join(cells)} |")
    mean = next((r for r in results if "copy_gb_s" in r), None)
    if mean is not None:
        lines += [
            "",
            f"The mean moves {mean['mean_gb_s']} GB/s (an update and the mean read, the mean written), NumPy copies in"
            f" turns with it {mean['copy_gb_s']} GB/s (read and written): a share of {mean['of_copy']:.0%}.",
        ]
    return "\n".join(lines)


def main(words: Sequence[str]) -> int:
    """Run every case and print the table."""
    if words[:1] == ["--peak"]:
        side, strategy, updates, parameters, arguments = words[1:]
        sys.stdout.write(f"{peak(side, strategy, int(updates), int(parameters), json.loads(arguments))}\n")
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options(parser, "small updates, few strategies, 2 turns: a look, not a result")
    chosen = parser.parse_args(words)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    results = []
    for case in cases(chosen.quick):
        results.append(measure(case))
        print(table(results[-1:]).splitlines()[2], flush=True)
    told = {"machine": machine(), "quick": chosen.quick, "results": results}
    print(f"\n{table(results)}")
    leave(chosen, "aggregation", told, table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
