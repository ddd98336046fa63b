"""What a site holds a run of a study against: the agreement that it has signed, clause by clause, all under FK579.

The study's budget at a site is a filter of its own beside the ledger's: at an order that follows from the agreement
alone, over everything that the ledger charged to runs of the study's name, under whatever version of the agreement,
and what they still hold. It is a filter as the ledger's is while one text stands: an order that a later text brings was
not fixed before the runs under the earlier one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime

from fedkit.config.experiment import ExperimentConfig
from fedkit.config.wording import shown
from fedkit.data.table import name_text
from fedkit.governance.agreement import Agreement, Standing, StudyData
from fedkit.governance.clause import Clause
from fedkit.governance.statistics import Statistics
from fedkit.governance.terms import NO_STUDY
from fedkit.privacy.events import RESIDUE
from fedkit.privacy.rdp_filter import RESIDUE_SHARE, Charge, best_order, capacity, cost, epsilon_of

CODE = "FK579"


def study_clauses(
    config: ExperimentConfig,
    study: str,
    digest: str,
    standing: Standing,
    now: float,
    epsilon: float | None,
    charges: tuple[Charge, ...] | None,
    statistics: Statistics | None = None,
) -> tuple[Clause, ...]:
    """Every clause of the agreement for a run of a study; none for a run that belongs to no study.

    Args:
        digest: of the agreement that the job names; empty where it names none.
        now: seconds since the epoch, by the site's clock.
        epsilon: what the run costs at its delta; None before that was computed, and without privacy.
        charges: what the run asks of a ledger; None likewise.
        statistics: what is asked for in place of a model; the clauses about models do not apply to it.
    """
    if study == NO_STUDY:
        return ()
    agreement = standing.agreement
    signed = Clause(
        "study.signed", CODE, f"the agreement of {study} that the job names",
        digest[:12] or "none", standing.digest[:12] if agreement is not None else standing.why,
        "submit the run with `fedkit server run --study NAME`; at the site, see `fedkit client study list SITE.yaml`",
        agreement is not None and agreement.study == study and bool(digest) and digest == standing.digest,
    )  # fmt: skip
    if agreement is None or not signed.holds:
        return (signed,)
    return (signed, *agreed(config, agreement, now), *_data(config, agreement, standing, epsilon, charges, statistics))


def agreed(config: ExperimentConfig, agreement: Agreement, now: float) -> Iterator[Clause]:
    """The clauses about the run as a whole."""
    # The machine's own time zone, as for a consent's days.
    today = datetime.fromtimestamp(now, UTC).astimezone().date()
    sites = [name_text(name) for name in config.data.records]
    strangers = [site for site in sites if site not in agreement.parties]
    yield Clause(
        "study.days", CODE, "the day at the site", f"{today}", _days(agreement.begin, agreement.end),
        "submit it within these days, or sign a later agreement", agreement.begin <= today <= agreement.end,
    )  # fmt: skip
    yield _one("study.purpose", "the purpose", config.purpose or "", (agreement.purpose,), "purpose=")
    yield Clause(
        "study.parties", CODE, "who takes part", ", ".join(strangers or sites) or "nobody",
        "parties alone: " + ", ".join(agreement.parties), "leave out who is no party", bool(sites) and not strangers,
    )  # fmt: skip
    yield _one("study.data", "the data set", config.data.name, tuple(agreement.data), "data=")


def _data(
    config: ExperimentConfig,
    agreement: Agreement,
    standing: Standing,
    epsilon: float | None,
    charges: tuple[Charge, ...] | None,
    statistics: Statistics | None,
) -> Iterator[Clause]:
    own = agreement.data.get(config.data.name)
    if own is None:
        return
    yield from covered(config, own, epsilon, statistics)
    if statistics is not None or config.privacy.mode != "none":
        yield _budget(own, standing, charges)


def covered(
    config: ExperimentConfig, own: StudyData, epsilon: float | None, statistics: Statistics | None = None
) -> Iterator[Clause]:
    """The clauses about one data set that follow from what is asked alone."""
    unit = "record" if config.data.unit_column is None else "patient"
    yield _one("study.unit", "the unit that is protected", unit, (own.unit,), "")
    if statistics is not None:
        yield from _cost(own, statistics.delta, epsilon, "set --epsilon {} at most")
        return
    privacy, rounds = config.privacy, config.federation.num_rounds
    yield _one("study.models", "the model", config.model.name, own.models, "model=")
    yield _one("study.strategies", "the strategy", config.strategy.name, own.strategies, "strategy=")
    yield Clause(
        "study.max_rounds", CODE, "the number of rounds", f"{rounds}", f"at most {own.max_rounds}",
        f"set federation.num_rounds={own.max_rounds} at most", rounds <= own.max_rounds,
    )  # fmt: skip
    if privacy.mode == "none":
        yield Clause(
            "study.allow_unprotected", CODE, "privacy.mode", "none",
            "none or record_dp" if own.allow_unprotected else "record_dp", "set privacy=record_dp",
            own.allow_unprotected,
        )  # fmt: skip
        return
    costs = privacy.epsilon if epsilon is None else max(epsilon, privacy.epsilon or 0.0)
    less = "set privacy.epsilon={} at most, or lower federation.num_rounds or the sample rate"
    yield from _cost(own, privacy.delta, costs, less)


def _cost(own: StudyData, delta: float | None, epsilon: float | None, less: str) -> Iterator[Clause]:
    yield Clause(
        "study.delta", CODE, "privacy.delta", "not set" if delta is None else f"{delta:g}", f"at most {own.delta:g}",
        f"set privacy.delta={own.delta:g} at most", delta is not None and delta <= own.delta,
    )  # fmt: skip
    most = min(own.max_epsilon, own.max_epsilon_per_run or own.max_epsilon)
    yield Clause(
        "study.max_epsilon" if own.max_epsilon_per_run is None else "study.max_epsilon_per_run", CODE,
        "epsilon of the whole run", "not computed" if epsilon is None else f"{epsilon:.6g}", f"at most {most:g}",
        less.format(f"{most:g}"),
        # What only noise tells is looked at once the plan is made.
        epsilon is None or epsilon <= most,
    )  # fmt: skip


def _budget(own: StudyData, standing: Standing, charges: tuple[Charge, ...] | None) -> Clause:
    order = best_order(own.max_epsilon, own.delta)
    whole = capacity(own.max_epsilon, own.delta, order)
    most_runs = math.floor(own.delta * RESIDUE_SHARE / RESIDUE)
    if standing.spent is None:
        value, holds = "not readable in the site's ledger", False
    elif charges is None:
        value, holds = "not computed", True
    else:
        units = cost((*standing.spent, *charges), order)
        epsilon = epsilon_of(units, order, own.delta)
        value = f"{epsilon:.6g} of {standing.runs + 1} runs" if standing.runs else f"{epsilon:.6g} of its first run"
        holds = units <= whole and standing.runs < most_runs
    return Clause(
        "study.budget", CODE, "epsilon of all runs of the study on the data set, as a ledger's filter counts it", value,
        f"at most {own.max_epsilon:g} at delta {own.delta:g}",
        "lower privacy.epsilon or federation.num_rounds, or agree on a later text with a larger budget", holds,
    )  # fmt: skip


def _one(key: str, what: str, given: str, known: tuple[str, ...], setting: str) -> Clause:
    words = " or ".join(known)
    remedy = f"set {setting}{words}" if setting else "set or unset data.unit_column"
    return Clause(key, CODE, what, shown(given) if given else "not set", words, remedy, given in known)


def _days(begin: date, end: date) -> str:
    return f"{begin} to {end}"
