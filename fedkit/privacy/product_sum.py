"""The clipped sum of a lot without any row's gradient: exact integer matrix products, for layers ``W a``.

At a layer ``z = W a`` (the bias is the last column of W, and a 1 the last entry of a) a row's gradient is the outer
product of the loss's derivative ``e`` by z and of a, so its norm over all layers is ``sqrt(sum |a|^2 |e|^2)`` and the
sum over rows one matrix product. To keep that sum as exact as :class:`fedkit.privacy.lattice.LatticeSum`, which no
float product is, both factors become integers first: with f the row's clipping factor over C,

    u = round(2**b a / |a|)        v = round(2**c f |a| e)        b + c = 52 - ceil(log2(rows))

and ``sum v u'`` is an integer below 2**53 at every partial sum, in whatever order it is added: float64 holds it
exactly. It is then rounded once to the lattice of G = 2**26 steps a clip.

Proven, per unit (a row): ``|u| <= 2**b + sqrt(m) / 2`` and ``|v| <= 2**c f |a| |e| + sqrt(o) / 2`` for m inputs and o
outputs, and an outer product's norm is the product of the two; over layers (Minkowski) a row's integers have a norm of
at most ``1 + excess`` times 2**(b + c), :func:`excess`, in which 2**-40 covers the arithmetic of norms and factors in
float64. What other rows add does not move when a row joins or leaves: their u and v follow from their own values,
places and the parameters, and the sum is exact. Rounding to the lattice moves a coordinate of a difference by at most
one step: the sensitivity is at most ``G (1 + excess) + sqrt(d)``, and :func:`fits` admits only what keeps that within
``G slack(d)``, the bound that the noise is scaled by.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fedkit.privacy.lattice import G, slack

MOST_ROWS = 4096
"""Rows of a lot beyond which too few bits are left for the factors."""
_ARITHMETIC = 2.0**-40
_TINY = 1e-200


def product_bits(rows: int) -> tuple[int, int]:
    """b and c: bits of both factors, such that a sum over so many rows stays exact.

    >>> product_bits(1), product_bits(50), product_bits(4096)
    ((26, 26), (23, 23), (20, 20))
    """
    total = 52 - math.ceil(math.log2(max(1, rows)))
    return total // 2, total - total // 2


def excess(layers: Sequence[tuple[int, int]], rows: int) -> float:
    """By how much a clipped row's integers may exceed norm 1.

    Args:
        layers: (inputs with the bias, outputs) of each.
    """
    b, c = product_bits(rows)
    each = []
    for inputs, outputs in layers:
        of_u, of_v = math.sqrt(inputs) * 2.0 ** -(b + 1), math.sqrt(outputs) * 2.0 ** -(c + 1)
        each.append(of_u + of_v + of_u * of_v)
    return math.hypot(*each) + _ARITHMETIC


def fits(layers: Sequence[tuple[int, int]], rows: int) -> bool:
    """Whether lots of so many rows have a sensitivity within ``slack(d)``, which the noise is scaled by.

    >>> fits([(31, 64), (65, 32), (33, 2)], 50), fits([(31, 64), (65, 2)], 5000), fits([(50_000, 50_000)], 4000)
    (True, False, False)
    """
    d = sum(inputs * outputs for inputs, outputs in layers)
    return rows <= MOST_ROWS and 1.0 + excess(layers, rows) + math.sqrt(d) / G <= slack(d)


def clipped_sums(
    inputs: Sequence[Tensor], errors: Sequence[Tensor], present: Tensor, max_grad_norm: float, sums: Sequence[Tensor]
) -> None:
    """The lattice sums of many sites' lots at once.

    Args:
        inputs: a layer's ``a``, float32 [sites, rows, m], for each layer; where it has a bias the last entry is 1.
        errors: a layer's ``e``, float32 [sites, rows, o].
        present: bool [sites, rows], the rows that count.
        max_grad_norm: C.
        sums: float64 [sites, o, m] for each layer, overwritten: integers; multiply by C / G for the sum itself.

    Guarantee: see the module; a row whose gradient is not finite counts as 0.
    """
    b, c = product_bits(present.shape[1])
    for (u, v), total in zip(_factors(inputs, errors, present, max_grad_norm, look=True), sums, strict=True):
        torch.bmm(v.transpose(1, 2), u, out=total)
        total.mul_(G * 2.0 ** -(b + c)).round_()


def fine_sums(
    inputs: Sequence[Tensor], errors: Sequence[Tensor], present: Tensor, max_grad_norm: float
) -> list[Tensor]:
    """The sums of :func:`clipped_sums` before they are rounded to the lattice, without a look at a value.

    For a device to which each operation is handed without waiting for the one before.

    Args:
        inputs, errors, present, max_grad_norm: as there.

    Returns:
        int64 [sites, o, m] of each layer; ``2 ** fine_bits(rows)`` to a lattice step.

    Guarantee: as there. The sum of several blocks of a lot is to be rounded once: :func:`fedkit.privacy.tap_block`.
    """
    factors = _factors(inputs, errors, present, max_grad_norm, look=False)
    return [torch.bmm(v.transpose(1, 2), u).to(torch.int64) for u, v in factors]


def fine_bits(rows: int) -> int:
    """Bits that :func:`fine_sums` of so many rows have below a lattice step.

    >>> fine_bits(50), fine_bits(4096)
    (20, 14)
    """
    return sum(product_bits(rows)) - (G.bit_length() - 1)


def _factors(
    inputs: Sequence[Tensor], errors: Sequence[Tensor], present: Tensor, max_grad_norm: float, *, look: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each layer's integers u and v, float64; zeros for rows that do not count.

    Args:
        look: whether to ask if there is a row that is not finite, where an answer comes at once.
    """
    a = [part.double() for part in inputs]
    e = [part.double() for part in errors]
    sizes = [torch.linalg.vector_norm(part, dim=-1) for part in a]
    squares = torch.zeros_like(sizes[0])
    for size, part in zip(sizes, e, strict=True):
        squares.addcmul_(size.square(), part.square().sum(-1))
    finite = torch.isfinite(squares)
    factors = squares.sqrt_().reciprocal_().clamp_(max=1.0 / max_grad_norm)
    factors = torch.where(finite & present, factors, 0.0)
    if not (look and bool(finite.all())):
        # 0 times infinity is no number, and would be everybody's.
        left = ~finite[..., None]
        for part in (*a, *e):
            part.masked_fill_(left, 0.0)
        sizes = [torch.where(finite, size, 0.0) for size in sizes]
    b, c = product_bits(present.shape[1])
    for part, error, size in zip(a, e, sizes, strict=True):
        part.mul_((2.0**b / size.clamp(min=_TINY))[..., None]).round_()
        error.mul_((factors * size).mul_(2.0**c)[..., None]).round_()
        yield part, error
