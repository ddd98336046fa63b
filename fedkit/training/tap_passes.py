"""One forward pass and one backward pass to the layers' outputs: what taps of a model tell of each row of an array.

Inputs and outputs of the layers are taken as they pass; the loss's derivatives by the outputs are all that autograd is
asked for; what a layer tells of a row follows from both (Goodfellow 2015; Li et al. 2022; Bu et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedkit.privacy.independence import refusal
from fedkit.training.tap_layers import KINDS, Told
from fedkit.training.tapped import Tapped, leaves

Loss = Callable[[Tensor], Tensor]
"""Outputs [rows, ...] -> one number."""
_Seen = tuple[Tensor, Tensor, int, int]


class Passes:
    """Passes through one copy of a model, whose parameters want no gradient of their own; see :func:`passes`."""

    def __init__(self, module: nn.Module, tapped: Tapped) -> None:
        self._module, self._taps = module, tapped.taps
        self._layers = [module.get_submodule(tap.name) for tap in tapped.taps]
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self._seen: dict[int, _Seen] | None = None
        of = {layer: index for index, layer in enumerate(self._layers)}
        # Where modules follow one another they are called by hand: a call by torch takes as long as a small layer.
        self._chain = [(part.forward, of.get(part)) for part in leaves(module)] if tapped.proven else None

    def told(self, x: Tensor, loss: Loss) -> tuple[Tensor, list[Told]]:
        """Outputs, and what each part of the model tells of each row.

        Where ``x`` wants a gradient, the loss's derivative by it comes last, as if a further part told it.

        Raises:
            TrainingError: FK404, a layer is called twice or not at all, does not keep the rows as first dimension, or
                took something that is written over.
        """
        self._seen = {}
        try:
            with torch.enable_grad():
                outputs = self._forward(x)
                value = loss(outputs)
            if len(self._seen) != len(self._layers):
                raise refusal("a layer is not called")
            seen = [self._seen[index] for index in range(len(self._layers))]
            asked = [output for _, output, _, _ in seen] + ([x] if x.requires_grad else [])
            errors = torch.autograd.grad(value, asked, allow_unused=True)
        finally:
            self._seen = None
        found: list[Told] = []
        rows = x.shape[0]
        with torch.no_grad():
            for layer, tap, (a, output, before, after), e in zip(self._layers, self._taps, seen, errors, strict=False):
                if (a._version, output._version) != (before, after):
                    raise refusal(f"what {tap.name} took or gave is written over")
                if a.shape[0] != rows or output.shape[0] != rows:
                    raise refusal(f"{tap.name} does not keep the batch as the first dimension")
                found += KINDS[tap.kind].told(layer, a, torch.zeros_like(output) if e is None else e)
            if x.requires_grad:
                found.append((torch.zeros_like(x) if errors[-1] is None else errors[-1],))
        return outputs, found

    def of_sum(self, x: Tensor, loss: Loss) -> list[Tensor]:
        """The gradient of the loss by the trainable parameters, the ordinary way."""
        for p in self.parameters:
            p.requires_grad_(True)
        try:
            with torch.enable_grad():
                value = loss(self._module(x))
            found = torch.autograd.grad(value, self.parameters, allow_unused=True)
        finally:
            for p in self.parameters:
                p.requires_grad_(False)
        return [torch.zeros_like(p) if g is None else g for g, p in zip(found, self.parameters, strict=True)]

    def see(self, index: int, given: Tensor, output: Tensor) -> None:
        """Take a layer's tensors as they pass."""
        if self._seen is None:
            return
        if index in self._seen:
            raise refusal(f"{self._taps[index].name} is called a second time")
        if not output.requires_grad:
            output.requires_grad_()
        self._seen[index] = given.detach(), output, given._version, output._version

    def _forward(self, x: Tensor) -> Tensor:
        if self._chain is None:
            outputs: Tensor = self._module(x)
            return outputs
        for forward, index in self._chain:
            given, x = x, forward(x)
            if index is not None:
                self.see(index, given, x)
        return x


@contextmanager
def passes(module: nn.Module, tapped: Tapped) -> Iterator[Passes]:
    """Tap a model in training mode; what is changed of it is put back at the end."""
    was_training = module.training
    found, hooks = Passes(module, tapped), []
    module.train()
    try:
        for index, tap in enumerate(() if tapped.proven else tapped.taps):
            hooks.append(module.get_submodule(tap.name).register_forward_hook(_seen_by(found, index)))
        for p in found.parameters:
            p.requires_grad_(False)
        yield found
    finally:
        for hook in hooks:
            hook.remove()
        # Of a copy that is let go of the garbage collector does it, maybe while vmap runs, which refuses the method.
        for p in found.parameters:
            p.requires_grad = True
        module.train(was_training)


def _seen_by(found: Passes, index: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    return lambda _, given, output: found.see(index, given[0], output)
