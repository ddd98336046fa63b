"""What a site holds a run against: every clause of its file as one value, for messages, `explain` and rehearsals alike.

::

    FK560  the data set           FK565  the unit                 FK570  the purpose         FK575  what would leave
    FK561  the declaration        FK566  delta                    FK571  the study           FK576  the hours
    FK562  the declared records   FK567  epsilon                  FK572  the submitter       FK577  the approval
    FK563  the model              FK568  a run without privacy    FK573  the rounds          FK578  other sites
    FK564  the strategy           FK569  noise that is not real   FK574  too few records     FK579  the study agreement
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from zoneinfo import ZoneInfo

from fedkit.config.experiment import ExperimentConfig
from fedkit.config.wording import shown, suggestion
from fedkit.governance.agreement import Standing
from fedkit.governance.agreement_clauses import study_clauses
from fedkit.governance.clause import WAITING as WAITING
from fedkit.governance.clause import Clause as Clause
from fedkit.governance.declaration import declaration_digest
from fedkit.governance.rules import Rules
from fedkit.governance.statistics import Statistics
from fedkit.governance.terms import DAYS, NO_STUDY, STATISTICS, Hours, Submitter
from fedkit.privacy.rdp_filter import Charge

_FEWER = "--epsilon {} at most, which fewer --columns make a better use of"


@dataclass(frozen=True)
class Circumstances:
    """What is asked beside the config, and when.

    Attributes:
        now: seconds since the epoch, by the site's clock.
        study: which the job belongs to.
        submitter: the user who signed the job; empty where nobody did.
        key: fingerprint of the key that signed it.
        others: other sites of the job whose enrolment the site has verified.
        approval: ``approved``, or why the run counts as not approved.
        agreement: digest of the study agreement that the job names; empty where it names none.
        standing: how the site stands to the study.
        statistics: what a job asks for that trains nothing; None for a run.
    """

    now: float
    study: str = NO_STUDY
    submitter: str = ""
    key: str = ""
    others: tuple[str, ...] = field(default=())
    approval: str = "not asked for"
    agreement: str = ""
    standing: Standing = field(default_factory=Standing)
    statistics: Statistics | None = None


def unknown_dataset(name: str, known: Sequence[str]) -> Clause:
    """The one clause about a data set that the site does not have: nothing else can be compared."""
    hint = suggestion(name, known)
    remedy = f"submit a run of a data set that the site offers: {hint}"
    return Clause("data", "FK560", "the data set", shown(name), " or ".join(sorted(known)), remedy, False)


def clauses(
    config: ExperimentConfig,
    site: str,
    records: int,
    own: Rules,
    asked: Circumstances,
    cost: float | None,
    charges: tuple[Charge, ...] | None = None,
) -> tuple[Clause, ...]:
    """Every clause of a data set's entry; those that can change by themselves come last.

    Args:
        records: the units that the run declares of the site.
        own: from the site's own file, or from what it has offered.
        cost: the epsilon of all that is released, where it was computed; None before, and without privacy.
        charges: what is asked of a ledger, likewise.
    """
    statistics = asked.statistics
    return (
        *_table(config, site, records, own, trains=statistics is None),
        *(_privacy(config, own, cost) if statistics is None else _charge(own, statistics.delta, None, cost, _FEWER)),
        *_policy(config, own, asked),
        *study_clauses(config, asked.study, asked.agreement, asked.standing, asked.now, cost, charges, statistics),
        *_waiting(own, asked),
    )


def _table(config: ExperimentConfig, site: str, records: int, own: Rules, *, trains: bool) -> tuple[Clause, ...]:
    name = config.data.name
    asked, ours = declaration_digest(config.data), own.declaration
    trained = (
        _among("models", "FK563", "the model", config.model.name, own.models, "model"),
        _among("strategies", "FK564", "the strategy", config.strategy.name, own.strategies, "strategy"),
    )
    unit = "record" if config.data.unit_column is None else "patient"
    return (
        Clause("data", "FK560", "the data set", shown(name), name, "", True),
        Clause(
            "declaration", "FK561", "the digest of the declaration", asked[:12], ours[:12],
            "compare `fedkit config show` with the site's declaration; ranges, levels, split and seed must be equal",
            asked == ours,
        ),
        Clause(
            "records", "FK562", f"the number of declared units of {site}", f"{records}", f"{own.records}",
            f"set data.records.{site}={own.records}", records == own.records,
        ),
        *(trained if trains else ()),
        Clause(
            "unit", "FK565", "the unit that is protected", unit, own.unit, "set or unset data.unit_column",
            unit == own.unit,
        ),
    )  # fmt: skip


def _privacy(config: ExperimentConfig, own: Rules, cost: float | None) -> tuple[Clause, ...]:
    privacy, plain = config.privacy, config.privacy.mode == "none"
    allowed = Clause(
        "allow_unprotected", "FK568", "privacy.mode", privacy.mode,
        "none or record_dp" if own.allow_unprotected else "record_dp", "set privacy=record_dp",
        own.allow_unprotected or not plain,
    )  # fmt: skip
    if plain:
        return (allowed,)
    return (
        *_charge(own, privacy.delta, privacy.epsilon, cost, "privacy.epsilon={} at most, or lower"
                 " federation.num_rounds or the sample rate"),
        allowed,
        Clause(
            "noise", "FK569", "privacy.noise", privacy.noise, "secure, which alone is real", "set privacy.noise=secure",
            privacy.noise == "secure",
        ),
    )  # fmt: skip


def _charge(own: Rules, delta: float | None, named: float | None, cost: float | None, less: str) -> tuple[Clause, ...]:
    most = min(own.max_epsilon, own.policy.max_epsilon_per_run or own.max_epsilon)
    epsilon = named if cost is None else max(cost, named or 0.0)
    key = "max_epsilon" if own.policy.max_epsilon_per_run is None else "policy.max_epsilon_per_run"
    return (
        Clause(
            "delta", "FK566", "privacy.delta", "not set" if delta is None else f"{delta:g}", f"at most {own.delta:g}",
            f"set privacy.delta={own.delta:g} at most", delta is not None and delta <= own.delta,
        ),
        Clause(
            key, "FK567", "epsilon of the whole run", "not computed" if epsilon is None else f"{epsilon:.6g}",
            f"at most {most:g}",
            f"set {less.format(f'{most:g}')}",
            # What only noise tells is looked at once the plan is made.
            epsilon is None or epsilon <= most,
        ),
    )  # fmt: skip


def _policy(config: ExperimentConfig, own: Rules, asked: Circumstances) -> tuple[Clause, ...]:
    policy, rounds = own.policy, 1 if asked.statistics else config.federation.num_rounds
    leaves, users = releases(config) if asked.statistics is None else (STATISTICS,), policy.submitters
    submitter = f"{asked.submitter}={asked.key}" if asked.submitter else "nobody"
    return (
        _among("policy.purposes", "FK570", "the purpose", config.purpose or "", policy.purposes, "purpose"),
        _among("policy.studies", "FK571", "the study", asked.study, policy.studies, "--study"),
        Clause(
            "policy.submitters", "FK572", "the submitter", submitter,
            "any operator" if users is None else " or ".join(_user(one) for one in users),
            "have the job signed by a user whom the site names, with that key",
            users is None or any(_is(one, asked) for one in users),
        ),
        Clause(
            "policy.max_rounds", "FK573", "the number of rounds", f"{rounds}", f"at most {policy.max_rounds}",
            f"set federation.num_rounds={policy.max_rounds} at most", rounds <= policy.max_rounds,
        ),
        Clause(
            "policy.min_records", "FK574", "the number of declared units", f"{own.records}",
            f"at least {policy.min_records}", "leave the site out; its data set is too small for any run",
            own.records >= policy.min_records,
        ),
        Clause(
            "policy.release", "FK575", "what would leave", " and ".join(leaves), " and ".join(policy.release),
            "leave out what is not named: privacy.evaluation for private_metrics, privacy=none for exact_metrics"
            if asked.statistics is None else "ask the site, whose file says so, or its own people for the figures",
            set(leaves) <= set(policy.release),
        ),
        Clause(
            "policy.min_other_sites", "FK578", "the number of other sites with a signed enrolment",
            f"{len(asked.others)}", f"at least {policy.min_other_sites}", "name more sites in the run",
            len(asked.others) >= policy.min_other_sites,
        ),
    )  # fmt: skip


def _waiting(own: Rules, asked: Circumstances) -> tuple[Clause, ...]:
    policy, hours = own.policy, own.policy.hours
    local = datetime.fromtimestamp(asked.now, ZoneInfo(hours.timezone if hours else "UTC"))
    manual = policy.approval == "manual"
    return (
        Clause(
            "policy.hours", "FK576", "the time at the site", f"{DAYS[local.weekday()]} {local:%H:%M}",
            "any time" if hours is None else _window(hours), "submit the run so that its rounds fall into these hours",
            hours is None or _open(hours, local),
        ),
        Clause(
            "policy.approval", "FK577", "the approval", asked.approval if manual else "not needed",
            "what a person at the site has approved" if manual else "every run",
            "wait for the site: there, `fedkit client requests SITE.yaml` and `fedkit client approve SITE.yaml RUN`",
            not manual or asked.approval == "approved",
        ),
    )  # fmt: skip


def releases(config: ExperimentConfig) -> tuple[str, ...]:
    """What a run takes out of a site, in the words of ``release``."""
    if config.privacy.mode == "none":
        return ("updates", "exact_metrics")
    evaluation = config.privacy.evaluation
    measured = evaluation.share is not None or evaluation.noise_multiplier is not None
    return ("updates", "private_metrics") if measured else ("updates",)


def _among(key: str, code: str, what: str, given: str, known: Sequence[str], setting: str) -> Clause:
    words = " or ".join(known)
    remedy = f"set {setting}{' ' if setting.startswith('--') else '='}{words}"
    return Clause(key, code, what, shown(given) if given else "not set", words, remedy, bool(given) and given in known)


def _user(one: Submitter) -> str:
    return one.name if one.key is None else f"{one.name}={one.key}"


def _is(one: Submitter, asked: Circumstances) -> bool:
    return bool(asked.submitter) and one.name == asked.submitter and one.key in (None, asked.key)


def _window(hours: Hours) -> str:
    days = ", ".join(DAYS[day] for day in hours.days)
    return f"{days} from {_clock(hours.begin)} to {_clock(hours.end)} {hours.timezone}"


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


def _open(hours: Hours, local: datetime) -> bool:
    minutes, today = 60 * local.hour + local.minute, local.weekday()
    if hours.begin < hours.end:
        return today in hours.days and hours.begin <= minutes < hours.end
    # Over midnight: the second part belongs to the day on which the window began.
    return (today in hours.days and minutes >= hours.begin) or ((today - 1) % 7 in hours.days and minutes < hours.end)
