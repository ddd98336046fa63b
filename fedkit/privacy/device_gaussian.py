"""The numbers of :mod:`fedkit.privacy.rounded_gaussian` from the same random bits, worked out on a device.

The bits are the CPU's, of the same stream in the same order. Logarithm, cosine and sine, which take it several times as
long as the bits, are the device's. What is decided early is the ideal value whoever computed the candidate; where the
device leaves a pair in doubt, by twice the bound, the CPU decides it as it would its own
(:func:`fedkit.privacy.pair_candidate.settled`), so both give the same numbers.

What the proof asks of float64 is asked of the device: log within 2**-50 of its size, cos and sin within 2**-50;
products, sums and roots correctly rounded. CUDA's are documented to be within 1, 2 and 2 units in the last place (CUDA
C++ Programming Guide, "Mathematical Functions"), which is at most 2**-51 of a value below 1, and each operation here is
one of its own. :func:`check_float64` asks it of some numbers before any noise is drawn; tests compare with mpmath.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedkit.errors import TrainingError
from fedkit.privacy.lattice import G, slack
from fedkit.privacy.normal_pairs import candidates
from fedkit.privacy.pair_candidate import LIMIT, PREFIX, settled
from fedkit.privacy.randomness import Draws
from fedkit.privacy.rounded_gaussian import CHUNK, Bits, check_scale, continued
from fedkit.types import Int64

_ONE = 0x3FF << PREFIX
_TO_MIDPOINT = 1.0 - 2.0**-53
_PROBED = 2**15


def rounded_gaussians(
    streams: Sequence[tuple[Bits, Bits]], scales: Sequence[float], count: int, d: int, device: torch.device
) -> Tensor:
    """What as many calls of :func:`fedkit.privacy.rounded_gaussian.rounded_gaussian` give of each of some streams.

    Args:
        streams: what writes the next words of one, and the further words that continue a pair.
        scales: the standard deviation of each. count: calls of each.

    Returns:
        float64 [streams, count, d] on the device, whole numbers.

    Raises:
        PrivacyError: as there.

    Guarantee: as there, on a device of which the module's description is true.
    """
    for scale in scales:
        check_scale(scale)
    pairs, rows = (d + 1) // 2, len(streams) * count
    held = _held((len(streams), count * 2 * pairs), device)
    for (fill, _), into in zip(streams, held.numpy().view(np.uint64), strict=True):
        fill(into)
    words = _in_pairs(held.to(device, non_blocking=True).view(rows, 2 * pairs), pairs)
    x, tolerance = candidates_there(words, torch.tensor(scales, dtype=torch.float64).repeat_interleave(count))
    nearest = torch.round(x)
    # Twice the bound: what is clear by it is clear to :func:`settled`, which says whether further bits are drawn.
    doubtful = ~(x.sub_(nearest).abs_().add_(tolerance[:, None], alpha=2.0) < LIMIT).all(1)
    # In the order in which the CPU continues pairs: row by row, and in a row from the first on.
    row, index = torch.nonzero(doubtful).unbind(1)
    if len(row):
        prefixes = (words[row, :, index].cpu().numpy().view(np.uint64) >> np.uint64(64 - PREFIX)).tolist()
        for k, pair, (u, v) in zip(row.tolist(), index.tolist(), prefixes, strict=True):
            site = k // count
            known = settled(u, v, scales[site])
            exact = continued(streams[site][1], u, v, scales[site]) if known is None else known
            nearest[k, :, pair] = torch.tensor(exact, dtype=torch.float64)
    return nearest.view(len(streams), count, 2 * pairs)[..., :d]


def integer_noise_on(
    device: torch.device, sources: Sequence[Draws], noise_multipliers: Sequence[float], count: int, d: int
) -> Tensor:
    """What as many calls of :func:`fedkit.privacy.lattice.integer_noise` give of each of some sources.

    Returns:
        float64 [sources, count, d] on the device, whole numbers.

    Raises:
        PrivacyError: as there.

    Guarantee: as there, on a device of which the module's description is true.
    """
    scales = [sigma * slack(d) * G for sigma in noise_multipliers]
    return rounded_gaussians([source.noise for source in sources], scales, count, d, device)


def candidates_there(words: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`fedkit.privacy.rounded_gaussian.candidates` of words int64 [rows, 2, n] on a device.

    Args:
        scales: float64 [rows], on the CPU.
    """
    reach = scales.clamp(min=2.0)
    scale, wide, near = (each.to(words.device)[:, None] for each in (scales, reach * 2.0**-51, reach * 2.0**-47))
    cells = words.bitwise_right_shift(64 - PREFIX).bitwise_and_((1 << PREFIX) - 1).bitwise_or_(_ONE)
    uv = cells.view(torch.float64).sub_(_TO_MIDPOINT)
    u, angle = uv[:, 0], uv[:, 1].mul_(2.0 * math.pi)
    x = torch.stack([torch.cos(angle), torch.sin(angle)], 1)
    radius = torch.log(u).mul_(-2.0).sqrt_()
    tolerance = torch.div(wide, u.mul_(radius)).add_(radius * near)
    return x.mul_(radius.mul_(scale)[:, None]), tolerance


def check_float64(device: torch.device) -> None:
    """Ask a device for some candidates and for a sum of whole numbers: a probe of what two proofs assume of it.

    Raises:
        TrainingError: FK423, its float64 is not what they assume.

    Sums of products of whole numbers below 2**53 are what :mod:`fedkit.privacy.tap_sum` calls exact.
    """
    drawn = np.random.default_rng(0)
    words = drawn.integers(0, 2**64, (1, 2, _PROBED), dtype=np.uint64)
    here, _ = candidates(words, 1.0)
    there, _ = candidates_there(torch.from_numpy(words.view(np.int64)).to(device), torch.ones(1, dtype=torch.float64))
    radius = torch.from_numpy(here).square().sum(1, keepdim=True).sqrt()
    near = (there.cpu() - torch.from_numpy(here)).abs() <= radius * 2.0**-48
    factors = [torch.from_numpy(drawn.integers(-(2**22), 2**22, (256, columns))) for columns in (64, 300)]
    v, u = (each.double().to(device) for each in factors)
    exact = torch.equal((v.t() @ u).cpu().to(torch.int64), factors[0].t() @ factors[1])
    if not (exact and bool(near.all())):
        raise TrainingError(
            f"float64 on {device} is {'less accurate than noise' if exact else 'not as exact as clipped sums'} must be",
            code="FK423",
            remedy="unset CUBLAS_EMULATE_DOUBLE_PRECISION and the like, or train on the CPU",
        )


def sent(numbers: Int64, device: torch.device) -> Tensor:
    """A copy on a device, which it may not have reached yet: what the device does next finds it there."""
    held = _held(numbers.shape, device)
    held.numpy()[:] = numbers
    return held.to(device, non_blocking=True)


def _held(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Memory that a GPU reads by itself, kept by torch for the next call; on a CPU any."""
    return torch.empty(shape, dtype=torch.int64, pin_memory=device.type == "cuda")


def _in_pairs(words: Tensor, pairs: int) -> Tensor:
    """[count, 2, pairs] of U's and V's words, of which a row has a chunk of U's, then as many V's, and so on."""
    whole, rows = pairs // CHUNK * CHUNK, len(words)
    rest = words[:, 2 * whole :].reshape(rows, 2, pairs - whole)
    if not whole:
        return rest
    chunks = words[:, : 2 * whole].reshape(rows, -1, 2, CHUNK).transpose(1, 2).reshape(rows, 2, whole)
    return torch.cat([chunks, rest], 2)
