"""What a model must be for a closed form: Linear layers with pointwise functions between them, and nothing else.

Then a row's output follows from that row alone by construction, and both passes are matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Forward = Callable[[Tensor], Tensor]
Backward = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(gradient by the output, input, output) -> gradient by the input."""


@dataclass(frozen=True)
class Pointwise:
    """A function of single numbers, and its derivative as autograd has it.

    Attributes:
        name: of those whose derivative follows from their output.
    """

    forward: Forward
    backward: Backward
    name: str = ""

    @property
    def relu(self) -> bool:
        """Whether it is ReLU, which rounds nothing."""
        return self.name == "relu"


@dataclass(frozen=True)
class Layer:
    """One Linear layer and the pointwise functions after it."""

    inputs: int
    outputs: int
    bias: bool
    after: tuple[Pointwise, ...]

    @property
    def width(self) -> int:
        """Inputs, and one for the bias."""
        return self.inputs + self.bias

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.width * self.outputs


def _relu(_: Any) -> Pointwise:
    return Pointwise(torch.relu, lambda g, _, y: torch.ops.aten.threshold_backward(g, y, 0), "relu")


def _leaky(m: Any) -> Pointwise:
    slope = m.negative_slope
    return Pointwise(
        lambda x: nn.functional.leaky_relu(x, slope),
        lambda g, x, _: torch.ops.aten.leaky_relu_backward(g, x, slope, False),
    )


def _elu(m: Any) -> Pointwise:
    alpha = m.alpha
    return Pointwise(
        lambda x: nn.functional.elu(x, alpha),
        lambda g, x, _: torch.ops.aten.elu_backward(g, alpha, 1, 1, False, x),
    )


def _gelu(m: Any) -> Pointwise:
    how = m.approximate
    return Pointwise(
        lambda x: nn.functional.gelu(x, approximate=how),
        lambda g, x, _: torch.ops.aten.gelu_backward(g, x, approximate=how),
    )


def _softplus(m: Any) -> Pointwise:
    beta, threshold = m.beta, m.threshold
    return Pointwise(
        lambda x: nn.functional.softplus(x, beta, threshold),
        lambda g, x, _: torch.ops.aten.softplus_backward(g, x, beta, threshold),
    )


POINTWISE: Mapping[type[nn.Module], Callable[[Any], Pointwise]] = {
    nn.ReLU: _relu,
    nn.Tanh: lambda _: Pointwise(torch.tanh, lambda g, _, y: torch.ops.aten.tanh_backward(g, y), "tanh"),
    nn.Sigmoid: lambda _: Pointwise(torch.sigmoid, lambda g, _, y: torch.ops.aten.sigmoid_backward(g, y), "sigmoid"),
    nn.SiLU: lambda _: Pointwise(nn.functional.silu, lambda g, x, _: torch.ops.aten.silu_backward(g, x)),
    nn.LeakyReLU: _leaky,
    nn.ELU: _elu,
    nn.GELU: _gelu,
    nn.Softplus: _softplus,
}
"""Modules whose output's every number follows from one number of the input, by their exact type."""


def linear_stack(module: nn.Module, input_shape: tuple[int, ...], num_outputs: int) -> tuple[Layer, ...] | str:
    """The layers of a stack, or in one sentence why the model is none.

    Args:
        input_shape: of one example. num_outputs: that the task needs.
    """
    parts = list(_parts(module))
    for part in [*module.modules()]:
        if altered(part):
            return f"{type(part).__name__} has hooks or a forward of its own"
    if any(True for _ in module.buffers()):
        return "the model has buffers"
    if parts and type(parts[0]) is nn.Flatten and (parts[0].start_dim, parts[0].end_dim) == (1, -1):
        parts = parts[1:]
    elif len(input_shape) != 1:
        return f"examples of shape {input_shape} are not flattened first"
    layers: list[Layer] = []
    for part in parts:
        if type(part) is nn.Linear:
            if set(dict(part.named_parameters())) - {"weight", "bias"}:
                return "a Linear layer has parameters of its own"
            layers.append(Layer(part.in_features, part.out_features, part.bias is not None, ()))
        elif type(part) is nn.Identity:
            continue
        elif type(part) in POINTWISE and layers:
            last = layers[-1]
            function = POINTWISE[type(part)](part)
            layers[-1] = Layer(last.inputs, last.outputs, last.bias, (*last.after, function))
        elif type(part) in POINTWISE:
            return f"the model begins with {type(part).__name__}"
        else:
            return f"{type(part).__name__} is neither Linear nor pointwise"
    return _refused(module, layers, input_shape, num_outputs) or tuple(layers)


def _refused(module: nn.Module, layers: list[Layer], input_shape: tuple[int, ...], num_outputs: int) -> str | None:
    if not layers:
        return "the model has no Linear layer"
    parameters = list(module.parameters())
    if sum(p.numel() for p in parameters) != sum(layer.size for layer in layers):
        return "layers share parameters"
    if any(not p.requires_grad for p in parameters):
        return "a parameter is frozen"
    if any(p.dtype != torch.float32 or p.device.type != "cpu" for p in parameters):
        return "a parameter is not float32 on the CPU"
    widths = [int(torch.Size(input_shape).numel()), *(layer.outputs for layer in layers)]
    if [layer.inputs for layer in layers] != widths[:-1] or widths[-1] != num_outputs:
        return "the layers' widths do not follow from one another"
    return None


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """The modules in the order in which they are called."""
    if type(module) is nn.Sequential:
        for part in module:
            yield from _parts(part)
    else:
        yield module


def altered(module: nn.Module) -> bool:
    """Whether a module's call is not what its class makes of it."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    # Any method of the class that the module has its own of: `forward` calls others, as `_conv_forward`.
    own = any(callable(getattr(type(module), name, None)) for name in module.__dict__)
    return own or any(bool(getattr(module, name)) for name in names)
