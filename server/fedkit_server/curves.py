"""What a run's folder says round by round, for whoever draws it: figures that sites have released, and epsilon."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedkit_server.evaluated import evaluations

MOST = 300
"""Rounds that are told; of more, as many evenly spread, the first and the last among them."""

_METRICS = "metrics.jsonl"


def curves_of(folder: Path) -> list[dict[str, Any]]:
    """Each round with epsilon and metrics by site, how many sites trained and how many were missing.

    A private run has no exact metrics; ``charged`` are the estimates of its released histograms, where a round has any.

    Args:
        folder: the run's; it need not be there.
    """
    charged = evaluations(folder)
    rounds = [_with(each, charged.get(each["round"])) for each in _rounds(folder / _METRICS)]
    if len(rounds) <= MOST:
        return rounds
    return [rounds[round(place * (len(rounds) - 1) / (MOST - 1))] for place in range(MOST)]


def _with(told: dict[str, Any], charged: Mapping[str, Any] | None) -> dict[str, Any]:
    return told if charged is None else {**told, "charged": charged}


def _rounds(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return
    # What follows the last line break is being written, or was cut off by a kill.
    for text in lines[:-1]:
        try:
            line = json.loads(text)
            yield {
                "round": int(line["round"]),
                "epsilon": _numbers(line["epsilon"]),
                "sites": {str(site): _numbers(metrics) for site, metrics in line["sites"].items()},
                "trained": len(line["trained"]),
                "missing": len(line["failed"]),
            }
        except (ValueError, KeyError, TypeError, AttributeError):
            continue


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    found = {str(key): float(value) for key, value in values.items() if type(value) in (int, float)}
    return {key: value for key, value in found.items() if math.isfinite(value)}
