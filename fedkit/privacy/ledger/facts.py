"""What a ledger records: frozen facts, and their one canonical text.

Written facts are never changed. A reader refuses a kind or field that it does not know: a fact that is skipped is
spending that is forgotten.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from fedkit.errors import PrivacyError
from fedkit.privacy.accounting import MAX_SIGMA, MAX_STEPS, MIN_SIGMA, GaussianEvent
from fedkit.privacy.events import events_of
from fedkit.privacy.rdp_filter import Charge, accountant, merged, rounded
from fedkit.types import PrivacyPlan

FORMAT = 1
_SIGMAS = round(MIN_SIGMA * 10**6), round(MAX_SIGMA * 10**6)
_MOST_STEPS = 100 * MAX_STEPS
"""A hold may merge several events of the most steps."""


@dataclass(frozen=True)
class Opened:
    """The first fact: the ledger's random name."""

    ledger: str
    format: int = FORMAT


@dataclass(frozen=True)
class Created:
    """The budget of one data-set identity; fixed for good.

    Attributes:
        dataset: the declared population, not a file.
        limit: epsilon that is never exceeded.
        order: the order at which the filter works.
    """

    dataset: str
    unit: str
    adjacency: str
    limit: float
    delta: float
    order: float


@dataclass(frozen=True)
class Held:
    """A run was admitted: its whole cost counts against what others can get, until ``expires_ms``."""

    dataset: str
    run: str
    study: str
    charges: tuple[Charge, ...]
    expires_ms: int
    accountant: str


@dataclass(frozen=True)
class Reserved:
    """Part of a hold is spent, irrevocably, for one message.

    Attributes:
        round: the run's round.
        purpose: what the message asks for, such as ``train`` or ``evaluate``.
        digest: of the message.
    """

    dataset: str
    run: str
    round: int
    purpose: str
    digest: str
    charges: tuple[Charge, ...]
    accountant: str


@dataclass(frozen=True)
class Committed:
    """The one reply to a reserved message; ``reply`` and ``state`` are SHA-256 of the stored bytes."""

    dataset: str
    run: str
    round: int
    purpose: str
    digest: str
    reply: str
    state: str


@dataclass(frozen=True)
class Renewed:
    """A hold that had not expired lasts until ``expires_ms``; it covers what it covered before, and no more."""

    dataset: str
    run: str
    expires_ms: int


@dataclass(frozen=True)
class Released:
    """What remained of a hold is free again; ``reason`` is ``ended``, ``stopped`` or ``expired``."""

    dataset: str
    run: str
    reason: str


@dataclass(frozen=True)
class Pruned:
    """The replies and states of a run that is over were deleted; the charges stay."""

    dataset: str
    run: str


@dataclass(frozen=True)
class Lost:
    """A reservation that a restored backup had forgotten; ``entry`` is the digest of the entry that made it."""

    dataset: str
    run: str
    study: str
    round: int
    purpose: str
    digest: str
    charges: tuple[Charge, ...]
    entry: str


@dataclass(frozen=True)
class Reconciled:
    """A restored backup was brought up to what is known elsewhere.

    Reservations without a reply are closed by it: another copy may have answered them after the backup was made.

    Attributes:
        created: budgets that the backup had forgotten.
        charged: reservations that it had forgotten.
        entries: digests of the entries that it was made from, for people to read: an entry counts as charged where
            ``charged`` charges it, and nowhere else.
    """

    created: tuple[Created, ...]
    charged: tuple[Lost, ...]
    entries: tuple[str, ...]
    accountant: str


Fact = Opened | Created | Held | Renewed | Reserved | Committed | Released | Pruned | Reconciled
_KINDS: dict[str, type[Any]] = {
    "open": Opened,
    "create": Created,
    "hold": Held,
    "renew": Renewed,
    "reserve": Reserved,
    "commit": Committed,
    "release": Released,
    "prune": Pruned,
    "reconcile": Reconciled,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_PLAIN: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}
_PARTS: dict[str, type[Any]] = {"created": Created, "charged": Lost}


