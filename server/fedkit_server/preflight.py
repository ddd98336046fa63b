"""What stands between a run and each site, and what it would cost there; asks no site and charges nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from fedkit.config.experiment import ExperimentConfig
from fedkit.errors import FedkitError, PrivacyError
from fedkit.federation.job import job_config
from fedkit.governance.clauses import Circumstances
from fedkit_server.fit import Check, checks, others, presence, waiting
from fedkit_server.submission import with_delta

STATISTICS_NOTE = (
    "What depends on records (ranges, missing values, class balance) is in no offer: `fedkit server stats` asks for it,"
    " shows what it costs before, and each site charges the ledger that training spends from."
)
LEFT_NOTE = (
    "What is left of a site's budget is its own to know, and so is what its offer does not tell; it may refuse a run"
    " that fits here."
)


def preflight(
    config: ExperimentConfig,
    sites: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    stats_epsilon: float,
    asked: Circumstances,
    agreement: Callable[[ExperimentConfig, str], Check | None] = lambda config, site: None,
) -> dict[str, Any]:
    """Each site's checks and costs, as plain JSON types.

    Args:
        sites: as the API lists them.
        names: those that are looked at.
        stats_epsilon: what one answer of all declared columns' statistics would cost a site at most.
        asked: what would be asked beside the config.
        agreement: what the study's agreement, as the coordinator holds it, says of the run and a site.

    Raises:
        FederationError: FK540, an offer that cannot be read.
    """
    by_name = {str(site["name"]): site for site in sites}
    offers = {name: (by_name.get(name) or {}).get("offer") or {} for name in names}
    datas = {name: offer.get("datasets", {}).get(config.data.name) for name, offer in offers.items()}
    config = with_delta(config, list(datas.values()))
    told = {}
    for name in names:
        site, data, known = by_name.get(name), datas[name], offers[name].get("datasets", {})
        there, mine = presence(site, name, by_name), others(asked, name, _enrolled(by_name, names))
        found = list(checks(config, name, data, known, mine)) if offers[name] else []
        cost, plan = None, None
        if data is not None and all(check.rule != "declaration" or not check.problem for check in found):
            cost, plan = _cost(config, name, data)
            found = list(checks(config, name, data, known, mine, cost))
        found = [there, *found, *(each for each in (agreement(config, name), plan) if each is not None)]
        told[name] = {
            "fits": not any(check.problem for check in found),
            "waits": waiting(found),
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


def _enrolled(by_name: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Those for which the coordinator would state that they are enrolled."""
    return [name for name in names if name in by_name and by_name[name]["state"] != "revoked"]


def _at(config: ExperimentConfig, name: str, data: Mapping[str, Any]) -> ExperimentConfig:
    """The config as this site alone would be asked."""
    return replace(config, data=replace(config.data, records={name: int(data["records"])}, partition=None))


def _cost(config: ExperimentConfig, name: str, data: Mapping[str, Any]) -> tuple[float | None, Check | None]:
    """What the whole run costs the site, by PLD, and why it makes no plan."""
    from fedkit.training.plan import declared_plans

    if config.privacy.mode == "none":
        return None, None
    try:
        plan = declared_plans(job_config(_at(config, name, data)), [name]).sites[name].privacy
    except FedkitError as error:
        problem = f"{name} makes no plan ({error.code}): {error.message}"
        return None, Check("plan", "", "", problem, code=error.code)
    return (None if plan is None else float(plan.epsilon)), None


def _statistics(config: ExperimentConfig, name: str, data: Mapping[str, Any], epsilon: float) -> dict[str, Any]:
    """What `fedkit server stats` would cost there."""
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
