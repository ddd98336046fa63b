"""A study agreement as values: what coordinator and sites sign, and what a site has signed of the study of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

from fedkit.privacy.rdp_filter import Charge


@dataclass(frozen=True)
class StudyData:
    """What a study may do with one data set at each site.

    Attributes:
        unit: ``record`` or ``patient``.
        max_epsilon: what all runs of the study together may cost a site at ``delta``, and the most of one run.
        delta: the most of a run.
        max_rounds: the most of a run.
        max_epsilon_per_run: at most ``max_epsilon``, which stands in for None.
        allow_unprotected: cover runs without privacy, which no budget counts.
    """

    unit: Literal["record", "patient"]
    max_epsilon: float
    delta: float
    models: tuple[str, ...]
    strategies: tuple[str, ...]
    max_rounds: int
    max_epsilon_per_run: float | None = None
    allow_unprotected: bool = False


@dataclass(frozen=True)
class Agreement:
    """The terms of a study; its text, not this value, is what is signed.

    Attributes:
        study: its name.
        version: a later text of the same study has a higher one.
        begin, end: the first and the last day on which runs are taken.
        parties: site to the fingerprint of the key with which it joined.
        retention_days: for how long the coordinator keeps its copies once a run has ended.
    """

    study: str
    version: int
    purpose: str
    begin: date
    end: date
    parties: Mapping[str, str]
    data: Mapping[str, StudyData]
    retention_days: int
    contacts: tuple[str, ...]
    description: str = ""


@dataclass(frozen=True)
class Standing:
    """How a site stands to the study that a run names.

    Attributes:
        agreement: the terms that the site has signed; None where it has not, or has left, or cannot read them.
        digest: SHA-256 of the text that it signed, hex.
        why: why there is no agreement.
        spent: what the study's other runs on the data set cost here, what they hold included; None if unreadable.
        runs: how many other runs of the study were admitted on the data set.
    """

    agreement: Agreement | None = None
    digest: str = ""
    why: str = "none; the site has signed no agreement of that name"
    spent: tuple[Charge, ...] | None = field(default=())
    runs: int = 0


def plain(agreement: Agreement) -> dict[str, Any]:
    """The terms as plain JSON values, in the one order that is signed.

    >>> day = date(2026, 1, 31)
    >>> plain(Agreement("a", 1, "p", day, day, {}, {}, 30, ("x",)))["begin"]
    '2026-01-31'
    """
    return {
        "study": agreement.study,
        "version": agreement.version,
        "description": agreement.description,
        "purpose": agreement.purpose,
        "begin": agreement.begin.isoformat(),
        "end": agreement.end.isoformat(),
        "parties": dict(sorted(agreement.parties.items())),
        "data": {name: _plain_data(data) for name, data in sorted(agreement.data.items())},
        "retention_days": agreement.retention_days,
        "contacts": list(agreement.contacts),
    }


def _plain_data(data: StudyData) -> dict[str, Any]:
    return {
        "unit": data.unit,
        "max_epsilon": data.max_epsilon,
        "max_epsilon_per_run": data.max_epsilon_per_run,
        "delta": data.delta,
        "models": list(data.models),
        "strategies": list(data.strategies),
        "max_rounds": data.max_rounds,
        "allow_unprotected": data.allow_unprotected,
    }
