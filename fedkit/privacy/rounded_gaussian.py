"""round(scale * Z) for an ideal standard normal Z, exactly: neither 53 bits nor float64 show in what comes out.

What is computed. Let U and V be uniform reals on (0, 1), that is infinite sequences of random bits, and
``X = scale * sqrt(-2 ln U) * (cos 2 pi V, sin 2 pi V)``: two independent ideal normals (Box and Muller 1958). The
result is ``round(X)``; only as many bits of U and V are drawn as it takes to know it. The first 52 of each say that U
and V lie in a cell of width 2**-52 (exactly: the midpoints u, v are odd multiples of 2**-53, which float64 holds). A
float64 candidate x is computed at the midpoints. With r = sqrt(-2 ln u), for EVERY U, V in the cell,

    |x - X| <= scale * (r * 2**-47 + 2**-51 / (u * r)) =: tol

1. U in the cell moves ln U by at most 2**-53 / (u - 2**-53) <= 1.5 * 2**-53 / u (where u > 2**-53), so r by at most
   twice that over r: .75 of the second term.
2. V moves cos and sin by at most 2 pi 2**-53 < 2**-50; the rounded angle is off by less than 2**-50; torch's cos and
   sin are taken to be within 2**-50, and numpy's log within 2**-50 of its size (four units in the last place or more);
   sqrt and products are correctly rounded. Together below half of the first term.

Why the candidate is the ideal value. Where x is nearer to an integer than 1/2 - tol - 2**-50, all X of the cell round
to that integer: whatever the bits not drawn, the ideal result is this one. Elsewhere (and always where U's cell reaches
0, whose tol is made at least .9) both uniforms are continued by 192 further random bits, and the same argument is made
in decimal arithmetic of as many digits as the smaller cell asks for, until the rounding is known. What was decided
early holds for every continuation, so both values of a pair belong to one and the same (U, V).

What is left. Given independent uniform bits the result has the law of round(scale * Z): no distance, and a tail without
end. A pair that is still open after ``ROUNDS`` continuations (a cell of 2**-1588) raises an error and releases nothing;
for scale <= 2**40 the chance is below 2**-1500. Two assumptions remain. The AES-CTR stream cannot be told from random
bits; n blocks under one key can, by counting repeats, with an advantage of n**2 / 2**129 (2**-70 for 1,500 steps at
d = 1e6), and nothing better is known. And these functions are as accurate as said (tests compare them with mpmath);
Decimal's ln and sqrt are correctly rounded by their specification. Time is not covered: a pair that is continued takes
.15 ms longer.

>>> rounded_gaussian(lambda n: np.arange(1, n + 1, dtype=np.uint64) << np.uint64(58), 4, 2.0**20).tolist()
[2893931, 2550516, 877864, 1056458]
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Context, Decimal, getcontext, localcontext

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import PrivacyError
from fedkit.types import Int64

Bits = Callable[[int], NDArray[np.uint64]]
"""n -> the next n words of 64 random bits of a stream."""

MAX_SCALE = 2.0**40
"""Every result is then an integer below 2**52: exact in float64, rint and int64."""
PREFIX = 52
WORDS = 3
ROUNDS = 8

CHUNK = 2**14
"""Pairs at once; what they need stays in a core's cache."""
DOUBTFUL = 0.5 - 2.0**-50
"""Distance from an integer, the bound added, from which on a candidate may not be its ideal value."""
_DROPPED, _ONE = np.uint64(64 - PREFIX), np.uint64(0x3FF << PREFIX)
_TO_MIDPOINT = 1.0 - 2.0**-53


def rounded_gaussian(bits: Bits, d: int, scale: float, more: Bits | None = None) -> Int64:
    """Independent ideal normals of standard deviation ``scale``, each rounded to the nearest integer; int64 [d].

    Args:
        bits: the stream; 2 * ceil(d / 2) words are drawn.
        scale: above 0, at most ``MAX_SCALE``.
        more: the stream of the six further words for each continuation of a pair; ``bits`` if None.

    Raises:
        PrivacyError: a scale out of bounds (FK315); a stream that cannot be random (FK316).

    Guarantee: if the streams' bits are independent and uniform, the result has exactly the stated law.
    """
    found = np.empty((1, d))
    fill_rounded_gaussians(found, bits, scale, more)
    whole: Int64 = found[0].astype(np.int64)
    return whole


def fill_rounded_gaussians(found: NDArray[np.float64], bits: Bits, scale: float, more: Bits | None = None) -> None:
    """Fill float64 [count, d] with what as many calls of :func:`rounded_gaussian` give, as whole numbers.

    With a stream of its own for what continues a pair, neither depends on how many are drawn at once.

    Raises:
        PrivacyError: as :func:`rounded_gaussian`.
    """
    check_scale(scale)
    count, d = found.shape
    pairs, more = (d + 1) // 2, more or bits
    if not pairs:
        return
    together = CHUNK // pairs
    for row in range(0, count, max(1, together)):
        if together:
            rows = found[row : row + together]
            rows[:] = _pairs_rounded(bits, more, scale, len(rows), pairs).reshape(len(rows), -1)[:, :d]
            continue
        whole = np.empty((2, pairs))
        for first in range(0, pairs, CHUNK):
            chunk = whole[:, first : first + CHUNK]
            chunk[:] = _pairs_rounded(bits, more, scale, 1, chunk.shape[1])[0]
        found[row] = whole.reshape(-1)[:d]


