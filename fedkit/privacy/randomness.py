"""Where lots and noise come from: the operating system (``Secure``) or a seed (``Seeded``, never private).

Both share every line but where the key comes from. torch's generator serves neither purpose: it keeps 32 bits of a
seed, and its float32 normals end at 5.768 sigma.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import PrivacyError
from fedkit.privacy.normal_pairs import Words
from fedkit.privacy.rounded_gaussian import Bits, fill_rounded_gaussians, rounded_gaussian
from fedkit.types import Int64

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, modes

Float64 = NDArray[np.float64]
BoolMask = NDArray[np.bool_]

DRAWS = 2
"""How seeded lots and noise follow from a seed; a run that is to be trained again needs the same number.

1 (until 0.1.0's first release): Philox normals, one stream for all.
"""
_SCHEME = b"fedkit draws 2"
_ENCODE = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode
_ZEROS, _BLOCK = memoryview(bytes(2**18)), 16


class Source(Protocol):
    """What a private step draws from."""

    def poisson_mask(self, n: int, q: float) -> BoolMask:
        """Which of n units join the lot, each with chance q, independently; bool [n]."""
        ...

    def rounded_gaussian(self, d: int, scale: float) -> Int64:
        """Independent normals of standard deviation ``scale``, rounded to integers; int64 [d]."""
        ...

    def fill_rounded_gaussians(self, found: Float64, scale: float) -> None:
        """Fill float64 [count, d] with what as many calls of :meth:`rounded_gaussian` give, as whole numbers."""
        ...

    def permutation(self, n: int) -> Int64:
        """0 .. n - 1 in a random order: places, which need not be secret but must not depend on records."""
        ...

    def permutations(self, count: int, n: int) -> Int64:
        """What as many calls of :meth:`permutation` give; int64 [count, n]."""
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
    return int.from_bytes(hashlib.sha256(_encoded(material)).digest()[:16], "little")


def _encoded(material: Sequence[str | int]) -> bytes:
    return _ENCODE([*material]).encode()


def generator(*material: str | int) -> np.random.Generator:
    """A counter-based (Philox) generator that depends on the material alone: (seed, round, site, purpose)."""
    return _philox(derive_seed(*material).to_bytes(16, "little"))


class Draws:
    """What one step after another draws, from one key; :func:`Secure` and :func:`Seeded` differ by the key alone.

    Lots, noise, and places are streams of their own: each goes on by itself, whatever was drawn of the others and
    however many at once.

    Args:
        key: 32 bytes. Sensitive where the noise is to protect: it lives in the ciphers only, and a hash of it, for the
            few numbers that are continued.

    Raises:
        PrivacyError: FK316, whatever is drawn of lots or noise in a process that was forked from its own.

    Guarantee: as far as AES-256-CTR under the key cannot be told from random bits, ``rounded_gaussian`` has exactly the
    law of rounded ideal normals, and a unit joins a lot with a chance of at most q.
    """

    def __init__(self, key: bytes) -> None:
        self._lots, self._noise = keystreams(key, 2)
        self._further = hashlib.sha256(b"continued" + key).digest()
        # Whoever knew places and seeds would learn nothing; the hash keeps them from telling of the key.
        self._public = hashlib.sha512(b"places" + key).digest()

    def __reduce_ex__(self, _: Any) -> NoReturn:
        """Neither copied nor carried: a copy would draw what this one draws."""
        raise TypeError("a source of noise is neither copied nor pickled: make it where it is drawn from")

    def poisson_mask(self, n: int, q: float) -> BoolMask:
        """Which of n units join the lot, each with chance floor(q * 2**64) / 2**64; bool [n].

        Raises:
            PrivacyError: FK304, a q that is no chance.
        """
        bits, below = np.empty(n, dtype=np.uint64), joins_below(q)
        self._lots(bits)
        return bits < np.uint64(below) if below < 2**64 else np.ones(n, dtype=np.bool_)

    def rounded_gaussian(self, d: int, scale: float) -> Int64:
        """Ideal normals of standard deviation ``scale``, rounded: see :mod:`fedkit.privacy.rounded_gaussian`.

        Raises:
            PrivacyError: a scale out of bounds (FK315).
        """
        return rounded_gaussian(self._noise, d, scale, self._more)

    def fill_rounded_gaussians(self, found: Float64, scale: float) -> None:
        """Fill float64 [count, d] with what as many calls of :meth:`rounded_gaussian` give.

        Raises:
            PrivacyError: a scale out of bounds (FK315).
        """
        fill_rounded_gaussians(found, self._noise, scale, self._more)

    @property
    def noise(self) -> tuple[Bits, Bits]:
        """The words that ``rounded_gaussian`` is made of, and the further ones that continue a pair."""
        return self._noise, self._more

    def permutations(self, count: int, n: int) -> Int64:
        """So many times 0 .. n - 1 in a random order; int64 [count, n]."""
        return self._orders.permuted(np.broadcast_to(np.arange(n), (count, n)), axis=1)

    def permutation(self, n: int) -> Int64:
        """0 .. n - 1 in a random order."""
        only: Int64 = self.permutations(1, n)[0]
        return only

    def columns(self, n: int, width: int) -> Int64:
        """n independent uniform numbers below ``width``; int64 [n]."""
        return self._columns.integers(0, width, n)

    def seed(self) -> int:
        """63 bits to seed a model's own random layers with."""
        return int(self._seeds.integers(0, 2**63))

    def _more(self, words: Words) -> None:
        self._continued(words)

    @cached_property
    def _continued(self) -> Bits:
        return keystreams(self._further, 1)[0]

    @cached_property
    def _orders(self) -> np.random.Generator:
        return _philox(self._public[:16])

    @cached_property
    def _columns(self) -> np.random.Generator:
        return _philox(self._public[16:32])

    @cached_property
    def _seeds(self) -> np.random.Generator:
        return _philox(self._public[32:48])


def joins_below(q: float) -> int:
    """A unit joins a lot where 64 random bits, as a number, are below this: with a chance of at most q.

    Raises:
        PrivacyError: FK304, a q that is no chance.

    >>> joins_below(0.5) == 2**63, joins_below(1.0) == 2**64
    (True, True)
    """
    if not 0.0 <= q <= 1.0:
        message = f"sample_rate {q:g} is not between 0 and 1"
        raise PrivacyError(message, code="FK304", remedy="set privacy.sample_rate=0.05")
    return int(q * 2.0**64)


def seeded_key(*material: str | int) -> bytes:
    """The 32 bytes that :func:`Seeded` draws from."""
    return hashlib.sha256(_SCHEME + _encoded(material)).digest()


def secure_key() -> bytes:
    """32 fresh bytes from ``os.urandom``; sensitive, as far as the noise is to protect."""
    return os.urandom(32)


def Seeded(*material: str | int) -> Draws:
    """Replayable randomness for simulations. Whatever it touches is NOT private: who knows the seed knows the noise.

    Args:
        material: (seed, round, site, purpose); all of it matters, else noise repeats and cancels across rounds.
    """
    return Draws(seeded_key(*material))


def Secure() -> Draws:
    """Randomness under a fresh key from ``os.urandom``: no seed exists that could be recovered or repeated."""
    return Draws(secure_key())


def keystreams(key: bytes, count: int) -> list[Bits]:
    """Words of AES-256-CTR from the counters ``segment * 2**120`` on, for the first segments: no two of a key meet."""
    cipher, owner = _cipher(key), os.getpid()
    return [_keystream(cipher.encryptor(), segment, owner) for segment in range(count)]


def _cipher(key: bytes) -> Cipher[modes.CTR]:
    # Not on the way of commands that only price a plan.
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    return Cipher(algorithms.AES(key), modes.CTR(bytes(_BLOCK)))


def _keystream(stream: CipherContext, segment: int, owner: int) -> Bits:
    if segment:
        stream.reset_nonce((segment << 120).to_bytes(_BLOCK))

    def fill(words: Words) -> None:
        if os.getpid() != owner:
            raise PrivacyError(
                "a stream of random bits was taken along into another process, where it would give the same noise"
                " again",
                code="FK316",
                remedy="make the source in the process that draws from it",
            )
        into = words.view(np.uint8).data
        # The cipher asks for room for a block less a byte behind what it writes.
        direct = max(0, len(into) - _BLOCK)
        for at in range(0, direct, len(_ZEROS)):
            stream.update_into(_ZEROS[: direct - at], into[at:])
        into[direct:] = stream.update(_ZEROS[: len(into) - direct])

    return fill


def _philox(key: bytes) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype="<u8")))
