"""What plans come to before anything runs: their cost by two accountants, their noise beside their signal."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from fedkit.config.experiment import ExperimentConfig
from fedkit.errors import PrivacyError
from fedkit.privacy import accounting
from fedkit.privacy.accounting import GaussianEvent
from fedkit.privacy.events import events_of, gaussian_delta
from fedkit.types import LocalPlan, PrivacyPlan

SAME_EPSILON = 0.01
"""Epsilons that differ by less are equal: the accountant is no more precise than this."""


def plan_costs(config: ExperimentConfig, plans: Mapping[str, LocalPlan], parameters: int) -> dict[str, Any]:
    """Everything that can be said of a run's plans before it starts, as plain JSON types.

    Args:
        plans: site to plan, of the sites that train.
        parameters: d, the number of parameters that are trained.

    Returns:
        ``mode``, ``noise``, ``private`` (True only where real noise is planned), ``num_rounds``, ``parameters``,
        ``sites`` (site to the fields of its ``PrivacyPlan``, ``rdp_epsilon``, ``noise_to_signal`` and
        ``rounds_affordable``) and ``binds`` (which sites are the dearest, by each measure). Without privacy a site
        has its steps and batch size only.

    Raises:
        PrivacyError: a plan that the accountants cannot price.
    """
    mode = config.privacy.mode
    summary: dict[str, Any] = {
        "mode": mode,
        "noise": config.privacy.noise if mode != "none" else None,
        "private": mode != "none" and config.privacy.noise == "secure",
        "num_rounds": config.federation.num_rounds,
        "parameters": parameters,
    }
    private = {site: plan.privacy for site, plan in plans.items() if plan.privacy is not None}
    if not private:
        rounds = config.federation.num_rounds
        sites = {s: {"steps": p.steps, "batch_size": p.batch_size, "rounds": rounds} for s, p in plans.items()}
        return {**summary, "sites": sites, "binds": {}}
    costs = {
        site: {
            **asdict(plan),
            "rdp_epsilon": rdp_charge(plan),
            "noise_to_signal": noise_to_signal(plan, parameters),
            # A ledger answers this one; None says that there is none.
            "rounds_affordable": None,
        }
        for site, plan in private.items()
    }
    binds = {
        "epsilon": dearest({site: plan.epsilon for site, plan in private.items()}, SAME_EPSILON),
        "noise_to_signal": dearest({site: cost["noise_to_signal"] for site, cost in costs.items()}, 1e-9),
        "rounds_affordable": None,
    }
    return {**summary, "sites": costs, "binds": binds}


def rdp_charge(plan: PrivacyPlan) -> float | None:
    """What RDP charges for a plan's whole run at the order that suits it best; None where it gives no bound.

    A ledger composes by RDP at an order fixed beforehand, which may suit a plan less.
    """
    found = _rdp(events_of(plan), gaussian_delta(plan.delta))
    return found if math.isfinite(found) else None


def noise_to_signal(plan: PrivacyPlan, parameters: int) -> float:
    """Length of the noise on the mean gradient of one step, over the clip; a pure number.

    The noise on a sum of clipped gradients has standard deviation sigma * C in each of d coordinates, and so a length
    of sigma * C * sqrt(d); both sum and noise are divided by the lot size. The clip C bounds the length of the mean
    gradient of a lot of the declared size: the number is the noise over the most that the signal can be. Steps,
    rounds and sites average the noise further.

    >>> from fedkit.config.experiment import PrivacyConfig, TrainingConfig
    >>> from fedkit.privacy.plan import SiteFacts, make_plan
    >>> privacy = PrivacyConfig("record_dp", noise_multiplier=2.0, delta=1e-5, max_grad_norm=5.0, sample_rate=0.1)
    >>> plan = make_plan(SiteFacts("north", 400, True, "record", 0.25), privacy, TrainingConfig(0.1, 1), 1)
    >>> round(noise_to_signal(plan, 9), 6)  # 2 * sqrt(9) / 30, whatever the clip
    0.2
    """
    return plan.noise_multiplier * math.sqrt(parameters) / plan.lot_size


def dearest(values: Mapping[str, float], tolerance: float) -> list[str]:
    """The sites whose value is the largest, all that are within the tolerance of it.

    >>> dearest({"a": 2.995, "b": 3.0, "c": 1.2}, 0.01)
    ['a', 'b']
    """
    largest = max(values.values(), default=0.0)
    return [site for site, value in values.items() if value >= largest - tolerance]


@contextmanager
def priced(what: str, *failures: type[Exception]) -> Iterator[None]:
    """Turn an accountant's numerical failure into a refusal that a person understands.

    Args:
        failures: further exceptions to be read as such a failure, where nothing else can raise them.

    Raises:
        PrivacyError: the parameters are beyond floating-point arithmetic or memory.
    """
    caught: tuple[type[Exception], ...] = (OverflowError, MemoryError, *failures)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    except caught as error:
        raise PrivacyError(
            f"{what} cannot be priced: its parameters are beyond what the accountant can compute",
            code="FK319",
            remedy="bring noise multiplier, sample rate, steps and delta nearer to those of a usual run",
        ) from error


@lru_cache(maxsize=1024)
def _rdp(events: tuple[GaussianEvent, ...], delta: float) -> float:
    return accounting.rdp_epsilon(events, delta)