def check_scale(scale: float) -> None:
    """Refuse a standard deviation that is not above 0 or beyond ``MAX_SCALE``.

    Raises:
        PrivacyError: FK315.
    """
    if not 0.0 < scale <= MAX_SCALE:
        message = f"the noise's standard deviation is {scale} lattice steps; it must be above 0 and at most 2**40"
        raise PrivacyError(message, code="FK315", remedy="choose a noise multiplier between .1 and 10000")


def candidates(words: NDArray[np.uint64], scale: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The float64 values at the midpoints of the cells that the words name, and their bounds.

    Args:
        words: uint64 [..., 2, n]: U's prefix is the first 52 bits of row 0, V's those of row 1.

    Returns:
        float64 [..., 2, n], cosine and sine; float64 [..., n], tol as in the module's description.
    """
    # Not on the way of commands that only price a plan.
    import torch

    cells = words >> _DROPPED
    cells |= _ONE
    uv: NDArray[np.float64] = cells.view(np.float64)
    uv -= _TO_MIDPOINT  # [1, 2) minus a little less than 1: the midpoint, exactly
    u, angle = uv[..., 0, :], uv[..., 1, :]
    angle *= 2.0 * math.pi
    x = np.empty_like(uv)
    # torch's take a quarter of numpy's time.
    turned = torch.from_numpy(angle)
    torch.cos(turned, out=torch.from_numpy(x[..., 0, :]))
    torch.sin(turned, out=torch.from_numpy(x[..., 1, :]))
    radius = np.log(u, out=angle)
    radius *= -2.0
    np.sqrt(radius, out=radius)
    u *= radius
    # At least as for scale 2: the cell that reaches 0 must never pass.
    reach = max(scale, 2.0)
    tolerance = np.divide(reach * 2.0**-51, u, out=u)
    tolerance += radius * (reach * 2.0**-47)
    radius *= scale
    x *= radius[..., None, :]
    return x, tolerance


def _pairs_rounded(bits: Bits, more: Bits, scale: float, rows: int, pairs: int) -> NDArray[np.float64]:
    """Whole numbers, float64 [rows, 2, pairs]; a row's words come before the next one's."""
    words = bits(rows * 2 * pairs).reshape(rows, 2, pairs)
    x, tolerance = candidates(words, scale)
    nearest = np.rint(x)
    x -= nearest
    np.absolute(x, out=x)
    x += tolerance[:, None]
    if x.max() < DOUBTFUL:
        return nearest
    doubtful = x >= DOUBTFUL
    for row, index in np.argwhere(doubtful.any(1)):
        u, v = (int(word) >> (64 - PREFIX) for word in words[row, :, index])
        exact = continued(more, u, v, scale)
        for member in np.flatnonzero(doubtful[row, :, index]):
            nearest[row, member, index] = exact[member]
    return nearest


def continued(bits: Bits, u: int, v: int, scale: float) -> tuple[int, int]:
    """Both rounded members of the pair whose uniforms begin with these 52 bits, decided by as many more as it takes.

    Raises:
        PrivacyError: FK316, a stream that cannot be random.
    """
    width = PREFIX
    for _ in range(ROUNDS):
        more = [int(word) for word in bits(2 * WORDS)]
        for word in range(WORDS):
            u, v = u << 64 | more[word], v << 64 | more[WORDS + word]
        width += 64 * WORDS
        exact = _decide(u, v, width, scale)
        if exact is not None:
            return exact
    raise PrivacyError("the stream of random bits is stuck: a sample stayed open for 1,588 bits", code="FK316")


def _decide(u: int, v: int, width: int, scale: float) -> tuple[int, int] | None:
    """Both members, rounded, for U in (u, u + 1) / 2**width and V alike; None if the cell spans a boundary.

    The bound is that of the candidate with cell / 2 in place of 2**-53, and one cell for the arithmetic, which has 30
    digits more than a cell needs.
    """
    if u == 0:
        return None
    digits = math.ceil(width * math.log10(2)) + 30
    with localcontext(Context(prec=digits, rounding=ROUND_HALF_EVEN)):
        cell = Decimal(1) / (1 << width)
        low, middle = u * cell, (u + Decimal("0.5")) * cell
        radius = (-2 * middle.ln()).sqrt()
        bound = Decimal(scale) * cell * (1 / (low * radius) + 4 * radius + 1)
        decided = []
        # Half a turn back, for a short series: both values change sign.
        for value in _cos_sin((2 * v + 1 - (1 << width)) * _pi(digits) * cell):
            x = -Decimal(scale) * radius * value
            lowest, highest = (int((x + sign * bound).to_integral_value()) for sign in (-1, 1))
            if lowest != highest:
                return None
            decided.append(lowest)
    return decided[0], decided[1]


def _cos_sin(angle: Decimal) -> tuple[Decimal, Decimal]:
    """Taylor series to the last digit of the context; angle in [-pi, pi], whose largest term costs two digits."""
    sums, term, k = [Decimal(0), Decimal(0)], Decimal(1), 0
    smallest = Decimal(10) ** -getcontext().prec
    while abs(term) > smallest or k < 4:
        sums[k % 2] += -term if k & 2 else term
        k += 1
        term = term * angle / k
    return sums[0], sums[1]


@functools.lru_cache(maxsize=ROUNDS)
def _pi(digits: int) -> Decimal:
    """Machin 1706, with ten digits to spare; the rounding is the context's."""
    unit = 10 ** (digits + 10)

    def inverse_tangent(n: int) -> int:
        power, total, k = unit // n, 0, 1
        while power:
            total += -(power // k) if k & 2 else power // k
            power, k = power // (n * n), k + 2
        return total

    return Decimal(16 * inverse_tangent(5) - 4 * inverse_tangent(239)) / Decimal(unit)
