"""A model's parameters as one flat array: what travels, what is averaged, what is updated.

Parameters only, in the order of ``named_parameters()``, tied ones once. Buffers do not travel.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fedkit.errors import TrainingError
from fedkit.types import Float32


def pack(module: nn.Module) -> Float32:
    """Copy all parameters into one new float32 [d].

    >>> pack(nn.Linear(2, 1)).shape
    (3,)
    """
    parts = [p.detach().reshape(-1).to("cpu", torch.float32).numpy() for p in module.parameters()]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)


def unpack(module: nn.Module, flat: Float32) -> None:
    """Copy float32 [d] into the module's parameters, in place.

    Raises:
        TrainingError: d is not the module's number of parameters.
    """
    _check_size(module, flat)
    at = 0
    with torch.no_grad():
        for p in module.parameters():
            part = flat[at : at + p.numel()].reshape(p.shape)
            if p.device.type == "cpu" and p.dtype == torch.float32:
                np.copyto(p.detach().numpy(), part)
            else:
                # A copy first: torch takes no array that it may not write.
                p.copy_(torch.from_numpy(np.array(part, dtype=np.float32)))
            at += p.numel()


def views(module: nn.Module, flat: Float32) -> dict[str, Float32]:
    """Parameter name to a view of its part of float32 [d], in its shape; the module may lie on ``meta``.

    Raises:
        TrainingError: d is not the module's number of parameters.
    """
    _check_size(module, flat)
    named, at = {}, 0
    for name, p in module.named_parameters():
        named[name] = flat[at : at + p.numel()].reshape(p.shape)
        at += p.numel()
    return named


def split(module: nn.Module, flat: Float32) -> dict[str, Tensor]:
    """Parameter name to a tensor of its shape, copied from float32 [d].

    Raises:
        TrainingError: d is not the module's number of parameters.
    """
    _check_size(module, flat)
    source = torch.from_numpy(np.array(flat, dtype=np.float32, copy=True))
    named, at = {}, 0
    for name, p in module.named_parameters():
        named[name] = source[at : at + p.numel()].view(p.shape).to(p.dtype)
        at += p.numel()
    return named


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Parameter name to shape, in the order of the flat array."""
    return {name: tuple(p.shape) for name, p in module.named_parameters()}


def attach(module: nn.Module, values: Float32 | None = None) -> Tensor:
    """Make the trainable parameters views of one flat float32 tensor, so that one operation updates all.

    Args:
        values: float32 [d] of all parameters, which they are given; None leaves them what they are.

    Returns:
        float32 [number of trainable values]; writing to it writes the parameters.

    Raises:
        TrainingError: a trainable parameter is not float32 on the CPU; d is not the module's number of parameters.
    """
    trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    for name, p in trainable:
        if p.dtype != torch.float32 or p.device.type != "cpu":
            message = f"parameter {name} is {p.dtype} on {p.device}, not float32 on the CPU"
            raise TrainingError(message, code="FK406", remedy="build the model with torch's default dtype")
    if not trainable:
        raise TrainingError("nothing in the model is trainable", code="FK406", remedy="leave requires_grad=True")
    if values is not None and len(trainable) == len(list(module.parameters())):
        _check_size(module, values)
        flat = torch.from_numpy(np.array(values, dtype=np.float32))
    else:
        if values is not None:
            unpack(module, values)
        flat = torch.cat([p.detach().reshape(-1) for _, p in trainable])
    at = 0
    for _, p in trainable:
        p.data = flat[at : at + p.numel()].view(p.shape)
        at += p.numel()
    return flat


def _check_size(module: nn.Module, flat: Float32) -> None:
    expected = sum(p.numel() for p in module.parameters())
    if flat.shape != (expected,):
        raise TrainingError(
            f"the parameters have shape {tuple(flat.shape)}, the model needs ({expected},)",
            code="FK401",
            remedy="use the same model and arguments on both sides",
        )
