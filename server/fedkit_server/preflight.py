"""What stands between a run and each site, and what it would cost there; asks no site and charges nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from fedkit.config.experiment import ExperimentConfig
from fedkit.errors import FedkitError, PrivacyError
from fedkit.federation.job import job_config
from fedkit_server.fit import Check, checks, presence
from fedkit_server.submission import with_delta

STATISTICS_NOTE = (
    "What depends on records (ranges that are exceeded, missing values, class balance) is in no offer. It is a charged,"
    " noisy query that nobody sends over a deployed federation: each site runs `fedkit stats` itself and decides what"
    " to tell. It charges a ledger of its own, not the deployed site's: the costs of both add up."
)
LEFT_NOTE = "What is left of a site's budget is its own to know; the ledger there may refuse a run that fits here."


def preflight(
    config: ExperimentConfig, sites: Sequence[Mapping[str, Any]], names: Sequence[str], stats_epsilon: float
) -> dict[str, Any]:
    """Each site's checks and costs, as plain JSON types.

    Args:
        sites: as the API lists them.
        names: those that are looked at.
        stats_epsilon: what one answer of all declared columns' statistics would cost a site at most.
    """
    by_name = {str(site["name"]): site for site in sites}
    offers = {name: (by_name.get(name) or {}).get("offer") or {} for name in names}
    datas = {name: offer.get("datasets", {}).get(config.data.name) for name, offer in offers.items()}
    config = with_delta(config, list(datas.values()))
    told = {}
    for name in names:
        site, data = by_name.get(name), datas[name]
        found = [presence(site, name, by_name)]
        if offers[name]:
            found += checks(config, data, offers[name].get("datasets", {}))
        cost = None
        if data is not None and all(check.rule != "declaration" or not check.problem for check in found):
            cost, more = _cost(config, name, data)
            found += more
        told[name] = {
            "fits": not any(check.problem for check in found),
            "records": None if data is None else data["records"],
            "checks": [asdict(check) for check in found],
            "epsilon": cost,
            "delta": config.privacy.delta if config.privacy.mode != "none" else None,
            "statistics": None if data is None else _statistics(config, name, data, stats_epsilon),
        }
    return {
        "name": config.name,
        "data": config.data.name,
        "unit": "patient" if config.data.unit_column else "record",
        "fits": all(each["fits"] for each in told.values()),
        "sites": told,
        "notes": [LEFT_NOTE, STATISTICS_NOTE],
    }


def _at(config: ExperimentConfig, name: str, data: Mapping[str, Any]) -> ExperimentConfig:
    """The config as this site alone would be asked."""
    return replace(config, data=replace(config.data, records={name: int(data["records"])}, partition=None))


def _cost(config: ExperimentConfig, name: str, data: Mapping[str, Any]) -> tuple[float | None, Iterator[Check]]:
    """What the whole run costs the site, by PLD, and what is wrong with that."""
    from fedkit.training.plan import declared_plans

    if config.privacy.mode == "none":
        return None, iter(())
    try:
        plan = declared_plans(job_config(_at(config, name, data)), [name]).sites[name].privacy
    except FedkitError as error:
        return None, iter([Check("plan", "", "", f"makes no plan ({error.code}): {error.message}")])
    epsilon = None if plan is None else float(plan.epsilon)
    if epsilon is None or config.privacy.epsilon is not None or epsilon <= data["max_epsilon"]:
        return epsilon, iter(())
    most = data["max_epsilon"]
    problem = f"admits epsilon up to {most:g}, and the run costs {epsilon:.4g}"
    return epsilon, iter([Check("cost", f"{epsilon:.4g}", f"up to {most:g}", problem)])


def _statistics(config: ExperimentConfig, name: str, data: Mapping[str, Any], epsilon: float) -> dict[str, Any]:
    """What `fedkit stats` would cost there."""
    from fedkit.assurance.statistics import plan_statistics

    delta = min(config.privacy.delta or data["delta"], data["delta"])
    try:
        plan = plan_statistics(job_config(_at(config, name, data)).data, epsilon=epsilon, delta=delta)
    except PrivacyError as error:
        return {"problem": f"{error.code}: {error.message}"}
    return {
        "columns": list(plan.request.columns),
        "epsilon": plan.epsilon,
        "delta": plan.delta,
        "noise_multiplier": plan.request.noise_multiplier,
        "of_max_epsilon": data["max_epsilon"],
    }
