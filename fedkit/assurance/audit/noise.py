"""The size and the shape of the noise, read off releases in which nothing else can be."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from scipy import stats

from fedkit.assurance.audit.canaries import Readings
from fedkit.assurance.audit.finding import Finding, compared, not_measured, within
from fedkit.assurance.audit.intervals import count_range, ratio_interval, sigma_interval, sigma_range

TAILS = (4.0, 4.5, 5.0)
_FLOAT32_WORDS = 2.0**24
_SMALL_UNIFORM = 2.0**-10


def deviation(readings: Readings) -> float:
    """Standard deviation about 0."""
    return float(np.sqrt(np.mean(np.square(readings))))


def size_findings(
    site: str, sigma: float, most: float, without_rows: Readings, one_unit: Readings, alpha: float
) -> list[Finding]:
    """The noise multiplier of a site, over all releases and in the quietest one.

    Args:
        sigma: the plan's.
        most: what the noise may be of it, an allowance for rounding; at least 1.
        without_rows: releases of one step at a site without records, [rounds, d].
        one_unit: releases of one step at a site with one record: its lots are empty unless the record joins.
    """
    planned = sigma, sigma * most
    drawn = without_rows.size + one_unit.size
    pooled = math.sqrt((np.square(without_rows).sum() + np.square(one_unit).sum()) / drawn)
    return [
        compared(
            "noise.sigma", "noise", site, "sigma of a step", pooled,
            sigma_interval(pooled, drawn, alpha), sigma, margin=most - 1 + 1e-6,
            below="less noise than planned", above="more noise than planned",
        ),
        _quietest("noise.empty_lots", site, "least sigma, no records", without_rows, planned, alpha),
        _quietest("noise.every_step", site, "least sigma, one record", one_unit, planned, alpha),
    ]  # fmt: skip


def _quietest(
    check: str, site: str, what: str, releases: Readings, expected: tuple[float, float], alpha: float
) -> Finding:
    low, high = sigma_range(releases.shape[1], alpha / len(releases))
    allowed = low * expected[0], high * expected[1]
    each = np.sqrt(np.mean(np.square(releases), axis=1))
    least, most = float(each.min()), float(each.max())
    if most > allowed[1]:
        return within(check, "noise", site, what, most, allowed, expected[0],
                      broken="a step has more noise than planned")  # fmt: skip
    broken = "a step without noise" if least < 0.01 * expected[0] else "a step has less noise than planned"
    return within(check, "noise", site, what, least, allowed, expected[0], broken=broken)


def steps_finding(
    site: str, steps: int, whole: Readings, one_step: float, drawn: int, most: float, alpha: float
) -> tuple[Finding, tuple[float, float]]:
    """How many independent noisy steps a round of the plan holds: the variance of a round over that of a step.

    Args:
        steps: the plan's.
        whole: noise of whole rounds, any shape.
        one_step: standard deviation of one step's noise, from ``drawn`` values.
        most: by how much the noise of the two kinds of round may differ in its allowance for rounding.

    Returns:
        The finding, and the interval of the number of steps.
    """
    what = "noisy steps a round"
    if one_step <= 0:
        return not_measured("noise.steps", "noise", site, what, "a step has no noise"), (float(steps), float(steps))
    ratio = (deviation(whole) / one_step) ** 2
    low, high = ratio_interval(ratio, whole.size, drawn, alpha)
    interval = low / most**2, high * most**2
    found = compared("noise.steps", "noise", site, what, ratio, interval, float(steps),
                     below="fewer steps bear their own noise than planned",
                     above="more noise than independent steps add up to: noise repeats, or steps do")  # fmt: skip
    return found, interval


def own_model_finding(noise: Mapping[str, tuple[Readings, float]], most: float, alpha: float) -> Finding:
    """Noise on the experiment's own model at sites without records, over what each plan says.

    Args:
        noise: site to its readings (any shape) and its sigma.
        most: the largest allowance for rounding among them.
    """
    scaled = np.concatenate([readings.ravel() / sigma for readings, sigma in noise.values()])
    estimate = deviation(scaled)
    return compared(
        "noise.own_model", "noise", "all", "own model: noise over plan", estimate,
        sigma_interval(estimate, len(scaled), alpha), 1.0, margin=most - 1 + 1e-3,
        below="less noise than planned", above="more noise than planned",
    )  # fmt: skip


def shape_findings(noise: Mapping[str, Readings], alpha: float) -> list[Finding]:
    """Whether the noise is Gaussian, its tail included.

    Args:
        noise: site to all its noise of single steps, any shape.
    """
    deviations = {site: deviation(readings) for site, readings in noise.items()}
    if min(deviations.values()) <= 0:
        why = "no noise at " + ", ".join(site for site, found in deviations.items() if found <= 0)
        return [not_measured("noise.distribution", "noise", "all", "shape of the noise", why)]
    drawn = np.concatenate([readings.ravel() / deviations[site] for site, readings in noise.items()])
    n = len(drawn)
    distance = float(stats.kstest(drawn, "norm", method="asymp").statistic)
    fourth = float(np.mean(np.square(np.square(drawn))))
    # Scaled by the deviation, the fourth moment varies by sqrt(24 / n).
    reach = float(stats.norm.isf(alpha / 2)) * math.sqrt(24 / n)
    found = [
        within(
            "noise.distribution", "noise", "all", "distance from a normal (KS)", distance,
            (None, float(stats.kstwobign.isf(alpha)) / math.sqrt(n)), None,
            broken="the noise is not Gaussian", holds=f"Gaussian, {n:,} draws",
        ),
        compared("noise.kurtosis", "noise", "all", "kurtosis", fourth, (fourth - reach, fourth + reach), 3.0,
                 below="lighter tails than a normal", above="heavier tails than a normal"),
    ]  # fmt: skip
    sizes = np.abs(drawn)
    for at in TAILS:
        expected = 2 * float(stats.norm.sf(at)) * n
        count, (low, high) = int((sizes > at).sum()), count_range(expected, alpha)
        found.append(
            within(f"noise.tail_{at:g}", "noise", "all", f"draws beyond {at:g} sigma", count, (low, high), expected,
                   broken="the tail is cut" if count < low else "the tail is heavier than a normal's",
                   holds="as planned" if low > 0 else "too few for a cut to show")
        )  # fmt: skip
    return found


def tail_seen(draws: int, alpha: float) -> float:
    """The largest cut, in sigma, that would have shown: there, no draw at all beyond has a chance of ``alpha / 2``.

    >>> round(tail_seen(10**7, 1e-6), 2)
    4.82
    """
    return float(stats.norm.isf(min(0.5, math.log(2 / alpha) / draws / 2)))


def resolution_finding(noise: Mapping[str, tuple[Readings, float]], alpha: float) -> Finding:
    """Whether large draws sit on the grid of 24-bit uniforms, as torch's float32 normals do (they end at 5.77 sigma).

    A pair from Box and Muller's transform gives its uniform back, exp(-(a*a + b*b) / 2). On uniforms of 24 bits it is
    a multiple of 2**-24; else the fractions of such a multiple are uniform (Rayleigh's test). Pairs are looked for in
    the orders of torch (blocks of 16), of halves and of neighbours.

    Args:
        noise: site to releases of one step, [rounds, d], and the exact scale of its noise.
    """
    what = "float32 grid in large draws"
    strongest, least, bound = 0.0, 1.0, 1.0
    cases = (_blocks_of_16, _halves, _neighbours)
    for order in cases:
        uniforms = []
        for readings, scale in noise.values():
            first, second = order(readings / scale)
            found = np.exp(-(np.square(first) + np.square(second)) / 2)
            uniforms.append(found[(found < _SMALL_UNIFORM) & (found > 0)])
        fractions = np.concatenate(uniforms) * _FLOAT32_WORDS
        if len(fractions) < 50:
            return not_measured("noise.resolution", "noise", "all", what, "too few large draws")
        resultant = float(abs(np.exp(2j * np.pi * fractions).mean()))
        p = math.exp(-min(700.0, len(fractions) * resultant**2))
        if p < least:
            strongest, least, bound = resultant, p, math.sqrt(math.log(len(cases) / alpha) / len(fractions))
    return within("noise.resolution", "noise", "all", what, strongest, (None, bound), 0.0,
                  broken="float32 normals: their tail ends at 5.77 sigma",
                  holds="no sign of float32 normals")  # fmt: skip


def _blocks_of_16(z: Readings) -> tuple[Readings, Readings]:
    blocks = z[:, : z.shape[1] // 16 * 16].reshape(len(z), -1, 16)
    return blocks[..., :8].ravel(), blocks[..., 8:].ravel()


def _halves(z: Readings) -> tuple[Readings, Readings]:
    half = z.shape[1] // 2
    return z[:, :half].ravel(), z[:, half : 2 * half].ravel()


def _neighbours(z: Readings) -> tuple[Readings, Readings]:
    even = z.shape[1] // 2 * 2
    return z[:, :even:2].ravel(), z[:, 1:even:2].ravel()
