"""A round's batches at several sites, each drawn as the reference draws them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii

import numpy as np

from fedkit.types import Int64, LocalPlan

_KEY = np.dtype("<u8")


class Shuffles:
    """As ``generator(seed, round, site, purpose)``, with one generator that is given each site's key.

    To make one takes longer than a small site's batches take.

    >>> from fedkit.privacy.randomness import generator
    >>> mine, its = Shuffles(1, 2, "batches").of("ä"), generator(1, 2, "ä", "batches")
    >>> mine.permutation(9).tolist() == its.permutation(9).tolist()
    True
    """

    def __init__(self, seed: int, number: int, purpose: str) -> None:
        self._before, self._after = f"[{json.dumps(seed)},{json.dumps(number)},", f",{json.dumps(purpose)}]"
        self._philox = np.random.Philox(key=0)
        self._generator = np.random.Generator(self._philox)
        self._fresh = self._philox.state
        self._state = self._fresh["state"]

    def of(self, site: str) -> np.random.Generator:
        """The site's generator from its beginning; it holds until the next is asked for."""
        material = f"{self._before}{encode_basestring_ascii(site)}{self._after}".encode()
        self._state["key"] = np.frombuffer(hashlib.sha256(material).digest(), _KEY, 2)
        self._philox.state = self._fresh
        return self._generator


def placed(
    names: Sequence[str], locals_: Sequence[LocalPlan], starts: Int64, places: int, nobody: int, shuffles: Shuffles
) -> Int64:
    """Which row stands in which place of which step, int64 [steps, sites, places], of sites with more steps first.

    Args:
        starts: each site's first row, and where the last one's end.
        nobody: stands in places without a row.

    >>> plan = LocalPlan(2, 2, 0.1, "sgd", None)
    >>> sorted(placed(["a"], [plan], np.array([5, 8]), 3, -1, Shuffles(1, 1, "batches")).ravel().tolist())
    [-1, -1, -1, 5, 6, 7]
    """
    found = np.full((len(names), locals_[0].steps, places), nobody, dtype=np.int64)
    for mine, name, local, at, end in zip(
        found, names, locals_, starts[:-1].tolist(), starts[1:].tolist(), strict=True
    ):
        count, batch = end - at, local.batch_size
        whole, a_pass = count // batch, -(-count // batch)
        order = shuffles.of(name)
        for first in range(0, local.steps, a_pass):
            shuffled = order.permutation(count)
            shuffled += at
            full = min(whole, local.steps - first)
            mine[first : first + full, :batch] = shuffled[: full * batch].reshape(full, batch)
            if whole < a_pass and first + whole < local.steps:
                mine[first + whole, : count - whole * batch] = shuffled[whole * batch :]
    return np.ascontiguousarray(found.transpose(1, 0, 2))
