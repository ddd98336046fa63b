"""Where lots and noise come from: the operating system (``Secure``) or a seed (``Seeded``, never private).

torch's generator serves neither purpose: it keeps 32 bits of a seed, and its float32 normals end at 5.768 sigma.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedkit.privacy.rounded_gaussian import rounded_gaussian
from fedkit.types import Int64

Float64 = NDArray[np.float64]
BoolMask = NDArray[np.bool_]


class Source(Protocol):
    """What a private step draws from."""

    def poisson_mask(self, n: int, q: float) -> BoolMask:
        """Which of n units join the lot, each with chance q, independently; bool [n]."""
        ...

    def rounded_gaussian(self, d: int, scale: float) -> Int64:
        """Independent normals of standard deviation ``scale``, rounded to integers; int64 [d]."""
        ...

    def permutation(self, n: int) -> Int64:
        """0 .. n - 1 in a random order: places, which need not be secret but must not depend on records."""
        ...

    def columns(self, n: int, width: int) -> Int64:
        """n independent uniform numbers below ``width``; int64 [n]."""
        ...

    def seed(self) -> int:
        """63 bits to seed a model's own random layers with."""
        ...


def derive_seed(*material: str | int) -> int:
    """128 bits from SHA-256 of the material, in which no two different sequences collide.

    >>> derive_seed(1, "ab") == derive_seed(1, "ab"), derive_seed(1, "ab") == derive_seed("1a", "b")
    (True, False)
    """
    encoded = json.dumps([*material], ensure_ascii=True, separators=(",", ":")).encode()
    return int.from_bytes(hashlib.sha256(encoded).digest()[:16], "little")


def generator(*material: str | int) -> np.random.Generator:
    """A counter-based (Philox) generator that depends on the material alone: (seed, round, site, purpose)."""
    seed = derive_seed(*material)
    key = np.array([seed & (2**64 - 1), seed >> 64], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


class Seeded:
    """Replayable randomness for simulations. Whatever it touches is NOT private: who knows the seed knows the noise.

    Args:
        material: (seed, round, site, purpose); all of it matters, else noise repeats and cancels across rounds.
    """

    def __init__(self, *material: str | int) -> None:
        self._generator = generator(*material)

    def poisson_mask(self, n: int, q: float) -> BoolMask:
        """Which of n units join the lot; bool [n]."""
        return self._generator.random(n) < q

    def rounded_gaussian(self, d: int, scale: float) -> Int64:
        """Philox normals times ``scale``, rounded; int64 [d]. Its bits are part of what a replay repeats."""
        return np.rint(self._generator.standard_normal(d) * scale).astype(np.int64)

    def permutation(self, n: int) -> Int64:
        """0 .. n - 1 in a random order."""
        return self._generator.permutation(n)

    def columns(self, n: int, width: int) -> Int64:
        """n independent uniform numbers below ``width``; int64 [n]."""
        return self._generator.integers(0, width, n)

    def seed(self) -> int:
        """63 bits to seed a model's own random layers with."""
        return int(self._generator.integers(0, 2**63))


class Secure:
    """AES-256-CTR under a fresh key from ``os.urandom``: no seed exists that could be recovered or repeated.

    Guarantee: as far as the stream cannot be told from random bits, ``rounded_gaussian`` has exactly the law of rounded
    ideal normals, and a unit joins a lot with a chance of at most q.
    """

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        # Sensitive: the key lives in the cipher only; nothing keeps or returns it.
        self._stream = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16))).encryptor()
        # Places and dropout: whoever knew them would learn nothing, and they are drawn without looking at a record.
        self._places = np.random.Generator(np.random.Philox(int.from_bytes(os.urandom(16))))

    def poisson_mask(self, n: int, q: float) -> BoolMask:
        """Which of n units join the lot, each with chance floor(q * 2**64) / 2**64; bool [n]."""
        bits, below = self._bits(n), int(q * 2.0**64)
        return bits < np.uint64(below) if below < 2**64 else np.ones(n, dtype=np.bool_)

    def rounded_gaussian(self, d: int, scale: float) -> Int64:
        """Ideal normals of standard deviation ``scale``, rounded: see :mod:`fedkit.privacy.rounded_gaussian`.

        Raises:
            PrivacyError: a scale out of bounds (FK315).
        """
        return rounded_gaussian(self._bits, d, scale)

    def permutation(self, n: int) -> Int64:
        """0 .. n - 1 in a random order."""
        return self._places.permutation(n)

    def columns(self, n: int, width: int) -> Int64:
        """n independent uniform numbers below ``width``; int64 [n]."""
        return self._places.integers(0, width, n)

    def seed(self) -> int:
        """63 bits to seed a model's own random layers with."""
        return int(self._places.integers(0, 2**63))

    def _bits(self, n: int) -> NDArray[np.uint64]:
        return np.frombuffer(self._stream.update(bytes(8 * n)), dtype=np.uint64)
