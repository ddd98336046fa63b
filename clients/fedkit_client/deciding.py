"""What a person is shown of a run before deciding about it: who asks, for what, and what is new in its config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fedkit.governance.statistics import cost_of, statistics_of
from fedkit_client.approvals import Record
from fedkit_client.asked import AskedRun
from fedkit_client.logs import printable

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")


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
        "run": run.run, "job": run.job, "agreement": run.agreement, "dataset": run.dataset,
        "submitter": run.submitter, "key": run.key, "study": run.study, "purpose": run.config.get("purpose"),
        "other_sites": list(run.others), "at": run.at,
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
        *([f"  study agreement {told['agreement']}"] if told["agreement"] else []),
    ]
    if told["last_approved"] is None:
        lines.append("  no run of this data set was approved before; its whole config:")
        lines += [f"    {key}: {value}" for key, value in asked_for(told).items()]
    elif told["differences"]:
        lines.append(f"  differs from {told['last_approved']}, which was approved:")
        lines += [f"    {key}: {pair['approved']} -> {pair['asked']}" for key, pair in told["differences"].items()]
    else:
        lines.append(f"  the same config as that of {told['last_approved']}, which was approved")
    # A letter that looks like another one would deceive.
    return ("\n".join(map(printable, lines)) + "\n").encode("ascii", "backslashreplace").decode("ascii")


def _asks(told: Mapping[str, Any]) -> str:
    """The line of a question, which trains nothing."""
    if told["statistics"] is None:
        return ""
    asked = statistics_of(told["statistics"])
    return (
        f"  data {told['dataset']}, statistics alone: noisy histograms of {', '.join(asked.columns)} ({asked.bins}"
        f" bins, noise multiplier {asked.noise_multiplier:.4g}), epsilon {cost_of(asked):.4g} at delta {asked.delta:g}"
    )


def asked_for(told: Mapping[str, Any]) -> dict[str, str]:
    """All that a described request asks for, dotted key to its value, for whoever has nothing to hold it against."""
    question = {} if told["statistics"] is None else {"statistics": told["statistics"]}
    return flat({**told["config"], **question})


def _whole(run: AskedRun) -> dict[str, Any]:
    """What may differ: the config, and what else the submitter has signed."""
    job = {"submitter": run.submitter, "key": run.key, "study": run.study, "agreement": run.agreement}
    question = {} if run.statistics is None else {"statistics": run.statistics}
    return {**run.config, **question, "job": job}


def flat(value: Any, key: str = "") -> dict[str, str]:
    r"""Dotted key to its value in full: what is cut off, or two keys in one, would hide what a person is to decide.

    So would a letter that looks like another one, or a blank: what is no ASCII is written as its escape.

    >>> flat({"a": {"b": "c"}, "a.b": "\u0441 "})
    {'a.b': "'c'", "'a.b'": "'\\u0441 '"}
    """
    if isinstance(value, Mapping) and value:
        names = {name: name if _PLAIN.fullmatch(name) else ascii(name) for name in map(str, value)}
        parts = [flat(inner, f"{key}.{names[str(name)]}" if key else names[str(name)]) for name, inner in value.items()]
        return {name: text for part in parts for name, text in part.items()}
    return {key: ascii(value)}