@dataclass(frozen=True)
class Job:
    """What a run asks of a budget.

    Attributes:
        charges: everything that the run will release, rounded against it.
    """

    unit: str
    adjacency: str
    charges: tuple[Charge, ...]


def job_of(plan: PrivacyPlan, extra: Sequence[GaussianEvent] = ()) -> Job:
    """The whole of a plan as a job: everything that :func:`fedkit.privacy.events.events_of` says it releases.

    Args:
        extra: what the run releases besides what its plan says.

    Raises:
        PrivacyError: seeded noise (FK342), or an event that cannot be charged.
    """
    require_real_noise(plan)
    events = (*events_of(plan), *extra)
    return Job(plan.unit, plan.adjacency, merged(rounded(event) for event in events))


def require_real_noise(plan: PrivacyPlan) -> None:
    """Seeded noise is never charged.

    Raises:
        PrivacyError: FK342.
    """
    if plan.noise != "secure":
        raise PrivacyError(
            f"the plan's noise is {plan.noise}: it protects nobody, and a ledger charges only real noise",
            code="FK342",
            remedy="set privacy.noise=secure",
        )


def held(dataset: str, run: str, study: str, job: Job, expires: float) -> Held:
    """The fact that a job is admitted until ``expires`` (seconds since the epoch, rounded down)."""
    return Held(dataset, run, study, job.charges, math.floor(expires * 1000), accountant())


def encode(fact: Fact, at: float, nonce: str) -> str:
    """The fact's text.

    Args:
        at: seconds since the epoch.
        nonce: random; without it a digest that was handed out would let its holder guess other studies' entries.
    """
    return _text({"kind": _NAMES[type(fact)], "at_ms": math.floor(at * 1000), "nonce": nonce, **_plain(fact)})


def decode(body: str) -> tuple[Fact, int]:
    """The fact in a text, and when it was written (milliseconds since the epoch).

    Raises:
        PrivacyError: FK330, a kind or fields that this version does not know.
    """
    try:
        values = json.loads(body)
        at_ms, _ = int(values.pop("at_ms")), values.pop("nonce")
        fact = _build(_KINDS[values.pop("kind")], values)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise PrivacyError(
            f"the ledger holds an entry that this fedkit cannot read ({type(error).__name__}: {body[:60]!a})",
            code="FK330",
            remedy="use the version that wrote it, or a newer one",
        ) from error
    return fact, at_ms


def forgotten(fact: Reserved, study: str, entry: str) -> Lost:
    """The reservation in another copy's entry, as it will be charged here."""
    return Lost(fact.dataset, fact.run, study, fact.round, fact.purpose, fact.digest, fact.charges, entry)


def _plain(value: Any) -> Any:
    if isinstance(value, Charge):
        return [value.rate_e9, value.sigma_e6, value.steps]
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if hasattr(value, "__dataclass_fields__"):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value


def _build(kind: type[Any], values: dict[str, Any]) -> Any:
    known = {field.name: field.type for field in fields(kind)}
    if set(values) != set(known):
        raise ValueError(f"fields {sorted(values)}")
    return kind(**{name: _field(name, str(known[name]), value) for name, value in values.items()})


def _field(name: str, type_name: str, value: Any) -> Any:
    if name in _PARTS and type_name.startswith("tuple"):
        return tuple(_build(_PARTS[name], part) for part in value)
    if type_name == "tuple[Charge, ...]":
        return tuple(_charge(part) for part in value)
    if type_name == "tuple[str, ...]":
        return tuple(str(part) for part in value)
    if not isinstance(value, _PLAIN[type_name]) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}")
    if isinstance(value, str):
        # Half of a surrogate pair could be read here and never be written again.
        value.encode()
    return value


def _charge(part: Any) -> Charge:
    rate, sigma, steps = part
    bounds = ((rate, 1, 10**9), (sigma, _SIGMAS[0], _SIGMAS[1]), (steps, 1, _MOST_STEPS))
    # What is read is priced: a charge beyond what costs were validated for would close the ledger for good.
    if not all(type(value) is int and low <= value <= high for value, low, high in bounds):
        raise ValueError("a charge outside what a ledger prices")
    return Charge(rate, sigma, steps)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
