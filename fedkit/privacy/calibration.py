"""How much noise an epsilon needs: the inverse of the accountant."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

from fedkit.errors import PrivacyError
from fedkit.privacy.accounting import MAX_SIGMA, MIN_SIGMA, GaussianEvent, check_event, epsilon_of, merged
from fedkit.privacy.pld import FINE
from fedkit.privacy.rough import rough_epsilon

MIN_EPSILON, MAX_EPSILON = 1e-4, 100.0
"""Targets for calibration: below is noise alone, above protects nobody."""


@lru_cache(maxsize=256)
def noise_multiplier_for(
    epsilon: float, delta: float, sample_rate: float, steps: int, others: tuple[GaussianEvent, ...] = ()
) -> float:
    """The smallest sigma of 4 decimals whose epsilon does not exceed the target; cached.

    Args:
        epsilon: the target for all steps and the other events together.
        others: what else is released and was fixed before, such as an evaluation's histograms.

    Raises:
        PrivacyError: a value out of its range, other events that leave nothing, or a target that no noise within the
            accountant's range reaches.

    Guarantee: the epsilon of the other events and ``steps`` of the result together is at most the target.
    """
    target = float(epsilon)
    if not MIN_EPSILON <= target <= MAX_EPSILON:
        message = f"epsilon {target:g} is not between {MIN_EPSILON:g} and {MAX_EPSILON:g}"
        raise PrivacyError(message, code="FK301", remedy="set privacy.epsilon=3")
    check_event(GaussianEvent(sample_rate, 1.0, steps))
    if steps < 1:
        raise PrivacyError(f"steps {steps} is below 1: there is nothing to calibrate", code="FK305")
    if others and (already := epsilon_of(others, delta)) >= target:
        raise PrivacyError(
            f"what is released besides training costs epsilon {already:.3g}, the target is {target:g}: nothing is left",
            code="FK321",
            remedy="raise privacy.evaluation.noise_multiplier (null releases no evaluation), or privacy.epsilon",
        )
    return _Problem(target, float(delta), float(sample_rate), int(steps), others).solved()


class _Problem:
    """Epsilon as a function of sigma, all else fixed."""

    def __init__(self, target: float, delta: float, q: float, steps: int, others: tuple[GaussianEvent, ...]) -> None:
        self.target, self.delta, self.q, self.steps, self.others = target, delta, q, steps, others

    def solved(self) -> float:
        """A search at the coarse discretisation, one Newton step at the fine one, which then confirms what is given."""
        least = math.log(MIN_SIGMA)
        low = high = self.enough_by_rdp()
        while low > least and self.excess(low) <= 0:
            low, high = max(low - math.log(1.4), least), low
        # Only a search that has come down to the least noise there is can end on it.
        if low <= least and self.fine(MIN_SIGMA) <= self.target:
            return MIN_SIGMA
        if low == high:
            low -= math.log(1.1)
        coarse, slope = _root(self.excess, low, high)
        slope = min(slope, -0.1)
        refined = coarse - math.log(max(self.fine(math.exp(coarse)), 1e-12) / self.target) / slope
        sigma = max(_round_up(math.exp(min(max(refined, low), high))), MIN_SIGMA)
        step = 1e-4
        while sigma <= MAX_SIGMA:
            found = self.fine(sigma)
            if found <= self.target:
                return sigma
            needed = sigma * math.exp(math.log(found / self.target) / -slope)
            sigma, step = _round_up(max(sigma + step, min(needed, 2 * sigma))), 2 * step
        raise _out_of_reach(self.target)

    def events(self, sigma: float) -> tuple[GaussianEvent, ...]:
        # The exponential of a logarithm may leave the range by its last bit.
        return (*self.others, GaussianEvent(self.q, min(max(sigma, MIN_SIGMA), MAX_SIGMA), self.steps))

    def fine(self, sigma: float) -> float:
        return epsilon_of(self.events(sigma), self.delta)

    def excess(self, log_sigma: float) -> float:
        found = epsilon_of(self.events(math.exp(log_sigma)), self.delta, 10 * FINE)
        return math.log(max(found, 1e-12) / self.target)

    def rough(self, log_sigma: float) -> float:
        return rough_epsilon(merged(self.events(math.exp(log_sigma))), self.delta)

    def enough_by_rdp(self) -> float:
        """Log of a sigma at which a Renyi bound, hence the PLD, meets the target; within 1 % of the least such."""
        low, high = math.log(MIN_SIGMA), math.log(MAX_SIGMA)
        if self.rough(high) > self.target:
            # The Renyi bound is looser: where it alone fails, the search starts at the most noise there is.
            if self.fine(MAX_SIGMA) > self.target:
                raise _out_of_reach(self.target)
            return high
        while high - low > 0.01:
            middle = (low + high) / 2
            low, high = (low, middle) if self.rough(middle) <= self.target else (middle, high)
        return high


def _root(function: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    """Where a falling function crosses 0, to about 1e-6, and its slope there; ``high`` where it does not cross."""
    left, right = function(low), function(high)
    slope = (right - left) / (high - low)
    if not right < 0 < left:
        return high, slope
    same = 0
    while True:
        # Secants alone would creep along a curve; after two that moved the same end, the middle is taken.
        here = (low + high) / 2 if abs(same) > 1 else low + (high - low) * left / (left - right)
        found = function(here)
        if found > 0:
            slope, same = (right - found) / (high - here), max(same, 0) + 1
            low, left = here, found
        else:
            slope, same = (found - left) / (here - low), min(same, 0) - 1
            high, right = here, found
        if abs(found) < 1e-6 or high - low < 1e-6:
            return here, slope


def _out_of_reach(target: float) -> PrivacyError:
    return PrivacyError(
        f"epsilon {target:g} cannot be reached with a noise multiplier up to {MAX_SIGMA:g}",
        code="FK309",
        remedy="raise privacy.epsilon or privacy.delta, or lower federation.num_rounds or privacy.sample_rate",
    )


def _round_up(sigma: float) -> float:
    return math.ceil(sigma * 1e4 - 1e-9) / 1e4
