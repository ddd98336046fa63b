"""Mirrors what a run's folder holds to a tracker: rounds as they end, and how it ended. It only reads the folder."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fedkit.errors import RunError
from fedkit.reporting.trackers import Tracker
from fedkit.runs.directory import CONFIG, MANIFEST, METRICS, RESULT

_LOG = logging.getLogger("fedkit.tracking")
_SECTIONS = ("model", "privacy", "strategy", "training", "federation")
"""Of the config; what it says of the data, such as columns and paths, and the seed are for the run's folder alone."""


@dataclass
class Told:
    """How far a run was mirrored.

    Attributes:
        id: what the tracker finds the run by.
        round: the last one that was told; -1 before the first.
        outcome: as it was told; empty before the end.
    """

    id: str
    round: int = -1
    outcome: str = ""


@dataclass
class Mirror:
    """A tracker, and how far each run was told to it.

    Guarantee: it tells nothing that is not in the run's folder; and of the config neither data section nor seed. What
    the tracker refuses stops nothing: :meth:`catch_up` returns False, and the next call tells what is missing.
    """

    tracker: Tracker
    told: dict[str, Told] = field(default_factory=dict)

    def catch_up(self, run: Path) -> bool:
        """Tell what a run's folder holds and was not told; whether all of it was.

        Once an outcome was told, another is only where a run was resumed.
        """
        try:
            self._catch_up(run)
        except RunError as error:
            _LOG.warning("%s is not mirrored: %s", run.name, error)
            return False
        except Exception as error:
            # Its text may name a server with its password.
            _LOG.warning("%s is not mirrored yet: the tracker failed (%s)", run.name, type(error).__name__)
            return False
        return True

    def _catch_up(self, run: Path) -> None:
        manifest = _read(run / MANIFEST)
        if manifest is None:
            return
        told = self.told.get(run.name)
        if told is None:
            told = Told(self.tracker.begin(run, str(manifest.get("name") or "fedkit")))
            self.tracker.facts(told.id, dict(_facts(run, manifest)))
            self.told[run.name] = told
        for line in _lines(run / METRICS):
            if line["round"] > told.round:
                self.tracker.scalars(told.id, line["round"], dict(_figures(line)))
                told.round = line["round"]
        outcome = str(manifest.get("outcome", "running"))
        if outcome != "running" and outcome != told.outcome:
            if last := dict(_last(_read(run / RESULT) or {})):
                self.tracker.scalars(told.id, max(told.round, 0), last)
            self.tracker.end(told.id, outcome)
            told.outcome = outcome


def _facts(run: Path, manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key in ("fedkit", "mode", "noise", "private", "statement", "study"):
        if manifest.get(key) is not None:
            yield key, str(manifest[key])
    try:
        config = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return
    for section in _SECTIONS:
        yield from _flat(section, config.get(section) if isinstance(config, dict) else None)


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    # A path on this machine is nobody else's to know.
    elif value is not None and not name.endswith(("_dir", "seed")):
        yield name, str(value)


def _figures(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """A round's figures, by a name with slashes; what is undefined is left out."""
    yield "round/trained", float(len(line.get("trained") or ()))
    yield "round/missing", float(len(line.get("failed") or ()))
    yield from _numbers("round", {"seconds": line.get("seconds")})
    yield from _numbers("epsilon", line.get("epsilon"))
    for site, metrics in (line.get("sites") or {}).items():
        yield from _numbers(f"sites/{site}", metrics)


def _last(result: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    yield from _numbers("overall", result.get("overall"))
    for name, found in ((result.get("evaluation") or {}).get("overall") or {}).items():
        yield from _numbers(f"evaluation/{name}", found)


def _numbers(prefix: str, values: Any) -> Iterator[tuple[str, float]]:
    for key, value in values.items() if isinstance(values, dict) else ():
        if type(value) in (int, float) and math.isfinite(value):
            yield f"{prefix}/{key}", float(value)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {type(error).__name__}", code="FK611") from None
    if not isinstance(found, dict):
        raise RunError(f"{path} is no object", code="FK611")
    return found


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        texts = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"{path} cannot be read: {type(error).__name__}", code="FK611") from None
    # What follows the last line break is being written, or was cut off.
    for text in texts[:-1]:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and type(line.get("round")) is int:
            yield line
