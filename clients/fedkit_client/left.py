"""What the audit log says has left a site in some time: each answer with its run, and whether it left whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fedkit.storage.audit_line import Line, Scalar
from fedkit.storage.audit_verify import readable_lines
from fedkit_client.logs import printable

KINDS = (
    "admitted", "released", "withheld", "refused", "withdrawn", "revoked", "quarantined", "unquarantined", "paused",
    "resumed", "configured", "edited", "contradicted", "recovered",
)  # fmt: skip
_RUN = ("dataset", "study", "for_purpose", "submitter", "submitter_key", "job", "config")
_EVENTS = ("quarantined", "unquarantined", "paused", "resumed", "configured", "edited", "contradicted", "recovered")
UNKNOWN = "not recorded"


def logs_of(folder: Path) -> list[Path]:
    """A site's logs, the oldest first: those of folders before, and its own."""
    before = sorted(folder.glob("audit.before-*.jsonl"), key=lambda path: (len(path.name), path.name))
    own = folder / "audit.jsonl"
    return [*before, *([own] if own.exists() else [])]


def lines_of(folder: Path) -> Iterator[Line]:
    """All lines of these kinds that can be read; whether the logs are whole is another question.

    Raises:
        OSError: a log cannot be read.
    """
    for path in logs_of(folder):
        yield from readable_lines(path, KINDS)


def what_left(
    lines: Iterable[Line], since: float, until: float, first: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Answers, runs and events from a time until another, plain JSON types; a pure function of the lines.

    Args:
        first: data set to when something may have left that no line tells of.

    Returns:
        ``answers``: each that was let go of, an equal one that was sent again counted with the first. ``withheld``: a
        pause came between, so that it may have left in part or not at all. ``refused``: code to number.
        ``withdrawn_later``: data set to units that withdrew after its first answer of that time and stayed away.
    """
    runs, answers = dict[str, dict[str, Any]](), dict[tuple[Any, ...], dict[str, Any]]()
    newest = dict[tuple[Any, ...], dict[str, Any]]()
    refused, events = dict[str, int](), list[dict[str, Any]]()
    gone: list[tuple[float, Any, Any, bool]] = []
    for line in lines:
        fields = line.fields
        within = since <= line.at <= until
        if line.kind == "admitted":
            runs[_text(fields, "run")] = {name: _text(fields, name) or UNKNOWN for name in _RUN}
        elif line.kind == "released":
            place = tuple(fields.get(name) for name in ("run", "purpose", "round"))
            if within:
                told = _answer(line, runs.get(_text(fields, "run"), {}))
                told = answers.setdefault((*place, fields.get("digest")), told)
                told["times"] += 1
                # Sent again after a pause: then it has left.
                told["withheld"] = False
                newest[place] = told
        elif line.kind == "withheld":
            place = tuple(fields.get(name) for name in ("run", "purpose", "round"))
            if place in newest:
                newest[place]["withheld"] = True
        elif line.kind == "refused" and within:
            code = _text(fields, "code")
            refused[code] = refused.get(code, 0) + 1
        elif line.kind in ("withdrawn", "revoked"):
            gone.append((line.at, fields.get("dataset"), fields.get("unit"), line.kind == "withdrawn"))
        if line.kind in _EVENTS and within:
            events.append({"at": line.at, "kind": line.kind})
    listed = list(answers.values())
    return {
        "answers": listed,
        "runs": _by_run(listed),
        "refused": dict(sorted(refused.items())),
        "events": events,
        "withdrawn_later": _withdrawn(listed, gone, first or {}),
    }


def _answer(line: Line, run: Mapping[str, Any]) -> dict[str, Any]:
    fields = line.fields
    return {
        "at": line.at,
        "run": _text(fields, "run"),
        "kind": _text(fields, "purpose"),
        "round": _number(fields, "round"),
        "digest": _text(fields, "digest"),
        "size": _number(fields, "size"),
        "guarantee": _guarantee(fields),
        **{name: run.get(name, UNKNOWN) for name in _RUN},
        "times": 0,
        "withheld": False,
    }


def _by_run(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for each in answers:
        run = found.setdefault(
            each["run"],
            {"run": each["run"], **{name: each[name] for name in _RUN}, "first": each["at"], "last": each["at"],
             "answers": {}, "bytes": 0, "withheld": 0, "guarantee": each["guarantee"]},
        )  # fmt: skip
        run["last"] = each["at"]
        run["answers"][each["kind"]] = run["answers"].get(each["kind"], 0) + 1
        run["bytes"] += each["size"]
        run["withheld"] += each["withheld"]
        # Of a run that left anything without a guarantee nothing is promised.
        if each["guarantee"].get("guarantee") != "dp":
            run["guarantee"] = each["guarantee"]
    return list(found.values())


def _withdrawn(
    answers: list[dict[str, Any]], gone: list[tuple[float, Any, Any, bool]], before: Mapping[str, float]
) -> dict[str, int]:
    first: dict[Any, float] = dict(before)
    for each in answers:
        first[each["dataset"]] = min(first.get(each["dataset"], each["at"]), each["at"])
    units: dict[Any, set[Any]] = {name: set() for name in first}
    for at, dataset, unit, withdrew in gone:
        if dataset in first and at >= first[dataset]:
            (units[dataset].add if withdrew else units[dataset].discard)(unit)
    return {str(name): len(found) for name, found in units.items()}


def _guarantee(fields: Mapping[str, Scalar]) -> dict[str, Any]:
    """What an answer was let go of under; a line that does not say it whole says none."""
    numbers = {name: fields.get(name) for name in ("epsilon", "delta")}
    texts = {name: _text(fields, name) for name in ("unit", "adjacency")}
    good = all(type(each) in (int, float) and math.isfinite(each) for each in numbers.values())  # type: ignore[arg-type]
    if fields.get("guarantee") != "dp" or not good or not all(texts.values()):
        return {"guarantee": "none"}
    return {"guarantee": "dp", **numbers, **texts}


def _text(fields: Mapping[str, Scalar], name: str) -> str:
    """A text on one line: the log may have been altered."""
    value = fields.get(name)
    return printable(value) if isinstance(value, str) else ""


def _number(fields: Mapping[str, Scalar], name: str) -> int:
    value = fields.get(name)
    return value if type(value) is int else 0
