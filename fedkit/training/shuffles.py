"""The generators of a round's batches, one site's after another's."""

from __future__ import annotations

import hashlib
import json
from json.encoder import encode_basestring_ascii

import numpy as np

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
