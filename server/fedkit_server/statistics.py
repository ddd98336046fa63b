"""A question about the columns of several sites, where the user is: planned and priced before, read afterwards."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedkit.assurance.statistics import StatsPlan, figures, plan_statistics, read_reply, summary, unit_of
from fedkit.config.experiment import ExperimentConfig
from fedkit.errors import PrivacyError
from fedkit.federation.job import job_config
from fedkit.federation.public_codes import readable_reason
from fedkit.governance.statistics import Statistics
from fedkit.privacy.accounting import ACCOUNTANT, ADJACENCY
from fedkit.reporting import text

NOTES = (
    "each site charges the ledger that training spends from, and refuses where not enough is left of it",
    "a site that has answered this question for this study and purpose before gives the same answer and charges"
    " nothing; --anew LABEL asks again, at full cost",
    "numbers below and above a declared range are counted apart, under the same noise and in the same charge",
)


@dataclass(frozen=True)
class Planned:
    """A question before it is asked.

    Attributes:
        config: the experiment with the sites' declared counts.
        waits: what keeps sites waiting, in words.
    """

    config: ExperimentConfig
    plan: StatsPlan
    asked: Statistics
    waits: Sequence[str] = ()


def planned(
    config: ExperimentConfig,
    sites: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    epsilon: float,
    columns: Sequence[str],
    bins: int,
    anew: str,
) -> Planned:
    """The noise at which an answer costs each site at most ``epsilon``, at the least delta that they offer.

    Args:
        sites: as the API lists them; those that offer nothing are left for `with_sites` to refuse.
        columns: all declared ones if none is named.

    Raises:
        PrivacyError: FK301, FK302, FK309, FK370, FK371.
    """
    offers = {str(site["name"]): (site.get("offer") or {}).get("datasets", {}) for site in sites}
    datas = {name: offers[name][config.data.name] for name in names if config.data.name in offers.get(name, {})}
    data = replace(config.data, records={name: int(each["records"]) for name, each in datas.items()}, partition=None)
    config = job_config(replace(config, data=data))
    delta = min((float(each["delta"]) for each in datas.values()), default=1e-5)
    plan = plan_statistics(config.data, epsilon=epsilon, delta=delta, columns=columns, bins=bins)
    request = plan.request
    asked = Statistics(request.columns, request.bins, request.noise_multiplier, delta, anew, request.outside)
    return Planned(config, plan, asked)


def described(question: Planned, names: Sequence[str], study: str) -> dict[str, Any]:
    """What is shown before anything is asked, in the shape of `fedkit stats --json`."""
    plan, data = question.plan, question.config.data
    unit = unit_of(data)
    cost = {"noise_multiplier": plan.request.noise_multiplier, "epsilon": plan.epsilon}
    return {
        "name": question.config.name,
        "data": data.name,
        "unit": unit,
        "adjacency": ADJACENCY,
        "accountant": ACCOUNTANT,
        "mechanism": "gaussian",
        "sensitivity": 1.0,
        "noise": "secure",
        "private": True,
        "seed": None,
        **cost,
        "target_epsilon": plan.target,
        "delta": plan.delta,
        "columns": list(plan.request.columns),
        "bins": plan.request.bins,
        "ledgers": None,
        "study": study,
        "purpose": question.config.purpose,
        "anew": question.asked.anew,
        "charges": {name: {**cost, "state": "asked"} for name in names},
        "notes": [*NOTES, *question.waits],
        "statement": (
            f"Each site that answers charges epsilon {text.epsilon(plan.epsilon)} at delta {text.small(plan.delta)} for"
            f" one {unit}, add/remove adjacency, by PLD, before it reads a record: {len(plan.request.columns)} Gaussian"
            f" mechanisms of sensitivity 1, since a {unit} counts once in each column whatever its rows."
        ),
    }


def answered(question: Planned, told: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of the sites' answers, pooled and by site, and why the others have given none.

    Args:
        told: what the coordinator holds; it comes from there and from sites, and is checked.
    """
    config, plan = question.config.data, question.plan
    good: dict[str, bytes] = {}
    failed = {str(site): _reason(str(why)) for site, why in dict(told.get("failed", {})).items()}
    for site, encoded in dict(told.get("answers", {})).items():
        try:
            reply = base64.b64decode(str(encoded), validate=True)
            read_reply(config, str(site), plan.request, reply)
        except (PrivacyError, binascii.Error) as error:
            failed[str(site)] = error.code if isinstance(error, PrivacyError) else "FK374"
            continue
        good[str(site)] = reply
    sites = [site for site in config.records if site in good]
    found = {"failed": failed, "answered": sites}
    if not sites:
        return {**found, "pooled": None, "sites": {}}
    return found | summary(figures(config, plan, {site: good[site] for site in sites}))


def _reason(why: str) -> str:
    """A site's code, or the coordinator's own words about a site that said nothing."""
    return why if why.endswith(" s") and why.isprintable() and len(why) < 200 else readable_reason(why)
