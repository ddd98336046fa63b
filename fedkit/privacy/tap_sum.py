"""The clipped sum of a lot from what each layer tells of a row: factors of its gradient where they are enough.

A layer's part of a row's gradient comes in one of three forms:

- :class:`Product`: the outer product of two vectors (a Linear layer on vectors), which is never formed: both factors
  become integers, and the lot's sum is one exact matrix product, as in :mod:`fedkit.privacy.product_sum`;
- :class:`Explicit`: its values (a convolution, a norm), rounded to the lattice as :class:`LatticeSum` does it;
- :class:`Table`: values of some of a table's lines (an embedding), each line named once at most where it is not 0.

Proven. A row's norm is taken over all parts: of explicit values with a relative error of at most 1026 * 2**-25, as in
:mod:`fedkit.privacy.lattice`, of products in float64. Its clipping factor is applied to explicit values in float32 (at
most 2**-22), so before rounding all parts together have a norm of at most ``1 + 2**-14.8`` clips. Rounding adds, at
most and by the triangle inequality: sqrt(n) / 2 lattice steps for n explicit values and table entries; ``excess`` clips
for the factors of products (:func:`fedkit.privacy.product_sum.excess`, with bits for ``MOST_PLACES`` rows); and, as
product sums are rounded to the lattice once for the whole lot, one step in every coordinate of a difference of two such
sums. :func:`fits` admits only layers for which all this is at most ``G slack(d)``, which the noise is scaled by.

Compiled (:mod:`fedkit.privacy.tap_rows`; a model without tables), norms, factors and products with them are those of
float64, which all of this covers with room.

What other rows add does not move when a row joins or leaves. Norms are computed in arrays of a public shape in which
every row has its place (:mod:`fedkit.privacy.placement`); what follows, a row's integers, are single multiplications
and roundings, the same wherever they are done; and sums of integers are exact in any order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedkit.privacy.lattice import G, slack, unit_norms
from fedkit.privacy.product_sum import excess, product_bits
from fedkit.privacy.tap_rows import add_rows, lie_in_rows

MOST_PLACES = 256
"""Rows of a block."""
_BITS = product_bits(MOST_PLACES)
PRODUCT_SHIFT = sum(_BITS) - (G.bit_length() - 1)
"""Bits that a product sum has below a lattice step."""
_FLOAT32 = 2.0**-14.8
_TINY = 1e-200
_FOLD = 2**18
"""Rows after which int64 could run out of room for product sums."""


@dataclass(frozen=True)
class Product:
    """Of so many inputs, with a 1 for the bias behind them, and outputs; a row tells (a [inputs], e [outputs])."""

    inputs: int
    outputs: int
    bias: bool

    @property
    def width(self) -> int:
        """Inputs, and one for the bias."""
        return self.inputs + self.bias

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.width * self.outputs


@dataclass(frozen=True)
class Explicit:
    """A row tells (gradient [size],)."""

    size: int


@dataclass(frozen=True)
class Table:
    """A row tells (lines [k], values [k, columns]); a line that comes again has zeros the second time."""

    lines: int
    columns: int

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.lines * self.columns


Part = Product | Explicit | Table


def fits(parts: Sequence[Part]) -> bool:
    """Whether a row's integers stay within ``slack(d)``, which the noise is scaled by.

    >>> fits([Product(1568, 64, True), Explicit(4800)]), fits([Product(200_000, 200_000, False)])
    (True, False)
    """
    products = [(part.width, part.outputs) for part in parts if isinstance(part, Product)]
    of_products = sum(width * outputs for width, outputs in products)
    d = sum(part.size for part in parts)
    rounding = (math.sqrt(of_products) + math.sqrt(d - of_products) / 2) / G
    return 1.0 + _FLOAT32 + excess(products, MOST_PLACES) + rounding <= slack(d)


class TapSum:
    """The sum of the rows' clipped gradients on the lattice, block after block.

    Args:
        max_grad_norm: C, the bound of a row's norm over all parts together.
        compiled: whether to use the library, where there is one.

    Guarantee: where :func:`fits` holds, adding or removing a row changes the result by at most ``slack(d) * G`` in
    norm, whatever its values and as long as the others are given as before, in blocks of the same shape; a row whose
    norm is not finite counts as 0.
    """

    def __init__(self, parts: Sequence[Part], max_grad_norm: float, *, compiled: bool) -> None:
        self._parts, self._clip = parts, max_grad_norm
        self._compiled = compiled and not any(isinstance(part, Table) for part in parts)
        # Most lots are one block: what it adds is the sum, and nothing is added to zeros.
        self._totals: list[Tensor | None] = [None] * len(parts)
        self._below: list[Tensor | None] = [None] * len(parts)
        self._held = 0

    def add(self, told: Sequence[tuple[Tensor, ...]], present: Tensor) -> None:
        """Add a block.

        Args:
            told: of each part what its class says, float32 with lines int64, each [places, ...], at most
                ``MOST_PLACES``.
            present: bool [places], the rows that count; the others are in the block for its shape.

        Raises:
            ValueError: more places.
        """
        if len(present) > MOST_PLACES:
            raise ValueError(f"{len(present)} places in a block; at most {MOST_PLACES}")
        if self._compiled and lie_in_rows(told):
            self._add_compiled(told, present)
        else:
            self._add(told, present)
        if self._held >= _FOLD:
            self._fold()

    def _add_compiled(self, told: Sequence[tuple[Tensor, ...]], present: Tensor) -> None:
        """Norms and factors in float64, and a row's integers from it."""
        biases = [isinstance(part, Product) and part.bias for part in self._parts]
        first = self._held == 0 and all(total is None for total in (*self._totals, *self._below))
        make, sums = torch.empty if first else torch.zeros, []
        for at, part in enumerate(self._parts):
            held = self._below if isinstance(part, Product) else self._totals
            total = held[at]
            if total is None:
                total = held[at] = make(_shape(part), dtype=torch.int64)
            sums.append(total)
        units = float(G), 2.0 ** _BITS[0], 2.0 ** _BITS[1]
        places = np.flatnonzero(present.numpy())
        self._held += add_rows(told, biases, places, sums, self._clip, units, first=first)

    def _add(self, told: Sequence[tuple[Tensor, ...]], present: Tensor) -> None:
        factors, sizes = clipping(self._parts, told, self._clip)
        here = torch.nonzero(torch.isfinite(factors) & present)[:, 0]
        if not len(here):
            return
        factors = factors[here]
        to_lattice = (factors * G).to(torch.float32)
        products = iter(sizes)
        for at, (part, values) in enumerate(zip(self._parts, told, strict=True)):
            if isinstance(part, Product):
                added = product_sum(part, values[0][here], values[1][here], next(products)[here], factors)
                self._below[at] = _plus(self._below[at], added.to(torch.int64))
            elif isinstance(part, Explicit):
                added = integers(values[0][here], to_lattice).sum(0, dtype=torch.float64)
                self._totals[at] = _plus(self._totals[at], added.to(torch.int64))
            else:
                lines, entries = values[0][here].reshape(-1), integers(values[1][here], to_lattice).to(torch.int64)
                total = _plus(self._totals[at], torch.zeros(_shape(part), dtype=torch.int64))
                self._totals[at] = total.index_add_(0, lines, entries.reshape(-1, part.columns))
        self._held += len(here)

    def result(self) -> list[Tensor]:
        """int64 of each part, [outputs, width], [size] or [lines, columns]; multiply by C / G for the sum itself."""
        found = []
        for part, total, below in zip(self._parts, self._totals, self._below, strict=True):
            if below is not None:
                total = _plus(total, below.add(1 << (PRODUCT_SHIFT - 1)).bitwise_right_shift_(PRODUCT_SHIFT), keep=True)
            found.append(torch.zeros(_shape(part), dtype=torch.int64) if total is None else total)
        return found

    def _fold(self) -> None:
        """Move whole lattice steps to the totals; what is left is below one."""
        for at, below in enumerate(self._below):
            if below is not None:
                self._totals[at] = _plus(self._totals[at], below >> PRODUCT_SHIFT)
                below &= (1 << PRODUCT_SHIFT) - 1
        self._held = 0


