"""Whether a site's offer admits a run: one check a rule, for `run`, which refuses, and for `preflight`, which tells.

What a site has offered are declared constants. The site decides all the same, and by more than it offers: its purposes,
studies, hours and approvals, and what is left of its budget, are its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedkit.config.experiment import ExperimentConfig
from fedkit.federation.job import job_config
from fedkit.governance.declaration import declaration_digest


@dataclass(frozen=True)
class Check:
    """One rule of a site's, held against a run.

    Attributes:
        asked, admitted: what the run says and what the site offers, in words.
        problem: what stands between them; empty where the run fits.
    """

    rule: str
    asked: str
    admitted: str
    problem: str = ""


def checks(config: ExperimentConfig, data: Mapping[str, Any] | None, known: Mapping[str, Any]) -> Iterator[Check]:
    """What the site's own file would say, by what it has said of it.

    Args:
        data: its offer of the run's data set; None where it offers none.
        known: everything that it offers.
    """
    name, offered = config.data.name, ", ".join(known) or "none"
    if data is None:
        yield Check("data set", name, offered, f"does not offer the data set {name}; it offers {offered}")
        return
    yield Check("data set", name, offered)
    same = data["declaration"] == declaration_digest(job_config(config).data)
    other = f"declares another table under the name {name}: columns, ranges, target or split differ"
    yield Check("declaration", "the run's", "equal" if same else "another", "" if same else other)
    for rule, asked in (("model", config.model.name), ("strategy", config.strategy.name)):
        admitted = ", ".join(data["models" if rule == "model" else "strategies"]) or "none"
        good = asked in data["models" if rule == "model" else "strategies"]
        yield Check(rule, asked, admitted, "" if good else f"does not admit the {rule} {asked}; it admits {admitted}")
    unit = "patient" if config.data.unit_column else "record"
    good = data["unit"] == unit
    yield Check("unit", unit, data["unit"], "" if good else f"protects a {data['unit']}, and the run a {unit}")
    yield from _privacy(config, data)


def _privacy(config: ExperimentConfig, data: Mapping[str, Any]) -> Iterator[Check]:
    privacy = config.privacy
    if privacy.mode == "none":
        good = bool(data["unprotected"])
        problem = "" if good else "does not train without privacy"
        yield Check("unprotected", "no privacy", "admitted" if good else "refused", problem)
        return
    for rule, asked, most in (
        ("delta", privacy.delta, data["delta"]),
        ("epsilon", privacy.epsilon, data["max_epsilon"]),
    ):
        said = "by its noise" if asked is None else f"{asked:g}"
        above = asked is not None and asked > most
        problem = f"admits {rule} up to {most:g}, and the run has {said}" if above else ""
        yield Check(rule, said, f"up to {most:g}", problem)


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
