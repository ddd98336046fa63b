"""A lower bound on epsilon from one run (Steinke, Nasr and Jagielski 2023, "Privacy auditing with one training run").

Each of m canaries is in with chance 1/2. Whoever sees the releases guesses for some of them, and an (epsilon, delta)
mechanism bounds how many guesses can be right (their Theorem 5.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from fedkit.assurance.audit.canaries import Readings

CONFIDENCE = 0.95
_LARGEST = 100.0
_SIZES = 8


@dataclass(frozen=True)
class OneRun:
    """What guessing showed.

    Attributes:
        epsilon: the lower bound at ``CONFIDENCE``.
        guesses, correct: of the guessing rule that gave it.
        rules: how many rules were tried; each had its share of the error rate (Bonferroni).
    """

    epsilon: float
    canaries: int
    guesses: int
    correct: int
    rules: int


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Chance of at least ``correct`` right guesses if the mechanism were (epsilon, delta)-DP (Theorem 5.2).

    >>> round(p_value(100, 10, 10, np.log(3), 0.0), 6) == round(0.75**10, 6)
    True
    """
    chance = float(special.expit(epsilon))
    beta = float(stats.binom.sf(correct - 1, guesses, chance))
    if delta == 0 or correct == 0:
        return min(1.0, beta)
    fewer = np.arange(1, correct + 1)
    alpha = float(((stats.binom.sf(correct - 1 - fewer, guesses, chance) - beta) / fewer).max())
    return min(1.0, beta + 2 * canaries * delta * max(alpha, 0.0))


def epsilon_bound(canaries: int, guesses: int, correct: int, delta: float, error: float) -> float:
    """The least epsilon that the guesses do not refute at error rate ``error``; 0 if they refute nothing.

    >>> epsilon_bound(100, 10, 5, 1e-5, 0.05)
    0.0
    """

    def refuted(epsilon: float) -> bool:
        return p_value(canaries, guesses, correct, epsilon, delta) <= error

    if not refuted(0.0):
        return 0.0
    low = 0.0
    while refuted(low + 0.25):
        low += 0.25
        if low >= _LARGEST:
            return low
    high = low + 0.25
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def log_likelihood_ratio(readings: Readings, sample_rate: float, sigma: float, steps: int) -> Readings:
    """How much likelier a canary's readings are if it was in, summed over rounds; float64 [canaries].

    Args:
        readings: of whole rounds, along each canary's own direction, in units of C: [rounds, canaries].

    In a round of ``steps`` lots the canary joins k of them, k binomial, and adds k to noise of sigma * sqrt(steps).
    """
    most = max(1, int(stats.binom.isf(1e-12, steps, sample_rate))) if sample_rate < 1 else steps
    least = 0 if sample_rate < 1 else steps
    variance = sigma**2 * steps
    total: Readings = np.full(readings.shape, -np.inf)
    # At most some 200 terms: the score decides how well one guesses, never whether the bound holds.
    for k in range(least, most + 1, 1 + (most - least) // 200):
        weight = float(stats.binom.logpmf(k, steps, sample_rate))
        total = np.logaddexp(total, weight + (k * readings - k * k / 2) / variance)
    found: Readings = total.sum(axis=0)
    return found


def one_run(scores: Readings, included: NDArray[np.bool_], delta: float) -> OneRun:
    """The best lower bound over a fixed family of guessing rules, valid at ``CONFIDENCE`` for all of them together.

    Args:
        scores: of each canary, from the releases alone; float64 [m].
        included: the coins, [m].

    A rule guesses "in" for the canaries of the largest scores, or also "out" for as many of the smallest. How many it
    guesses is fixed beforehand (m / 2, m / 4, ...), and each of the rules tests at an equal share of the error rate.
    """
    m = len(scores)
    order = np.argsort(-scores, kind="stable")
    sizes = sorted({max(1, m // 2**k) for k in range(1, _SIZES + 1)})
    ranked = included[order]
    tried = [(size, int(ranked[:size].sum())) for size in sizes]
    tried += [(2 * size, int(ranked[:size].sum() + (~ranked[m - size :]).sum())) for size in sizes if 2 * size <= m]
    error = (1 - CONFIDENCE) / len(tried)
    bounds = [epsilon_bound(m, guesses, correct, delta, error) for guesses, correct in tried]
    best = int(np.argmax(bounds))
    return OneRun(bounds[best], m, *tried[best], len(tried))
