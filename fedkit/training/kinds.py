"""What of a run's plans decides which engine can train them, and what of it is known before there are any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedkit.training.cohort_rows import padded
from fedkit.types import LocalPlan


@dataclass(frozen=True)
class Kinds:
    """The plans of a run's sites, as :func:`fedkit.training.choice.choose` looks at them.

    ``Kinds(private)`` by itself is the least that any plans ask for: an engine that refuses it refuses all of them.

    Attributes:
        batch: most rows that a step of a plain plan has, or a lot of a private one is expected to have.
        places: rows of the largest batch or lot that can be, padded.
        plain: a site trains without privacy. patients: a private one's units may have several rows.

    >>> Kinds(private=True)
    Kinds(private=True, sites=1, batch=1, places=2, plain=False, patients=False)
    """

    private: bool
    sites: int = 1
    batch: int = 1
    places: int = padded(1)
    plain: bool = False
    patients: bool = False

    @classmethod
    def of(cls, plans: Mapping[str, LocalPlan]) -> Kinds:
        """Of the plans of every site that trains."""
        found = plans.values()
        return cls(
            any(plan.privacy is not None for plan in found),
            len(plans),
            max((plan.batch_size for plan in found), default=1),
            max((_places(plan) for plan in found), default=padded(1)),
            any(plan.privacy is None for plan in found),
            any(plan.privacy is not None and plan.privacy.unit == "patient" for plan in found),
        )


def _places(plan: LocalPlan) -> int:
    return padded(plan.batch_size if plan.privacy is None else plan.privacy.max_lot)
