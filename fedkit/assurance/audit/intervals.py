"""Confidence intervals, and the ranges in which a correct mechanism stays; the caller shares out the error rate."""

from __future__ import annotations

import math

from scipy import stats


def sigma_interval(estimate: float, n: int, alpha: float) -> tuple[float, float]:
    """Of a standard deviation about a known mean, from n independent normals (chi-squared).

    >>> low, high = sigma_interval(2.0, 1000, 0.05)
    >>> round(low, 2), round(high, 2)
    (1.92, 2.09)
    """
    return (
        estimate * math.sqrt(n / stats.chi2.isf(alpha / 2, n)),
        estimate * math.sqrt(n / stats.chi2.ppf(alpha / 2, n)),
    )


def sigma_range(n: int, alpha: float) -> tuple[float, float]:
    """Where the estimate of a standard deviation of 1 stays, from n normals."""
    return math.sqrt(stats.chi2.ppf(alpha / 2, n) / n), math.sqrt(stats.chi2.isf(alpha / 2, n) / n)


def ratio_interval(ratio: float, n: int, over: int, alpha: float) -> tuple[float, float]:
    """Of a ratio of two variances, from n and ``over`` independent normals (F distribution)."""
    return ratio / stats.f.isf(alpha / 2, n, over), ratio / stats.f.ppf(alpha / 2, n, over)


def rate_interval(count: int, trials: int, alpha: float) -> tuple[float, float]:
    """Of a chance, from independent trials (Clopper and Pearson 1934).

    >>> low, high = rate_interval(100, 1000, 0.05)
    >>> round(low, 3), round(high, 3)
    (0.082, 0.12)
    """
    low = float(stats.beta.ppf(alpha / 2, count, trials - count + 1)) if count else 0.0
    high = float(stats.beta.isf(alpha / 2, count + 1, trials - count)) if count < trials else 1.0
    return low, high


def mean_interval(mean: float, deviation: float, n: int, alpha: float) -> tuple[float, float]:
    """Of a mean, from n values of a known standard deviation."""
    reach = float(stats.norm.isf(alpha / 2)) * deviation / math.sqrt(n)
    return mean - reach, mean + reach


def count_range(expected: float, alpha: float) -> tuple[float, float]:
    """Where a count of rare events stays (Poisson)."""
    return float(stats.poisson.ppf(alpha / 2, expected)), float(stats.poisson.isf(alpha / 2, expected))


def dispersion_range(cells: int, trials: int, rate: float, alpha: float) -> tuple[float, float]:
    """Where the mean of (count - expected)**2 / variance stays, over cells of binomial counts.

    A gamma distribution with the exact mean and variance; chi-squared where the counts are large.
    """
    excess = (1 - 6 * rate * (1 - rate)) / (trials * rate * (1 - rate))
    shape = cells / (2 + max(excess, 0.0))
    return float(stats.gamma.ppf(alpha / 2, shape) / shape), float(stats.gamma.isf(alpha / 2, shape) / shape)


def correlation_bound(n: int, alpha: float) -> float:
    """What the correlation of two independent normal vectors of n values exceeds with chance alpha, either sign."""
    t = float(stats.t.isf(alpha / 2, n - 1))
    return t / math.sqrt(n - 1 + t * t)
