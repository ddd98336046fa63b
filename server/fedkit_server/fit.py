"""Whether a site's offer admits a run: for `run`, which refuses, and for `preflight`, which tells.

The clauses are the site's own (`fedkit.governance.clauses`), held against what the site has offered of its file. It
decides all the same: what it does not disclose, and what is left of its budget, is its own to know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedkit.config.experiment import ExperimentConfig
from fedkit.federation.job import job_config
from fedkit.governance.clauses import Circumstances, Clause, clauses
from fedkit.governance.offered import read_offered
from fedkit.governance.rules import Rules

RULES: Mapping[str, str] = {
    "declaration": "declaration", "models": "model", "strategies": "strategy", "unit": "unit", "delta": "delta",
    "max_epsilon": "epsilon", "allow_unprotected": "unprotected", "policy.purposes": "purpose",
    "policy.studies": "study", "policy.submitters": "submitter", "policy.release": "release",
    "policy.max_rounds": "rounds", "policy.max_epsilon_per_run": "epsilon of a run", "policy.min_records": "records",
    "policy.min_other_sites": "other sites", "policy.hours": "hours", "policy.approval": "approval",
}  # fmt: skip
"""A key of a site's file to the row that it has in the table."""
NOT_OFFERED = "not offered"
AGREEMENT = "agreement"
"""The row of the study's agreement, which is the coordinator's to compare."""
_POLICY = "policy."


@dataclass(frozen=True)
class Check:
    """One rule of a site's, held against a run.

    Attributes:
        asked, admitted: what the run says and what the site offers, in words.
        problem: what stands between them for good; empty where the run fits.
        waits: what a person or the clock at the site may still change.
        code: with which the site would answer.
    """

    rule: str
    asked: str
    admitted: str
    problem: str = ""
    waits: str = ""
    code: str = ""


def checks(
    config: ExperimentConfig,
    name: str,
    data: Mapping[str, Any] | None,
    known: Mapping[str, Any],
    asked: Circumstances,
    cost: float | None = None,
) -> Iterator[Check]:
    """What the site's own file would say, by what it has said of it.

    Args:
        name: the site's.
        data: its offer of the run's data set; None where it offers none.
        known: everything that it offers.
        asked: what is asked beside the config; its other sites are this one's.
        cost: epsilon of all that leaves the site, where it is known.
    """
    dataset, offered = config.data.name, ", ".join(known) or "none"
    if data is None:
        problem = f"{name} does not offer the data set {dataset}; it offers {offered}"
        yield Check("data set", dataset, offered, problem, code="FK560")
        return
    yield Check("data set", dataset, offered)
    rules = offered_rules(data)
    for clause in clauses(job_config(config), name, rules.records, rules, asked, cost):
        if clause.key in RULES:
            yield _check(clause, name, rules.policy.disclose)
    # Where it is none, or not told, the data set's own bound is the only clause.
    if rules.policy.max_epsilon_per_run is None:
        told = "max_epsilon_per_run" in rules.policy.disclose
        yield Check(RULES["policy.max_epsilon_per_run"], "", "no other" if told else NOT_OFFERED)


def offered_rules(data: Mapping[str, Any]) -> Rules:
    """A data set's bounds as its site has offered them; what was not disclosed is not bound.

    Raises:
        FederationError: FK540.
    """
    policy = read_offered(data.get("policy") or {}, float(data["max_epsilon"]), int(data["records"]))
    return Rules(
        str(data["declaration"]), int(data["records"]), str(data["unit"]), float(data["max_epsilon"]),
        float(data["delta"]), tuple(data["models"]), tuple(data["strategies"]), bool(data["unprotected"]),
        policy,
    )  # fmt: skip


def waiting(found: Sequence[Check]) -> list[str]:
    """What keeps a run waiting at a site and refuses it for nothing."""
    return [check.waits for check in found if check.waits]


def presence(site: Mapping[str, Any] | None, name: str, known: Mapping[str, Any]) -> Check:
    """Whether a site is there to be asked."""
    if site is None:
        return Check(
            "online", "", "not enrolled", f"{name!r} is not enrolled; known are {', '.join(sorted(known)) or 'none'}"
        )
    state = str(site["state"])
    if state == "revoked":
        return Check("online", "", state, f"{name} was revoked")
    if state != "online":
        return Check("online", "", state, f"{name} is not connected; there: `fedkit client start`")
    if not site["offer"]:
        return Check("online", "", state, f"{name} has offered nothing yet; there: `fedkit client start`")
    return Check("online", "", state)


def others(asked: Circumstances, name: str, names: Sequence[str]) -> Circumstances:
    """What is asked of one of the sites that would take part."""
    return replace(asked, others=tuple(other for other in names if other != name))


def _check(clause: Clause, site: str, disclosed: Sequence[str]) -> Check:
    rule, bound = RULES[clause.key], clause.bound
    if clause.key.startswith(_POLICY) and clause.key.removeprefix(_POLICY) not in disclosed:
        return Check(rule, clause.value, NOT_OFFERED)
    if clause.key == "declaration":
        bound = "equal" if clause.holds else "another"
    if clause.key == "policy.min_records":
        bound = "enough" if clause.holds else "more"
    value = "the run's" if clause.key == "declaration" else clause.value
    if clause.holds:
        return Check(rule, value, bound)
    why = replace(clause, bound=bound if clause.key == "policy.min_records" else clause.bound).why(site)
    text = f"{site} {'would let it wait' if clause.verdict == 'waits' else 'would refuse it'} ({clause.code}): {why}"
    if clause.verdict == "waits":
        return Check(rule, value, bound, waits=text, code=clause.code)
    return Check(rule, value, bound, f"{text}; {clause.remedy}", code=clause.code)
