"""What vmap makes of a model's gradient, recorded as tensor operations: to make it anew takes longer than to run it.

A model whose forward draws no random number and keeps nothing does the same operations on every batch of one shape,
for vmap lets none look at a value. Recorded are those of a shape that has come often enough to pay for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

Named = dict[str, Tensor]
Gradient = Callable[[Named, Named, Tensor, Tensor], Named]
"""(trained values [sites, *shape] by name, those that are not trained, x, y, both [sites, rows, ...]) -> gradients."""

_PAYS = 0.15
"""Seconds that a shape's gradients have taken: about what recording takes."""
_MOST = 8
_CHECKS = 3


class Programs:
    """Recorded gradients of one model.

    Guarantee: a program is used once it gave the bits of the model's own gradient on three batches, and never where it
    gave others or could not be recorded.
    """

    def __init__(self) -> None:
        self._spent: dict[tuple[torch.Size, ...], float] = {}
        self._programs: dict[tuple[torch.Size, ...], Gradient] = {}
        self._checked: dict[tuple[torch.Size, ...], int] = {}

    def run(self, gradient: Gradient, values: Named, rest: Named, x: Tensor, y: Tensor) -> Named:
        """The gradient, by its program where it has one."""
        shape = (x.shape, y.shape)
        program = self._programs.get(shape)
        if program is not None and self._checked[shape] >= _CHECKS:
            return program(values, rest, x, y)
        begun = time.thread_time()
        found = gradient(values, rest, x, y)
        if program is not None:
            self._check(shape, program(values, rest, x, y), found)
        elif self._spent.setdefault(shape, 0.0) >= 0:
            self._spent[shape] += time.thread_time() - begun
            if self._spent[shape] > _PAYS and len(self._programs) < _MOST:
                self._record(shape, gradient, values, rest, x, y)
        return found

    def _record(
        self,
        shape: tuple[torch.Size, ...],
        gradient: Gradient,
        values: Named,
        rest: Named,
        x: Tensor,
        y: Tensor,
    ) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx

        try:
            program: Gradient = make_fx(gradient)(values, rest, x, y)
        except Exception:
            # Whatever a model's own code raises: the way that has worked so far goes on.
            self._spent[shape] = -1.0
            return
        self._programs[shape], self._checked[shape] = program, 0

    def _check(self, shape: tuple[torch.Size, ...], ours: Named, found: Named) -> None:
        if ours.keys() == found.keys() and all(torch.equal(ours[name], found[name]) for name in found):
            self._checked[shape] += 1
        else:
            del self._programs[shape]
            self._spent[shape] = -1.0
