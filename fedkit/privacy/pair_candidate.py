"""The float64 candidate of one pair of normals, and whether it settles the rounding.

Which pairs are continued by further bits follows from this arithmetic alone, wherever and however the others are
computed: else a seed would mean other noise where another library is a unit in the last place away. It is sums,
products, quotients and square roots of float64, which IEEE 754 leaves no choice of; ``fedkit/native/gaussian.c`` does
the same, four pairs at once.

The polynomials are fdlibm's (Sun Microsystems 1993), good to less than a unit in the last place on the intervals to
which both arguments are brought exactly.
"""

from __future__ import annotations

import math

PREFIX = 52
"""Bits of each uniform that a candidate is made of."""
LIMIT = 0.5 - 2.0**-50
"""What lies at least this far from an integer, with its bound, may round either way."""
ROUNDING = 1.5 * 2.0**52
"""Adding it and taking it off again rounds to the nearest integer, ties to even, where \\|x\\| < 2**51."""

_ROOT_HALF = 0.7071067811865476


def _read(*digits: str) -> tuple[float, ...]:
    return tuple(map(float.fromhex, digits))


_LN2 = _read("0x1.62e42feep-1", "0x1.a39ef35793c76p-33")
_ODD = _read("0x1.5555555555593p-1", "0x1.2492494229359p-2", "0x1.7466496cb03dep-3", "0x1.2f112df3e5244p-3")
_EVEN = _read("0x1.999999997fa04p-2", "0x1.c71c51d8e78afp-3", "0x1.39a09d078c69fp-3")
_SINE = (
    *_read("-0x1.5555555555549p-3", "0x1.111111110f8a6p-7", "-0x1.a01a019c161d5p-13"),
    *_read("0x1.71de357b1fe7dp-19", "-0x1.ae5e68a2b9cebp-26", "0x1.5d93a5acfd57cp-33"),
)
_COSINE = (
    *_read("0x1.555555555554cp-5", "-0x1.6c16c16c15177p-10", "0x1.a01a019cb1590p-16"),
    *_read("-0x1.27e4f809c52adp-22", "0x1.1ee9ebdb4b1c4p-29", "-0x1.8fae9be8838d4p-37"),
)


def pair_candidate(u: int, v: int, scale: float) -> tuple[float, float, float]:
    """Both members at the midpoints of the cells u and v of width 2**-52, and the bound of the module's description.

    Args:
        u: the first 52 bits of U, as a whole number; v: those of V.
        scale: above 0, at most ``MAX_SCALE`` of :mod:`fedkit.privacy.rounded_gaussian`, which has the proof.
    """
    middle = (2 * u + 1) * 2.0**-53
    radius = math.sqrt(-2.0 * logarithm(middle))
    cosine, sine = cosine_sine((2 * v + 1) * 2.0**-53)
    # At least as for scale 2: the cell that reaches 0 must never pass.
    reach = max(scale, 2.0)
    tolerance = reach * 2.0**-51 / (middle * radius) + reach * 2.0**-47 * radius
    radius *= scale
    return radius * cosine, radius * sine, tolerance


def settled(u: int, v: int, scale: float) -> tuple[float, float] | None:
    """Both members rounded, where all of the two cells round so; None where further bits must decide."""
    x, y, tolerance = pair_candidate(u, v, scale)
    nearest = (x + ROUNDING) - ROUNDING, (y + ROUNDING) - ROUNDING
    if abs(x - nearest[0]) + tolerance >= LIMIT or abs(y - nearest[1]) + tolerance >= LIMIT:
        return None
    return nearest


def logarithm(u: float) -> float:
    """ln u for u in (0, 1), to less than a unit in the last place."""
    mantissa, exponent = math.frexp(u)
    if mantissa < _ROOT_HALF:
        mantissa, exponent = 2.0 * mantissa, exponent - 1
    f = mantissa - 1.0
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    half = 0.5 * f * f
    series = z * _sum(_ODD, w) + w * _sum(_EVEN, w)
    return exponent * _LN2[0] - ((half - (s * (half + series) + exponent * _LN2[1])) - f)


def cosine_sine(v: float) -> tuple[float, float]:
    """Of the angle 2 pi v, v in (0, 1), each to less than 2**-52: quarter turns are taken off exactly."""
    quarters = 4.0 * v
    whole = (quarters + ROUNDING) - ROUNDING
    y = (quarters - whole) * (0.5 * math.pi)
    z = y * y
    half = 0.5 * z
    rest = 1.0 - half
    sine = y + (z * y) * _sum(_SINE, z)
    cosine = rest + (((1.0 - rest) - half) + z * z * _sum(_COSINE, z))
    turned = ((cosine, sine), (-sine, cosine), (-cosine, -sine), (sine, -cosine), (cosine, sine))
    return turned[int(whole)]


def _sum(coefficients: tuple[float, ...], z: float) -> float:
    total = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        total = coefficient + z * total
    return total
