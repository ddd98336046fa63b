"""What a run is held against, wherever it comes from: a site's own file, or what the site has offered of it."""

from __future__ import annotations

from dataclasses import dataclass

from fedkit.governance.declaration import declaration_digest
from fedkit.governance.terms import Policy, SiteData


@dataclass(frozen=True)
class Rules:
    """One data set's bounds, all of them declared constants.

    Attributes:
        declaration: SHA-256 of the canonical declaration, hex.
        records: declared units.
        unit: ``record`` or ``patient``.
        max_epsilon, delta: the bounds of one run.
    """

    declaration: str
    records: int
    unit: str
    max_epsilon: float
    delta: float
    models: tuple[str, ...]
    strategies: tuple[str, ...]
    allow_unprotected: bool
    policy: Policy


def rules_of(own: SiteData) -> Rules:
    """Those of a site's own file."""
    return Rules(
        declaration_digest(own.declaration), own.records, own.unit, own.max_epsilon, own.delta, own.models,
        own.strategies, own.allow_unprotected, own.policy,
    )  # fmt: skip
