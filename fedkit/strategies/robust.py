"""Strategies that some lying sites cannot move far: median, trimmed mean, Krum and multi-Krum, block by block.

They need all updates of a round side by side, but never more than a block of each: mapped from a coordinator's journal
a round costs the model, the result and ``BUFFER``, whatever the number of sites. They give what Flower's classes of the
same names give (equal to 1e-6), which stack full models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedkit.storage.mapped import together
from fedkit.strategies.networks import selecting
from fedkit.strategies.streaming import fed_avg, fold
from fedkit.types import Float32

BUFFER = 2**25
"""Bytes of a block of all updates together (a block is at least 4,096 parameters wide)."""

_WIDEST, _NARROWEST = 2**14, 2**12
# Of two squared norms: what products of blocks in float32 may be wrong by, and more.
_ROUNDING = 1e-5

Combine = Callable[[Sequence[Float32], Sequence[float]], Float32]
"""(updates, weights), in the order of sites, to the update that stands for them: a new float32 [d]."""


@dataclass(frozen=True)
class Robust:
    """How a round's updates become one.

    Attributes:
        least: updates below which a round makes no model.
        combine: see ``Combine``. Every update is finite; it may be mapped from a file.

    >>> ours = fed_median()
    >>> updates = [np.array([1, 2], np.float32), np.array([3, 2], np.float32), np.array([1e6, -1e6], np.float32)]
    >>> ours.finish(np.ones(2, np.float32), updates, [1.0, 1.0, 1.0])
    array([4., 3.], dtype=float32)
    """

    name: str
    least: int
    combine: Combine

    def finish(self, parameters: Float32, updates: Sequence[Float32], weights: Sequence[float]) -> Float32:
        """The next model; the updates are read and not changed."""
        return fed_avg().finish(parameters, self.combine(updates, weights), {}, 1)[0]


def fed_median() -> Robust:
    """Coordinate-wise median (Yin et al. 2018); weights count for nothing."""

    def combine(updates: Sequence[Float32], _weights: Sequence[float]) -> Float32:
        middle = len(updates) // 2
        return _mean_of_places(updates, range((len(updates) - 1) // 2, middle + 1))

    return Robust("fedmedian", 1, combine)


def fed_trimmed_avg(*, beta: float = 0.2) -> Robust:
    """Coordinate-wise mean without the share ``beta`` at each end (Yin et al. 2018); weights count for nothing."""

    def combine(updates: Sequence[Float32], _weights: Sequence[float]) -> Float32:
        cut = int(beta * len(updates))
        return _mean_of_places(updates, range(cut, len(updates) - cut))

    return Robust("fedtrimmedavg", 1, combine)


def krum(*, num_malicious_nodes: int = 0) -> Robust:
    """The one update that is closest to its neighbours (Blanchard et al. 2017)."""
    return _krum("krum", num_malicious_nodes, 1)


def multi_krum(*, num_malicious_nodes: int = 0, num_nodes_to_select: int = 1) -> Robust:
    """The weighted mean of the updates that Krum ranks first (Blanchard et al. 2017)."""
    return _krum("multikrum", num_malicious_nodes, num_nodes_to_select)


ROBUST: Mapping[str, Callable[..., Robust]] = {
    "fedmedian": fed_median,
    "fedtrimmedavg": fed_trimmed_avg,
    "krum": krum,
    "multikrum": multi_krum,
}
"""The robust strategies that a config may name and that go through a round's updates block by block."""


def fewest_for_krum(liars: int) -> int:
    """Updates that Krum needs to bear so many lying ones: 2 f + 3 (Blanchard et al. 2017)."""
    return 2 * liars + 3