def clipping(
    parts: Sequence[Part],
    told: Sequence[tuple[Tensor, ...]],
    max_grad_norm: float,
    together: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Each place's factor over C, NaN where its norm is not finite; and the norms of products' inputs.

    Args:
        together: the values of all explicit parts in one piece, float32 [places, numbers].
    """
    first = told[0][-1]
    squares = torch.zeros(len(first), dtype=torch.float64, device=first.device)
    leave = Product if together is None else Product | Explicit
    explicit = [values[-1] for part, values in zip(parts, told, strict=True) if not isinstance(part, leave)]
    explicit += [] if together is None else [together]
    if explicit:
        squares += unit_norms([values.reshape(len(values), -1) for values in explicit]).square_()
    sizes = []
    for part, values in zip(parts, told, strict=True):
        if isinstance(part, Product):
            a, e = values
            of_a = a.double().square_().sum(-1).add_(float(part.bias))
            squares.addcmul_(of_a, e.double().square_().sum(-1))
            sizes.append(of_a.sqrt_())
    factors = squares.sqrt().reciprocal_().clamp_(max=1.0 / max_grad_norm)
    return torch.where(torch.isfinite(squares), factors, math.nan), sizes


def _plus(total: Tensor | None, added: Tensor, *, keep: bool = False) -> Tensor:
    """The sum, in the place of ``total`` where that may be."""
    if total is None:
        return added
    return total + added if keep else total.add_(added)


def _shape(part: Part) -> tuple[int, ...]:
    if isinstance(part, Product):
        return part.outputs, part.width
    return (part.size,) if isinstance(part, Explicit) else (part.lines, part.columns)


def product_sum(part: Product, a: Tensor, e: Tensor, size: Tensor, factors: Tensor) -> Tensor:
    """The sum of so many rows' integer outer products, 2**sum(_BITS) a clip: exact in float64."""
    u = torch.ones(len(a), part.width, dtype=torch.float64, device=a.device)
    u[:, : part.inputs] = a
    u.mul_((2.0 ** _BITS[0] / size.clamp(min=_TINY))[:, None]).round_()
    v = e.double().mul_((factors * size).mul_(2.0 ** _BITS[1])[:, None]).round_()
    return v.t() @ u


def integers(values: Tensor, factors: Tensor) -> Tensor:
    """A row's values by its factor, rounded; in the place of the values."""
    return values.mul_(factors.view(-1, *[1] * (values.dim() - 1))).round_()
