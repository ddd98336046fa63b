"""``evaluations.jsonl`` in a run's folder: what each round's charged histograms say, for whoever draws it.

It is worked out of what sites have released and public constants alone, and so costs nothing further.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedkit.simulation.measured import measured
from fedkit.simulation.prepare import Prepared
from fedkit.storage.atomic import append_line

_LOG = logging.getLogger("fedkit.server")
FILE = "evaluations.jsonl"
OVERALL = "all sites"


def note_evaluation(folder: Path, prepared: Prepared, number: int, histograms: Mapping[str, Any]) -> None:
    """Append what a round's histograms say; a round that a crash has cut off is told twice, and its last word counts.

    Never raises: a curve ends no run, whatever a site has sent for its cells.
    """
    try:
        found = measured(prepared, number, histograms)
        if found is None:
            return
        sites = {OVERALL: found["overall"], **found["sites"]}
        line = {"round": number, "noise_multiplier": found["noise_multiplier"], "sites": sites}
        # Whole even behind half a line that a kill has left.
        append_line(folder / FILE, f"\n{json.dumps(line, allow_nan=False)}")
    except Exception as error:
        _LOG.warning("the evaluation of round %d is in no curve: %s", number, type(error).__name__)


def evaluations(folder: Path) -> dict[int, dict[str, Any]]:
    """Round to its evaluation; nothing of a line that is none."""
    found: dict[int, dict[str, Any]] = {}
    with suppress(OSError):
        for text in (folder / FILE).read_bytes().split(b"\n"):
            with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
                line = json.loads(text)
                number, sigma = int(line["round"]), float(line["noise_multiplier"])
                sites = {str(site): _estimates(told) for site, told in line["sites"].items()}
                found[number] = {"noise_multiplier": sigma, "sites": sites}
    return found


def _estimates(told: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    return {str(name): {end: each[end] for end in ("value", "low", "high")} for name, each in told.items()}
