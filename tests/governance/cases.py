"""One case a clause: what is changed in the site's file, in the run and in its circumstances, so that it refuses.

Without the changes of a case the run is admitted; `UNCHANGED` is what it is held against then.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime

KEY, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
MONDAY = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
OFFICE = {"days": ["mon", "tue"], "from": "08:00", "to": "18:00", "timezone": "Europe/Berlin"}


@dataclass(frozen=True)
class Case:
    code: str
    says: tuple[str, ...]
    policy: dict = field(default_factory=dict)
    heart: dict = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    job: dict = field(default_factory=dict)
    study: dict = field(default_factory=dict)
    good: dict = field(default_factory=dict)


STUDY = {
    "study": "registry", "version": 1, "purpose": "heart-disease-research", "begin": "2026-01-01", "end": "2026-12-31",
    "parties": ["cleveland", "hungary", "switzerland", "va"], "retention_days": 365, "contacts": ["dpo@example.org"],
    "data": {"heart_disease": {
        "unit": "record", "max_epsilon": 4.0, "delta": 1.0e-5, "models": ["mlp", "logistic"], "strategies": ["fedavg"],
        "max_rounds": 15,
    }},
}  # fmt: skip
"""Terms that cover the run that nothing was changed in."""


def studied(says, *, data=None, only=None, overrides=(), heart=None, **changes):
    """A case of a run of the study `STUDY` with other terms, which the site's policy names."""
    own = only or {"heart_disease": {**STUDY["data"]["heart_disease"], **(data or {})}}
    terms, job = {**STUDY, **changes, "data": own}, {"study": "registry"}
    return Case("FK579", says, {"studies": ["registry"]}, heart or {}, overrides, job, terms)


JOB = {"study": "none", "submitter": "ana", "key": KEY, "at": MONDAY.isoformat(), "approved": ["cleveland"]}
CASES = {
    "purpose": Case("FK570", ("is 'marketing'", "heart-disease-research"), overrides=("purpose=marketing",)),
    "no purpose": Case("FK570", ("the purpose is not set", "heart-disease-research"), overrides=("purpose=null",)),
    "study": Case("FK571", ("the study is 'registry'", "allows none"), job={"study": "registry"}, study=STUDY),
    "no study": Case("FK571", ("the study is 'none'", "allows registry"), policy={"studies": ["registry"]}),
    "submitter": Case("FK572", (f"bo={KEY}", "allows ana"), policy={"submitters": ["ana"]}, job={"submitter": "bo"}),
    "submitter's key": Case(
        "FK572", (f"ana={OTHER}", f"ana={KEY}"), policy={"submitters": [f"ana={KEY}"]}, job={"key": OTHER}
    ),
    "nobody": Case(
        "FK572", ("the submitter is nobody",), policy={"submitters": ["ana"]}, job={"submitter": None, "key": None}
    ),
    "rounds": Case("FK573", ("rounds is 15", "at most 14"), policy={"max_rounds": 14}),
    "records": Case("FK574", ("units is 303", "at least 304"), policy={"min_records": 304}),
    "release": Case("FK575", ("updates and private_metrics", "allows updates"), policy={"release": ["updates"]}),
    "exact metrics": Case(
        "FK575", ("updates and exact_metrics",), policy={"release": ["updates", "private_metrics"]},
        heart={"allow_unprotected": True}, overrides=("privacy=none",),
    ),
    "day": Case("FK576", ("thu 10:00", "mon, tue from 08:00 to 18:00 Europe/Berlin"), policy={"hours": OFFICE},
                job={"at": "2026-01-08T09:00:00+00:00"}),
    "too early": Case("FK576", ("mon 07:59",), policy={"hours": OFFICE}, job={"at": "2026-01-05T07:59:00+01:00"}),
    "too late": Case("FK576", ("mon 18:00",), policy={"hours": OFFICE}, job={"at": "2026-01-05T18:00:00+01:00"}),
    "approval": Case(
        "FK577", ("the approval is not asked for before", "fedkit client approve"), policy={"approval": "manual"},
        job={"approved": None},
    ),
    "other sites": Case("FK578", ("enrolment is 3", "at least 4"), policy={"min_other_sites": 4}),
    "epsilon of a run": Case(
        "FK567", ("policy.max_epsilon_per_run", "is 3,", "at most 2.5"), policy={"max_epsilon_per_run": 2.5}
    ),
}  # fmt: skip
STUDY_CASES = {
    "another study": studied(("study.signed", "none; ", "allows none"), study="other"),
    "no party": studied(("study.signed", "cleveland is no party"), parties=["hungary", "switzerland", "va"]),
    "too soon": studied(("study.days", "2026-01-05", "2026-01-07 to 2026-12-31"), begin="2026-01-07"),
    "too late": studied(("study.days", "2026-01-05", "2026-01-01 to 2026-01-03"), end="2026-01-03"),
    "purpose": studied(("study.purpose", "'heart-disease-research'", "allows other"), purpose="other"),
    "a stranger": studied(("study.parties", "is va,", "cleveland, hungary"),
                          parties=["cleveland", "hungary", "switzerland"]),
    "data set": studied(("study.data", "'heart_disease'", "allows icu"), only={"icu": STUDY["data"]["heart_disease"]}),
    "model": studied(("study.models", "'logistic'", "allows mlp"), data={"models": ["mlp"]}),
    "strategy": studied(("study.strategies", "'fedavg'", "allows fedprox"), data={"strategies": ["fedprox"]}),
    "unit": studied(("study.unit", "'record'", "allows patient"), data={"unit": "patient"}),
    "rounds": studied(("study.max_rounds", "is 15", "at most 14"), data={"max_rounds": 14}),
    "delta": studied(("study.delta", "is 1e-05", "at most 1e-06"), data={"delta": 1e-6, "max_epsilon": 9.0}),
    "epsilon": studied(("study.max_epsilon", "is 3,", "at most 2"), data={"max_epsilon": 2.0}),
    "epsilon of a run": studied(("study.max_epsilon_per_run", "is 3,", "at most 2"), data={"max_epsilon_per_run": 2.0}),
    "no privacy": studied(("study.allow_unprotected", "is none", "allows record_dp"), overrides=("privacy=none",),
                          heart={"allow_unprotected": True}),
    "budget": studied(("study.budget", "of its first run", "at most 3 at delta 1e-05"), data={"max_epsilon": 3.0}),
}  # fmt: skip
GOOD = {
    "purposes": {"purposes": ["other", "heart-disease-research"]}, "studies": {"studies": ["registry", "none"]},
    "submitters by name": {"submitters": ["bo", "ana"]}, "submitters by key": {"submitters": [f"ana={KEY}"]},
    "rounds": {"max_rounds": 15}, "records": {"min_records": 303},
    "release": {"release": ["private_metrics", "updates"]},
    "hours": {"hours": OFFICE}, "approval": {"approval": "manual"}, "other sites": {"min_other_sites": 3},
    "epsilon of a run": {"max_epsilon_per_run": 3.0},
}  # fmt: skip
