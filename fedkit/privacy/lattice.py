"""The noisy sum of a lot as an exact addition of integers.

Each unit's gradient is clipped to norm C, scaled by G / C with G = 2**26 and rounded to integers; the sum of integers
is exact in any order, so the sum of a lot has no floating-point sensitivity of its own. Noise is an ideal Gaussian
rounded to integers (:mod:`fedkit.privacy.rounded_gaussian`: exactly, given random bits), so ``S + N = round(S +
gaussian)`` is post-processing of the continuous Gaussian mechanism and the ordinary accounting applies (privacy loss of
finite-precision Gaussians: Mironov 2012; Casacuberta et al. 2022).

Proven. A unit's own integer vector has a norm of at most ``slack(d) * G``:

- rounding to integers moves each coordinate by at most 1/2: at most ``sqrt(d) / 2`` in norm, ``sqrt(d) / (2 G)`` of G;
- its norm is computed from float32 squares in blocks of 1,024, blocks added in float64: relative error at most
  ``1026 * 2**-25`` < ``2**-14.9``;
- scale and product are rounded to float32: relative error at most ``2**-22``.

The last two are below ``2**-14`` together, and the noise is scaled by the slack, which costs .006 % at d = 14 and .05 %
more at d = 1e6.

Measured. The other units' float32 gradients move with the rows that share their forward pass, since a matrix product
sums in an order that depends on its shape. When rows join or leave, a clipped gradient is taken to move by at most
``MOVED`` = 2**-14 of C before it is rounded. The worst seen on the models on offer, with lots of up to 512 rows (tests
measure it): 2**-20.9 with inputs of size 1, weights as initialised and d up to 1e6; 2**-15.2 with weights of three
times and inputs of four times that, at C = .1. The move grows with a row's norm over C (220 in that worst case, which
multiplies an error of 2**-24 in p - y) and with the outputs (2**-13 was seen where those reach 2,000): what lies far
beyond such inputs is not covered.

Follows from it. A move of e before rounding is one of at most e + 1 in each coordinate after it, so of at most
``MOVED + sqrt(d) / G`` of G in norm, and that for each of the lot's units, which may all move alike: the term of
``max_lot`` in ``slack``. It is the worst case: whole sums were seen to move by 2**-14.7 of G.

Neither. A ReLU whose input is within rounding of 0 (about 1e-7 of the terms it sums) may switch with the batch, and
that row's gradient then moves by more than MOVED, by 2 C at most. No bound here covers it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fedkit.privacy.randomness import Source
from fedkit.types import Int64

G = 2**26
"""Fine enough that what rounding flips in the other units of a lot costs no noise at d = 1e6."""
MOVED = 2.0**-14
_BLOCK = 1024
_SMALL = 2**18
# So many integers of at most G (and their slack) stay below 2**31, which halves the traffic of 64 bits.
_EXACT = 16


def slack(d: int, max_lot: int = 0) -> float:
    """Sensitivity of the integer sum over G; at least 1, a function of declared constants only.

    Args:
        d: number of parameters.
        max_lot: public bound on the units of a lot, for what a unit does to the rounding of the others; 0 counts
            the unit's own vector only.

    >>> round(slack(14), 6), round(slack(14, 64), 6), round(slack(10**6, 125), 6)
    (1.000061, 1.003971, 1.009561)
    """
    return 1.0 + 2.0**-14 + math.sqrt(d) / (2 * G) + max_lot * (MOVED + math.sqrt(d) / G)


def clipped_sum(gradients: Sequence[Tensor], max_grad_norm: float) -> Tensor:
    """The sum of the units' clipped gradients on the lattice.

    Args:
        gradients: one float32 [units, *shape] a parameter. Values that are not finite are overwritten with 0.
        max_grad_norm: C, the bound of a unit's norm over all parameters together.

    Returns:
        int64 [d]; multiply by C / G for the sum itself.

    Guarantee: adding or removing a unit changes the result by at most ``slack(d) * G`` in norm, whatever its gradient
    and as long as the others are given as before; a gradient that is not finite counts as 0.
    """
    flat = [gradient.reshape(len(gradient), -1) for gradient in gradients]
    norms = unit_norms(flat)
    bad = ~torch.isfinite(norms)
    if bool(bad.any()):
        for part in flat:
            part[bad] = 0.0
        norms = torch.where(bad, 0.0, norms)
    factors = (torch.clamp(max_grad_norm / norms, max=1.0) * (G / max_grad_norm)).to(torch.float32)
    return torch.cat([_integer_sum(part, factors) for part in flat])


def unit_norms(gradients: Sequence[Tensor]) -> Tensor:
    """Norms of the units' gradients over all parameters; float64 [units]."""
    squares = torch.zeros(len(gradients[0]), dtype=torch.float64)
    for part in gradients:
        units, d = part.shape
        whole = d - d % _BLOCK
        if whole:
            blocks = torch.linalg.vector_norm(part[:, :whole].reshape(units, -1, _BLOCK), dim=-1)
            squares += blocks.double().square_().sum(-1)
        if whole < d:
            squares += torch.linalg.vector_norm(part[:, whole:], dim=-1).double().square_()
    return squares.sqrt_()


def integer_noise(source: Source, d: int, noise_multiplier: float, max_lot: int = 0) -> Int64:
    """Gaussian noise of standard deviation ``noise_multiplier * slack(d, max_lot) * G``, rounded; int64 [d].

    Raises:
        PrivacyError: a noise multiplier of 0 or below, or far beyond 10,000 (FK315; secure noise only).

    Guarantee: with a ``Secure`` source, the exact law of a rounded ideal Gaussian.
    """
    return source.rounded_gaussian(d, noise_multiplier * slack(d, max_lot) * G)


def _integer_sum(part: Tensor, factors: Tensor) -> Tensor:
    """Sum over units of round(gradient * factor); int64 [d]. Exact: every partial sum is an integer below 2**53."""
    units, d = part.shape
    if units * d <= _SMALL:
        return (part * factors[:, None]).round_().sum(0, dtype=torch.float64).to(torch.int64)
    total = torch.zeros(d, dtype=torch.int64)
    for first in range(0, units, _EXACT):
        partial = torch.zeros(d, dtype=torch.int32)
        for row in range(first, min(first + _EXACT, units)):
            partial += (part[row] * factors[row]).round_().to(torch.int32)
        total += partial
    return total
