"""The generators of a round's batches, one site's after another's."""

from __future__ import annotations

import hashlib
import json

import numpy as np


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

    def of(self, site: str) -> np.random.Generator:
        """The site's generator from its beginning; it holds until the next is asked for."""
        material = f"{self._before}{json.dumps(site)}{self._after}".encode()
        self._fresh["state"]["key"] = np.frombuffer(hashlib.sha256(material).digest()[:16], dtype="<u8")
        self._philox.state = self._fresh
        return self._generator
