"""Each row's gradient of one layer, from the layer's input and the loss's derivative by its output.

No backward pass through the layer's parameters is made, and none of a row's values is added to another's. The forms are
those of :mod:`fedkit.privacy.tap_sum`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkit.privacy.tap_sum import Explicit, Part, Product, Table

Told = tuple[Tensor, ...]
Pair = tuple[int, ...]
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Kind:
    """A kind of layer.

    Attributes:
        refused: (layer) -> why a layer of the kind is not one of those; None or nothing where it is.
        dims: (layer) -> the numbers of dimensions, the rows' among them, of inputs in which rows are apart.
        parts: (layer, shape of the output of one row) -> its parts; weight and bias in one only where it is a product.
        told: (layer, input, derivative by the output) -> what :class:`fedkit.privacy.tap_sum.TapSum` adds.
        cost: (layer, shape of the output of one row) -> multiplications in a forward pass of one row.
    """

    refused: Callable[[Any], str | None]
    dims: Callable[[Any], range]
    parts: Callable[[Any, torch.Size], list[Part]]
    told: Callable[[Any, Tensor, Tensor], list[Told]]
    cost: Callable[[Any, torch.Size], int]


def _affine(m: Any, _: torch.Size) -> list[Part]:
    return [Explicit(p.numel()) for p in (m.weight, m.bias) if p is not None]


def _linear_parts(m: nn.Linear, output: torch.Size) -> list[Part]:
    if len(output) == 1:
        return [Product(m.in_features, m.out_features, m.bias is not None)]
    return _affine(m, output)


def _linear(m: nn.Linear, a: Tensor, e: Tensor) -> list[Told]:
    if e.dim() == 2:
        return [(a, e)]
    e, a = e.flatten(1, -2), a.flatten(1, -2)
    return [(part.flatten(1),) for part in (e.transpose(1, 2) @ a, *([] if m.bias is None else [e.sum(1)]))]


def _conv(m: Any, a: Tensor, e: Tensor) -> list[Told]:
    padding = m.padding
    if isinstance(padding, str):  # "same" may add more on one side
        a, padding = F.pad(a, m._reversed_padding_repeated_twice), (0,) * len(m.stride)
    if a.dim() == 3:
        a, shape = a.unsqueeze(2), ((1, *m.kernel_size), (1, *m.dilation), (0, *padding), (1, *m.stride))
    else:
        shape = m.kernel_size, m.dilation, padding, m.stride
    columns = F.unfold(a, *shape) if a.device == _CPU else unfolded(a, *shape)
    rows, e = e.shape[0], e.flatten(2)
    if m.groups > 1:
        columns = columns.view(rows * m.groups, -1, columns.shape[-1])
        weight = torch.bmm(e.reshape(rows * m.groups, -1, e.shape[-1]), columns.transpose(1, 2))
    else:
        weight = torch.bmm(e, columns.transpose(1, 2))
    return [(weight.view(rows, -1),), *([] if m.bias is None else [(e.sum(2),)])]


def unfolded(a: Tensor, kernel: Pair, dilation: Pair, padding: Pair, stride: Pair) -> Tensor:
    """As :func:`torch.nn.functional.unfold`, which a GPU does row after row, in one copy."""
    a = F.pad(a, (padding[1], padding[1], padding[0], padding[0]))
    rows, planes, *sizes = a.shape
    given = [
        (size - step * (width - 1) - 1) // by + 1
        for size, step, width, by in zip(sizes, dilation, kernel, stride, strict=True)
    ]
    row, plane, line, column = a.stride()
    steps = row, plane, line * dilation[0], column * dilation[1], line * stride[0], column * stride[1]
    windows = a.as_strided((rows, planes, *kernel, *given), steps)
    return windows.reshape(rows, planes * kernel[0] * kernel[1], given[0] * given[1])


def _layer_norm(m: nn.LayerNorm, a: Tensor, e: Tensor) -> list[Told]:
    normed = F.layer_norm(a, m.normalized_shape, eps=m.eps)
    return _scaled(m, normed, e, lambda part: part.reshape(len(part), -1, *m.normalized_shape).sum(1).flatten(1))


def _group_norm(m: nn.GroupNorm, a: Tensor, e: Tensor) -> list[Told]:
    normed = F.group_norm(a, m.num_groups, eps=m.eps)
    return _scaled(m, normed, e, lambda part: part.reshape(*part.shape[:2], -1).sum(2))


def _scaled(m: Any, normed: Tensor, e: Tensor, summed: Callable[[Tensor], Tensor]) -> list[Told]:
    return [(summed(normed * e),), *([] if m.bias is None else [(summed(e),)])]


def _embedding(m: nn.Embedding, a: Tensor, e: Tensor) -> list[Told]:
    lines, e = a.reshape(len(a), -1), e.reshape(len(a), -1, m.embedding_dim)
    same = lines[:, :, None] == lines[:, None, :]
    # The place where a line comes first holds the sum over all its places.
    first = ~same.tril(-1).any(2)
    return [(lines, torch.bmm(same.to(e.dtype), e) * first[:, :, None])]


def _unusual(**usual: Any) -> Callable[[Any], str | None]:
    """Refuses layers whose attributes are others; the reference refuses some of them too, or trains them otherwise."""

    def refused(m: Any) -> str | None:
        return next((f"has {name}={getattr(m, name)}" for name in usual if getattr(m, name) != usual[name]), None)

    return refused


def _biasless(m: nn.LayerNorm) -> str | None:
    return "has no bias" if m.bias is None else None


def _conv_cost(m: Any, output: torch.Size) -> int:
    return int(m.weight[0].numel() * output.numel())


def _nothing(_: Any) -> None:
    return None


KINDS: Mapping[type[nn.Module], Kind] = {
    nn.Linear: Kind(
        _nothing, lambda m: range(2, 99), _linear_parts, _linear, lambda m, output: m.in_features * output.numel()
    ),
    nn.Conv1d: Kind(_unusual(padding_mode="zeros"), lambda m: range(3, 4), _affine, _conv, _conv_cost),
    nn.Conv2d: Kind(_unusual(padding_mode="zeros"), lambda m: range(4, 5), _affine, _conv, _conv_cost),
    nn.Embedding: Kind(
        _unusual(padding_idx=None, max_norm=None, scale_grad_by_freq=False, sparse=False),
        lambda m: range(1, 99), lambda m, _: [Table(m.num_embeddings, m.embedding_dim)],
        _embedding, lambda m, output: output.numel(),
    ),
    nn.LayerNorm: Kind(
        _biasless, lambda m: range(1 + len(m.normalized_shape), 99), _affine, _layer_norm,
        lambda m, output: 8 * output.numel(),
    ),
    nn.GroupNorm: Kind(_nothing, lambda m: range(2, 99), _affine, _group_norm, lambda m, output: 8 * output.numel()),
}  # fmt: skip
"""By a layer's exact type."""
