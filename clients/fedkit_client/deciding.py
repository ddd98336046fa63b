"""What a person is shown of a run before deciding about it: who asks, for what, and what is new in its config."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fedkit.governance.statistics import cost_of, statistics_of
from fedkit_client.approvals import Record
from fedkit_client.asked import AskedRun
from fedkit_client.logs import printable


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Dotted key to its two values in full, of the keys in which two configs differ.

    >>> differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": []})
    {'a.c': ('2', '3'), 'd': ('(absent)', '[]')}
    """
    old, new = flat(before), flat(after)
    keys = [*new, *(key for key in old if key not in new)]
    pairs = {key: (old.get(key, "(absent)"), new.get(key, "(absent)")) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def described(run: AskedRun, record: Record, now: float) -> dict[str, Any]:
    """A request as ``--json`` prints it."""
    last = record.approved.get(run.dataset)
    changes = differences(_whole(last), _whole(run)) if last is not None else {}
    return {
        "run": run.run, "job": run.job, "dataset": run.dataset, "submitter": run.submitter, "key": run.key,
        "study": run.study, "purpose": run.config.get("purpose"), "other_sites": list(run.others), "at": run.at,
        "expires_at": run.expires_at, "standing": record.standing(run.job, now), "config": run.config,
        "statistics": run.statistics,
        "last_approved": last.run if last is not None else None,
        "differences": {key: {"approved": old, "asked": new} for key, (old, new) in changes.items()},
    }  # fmt: skip


def text_of(told: Mapping[str, Any]) -> str:
    """The same for a person."""
    config = told["config"]
    privacy, until = config.get("privacy", {}), datetime.fromtimestamp(told["expires_at"], UTC)
    named = {"epsilon": privacy.get("epsilon"), "noise multiplier": privacy.get("noise_multiplier")}
    cost = ", ".join(f"{name} {value}" for name, value in named.items() if value is not None) or "no epsilon"
    lines = [
        f"{told['run']}: {told['standing']}",
        f"  by {told['submitter']} ({told['key']}), study {told['study']}, purpose {told['purpose']}",
        _asks(told)
        or f"  data {told['dataset']}, model {config.get('model', {}).get('name')}, strategy"
        f" {config.get('strategy', {}).get('name')}, {config.get('federation', {}).get('num_rounds')} rounds,"
        f" privacy {privacy.get('mode')}, {cost}",
        f"  other sites: {', '.join(told['other_sites']) or 'none that is enrolled'}; until {until:%Y-%m-%d %H:%M} UTC",
        f"  job {told['job']}",
    ]
    if told["last_approved"] is None:
        lines.append("  no run of this data set was approved before; its whole config:")
        lines += [f"    {key}: {value}" for key, value in flat(config).items()]
    elif told["differences"]:
        lines.append(f"  differs from {told['last_approved']}, which was approved:")
        lines += [f"    {key}: {pair['approved']} -> {pair['asked']}" for key, pair in told["differences"].items()]
    else:
        lines.append(f"  the same config as that of {told['last_approved']}, which was approved")
    return "\n".join(map(printable, lines)) + "\n"


def _asks(told: Mapping[str, Any]) -> str:
    """The line of a question, which trains nothing."""
    if told["statistics"] is None:
        return ""
    asked = statistics_of(told["statistics"])
    return (
        f"  data {told['dataset']}, statistics alone: noisy histograms of {', '.join(asked.columns)} ({asked.bins}"
        f" bins, noise multiplier {asked.noise_multiplier:.4g}), epsilon {cost_of(asked):.4g} at delta {asked.delta:g}"
    )


def _whole(run: AskedRun) -> dict[str, Any]:
    return run.config if run.statistics is None else {**run.config, "statistics": run.statistics}


def flat(value: Any, key: str = "") -> dict[str, str]:
    """Dotted key to its value in full: what is cut off, or two keys in one, would hide what a person is to decide."""
    if isinstance(value, Mapping) and value:
        names = {name: repr(name) if "." in name else name for name in map(str, value)}
        parts = [flat(inner, f"{key}.{names[str(name)]}" if key else names[str(name)]) for name, inner in value.items()]
        return {name: text for part in parts for name, text in part.items()}
    return {key: repr(value)}
