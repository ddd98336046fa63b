"""Privacy-loss distributions of Poisson-sampled Gaussian steps, by Google's dp-accounting: how fine, how composed."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

FINE = 1e-4
"""Discretisation of the figures that are reported; the search for sigma and curves use ten times as much."""
_BUCKETS = 2**17


def interval_of(merged: tuple[tuple[float, float, int], ...], rough: float, fineness: float) -> float:
    """The discretisation: finer where one step's loss is tiny, coarser where losses span an absurdly large range.

    Args:
        merged: sampling rate, noise multiplier and steps of each kind of step.
        rough: the Renyi bound on their epsilon.

    Either way the result stays an upper bound; only its tightness and the memory it takes are at stake.
    """
    spread = min(q * math.sqrt(math.expm1(min(1 / sigma**2, 50.0))) for q, sigma, _ in merged)
    interval = min(fineness, spread * fineness / FINE / 20)
    interval = max(interval, max(_reach(q, sigma) for q, sigma, _ in merged) * fineness / FINE / _BUCKETS)
    if any(steps > 1 for _, _, steps in merged) or merged[0][1] < 1:
        interval = max(interval, rough * 5e-6 * fineness / FINE)
    return interval


def _reach(q: float, sigma: float) -> float:
    """The largest privacy loss of one step that is not cut off as an all but impossible tail (10 sigma)."""
    most = (1 + 20 * sigma) / (2 * sigma**2)
    return most + math.log(q) if most + math.log(q) > 1 else math.log1p(q * math.expm1(min(most, 50.0)))


def composed(single: Any, steps: int) -> Any:
    """The distribution of equal steps together."""
    if steps == 1:
        return single
    if steps > 1000:
        from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

        # A sparse distribution raises its size to the power of the steps before it becomes a dense one.
        add = None if single._symmetric else single._pmf_add.to_dense_pmf()
        single = PrivacyLossDistribution(single._pmf_remove.to_dense_pmf(), add)
    return single.self_compose(steps)


@lru_cache(maxsize=32)
def one_step(sample_rate: float, noise_multiplier: float, interval: float) -> Any:
    """The pessimistic distribution of one step."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    return pld.from_gaussian_mechanism(
        noise_multiplier,
        sampling_prob=sample_rate,
        value_discretization_interval=interval,
        pessimistic_estimate=True,
    )
