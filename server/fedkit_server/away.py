"""The sites of a run whose last answer is not there, and why: for whoever asks how the run stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fedkit.federation.code_texts import sent_codes

_AWAY = {"refused": "refused", "missing": "missing", "deferred": "asked again later"}


def away_of(events: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Site to the newest event about its answer, of those whose answer is not there.

    Returns:
        ``kind``, ``round`` and ``detail`` as the event has them; ``means``: code to sentence.
    """
    newest: dict[str, Mapping[str, Any]] = {}
    for event in events:
        if event.get("site") and event["kind"] in (*_AWAY, "received"):
            newest[str(event["site"])] = event
    return {
        site: {
            "kind": event["kind"],
            "round": event["round"],
            "detail": event.get("detail") or "",
            "means": sent_codes(str(event.get("detail") or "")),
        }
        for site, event in sorted(newest.items())
        if event["kind"] in _AWAY
    }


def away_text(away: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each such site, then one for each code, which stands there once."""
    lines = [f"  {site}: {_AWAY[it['kind']]} in round {it['round']}: {it['detail']}" for site, it in away.items()]
    means = {code: text for told in away.values() for code, text in told["means"].items()}
    return [*lines, *(f"  {code}: {text}" for code, text in sorted(means.items()))]
