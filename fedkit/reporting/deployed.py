"""What a report says of a run of real sites: whose it was, what came in, and that no rows were looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedkit.reporting import text
from fedkit.reporting.reader import RunView


def lead(view: RunView) -> str:
    """What stands above the table of sites."""
    after = f"after round {view.rounds_done}"
    if view.private_mode:
        measured = (view.result or {}).get("evaluation")
        then = "what the sites measured within epsilon follows" if measured else "this one measured nothing"
        return (
            f"What each site was to train on and has spent, {after}. A private run releases no exact metrics: {then}."
        )
    if any(view.final(site) for site in view.sites):
        return f"Exact metrics as each site told them, {after}: not protected. A dash is undefined at that site."
    return "The run ended before any site told a metric."


def caption(view: RunView) -> str:
    """What the columns of that table are."""
    said = "Train and test are shares of each site's declared count; rows of the tables were not counted."
    if not view.private_mode:
        return said
    plan: Mapping[str, Any] = next(iter(view.plan.values()), {})
    rounds = "the whole run" if view.rounds_done >= view.num_rounds else "the rounds that ran"
    return f"{said} Epsilon is for {rounds}, for one {plan.get('unit', 'record')}, add or remove adjacency, rounded up."


def curves_lead(view: RunView) -> str:
    """What stands above the curves."""
    if view.private_mode:
        return "Epsilon as it was spent."
    return "What each site told of its test rows after every round: exact, not protected."


def facts(view: RunView) -> list[tuple[str, str]]:
    """Whose run it was and what came in."""
    manifest, federation = view.manifest, view.config.get("federation") or {}
    usage = manifest.get("usage") or {}
    received, spent = usage.get("bytes_received") or {}, usage.get("disclosed") or {}
    quorum, deadline = federation.get("min_sites"), federation.get("timeout")
    found = [
        ("Run", manifest.get("run")),
        ("Study", manifest.get("study")),
        ("Submitted by", manifest.get("submitter")),
        ("Federation", manifest.get("federation_id")),
        ("Job", f"sha256:{manifest['job']}" if manifest.get("job") else None),
        ("A round needed", f"{text.plural(quorum, 'site')}, within {text.duration(deadline)}" if quorum else None),
        ("Received", ", ".join(f"{site} {_size(count)}" for site, count in received.items())),
        ("Disclosed by sites", ", ".join(f"{site} {_used(used)}" for site, used in spent.items())),
    ]
    return [(name, str(value)) for name, value in found if value]


def _used(used: Mapping[str, float]) -> str:
    return f"{used['cpu_seconds']:.1f} CPU seconds, at most {_size(used['peak_bytes'])} of memory"


def _size(count: float) -> str:
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} bytes"