def _krum(name: str, liars: int, chosen: int) -> Robust:
    def combine(updates: Sequence[Float32], weights: Sequence[float]) -> Float32:
        mean, total = np.zeros(len(updates[0]), np.float32), 0.0
        for place in sorted(_closest(updates, liars, chosen)):
            total = fold(mean, total, updates[place], weights[place])
        return mean

    # Fewer could outvote the honest: a round that lost too many sites must not pass for one that bears f liars.
    return Robust(name, fewest_for_krum(liars), combine)


def _closest(updates: Sequence[Float32], liars: int, chosen: int) -> list[int]:
    """Places of the ``chosen`` updates with the least sum of squared distances to their n - f - 2 nearest others."""
    scores, slack = _scores(_gram(updates, np.float32), liars)
    # Stable: among equals the first site.
    ranked = np.argsort(scores, kind="stable")
    last, others = ranked[:chosen], ranked[chosen:]
    if len(others) and (scores + slack)[last].max() >= (scores - slack)[others].min():
        ranked = np.argsort(_scores(_gram(updates, np.float64), liars)[0], kind="stable")
    return [int(place) for place in ranked[:chosen]]


def _scores(gram: NDArray[np.float64], liars: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Krum's score of each update, and how far rounding in float32 may have moved it: float64 [n] each."""
    norms = np.diagonal(gram)
    # Distances of updates are those of models, without the rounding that the models' size would bring.
    distances = norms[:, None] + norms[None, :] - 2 * gram
    np.fill_diagonal(distances, -np.inf)
    nearest = max(1, len(gram) - liars - 2)
    neighbours = np.argsort(distances, axis=1, kind="stable")[:, 1 : nearest + 1]
    slack = _ROUNDING * (norms[:, None] + norms[neighbours]).sum(axis=1)
    return np.take_along_axis(distances, neighbours, axis=1).sum(axis=1), slack


def _gram(updates: Sequence[Float32], kind: type[np.floating]) -> NDArray[np.float64]:
    """Products of all pairs of updates, blocks in ``kind``, their sum in float64: [n, n]."""
    from threadpoolctl import threadpool_limits

    gram = np.zeros((len(updates), len(updates)))
    width = _width(len(updates))
    block = np.empty((len(updates), width), kind)
    # Products this small gain little from a second thread, and lose a hundredfold where another process has its core.
    with threadpool_limits(limits=1, user_api="blas"):
        for part in together(updates, width):
            rows = block[:, : part.stop - part.start]
            for row, update in zip(rows, updates, strict=True):
                row[...] = update[part]
            gram += rows @ rows.T
    return gram


def _mean_of_places(updates: Sequence[Float32], places: range) -> Float32:
    """Mean of some places of each parameter's sorted values: float32 [d]."""
    count, width = len(updates), _width(len(updates))
    exchanges = selecting(count, places)
    result = np.empty(len(updates[0]), np.float32)
    # One row more than updates: where the lesser of a pair goes before the greater overwrites it.
    block = np.empty((count + 1, width), np.float32)
    for part in together(updates, width):
        *rows, spare = block[:, : part.stop - part.start]
        for row, update in zip(rows, updates, strict=True):
            row[...] = update[part]
        for one in exchanges:
            low, high = rows[one.low], rows[one.high]
            if one.keeps_low and one.keeps_high:
                np.minimum(low, high, out=spare)
                np.maximum(low, high, out=high)
                rows[one.low], spare = spare, low
            elif one.keeps_low:
                np.minimum(low, high, out=low)
            else:
                np.maximum(low, high, out=high)
        np.multiply(_sum([rows[place] for place in places]), np.float32(1 / len(places)), out=result[part])
    return result


def _sum(rows: list[Float32]) -> Float32:
    """Sum of rows, pair by pair, so that rounding grows with the logarithm of their number; they are written to."""
    while len(rows) > 1:
        for left, right in zip(rows[::2], rows[1::2], strict=False):
            left += right
        rows = rows[::2]
    return rows[0]


def _width(count: int) -> int:
    return max(_NARROWEST, min(_WIDEST, BUFFER // (4 * (count + 1))))
