"""A study agreement as people read it, the same at the coordinator and at a site, and as ``--json`` prints it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedkit.federation.study import Study
from fedkit.governance.agreement import plain


def study_json(study: Study, keys: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Terms, digest, and how each party stands: ``signed``, ``left``, ``open``, or ``other key``.

    Args:
        keys: site to the fingerprint of the key with which it is enrolled now, where that is known.
    """
    return {
        **plain(study.agreement),
        "digest": study.digest,
        "author": study.author,
        "standing": {site: standing(study, site, keys) for site in study.agreement.parties},
    }


def standing(study: Study, site: str, keys: Mapping[str, str] | None = None) -> str:
    """How a party stands; a signature by another key than that of its enrolment does not count."""
    if keys is not None and keys.get(site) != study.agreement.parties.get(site):
        return "other key" if site in keys else "not enrolled"
    if site not in study.assents:
        return "open"
    return "signed" if study.has_signed(site) else "left"


def study_text(told: Mapping[str, Any]) -> str:
    """`study_json` for people: whole, so that nothing is signed that was not shown."""
    lines = [
        f"{told['study']}, version {told['version']}: {told['purpose']}, from {told['begin']} to {told['end']}",
        f"  digest {told['digest']}",
        f"  signed by {told['author']}, an admin",
        f"  the coordinator keeps its copies for {told['retention_days']} days after a run has ended",
    ]
    lines += [f"  | {line}" for line in told["description"].split("\n") if line]
    lines += [f"  contact: {contact}" for contact in told["contacts"]]
    for site, key in told["parties"].items():
        lines.append(f"  party {site} ({key}): {told['standing'][site]}")
    for name, data in told["data"].items():
        each = data["max_epsilon_per_run"]
        lines += [
            f"  data {name}: at each site epsilon {data['max_epsilon']:g} at delta {data['delta']:g} for one"
            f" {data['unit']}, over all runs of the study{f', {each:g} a run' if each is not None else ''}",
            f"    models {', '.join(data['models'])}; strategies {', '.join(data['strategies'])}",
            f"    at most {data['max_rounds']} rounds; runs without privacy"
            f" {'COVERED' if data['allow_unprotected'] else 'refused'}",
        ]
    return "\n".join(lines) + "\n"
