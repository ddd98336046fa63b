"""What a site's file says, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fedkit.config.experiment import DataConfig
from fedkit.data.consent import ColumnRule, Register
from fedkit.governance.alert_terms import AlertTerms
from fedkit.governance.card import DataCard
from fedkit.governance.encryption import Encryption
from fedkit.governance.retention import Retention


@dataclass(frozen=True)
class Allowed:
    """An installed function that jobs or the site's own sources may name by its entry alone.

    Attributes:
        path: ``package.module:function``.
        sha256: of the package's files; see `fedkit.governance.allow.package_hash`.
    """

    path: str
    sha256: str


@dataclass(frozen=True)
class Limits:
    """What the site gives a run; None leaves it unbounded.

    Attributes:
        memory, disk: bytes.
        bandwidth: bytes a second.
    """

    cpus: float | None = None
    memory: int | None = None
    disk: int | None = None
    bandwidth: int | None = None


@dataclass(frozen=True)
class ConsentTerms:
    """How a site knows who consents; a data set without terms may be used as a whole.

    Attributes:
        unit: the column of the ids of units, where a record is the unit and no ``unit_column`` names it.
    """

    column: ColumnRule | None = None
    register: Register | None = None
    unit: str | None = None


@dataclass(frozen=True)
class Hours:
    """When messages are taken, by the site's clock on the wall.

    Attributes:
        days: 0 is Monday; the day on which a window begins.
        begin, end: minutes since midnight; where ``end`` is not later, the window ends on the next day.
        timezone: an IANA name.
    """

    days: tuple[int, ...]
    begin: int
    end: int
    timezone: str


@dataclass(frozen=True)
class Submitter:
    """A user whose jobs are taken; ``key`` is the fingerprint of a signing key, None for any of that name."""

    name: str
    key: str | None = None


@dataclass(frozen=True)
class Policy:
    """Who may run what on a data set, for which purpose, and what may leave.

    Attributes:
        studies: ``none`` stands for runs that belong to no study.
        submitters: None for every operator and admin of the keyring.
        release: those of `RELEASES` that may leave.
        approval: ``manual``: only runs that a person at the site has approved.
        max_epsilon_per_run: at most ``SiteData.max_epsilon``, which stands in for None.
        min_records: least declared units of the data set.
        min_other_sites: least other sites of a run with a signed enrolment.
        hours: None for always.
        disclose: which of these the site's offer tells.
    """

    purposes: tuple[str, ...]
    studies: tuple[str, ...]
    submitters: tuple[Submitter, ...] | None
    release: tuple[str, ...]
    approval: Literal["automatic", "manual"]
    max_rounds: int
    max_epsilon_per_run: float | None = None
    min_records: int = 1
    min_other_sites: int = 0
    hours: Hours | None = None
    disclose: tuple[str, ...] = ()


STATISTICS = "statistics"
RELEASES = ("updates", "private_metrics", "exact_metrics", STATISTICS)
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
NO_STUDY = "none"
"""The study of a run that belongs to none."""


@dataclass(frozen=True)
class SiteData:
    """One data set and what may be done with it.

    Attributes:
        declaration: the table as the site reads it: its own source and columns, and its declared count.
        records: declared number of privacy units; public.
        max_epsilon: what all runs together may spend at ``delta``: the ledger's limit, and the most of one run.
        allow_unprotected: admit runs without privacy, which reveal what they like.
        card: what the hospital says of it for people to read; decides nothing.
    """

    declaration: DataConfig
    records: int
    unit: Literal["record", "patient"]
    max_epsilon: float
    delta: float
    models: tuple[str, ...]
    strategies: tuple[str, ...]
    policy: Policy
    allow_unprotected: bool = False
    consent: ConsentTerms | None = None
    card: DataCard = field(default_factory=DataCard)

    @property
    def ids(self) -> str | None:
        """The column that tells whose a record is; None where none does."""
        return self.declaration.unit_column or (self.consent.unit if self.consent is not None else None)


@dataclass(frozen=True)
class SiteFile:
    """A site's file, read and checked.

    Attributes:
        folder: keys, ledgers and logs; absolute.
        data: the name that a run's config asks for to the site's own data set.
        disclose_usage: tell the coordinator CPU seconds and peak memory, which may follow from records.
        models, sources: installed functions by the name under which they are asked for.
        alerts: where the site tells what somebody should look at.
        encryption: where the key of what lies in the folder comes from.
        retention: how long that is kept.
    """

    site: str
    folder: Path
    data: Mapping[str, SiteData]
    limits: Limits = Limits()
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    disclose_usage: bool = False
    models: Mapping[str, Allowed] = field(default_factory=dict)
    sources: Mapping[str, Allowed] = field(default_factory=dict)
    alerts: AlertTerms = field(default_factory=AlertTerms)
    encryption: Encryption = field(default_factory=Encryption)
    retention: Retention = field(default_factory=Retention)
