"""The sum that :class:`fedkit.privacy.tap_sum.TapSum` takes of a block, in operations whose shapes are all public.

For a device to which each operation is handed without waiting for the one before: rows that do not count are not left
out, which would ask the device how many there are; they are multiplied by 0. A row's integers are those of
:mod:`fedkit.privacy.tap_sum`, whose proof holds as it stands: norms and factors are computed at a row's place, integers
are single multiplications and roundings, and their sums are exact in any order.

What is added is finer than the lattice where a part is a product: :class:`Grid` says by how many bits, and rounds a lot
once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fedkit.privacy.lattice import G
from fedkit.privacy.tap_sum import MOST_PLACES, PRODUCT_SHIFT, Explicit, Part, Product, clipping, integers, product_sum

MOST_BLOCKS = 1023
"""Blocks whose fine sums, each below 2**53, int64 holds."""


def block_sum(
    parts: Sequence[Part], told: Sequence[tuple[Tensor, ...]], present: Tensor, max_grad_norm: float
) -> Tensor:
    """The clipped sum of a block's rows.

    Args:
        told: as :meth:`fedkit.privacy.tap_sum.TapSum.add` takes it; may be overwritten. present: bool [places].
        max_grad_norm: C.

    Returns:
        int64 [d], in the order in which a model is packed; see :class:`Grid`.

    Raises:
        ValueError: more places than ``MOST_PLACES``.

    Guarantee: that of :class:`fedkit.privacy.tap_sum.TapSum`.
    """
    if len(present) > MOST_PLACES:
        raise ValueError(f"{len(present)} places in a block; at most {MOST_PLACES}")
    apart = [values[0] for part, values in zip(parts, told, strict=True) if isinstance(part, Explicit)]
    # In one piece, for each part would be as many operations as all of them.
    together = torch.cat([values.reshape(len(present), -1) for values in apart], 1) if apart else None
    factors, sizes = clipping(parts, told, max_grad_norm, together)
    counted = torch.isfinite(factors) & present
    factors = torch.where(counted, factors, 0.0)
    to_lattice, products = (factors * G).to(torch.float32), iter(sizes)
    # 0 times infinity is no number, and would be everybody's: what does not count is 0 before it is multiplied.
    if together is not None:
        added = integers(_only(counted, together), to_lattice).sum(0, dtype=torch.float64).to(torch.int64)
        explicit = iter(torch.split(added, [part.size for part in parts if isinstance(part, Explicit)]))
    found = []
    for part, values in zip(parts, told, strict=True):
        if isinstance(part, Product):
            size = torch.where(counted, next(products), 0.0)
            a, e = (_only(counted, each) for each in values)
            total = product_sum(part, a, e, size, factors).to(torch.int64)
            found += [total[:, : part.inputs].reshape(-1), total[:, part.inputs :].reshape(-1)]
        elif isinstance(part, Explicit):
            found.append(next(explicit))
        else:
            lines, entries = values[0].reshape(-1), integers(_only(counted, values[1]), to_lattice).to(torch.int64)
            table = torch.zeros((part.lines, part.columns), dtype=torch.int64, device=entries.device)
            found.append(table.index_add_(0, lines, entries.reshape(-1, part.columns)).reshape(-1))
    return torch.cat(found)


def bits_of(parts: Sequence[Part]) -> Tensor:
    """How many bits each number of :func:`block_sum` has below a lattice step, int64 [d]."""
    bits = [PRODUCT_SHIFT if isinstance(part, Product) else 0 for part in parts]
    return torch.tensor(bits).repeat_interleave(torch.tensor([part.size for part in parts]))


class Grid:
    """How fine the numbers of :func:`block_sum` are.

    Args:
        bits: int64, below a lattice step, of each number or of all of them.
    """

    def __init__(self, bits: Tensor) -> None:
        self._bits, self._half = bits, (1 << bits) >> 1

    def rounded(self, blocks: Iterable[Tensor], count: int) -> Tensor:
        """The sum of a lot's blocks on the lattice, int64 [..., d]; multiply by C / G for the sum itself.

        Args:
            blocks: so many sums, each of which may be overwritten once the next is asked for.
        """
        whole: Tensor | None = None
        fine: Tensor | None = None
        for at, block in enumerate(blocks):
            if fine is None:
                fine = block if count == 1 else block.clone()
                continue
            fine += block
            if at % MOST_BLOCKS == 0:
                # Whole lattice steps go elsewhere, to make room: exact.
                steps = fine >> self._bits
                whole = steps if whole is None else whole.add_(steps)
                fine &= ((self._half << 1) - 1).clamp_(min=0)
        if fine is None:
            raise ValueError("a lot has a block at least")
        found = (fine + self._half) >> self._bits
        return found if whole is None else found.add_(whole)


def _only(counted: Tensor, values: Tensor) -> Tensor:
    return torch.where(counted.view(-1, *[1] * (values.dim() - 1)), values, 0)
