"""The peak of a round's memory in models: python measured_memory.py FOLDER STRATEGY PARAMETERS SITES.

The first site answers last. Prints one line of JSON. Counted: what Python and NumPy allocate from before the loop
starts, the untrained model not included.
"""

import json
import sys
import tracemalloc
from pathlib import Path

import numpy as np
from flwr.app import Message, RecordDict

from fedkit.federation import wire
from fedkit.federation.flower_internals import assign_id
from fedkit.runs.journal import open_journal
from fedkit.strategies.robust import ROBUST
from fedkit.strategies.streaming import STREAMING
from fedkit.types import ClientUpdate
from tests.federation.scripted import ScriptedGrid, loop_over


def main(folder: Path, name: str, size: int, sites: int) -> None:
    """Two rounds."""
    delta = np.random.default_rng(0).normal(size=size).astype(np.float32) * np.float32(1e-3)

    def answer(site: str, message: Message) -> RecordDict:
        return wire.pack_update(ClientUpdate(site, delta, float(len(site))))

    names = [f"site{index:02d}" for index in range(sites)]

    class LeanGrid(ScriptedGrid):
        """Keeps no request in this process, and looks into none."""

        def push_messages(self, messages):
            for message in messages:
                message.content = RecordDict()
                self.waiting[assign_id(message)] = (self.nodes[message.metadata.dst_node_id], message)
            return list(self.waiting)

    grid = LeanGrid(dict.fromkeys(names, answer), lambda waiting, _: [w for w in waiting if w != names[0]] or waiting)
    strategy = {**STREAMING, **ROBUST}[name]()
    with open_journal(folder / "journal") as journal:
        loop = loop_over(grid, strategy=strategy, num_rounds=2, size=size, journal=journal, timeout=600.0,
                         evaluates=frozenset(), measures={})  # fmt: skip
        tracemalloc.start()
        parameters = [np.zeros(size, np.float32)]
        before, _ = tracemalloc.get_traced_memory()
        finish = loop.run(parameters.pop(), lambda *_: None)
        _, peak = tracemalloc.get_traced_memory()
    sys.stdout.write(json.dumps({"models": round((peak - before) / (4 * size), 3), "outcome": finish.outcome}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
