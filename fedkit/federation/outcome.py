"""How a run ended, and what a round says of those who were missing: by name, with their share of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedkit.types import Float32


@dataclass(frozen=True)
class Finish:
    """How a run ended.

    Attributes:
        outcome: ``complete``; ``degraded`` (some replies were missing, the notes say whose); ``failed`` (below
            quorum); ``stopped`` (somebody asked for it).
        rounds: rounds that the model has.
    """

    parameters: Float32
    outcome: str
    rounds: int
    notes: tuple[str, ...] = ()


def share_missing(missing: Sequence[str], asked: Sequence[str], weights: Mapping[str, float] | None) -> str:
    """What part of the asked sites' declared records is missing; nothing where weights were not declared.

    >>> share_missing(["va"], ["va", "ch"], {"va": 25, "ch": 75})
    ' (25.0 % of the declared records)'
    """
    total = sum(weights.get(site, 0.0) for site in asked) if weights else 0.0
    if not weights or total <= 0:
        return ""
    return f" ({sum(weights.get(site, 0.0) for site in missing) / total:.1%} of the declared records)".replace(
        "%", " %"
    )


def round_note(
    number: int,
    asked: Sequence[str],
    failed: Mapping[str, str],
    silent: Mapping[str, str],
    weights: Mapping[str, float] | None,
) -> str | None:
    """One line on a round that was not whole; None for one that was.

    Args:
        asked: who was asked to train.
        failed: of them, site to the reason why its update is missing.
        silent: site to the reason why its evaluation is missing.

    >>> round_note(2, ["va", "ch"], {"va": "no reply within 60 s"}, {}, {"va": 25, "ch": 75})
    'round 2: degraded 1/2: va missing (25.0 % of the declared records): va: no reply within 60 s'
    """
    parts = []
    if failed:
        names = ", ".join(failed)
        parts.append(
            f"degraded {len(asked) - len(failed)}/{len(asked)}: {names} missing"
            f"{share_missing(list(failed), asked, weights)}: {reasons(failed)}"
        )
    if silent:
        parts.append(f"not evaluated by {', '.join(silent)}: {reasons(silent)}")
    return f"round {number}: {'; '.join(parts)}" if parts else None


def reasons(failed: Mapping[str, str]) -> str:
    """Site and reason, for each."""
    return "; ".join(f"{site}: {why}" for site, why in failed.items())
