"""Run a federation in a child process and kill -9 it again and again: python killed.py FOLDER STRATEGY KILLS.

Prints one line of JSON. Forked children share this process's imports, so that a kill falls into the run itself.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
from flwr.serverapp.strategy import FedMedian

from fedkit.federation.rounds import RoundLoop
from fedkit.runs.directory import RunDirectory, read_digests, reopen
from fedkit.runs.journal import open_journal
from fedkit.storage.atomic import append_line
from fedkit.strategies.robust import ROBUST
from fedkit.strategies.streaming import STREAMING
from tests.federation.scripted import ScriptedGrid, loop_over

SITES, ROUNDS, SIZE = ["va", "ch", "hungary", "cleveland"], 6, 20_000


def _loop(folder: Path, name: str, journal, shuffle: random.Random) -> RoundLoop:
    def order(waiting, _):
        return shuffle.sample(waiting, 1)

    grid = ScriptedGrid(dict.fromkeys(SITES), order)

    class Log(list):
        def append(self, entry):
            append_line(folder / "asked.jsonl", json.dumps(entry))

    grid.asked = Log()
    strategy = (
        FedMedian(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
        if name == "fedmedian"
        else {**STREAMING, **ROBUST}[name]()
    )
    return loop_over(grid, strategy=strategy, num_rounds=ROUNDS, size=SIZE, journal=journal,
                     timeout=600.0)  # fmt: skip


def _go(folder: Path, name: str, seed: int) -> None:
    directory = RunDirectory(folder)
    if (folder / "metrics.jsonl").exists():
        directory, last = reopen(folder)
    else:
        last = -1

    def on_round(report, parameters, updates):
        if updates:
            directory.write_updates(report.round, updates)
        if report.round > last:
            directory.append_round(report)

    with open_journal(folder / "journal") as journal:
        finish = _loop(folder, name, journal, random.Random(seed)).run(np.zeros(SIZE, np.float32), on_round)
    (folder / "model").write_bytes(finish.parameters.tobytes())
    (folder / "outcome").write_text(finish.outcome)


def _child(folder: Path, name: str, seed: int) -> int:
    child = os.fork()
    if not child:
        try:
            _go(folder, name, seed)
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(1)
        os._exit(0)
    return child


def main(root: Path, name: str, wanted: int) -> None:
    """Once without a kill, then with at least ``wanted`` of them."""
    whole, killed = root / "whole", root / "killed"
    whole.mkdir()
    killed.mkdir()
    start = time.monotonic()
    _, status = os.waitpid(_child(whole, name, 0), 0)
    assert status == 0
    seconds, generator, kills, seed = time.monotonic() - start, random.Random(1), 0, 0
    while True:
        seed += 1
        child = _child(killed, name, seed)
        if kills < wanted:
            time.sleep(generator.uniform(0, 2 * seconds / wanted))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if status == 0:
            break
        assert os.WIFSIGNALED(status), "the child failed"
        kills += 1
    asked: dict[str, set[str]] = {}
    for line in (killed / "asked.jsonl").read_text().splitlines():
        site, number, kind, digest = json.loads(line)
        asked.setdefault(f"{site}/{number}/{kind}", set()).add(digest)
    sys.stdout.write(
        json.dumps(
            {
                "kills": kills,
                "whole": [(whole / "model").read_bytes().hex()[:64], read_digests(whole)],
                "killed": [(killed / "model").read_bytes().hex()[:64], read_digests(killed)],
                "digests_a_question": max(map(len, asked.values())),
                "outcome": (killed / "outcome").read_text(),
                "recorded": [n for n in read_digests(killed) if n == 0 or RunDirectory(killed).read_updates(n)],
                "rounds": ROUNDS,
                "seconds_a_run": round(seconds, 2),
            }
        )
        + "\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
