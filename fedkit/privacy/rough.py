"""Renyi DP at whole orders: a looser bound in a fraction of a millisecond, to begin a search and to size a grid with.

No figure that is reported and no budget rests on it; those are in ``accounting`` and ``rdp_filter``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

_ORDERS = (*range(2, 64), 128, 256, 512, 1024)


def rough_epsilon(merged: Iterable[tuple[float, float, int]], delta: float) -> float:
    """An epsilon at which Poisson-sampled Gaussian steps are DP at ``delta`` (Mironov et al. 2019, section 3.3).

    Args:
        merged: sampling rate, noise multiplier and steps of each kind of step.
    """
    orders = np.asarray(_ORDERS, np.float64)
    spent = np.zeros(len(orders))
    for q, sigma, steps in merged:
        spent += steps * _cost(q, sigma)
    # Canonne, Kamath and Steinke 2020, Proposition 12.
    found = spent + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    return max(0.0, float(found.min()))


@lru_cache(maxsize=256)
def _cost(q: float, sigma: float) -> Float64:
    orders = np.asarray(_ORDERS, np.float64)
    if q == 1:
        return orders / (2 * sigma**2)
    costs = []
    for order, chosen in zip(_ORDERS, _binomials(), strict=True):
        k = np.arange(order + 1.0)
        terms = chosen + (order - k) * math.log1p(-q) + k * math.log(q) + (k * k - k) / (2 * sigma**2)
        most = terms.max()
        costs.append(max(0.0, most + math.log(np.exp(terms - most).sum())) / (order - 1))
    return np.asarray(costs)


@lru_cache(maxsize=1)
def _binomials() -> tuple[Float64, ...]:
    """The logarithms of each order's binomial coefficients."""
    logs = np.asarray([math.lgamma(k + 1.0) for k in range(_ORDERS[-1] + 1)])
    return tuple(logs[n] - logs[: n + 1] - logs[n::-1] for n in _ORDERS)
