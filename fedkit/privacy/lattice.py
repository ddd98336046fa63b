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

The last two are below ``2**-14`` together, and the noise is scaled by the slack: .006 % at d = 14, .007 % at d = 1e6.
Beyond ``LARGE`` parameters it is twice as much (.03 % at d = 1e8): room for sums of products, whose factors are rounded
as well (:mod:`fedkit.privacy.product_sum`), so that large models need no row's gradient either.

The other units' vectors do not move at all when a unit joins or leaves: a row's float32 gradient follows from its own
values, its place and the parameters (:mod:`fedkit.privacy.placement`), and so do its norm and its factor here, which
are computed in arrays of the same public shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fedkit.privacy.randomness import Float64, Source
from fedkit.types import Int64

G = 2**26
"""Fine enough that what rounding flips in the other units of a lot costs no noise at d = 1e6."""
_CPU = torch.device("cpu")
LARGE = 2**21
"""Parameters beyond which the sensitivity is bounded with twice the room."""
_BLOCK = 1024
_SMALL = 2**18
# So many integers of at most G (and their slack) stay below 2**31, which halves the traffic of 64 bits.
_EXACT = 16


def slack(d: int) -> float:
    """Sensitivity of the integer sum over G; at least 1, a function of the number of parameters only.

    >>> round(slack(14), 6), round(slack(10**6), 6), round(slack(10**8), 6)
    (1.000061, 1.000068, 1.000271)
    """
    if d <= LARGE:
        return 1.0 + 2.0**-14 + math.sqrt(d) / (2 * G)
    return 1.0 + 2.0**-13 + math.sqrt(d) / G


class LatticeSum:
    """The sum of units' clipped gradients on the lattice, block after block.

    Args:
        d: number of parameters.
        max_grad_norm: C, the bound of a unit's norm over all parameters together.
        device: where the gradients are; the proof asks nothing of the order of float32 sums, so it holds on a GPU.

    Guarantee: adding or removing a unit changes the result by at most ``slack(d) * G`` in norm, whatever its gradient
    and as long as the others are given as before; a gradient that is not finite counts as 0. Sums are exact, so the
    order of blocks is of no account.
    """

    def __init__(self, d: int, max_grad_norm: float, device: torch.device = _CPU) -> None:
        self._clip = max_grad_norm
        self._total = torch.zeros(d, dtype=torch.int64, device=device)
        # A GPU adds a block's rows at once: one after the other, most of the time would go to starting kernels.
        self._at_once = math.inf if device.type == "cuda" else _SMALL
        self._partial: Tensor | None = None
        self._held = 0

    def add(self, gradients: Sequence[Tensor], present: Tensor | None = None) -> None:
        """Add the units of a block.

        Args:
            gradients: one float32 [units, *shape] a parameter. Values that are not finite are overwritten with 0.
            present: bool [units], those that count; all of them if None. The others are in the block for its shape.
        """
        flat = [gradient.reshape(len(gradient), -1) for gradient in gradients]
        norms = unit_norms(flat)
        left_out = ~torch.isfinite(norms)
        if present is not None:
            left_out |= ~present
        factors = (torch.clamp(self._clip / norms, max=1.0) * (G / self._clip)).to(torch.float32)
        if len(norms) * len(self._total) <= self._at_once:
            if bool(left_out.any()):
                factors = torch.where(left_out, 0.0, factors)
                for part in flat:
                    part[left_out] = 0.0
            self._total += torch.cat([_integers(part, factors[:, None]).sum(0, dtype=torch.int64) for part in flat])
            return
        for row in torch.nonzero(~left_out)[:, 0].tolist():
            self._add_row([part[row] for part in flat], factors[row])

    def result(self) -> Tensor:
        """int64 [d], on the CPU; multiply by C / G for the sum itself."""
        self._flush()
        return self._total.cpu()

    def _add_row(self, parts: Sequence[Tensor], factor: Tensor) -> None:
        if self._partial is None:
            self._partial = torch.zeros_like(self._total, dtype=torch.int32)
        at = 0
        for part in parts:
            # What is made of a piece stays in a core's cache; of a whole layer it would be more pages of memory.
            for piece in torch.split(part, _SMALL):
                self._partial[at : at + len(piece)] += _integers(piece, factor)
                at += len(piece)
        self._held += 1
        if self._held == _EXACT:
            self._flush()

    def _flush(self) -> None:
        if self._held and self._partial is not None:
            self._total += self._partial
            self._partial.zero_()
            self._held = 0


def unit_norms(gradients: Sequence[Tensor]) -> Tensor:
    """Norms of the units' gradients over all parameters; float64 [units]."""
    squares = torch.zeros(len(gradients[0]), dtype=torch.float64, device=gradients[0].device)
    for part in gradients:
        units, d = part.shape
        whole = d - d % _BLOCK
        if whole:
            blocks = torch.linalg.vector_norm(part[:, :whole].reshape(units, -1, _BLOCK), dim=-1)
            squares += blocks.double().square_().sum(-1)
        if whole < d:
            squares += torch.linalg.vector_norm(part[:, whole:], dim=-1).double().square_()
    return squares.sqrt_()


def integer_noise(source: Source, d: int, noise_multiplier: float) -> Int64:
    """Gaussian noise of standard deviation ``noise_multiplier * slack(d) * G``, rounded; int64 [d].

    Raises:
        PrivacyError: a noise multiplier of 0 or below, or far beyond 10,000 (FK315; secure noise only).

    Guarantee: with a ``Secure`` source, the exact law of a rounded ideal Gaussian.
    """
    return source.rounded_gaussian(d, noise_multiplier * slack(d) * G)


def fill_integer_noise(found: Float64, source: Source, noise_multiplier: float) -> None:
    """Fill float64 [steps, d] with what as many calls of :func:`integer_noise` give, as whole numbers.

    Raises:
        PrivacyError: as :func:`integer_noise`.
    """
    source.fill_rounded_gaussians(found, noise_multiplier * slack(found.shape[1]) * G)


def _integers(part: Tensor, factor: Tensor) -> Tensor:
    return (part * factor).round_().to(torch.int32)
