"""Gradients of the mean loss of a batch, into one flat tensor.

Stacks of Linear and ReLU have a closed form that costs a fifth of autograd on small models, where a step is all
overhead; any other module goes through autograd. Both are the same gradient up to float32 rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedkit.training.losses import LOSSES, check_outputs
from fedkit.types import Task

BatchGradient = Callable[[Tensor, Tensor], Tensor]
"""(x [n, ...], targets [n]) -> float32 [d]; the tensor is overwritten by the next call."""


def batch_gradient(module: nn.Module, task: Task, flat: Tensor) -> BatchGradient:
    """The gradient function of a module whose trainable parameters are views of ``flat``.

    Args:
        flat: float32 [d] as ``fedkit.models.flat.attach`` returns it.
    """
    stack = _linear_stack(module)
    return _closed_form(stack, task, flat) if stack is not None else _autograd(module, task, flat)


def _autograd(module: nn.Module, task: Task, flat: Tensor) -> BatchGradient:
    parameters = [p for p in module.parameters() if p.requires_grad]
    result, loss = torch.zeros_like(flat), LOSSES[task.kind]

    def gradient(x: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            outputs = module(x)
            check_outputs(task, outputs, len(x))
            parts = torch.autograd.grad(loss(outputs, y, "mean"), parameters, allow_unused=True)
        at = 0
        for part, p in zip(parts, parameters, strict=True):
            result[at : at + p.numel()] = 0.0 if part is None else part.reshape(-1)
            at += p.numel()
        return result

    return gradient


def _closed_form(layers: list[nn.Module], task: Task, flat: Tensor) -> BatchGradient:
    result = torch.zeros_like(flat)
    blocks: list[tuple[Tensor, Tensor | None, Tensor, Tensor | None, bool]] = []
    at = 0
    for index, layer in enumerate(layers):
        if not isinstance(layer, nn.Linear):
            continue
        weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
        weight_gradient = result[at : at + weight.numel()].view_as(weight)
        at += weight.numel()
        bias_gradient = None if bias is None else result[at : at + len(bias)]
        at += 0 if bias is None else len(bias)
        relu = index + 1 < len(layers) and isinstance(layers[index + 1], nn.ReLU)
        blocks.append((weight.t(), bias, weight_gradient, bias_gradient, relu))
    residual = _RESIDUALS[task.kind]
    first, *_ = blocks

    def gradient(x: Tensor, y: Tensor) -> Tensor:
        hidden, inputs = (x if x.dim() == 2 else x.flatten(1)), []
        for weight_t, bias, _, _, relu in blocks:
            inputs.append(hidden)
            hidden = hidden @ weight_t if bias is None else torch.addmm(bias, hidden, weight_t)
            if relu:
                hidden = hidden.relu_()
        error = residual(hidden, y)
        for block, before in zip(reversed(blocks), reversed(inputs), strict=True):
            weight_t, _, weight_gradient, bias_gradient, _ = block
            torch.mm(error.t(), before, out=weight_gradient)
            if bias_gradient is not None:
                torch.sum(error, 0, out=bias_gradient)
            if block is not first:
                # ``before`` is a ReLU's output: its derivative is 0 exactly where it is 0.
                error = torch.mm(error, weight_t.t()).mul_(before > 0)
        return result

    return gradient


def _binary_residual(outputs: Tensor, y: Tensor) -> Tensor:
    return outputs.sigmoid_().sub_(y.unsqueeze(1)).div_(len(y))


def _multiclass_residual(outputs: Tensor, y: Tensor) -> Tensor:
    error = outputs.softmax(1)
    error[torch.arange(len(y)), y] -= 1.0
    return error.div_(len(y))


def _regression_residual(outputs: Tensor, y: Tensor) -> Tensor:
    return outputs.sub_(y.unsqueeze(1)).mul_(2.0 / len(y))


_RESIDUALS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "binary": _binary_residual,
    "multiclass": _multiclass_residual,
    "regression": _regression_residual,
}


def _linear_stack(module: nn.Module) -> list[nn.Module] | None:
    """The layers of a plain Flatten?, Linear, (ReLU, Linear)* in which every parameter is trainable, else None."""
    layers = list(module) if type(module) is nn.Sequential else [module]
    if any(_has_hooks(part) for part in [module, *layers]):
        return None
    if any(not p.requires_grad for p in module.parameters()):
        return None
    if layers and type(layers[0]) is nn.Flatten and (layers[0].start_dim, layers[0].end_dim) == (1, -1):
        layers = layers[1:]
    if len(layers) % 2 == 0:
        return None
    kinds = [nn.Linear if index % 2 == 0 else nn.ReLU for index in range(len(layers))]
    if any(type(layer) is not kind for layer, kind in zip(layers, kinds, strict=True)):
        return None
    linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
    tied = len({id(p) for layer in linears for p in layer.parameters()}) < sum(
        len(list(layer.parameters())) for layer in linears
    )
    parametrised = any(set(dict(layer.named_parameters())) - {"weight", "bias"} for layer in linears)
    return None if tied or parametrised else layers


def _has_hooks(module: nn.Module) -> bool:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(bool(getattr(module, name)) for name in names) or "forward" in module.__dict__
