"""Many pairs of rounded normals at once: by the compiled library, or by numpy and torch, to the same numbers.

Why both are right, and agree, is said in :mod:`fedkit.privacy.rounded_gaussian`.
"""

from __future__ import annotations

import ctypes
import math

import numpy as np
from numpy.typing import NDArray

from fedkit.native.library import library
from fedkit.privacy.pair_candidate import LIMIT, PREFIX, ROUNDING, settled
from fedkit.types import Int64

Float64 = NDArray[np.float64]
Words = NDArray[np.uint64]

_DROPPED, _ONE = np.uint64(64 - PREFIX), np.uint64(0x3FF << PREFIX)
_TO_MIDPOINT = 1.0 - 2.0**-53


def round_pairs(cosines: Float64, sines: Float64, words: Words, scale: float) -> Int64:
    """Fill both members of every pair with the nearest whole numbers of its candidate.

    Args:
        cosines: float64 [rows, pairs], a row's numbers one behind the other; sines: float64 [rows, pairs or one less],
            its rows as far apart.
        words: uint64 [rows, 2, pairs], in one piece: U's prefix is the first 52 bits of [:, 0], V's those of [:, 1].
        scale: above 0, at most 2**40.

    Returns:
        int64 [any], in order: row * pairs + index of the pairs whose rounding further bits must decide; what stands in
        their places means nothing.
    """
    compiled = library()
    if compiled is None or not _lie_in_rows(cosines, sines, words):
        return _by_torch(cosines, sines, words, scale)
    return _by_library(compiled, cosines, sines, words, scale)


def _lie_in_rows(cosines: Float64, sines: Float64, words: Words) -> bool:
    rows, pairs = cosines.shape
    return (
        words.shape == (rows, 2, pairs)
        and sines.shape in ((rows, pairs), (rows, pairs - 1))
        and cosines.strides == sines.strides
        and cosines.strides[1] == cosines.itemsize
        and cosines.dtype == sines.dtype == np.float64
        and words.dtype == np.uint64
        and words.flags.c_contiguous
    )


def _by_library(compiled: ctypes.CDLL, cosines: Float64, sines: Float64, words: Words, scale: float) -> Int64:
    rows, pairs = cosines.shape
    doubtful = np.empty(rows * pairs, dtype=np.int64)
    found = compiled.fedkit_gaussian(
        *(words.ctypes.data, rows, pairs, sines.shape[1], scale, cosines.ctypes.data, sines.ctypes.data),
        *(cosines.strides[0] // 8, doubtful.ctypes.data),
    )
    return doubtful[:found]


def _by_torch(cosines: Float64, sines: Float64, words: Words, scale: float) -> Int64:
    x, tolerance = candidates(words, scale)
    nearest = x + ROUNDING
    nearest -= ROUNDING
    x -= nearest
    np.absolute(x, out=x)
    tolerance *= 2.0
    x += tolerance[:, None]
    doubtful = []
    if x.max() >= LIMIT:
        for row, index in np.argwhere((x >= LIMIT).any(1)).tolist():
            u, v = (int(word) >> (64 - PREFIX) for word in words[row, :, index])
            known = settled(u, v, scale)
            if known is None:
                doubtful.append(row * words.shape[2] + index)
            else:
                nearest[row, :, index] = known
    cosines[:], sines[:] = nearest[:, 0], nearest[:, 1, : sines.shape[1]]
    return np.array(doubtful, dtype=np.int64)


def candidates(words: Words, scale: float) -> tuple[Float64, Float64]:
    """The float64 values at the midpoints of the cells that the words name, and their bounds, by numpy and torch.

    Args:
        words: uint64 [..., 2, n]: U's prefix is the first 52 bits of row 0, V's those of row 1.

    Returns:
        float64 [..., 2, n], cosine and sine; float64 [..., n], tol as in the module's description.
    """
    # Not on the way of commands that only price a plan.
    import torch

    cells = words >> _DROPPED
    cells |= _ONE
    uv: Float64 = cells.view(np.float64)
    uv -= _TO_MIDPOINT  # [1, 2) minus a little less than 1: the midpoint, exactly
    u, angle = uv[..., 0, :], uv[..., 1, :]
    angle *= 2.0 * math.pi
    x = np.empty_like(uv)
    # torch's take a quarter of numpy's time.
    turned = torch.from_numpy(angle)
    torch.cos(turned, out=torch.from_numpy(x[..., 0, :]))
    torch.sin(turned, out=torch.from_numpy(x[..., 1, :]))
    radius = np.log(u, out=angle)
    radius *= -2.0
    np.sqrt(radius, out=radius)
    u *= radius
    # At least as for scale 2: the cell that reaches 0 must never pass.
    reach = max(scale, 2.0)
    tolerance = np.divide(reach * 2.0**-51, u, out=u)
    tolerance += radius * (reach * 2.0**-47)
    radius *= scale
    x *= radius[..., None, :]
    return x, tolerance
