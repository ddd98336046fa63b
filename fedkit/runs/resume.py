"""What a round journal says: where a run stands."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedkit.errors import RunError
from fedkit.storage.chain import Entry, link
from fedkit.types import Float32

STEPS = "steps.jsonl"
FORMAT = 2
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Phase:
    """One question of the round in progress.

    Attributes:
        asked: in the order in which replies are folded.
        replies: site to what was accepted of it.
        refused: site to the reason; not asked again.
        missing: sites that were not waited for any longer, with the reason; None while the phase is open.
    """

    asked: tuple[str, ...]
    request: Mapping[str, Any]
    replies: Mapping[str, Mapping[str, Any]]
    refused: Mapping[str, str]
    missing: Mapping[str, str] | None


@dataclass(frozen=True)
class Resume:
    """Where a run stands.

    Attributes:
        identity: what the run was begun with.
        round: the round in progress: the first that has not ended.
        parameters: float32 [d], the newest model; of this round if ``aggregated``, else of the one before.
        state: the strategy's, as old as the model.
        phases: purpose to what is known of it in this round.
        notes: of the rounds that have ended.
        outcome: None while the run goes on.
        files: what of the folder is still needed.
    """

    identity: Mapping[str, Any]
    round: int
    parameters: Float32
    state: Mapping[str, Float32]
    aggregated: bool
    phases: Mapping[str, Phase]
    notes: tuple[str, ...]
    degraded: bool
    outcome: str | None
    files: tuple[str, ...]


@dataclass
class _Reading:
    """The steps so far; the files they name are looked at once all are read."""

    identity: dict[str, Any]
    model: dict[str, Any]
    round: int = 0
    aggregated: bool = False
    phases: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    degraded: bool = False
    outcome: str | None = None


def resume_point(folder: Path, *, check: bool = True) -> Resume | None:
    """Read a journal's folder; a torn last step is passed over.

    Args:
        check: read the arrays too and compare their digests; else they are empty.

    Raises:
        RunError: FK631, an earlier step is corrupted; FK632, a file that a step names is missing or altered; FK635,
            another format.
    """
    reading: _Reading | None = None
    for number, entry in enumerate(read_steps(folder / STEPS), 1):
        try:
            body = json.loads(entry.body)
            if body["step"] == "begin":
                _check_format(folder, body["format"])
            reading = _Reading(body["identity"], body) if body["step"] == "begin" else _take(reading, body)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _corrupted(folder / STEPS, number) from None
    if reading is None:
        return None
    model, state = reading.model["model"], reading.model["state"]
    for file in reading.files if check else ():
        _check(folder, file)
    return Resume(
        reading.identity,
        reading.round,
        _array(folder, model) if check else np.zeros(0, np.float32),
        {key: _array(folder, file) for key, file in state.items()} if check else {},
        reading.aggregated,
        {purpose: _phase(found) for purpose, found in reading.phases.items()},
        tuple(reading.notes),
        reading.degraded,
        reading.outcome,
        tuple(file["name"] for file in (model, *state.values(), *reading.files)),
    )


def read_steps(path: Path) -> Iterator[Entry]:
    """The steps of a journal, verified.

    Raises:
        RunError: FK631, a step that is not the last is no step or does not follow from those before.
    """
    before: Entry | None = None
    for number, line, last in _lines(path):
        entry = _entry(before, line)
        if entry is None:
            if last:
                return
            raise _corrupted(path, number)
        yield entry
        before = entry


def end_of_readable(path: Path) -> tuple[Entry | None, int]:
    """The last step that can be read, and how many bytes of the file come up to its end.

    Raises:
        RunError: FK631, see :func:`read_steps`.
    """
    last, size = None, 0
    for entry in read_steps(path):
        last, size = entry, size + len(f"{entry.digest} {entry.body}\n".encode())
    return last, size


def _lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    if not path.exists():
        return
    with path.open("rb") as file:
        number, line = 1, file.readline()
        while line:
            following = file.readline()
            yield number, line, not following
            number, line = number + 1, following


def _entry(before: Entry | None, line: bytes) -> Entry | None:
    try:
        digest, body = line.decode().removesuffix("\n").split(" ", 1)
    except ValueError:
        return None
    entry = link(before, body)
    return entry if entry.digest == digest and line.endswith(b"\n") else None


def _take(reading: _Reading | None, body: dict[str, Any]) -> _Reading:
    if reading is None:
        raise ValueError
    kind = body["step"]
    if kind == "ask":
        reading.phases[body["purpose"]] = {**body, "replies": {}, "refused": {}, "missing": None}
    elif kind == "reply":
        reading.phases[body["purpose"]]["replies"][body["site"]] = body["reply"]
        reading.files += [body["file"]] if "file" in body else []
    elif kind == "refuse":
        reading.phases[body["purpose"]]["refused"][body["site"]] = body["reason"]
    elif kind == "close":
        reading.phases[body["purpose"]]["missing"] = body["missing"]
    elif kind == "model":
        reading.model, reading.aggregated = body, True
    elif kind == "end":
        reading.round, reading.aggregated, reading.phases, reading.files = body["round"] + 1, False, {}, []
        reading.notes += body["notes"]
        reading.degraded = reading.degraded or body["degraded"]
    elif kind == "outcome":
        reading.outcome, reading.notes = body["outcome"], body["notes"]
    elif kind == "reopen":
        reading.outcome = None
        for phase in reading.phases.values():
            phase["missing"], phase["refused"] = None, {}
    else:
        raise ValueError
    return reading


def _phase(found: Mapping[str, Any]) -> Phase:
    return Phase(tuple(found["sites"]), found["request"], found["replies"], found["refused"], found["missing"])


def _check_format(folder: Path, found: object) -> None:
    if found != FORMAT:
        raise RunError(
            f"the journal {folder} has format {found!r}; this fedkit reads {FORMAT}",
            code="FK635",
            remedy="go on with the fedkit that began the run",
        )


def _corrupted(path: Path, number: int) -> RunError:
    return RunError(
        f"step {number} of {path} is not what was written",
        code="FK631",
        remedy="restore the journal from a copy; the run cannot go on from it",
    )


def _check(folder: Path, file: Mapping[str, Any]) -> None:
    path, found = folder / file["name"], hashlib.sha256()
    try:
        with path.open("rb") as opened:
            while block := opened.read(_BLOCK):
                found.update(block)
    except OSError:
        raise _altered(path, "missing") from None
    if found.hexdigest() != file["sha256"]:
        raise _altered(path, "not what was written")


def _array(folder: Path, file: Mapping[str, Any]) -> Float32:
    _check(folder, file)
    return np.fromfile(folder / file["name"], dtype="<f4").astype(np.float32, copy=False)


def _altered(path: Path, how: str) -> RunError:
    return RunError(f"{path} is {how}", code="FK632", remedy="restore the journal from a copy")
