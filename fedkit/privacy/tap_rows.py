"""A block's rows added up in compiled code; what it adds is what :mod:`fedkit.privacy.tap_sum` says."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedkit.native.library import library
from fedkit.types import Int64

Told = Sequence[Tensor]
"""(values,) of an explicit part, (a, e) of a product, float32 [places, ...]."""


class _Told(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("inputs", "bias", "outputs", "apart_a", "apart_e")),
        *((name, ctypes.c_void_p) for name in ("a", "e", "into")),
    )


def lie_in_rows(told: Sequence[Told]) -> bool:
    """Whether there is compiled code that can read what is told: float32 on the CPU, a row's numbers side by side."""
    return library() is not None and all(
        values.dtype == torch.float32 and values.device.type == "cpu" and values.dim() == 2 and _inner(values)
        for part in told
        for values in part
    )


def add_rows(
    told: Sequence[Told],
    biases: Sequence[bool],
    places: Int64,
    sums: Sequence[Tensor],
    clip: float,
    units: tuple[float, float, float],
    *,
    first: bool,
) -> int:
    """Add rows' integers to sums.

    Args:
        told: of parts as :func:`lie_in_rows` wants it. biases: whether a product has a 1 behind a.
        places: int64 [rows], each below the number of places.
        sums: int64 of each part, contiguous: [size], or [outputs, inputs and bias]; overwritten by the first rows.
        units: of a clip: an explicit part's integers, and both factors' of a product.

    Returns:
        How many rows were counted: those whose norm is finite.
    """
    compiled = library()
    if compiled is None:
        raise RuntimeError("a compiled sum without the library")
    rows = len(places)
    if rows and not 0 <= places.min() <= places.max() < min(len(values) for part in told for values in part):
        raise ValueError("a place beyond the block")
    described = (_Told * len(told))()
    for each, part, bias, total in zip(described, told, biases, sums, strict=True):
        a, e = part[0], part[1] if len(part) == 2 else None
        outputs, width = 0 if e is None else e.shape[1], a.shape[1] + bias
        if total.numel() != width * max(1, outputs) or total.dtype != torch.int64 or not total.is_contiguous():
            raise ValueError(f"a sum of shape {tuple(total.shape)} for {outputs} x {width} numbers")
        each.inputs, each.bias, each.outputs, each.apart_a = a.shape[1], bias, outputs, a.stride(0)
        each.a, each.into = a.data_ptr(), total.data_ptr()
        if e is not None:
            each.apart_e, each.e = e.stride(0), e.data_ptr()
    places = np.ascontiguousarray(places, dtype=np.int64)
    room = np.empty(compiled.fedkit_tap_sum_memory(described, len(told), rows))
    kept: int = compiled.fedkit_tap_sum(
        *(described, len(told), places.ctypes.data, rows, first, clip, *units, room.ctypes.data)
    )
    return kept


def _inner(values: Tensor) -> bool:
    return values.shape[1] == 1 or values.stride(1) == 1
