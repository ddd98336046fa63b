"""round(scale * Z) for an ideal standard normal Z, exactly: neither 53 bits nor float64 show in what comes out.

What is computed. Let U and V be uniform reals on (0, 1), that is infinite sequences of random bits, and
``X = scale * sqrt(-2 ln U) * (cos 2 pi V, sin 2 pi V)``: two independent ideal normals (Box and Muller 1958). The
result is ``round(X)``; only as many bits of U and V are drawn as it takes to know it. The first 52 of each say that U
and V lie in a cell of width 2**-52 (exactly: the midpoints u, v are odd multiples of 2**-53, which float64 holds). A
float64 candidate x is computed at the midpoints. With r = sqrt(-2 ln u), for EVERY U, V in the cell,

    |x - X| <= scale * (r * 2**-47 + 2**-51 / (u * r)) =: tol

1. U in the cell moves ln U by at most 2**-53 / (u - 2**-53) <= 1.5 * 2**-53 / u (where u > 2**-53), so r by at most
   twice that over r: .75 of the second term.
2. V moves cos and sin by at most 2 pi 2**-53 < 2**-50; the rounded angle is off by less than 2**-50; cos and sin are
   taken to be within 2**-50, and log within 2**-50 of its size (four units in the last place or more); sqrt and
   products are correctly rounded. Together below half of the first term.

Why the candidate is the ideal value. Where x is nearer to an integer than 1/2 - tol - 2**-50, all X of the cell round
to that integer: whatever the bits not drawn, the ideal result is this one. Elsewhere (and always where U's cell reaches
0, whose tol is made at least .9) both uniforms are continued by 192 further random bits, and the same argument is made
with 64, 128 and all of them, in decimal arithmetic of as many digits as the cell asks for, until the rounding is known.
What was decided early holds for every continuation, so both values of a pair belong to one and the same (U, V).

Whose log, cos and sin. Polynomials of fdlibm, written out (:mod:`fedkit.privacy.pair_candidate`): compiled, in
``fedkit/native/gaussian.c``, which is a third of the time; or, where there is no library, numpy's log and torch's cos
and sin, with twice the bound, and the polynomials for the few pairs that are not clear by that. Two candidates of such
errors lie less than tol apart: where one is clear by 2 tol, the other is clear by tol. So which pairs are continued,
and every number with it, follows from the words and the scale, whatever computes.

What is left. Given independent uniform bits the result has the law of round(scale * Z): no distance, and a tail without
end. A pair that is still open after ``ROUNDS`` continuations (a cell of 2**-1588) raises an error and releases nothing;
for scale <= 2**40 the chance is below 2**-1500. Two assumptions remain. The AES-CTR stream cannot be told from random
bits; n blocks under one key can, by counting repeats, with an advantage of n**2 / 2**129 (2**-70 for 1,500 steps at
d = 1e6), and nothing better is known. And log, cos and sin are as accurate as said: the polynomials, and numpy's and
torch's where they are used (tests compare all of them with mpmath); Decimal's ln and sqrt are correctly rounded by
their specification. Time is not covered: a pair that is continued takes .15 ms longer.

>>> def counting(words):
...     words[:] = np.arange(1, len(words) + 1, dtype=np.uint64) << np.uint64(58)
>>> rounded_gaussian(counting, 4, 2.0**20).tolist()
[2893931, 2550516, 877864, 1056458]
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Context, Decimal, getcontext, localcontext

import numpy as np

from fedkit.errors import PrivacyError
from fedkit.privacy.normal_pairs import Float64, Words, round_pairs
from fedkit.privacy.pair_candidate import PREFIX
from fedkit.types import Int64

Bits = Callable[[Words], None]
"""Fills uint64 [any] with the next words of 64 random bits of a stream."""

MAX_SCALE = 2.0**40
"""Every result is then an integer below 2**52: exact in float64, rint and int64."""
WORDS = 3
ROUNDS = 8

CHUNK = 2**14
"""Pairs at once; what they need stays in a core's cache."""


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


def fill_rounded_gaussians(found: Float64, bits: Bits, scale: float, more: Bits | None = None) -> None:
    """Fill float64 [count, d] with what as many calls of :func:`rounded_gaussian` give, as whole numbers.

    With a stream of its own for what continues a pair, neither depends on how many are drawn at once.

    Raises:
        PrivacyError: as :func:`rounded_gaussian`.
    """
    check_scale(scale)
    count, d = found.shape
    pairs, more = (d + 1) // 2, more or bits
    if not count or not pairs:
        return
    together = max(1, CHUNK // pairs)
    words = np.empty(2 * min(CHUNK, count * pairs), dtype=np.uint64)
    cosines, sines = found[:, :pairs], found[:, pairs:]
    for row in range(0, count, together):
        for first in range(0, pairs, CHUNK):
            place = slice(row, row + together), slice(first, first + CHUNK)
            _fill_pairs(cosines[place], sines[place], words, bits, more, scale)


def check_scale(scale: float) -> None:
    """Refuse a standard deviation that is not above 0 or beyond ``MAX_SCALE``.

    Raises:
        PrivacyError: FK315.
    """
    if not 0.0 < scale <= MAX_SCALE:
        message = f"the noise's standard deviation is {scale} lattice steps; it must be above 0 and at most 2**40"
        raise PrivacyError(message, code="FK315", remedy="choose a noise multiplier between .1 and 10000")


def _fill_pairs(cosines: Float64, sines: Float64, words: Words, bits: Bits, more: Bits, scale: float) -> None:
    """Float64 [rows, pairs] and [rows, pairs or one less]; a row's words come before the next one's."""
    rows, pairs = cosines.shape
    words = words[: 2 * rows * pairs]
    bits(words)
    by_row = words.reshape(rows, 2, pairs)
    for at in round_pairs(cosines, sines, by_row, scale).tolist():
        row, index = divmod(at, pairs)
        settle(cosines[row], sines[row], by_row[row], index, more, scale)


def settle(cosines: Float64, sines: Float64, words: Words, index: int, more: Bits, scale: float) -> None:
    """Fill a pair that its first words leave in doubt: float64 [pairs] and [pairs or one less], words [2, pairs].

    Raises:
        PrivacyError: FK316, a stream that cannot be random.
    """
    u, v = (int(word) >> (64 - PREFIX) for word in words[:, index])
    exact = continued(more, u, v, scale)
    cosines[index] = exact[0]
    if index < len(sines):
        sines[index] = exact[1]


def continued(bits: Bits, u: int, v: int, scale: float) -> tuple[int, int]:
    """Both rounded members of the pair whose uniforms begin with these 52 bits, decided by as many more as it takes.

    Raises:
        PrivacyError: FK316, a stream that cannot be random.
    """
    width, further = PREFIX, np.empty(2 * WORDS, dtype=np.uint64)
    for _ in range(ROUNDS):
        bits(further)
        more = further.tolist()
        for word in range(WORDS):
            u, v = u << 64 | more[word], v << 64 | more[WORDS + word]
            width += 64
            # What the first of these words decide holds whatever the others are; fewer digits take less time.
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
