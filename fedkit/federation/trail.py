"""An audit log as people look at it: verified, with what it keeps of the others, and shown line by line."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from fedkit.errors import DeploymentError
from fedkit.federation.heads import CONTRADICTED, KEPT, Told, told_by
from fedkit.federation.heads_file import Keys, decisive, read_heads, unusable
from fedkit.storage.audit_line import Line, Unreadable, read_line
from fedkit.storage.audit_verify import BrokenLog, raw_lines, verify
from fedkit.storage.keys import fingerprint

_SPAN = re.compile(r"(\d{1,6}(?:\.\d+)?)(s|min|h|d)")
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_POLL = 0.3


def examine(
    path: Path, party: str, keys: Sequence[bytes], others: Keys, *, peer: Path | None = None, every: bool = False
) -> dict[str, Any]:
    """Whether a party's log is what was written, and what it proves of the others'; plain JSON types.

    Args:
        party: whose log it is.
        keys: raw keys that sign it, the oldest first.
        others: the keys of the parties whose heads it keeps.
        peer: another party's export, which the log is held against.
        every: look at every signature, not only at those that vouch for all.

    Raises:
        DeploymentError: FK772, the export cannot be used.
    """
    found: dict[str, Any] = {"log": str(path), "party": party, "good": True, "line": None, "why": ""}
    kept = None if peer is None else read_heads(peer, others)
    heads = [] if kept is None else [told for told in kept.heads if told.party == party]
    if peer is not None and kept is not None:
        if not heads:
            raise unusable(peer, f"{kept.party} keeps no head of {party} in it")
        if not all(told.is_by(keys) for told in heads):
            raise unusable(peer, f"a head in it was not signed by {party}")
        newest = max(told.head.seq for told in heads)
        found["peer"] = {"party": kept.party, "issued_at": kept.issued_at, "heads": len(heads), "seq": newest}
    try:
        read = verify(path, keys, heads=[told.head for told in heads], keep=KEPT, every=every)
        _check_kept(read.kept, others)
    except BrokenLog as error:
        return found | {"good": False, "line": error.line, "why": error.why}
    except OSError as error:
        return found | {"good": False, "line": 1, "why": f"is missing: the log cannot be read ({error.strerror})"}
    said = [(told, line.at) for line in read.kept if (told := told_by(line)) is not None]
    return found | {
        "lines": read.head.seq,
        "head": read.head.digest,
        "kinds": dict(sorted(read.kinds.items())),
        "recovered": read.recovered,
        "contradicted": read.kinds.get(CONTRADICTED, 0),
        "acknowledged": {told.party: {"seq": told.head.seq, "digest": told.head.digest, "at": at} for told, at in said},
    }


def _check_kept(lines: Sequence[Line], others: Keys) -> None:
    """Refuse a head that its party has not signed: those that count, for the others are vouched for by the log."""
    counting = set(decisive(lines))
    for line in lines:
        told = told_by(line)
        # Of a party that is not known here any more, such as a site that has joined anew, nothing can be said.
        if told in counting and (keys := _those(told, others)) and not told.is_by(keys):
            raise BrokenLog(line.seq, f"keeps a head of {told.party} that {told.party} has not signed")


def _those(told: Told, others: Keys) -> list[bytes]:
    return [key for key in others(told.party) if fingerprint(key) == told.key]


def examined_text(found: dict[str, Any]) -> str:
    """The same for a person."""
    if not found["good"]:
        return f"{found['log']}: BROKEN at line {found['line']}, which {found['why']}"
    lines = [f"{found['log']}: good, {found['lines']} lines, head {found['head']}"]
    for party, told in found["acknowledged"].items():
        lines.append(f"  keeps the head of {party}: line {told['seq']}, as told {stamped(told['at'])}")
    if (peer := found.get("peer")) is not None:
        lines.append(f"  has every line up to {peer['seq']} as {peer['party']} keeps it")
    if found["recovered"]:
        lines.append(f"  {found['recovered']} times a torn last line was found: a crash, or a cut; see audit.torn-*")
    if found["contradicted"]:
        lines.append(
            f"  ALERT: {found['contradicted']} times another party's log went back or differed from what it had told;"
            " `log show --kind contradicted`"
        )
    return "\n".join(lines)


def shown(
    path: Path, *, since: float = 0.0, kinds: Collection[str] = (), follow: bool = False
) -> Iterator[dict[str, Any]]:
    """Each line as it is, or why it cannot be read; nothing is verified.

    Args:
        since: seconds since the epoch.
        follow: go on with what is appended, until somebody interrupts.

    Raises:
        DeploymentError: FK770, there is no log, or it cannot be read.
    """
    try:
        yield from _lines(path, since, kinds, follow=follow)
    except OSError as error:
        raise _no_log(path, error) from None


def _lines(path: Path, since: float, kinds: Collection[str], *, follow: bool) -> Iterator[dict[str, Any]]:
    seen = 0
    while True:
        size = 0
        for number, raw in enumerate(raw_lines(path), start=1):
            size += len(raw)
            if number > seen and (not follow or raw.endswith(b"\n")):
                seen = number
                if (told := _shown(number, raw, since, kinds)) is not None:
                    yield told
        if not follow:
            return
        # Of what was read, not of what is there by now: else a line that came meanwhile would be waited behind.
        while path.stat().st_size == size:
            time.sleep(_POLL)


def _shown(number: int, raw: bytes, since: float, kinds: Collection[str]) -> dict[str, Any] | None:
    try:
        line = read_line(raw.removesuffix(b"\n"))
    except Unreadable as error:
        return {"line": number, "unreadable": str(error)}
    if line.at < since or (kinds and line.kind not in kinds):
        return None
    return {"seq": line.seq, "at": line.at, "kind": line.kind, **line.fields}


def page(
    path: Path, *, kinds: Collection[str] = (), number: int = 1, size: int = 50
) -> tuple[list[dict[str, Any]], int]:
    """So many lines as `shown` tells them, the newest first, and how many there are of these kinds.

    Args:
        number: of the page, from 1; one beyond the last is empty.

    Raises:
        DeploymentError: FK770, there is no log, or it cannot be read.
    """
    # A quote within a value is escaped, so this is nothing but a line's own kind.
    needles = [f'"kind":"{kind}"'.encode() for kind in kinds]

    def wanted() -> Iterator[tuple[int, bytes]]:
        found = 0
        for line, raw in enumerate(raw_lines(path), start=1):
            if not needles or any(needle in raw for needle in needles):
                found += 1
                yield line, raw

    try:
        total = sum(1 for _ in wanted())
        last = total - (number - 1) * size
        chosen = islice(wanted(), max(0, last - size), max(0, last))
        lines = [told for line, raw in chosen if (told := _shown(line, raw, 0.0, ())) is not None]
    except OSError as error:
        raise _no_log(path, error) from None
    return lines[::-1], total


def shown_text(told: dict[str, Any]) -> str:
    """One such line for a person, without anything that a terminal would take for a command."""
    if "unreadable" in told:
        return f"line {told['line']}: {told['unreadable']}; `log verify`"
    fields = {name: value for name, value in told.items() if name not in ("seq", "at", "kind", "peer_sig")}
    text = "  ".join(f"{name}={value}" for name, value in fields.items())
    return _printable(f"{told['seq']:>6}  {stamped(told['at'])}  {told['kind']:<12}  {text}".rstrip())


def since_when(text: str, now: float) -> float:
    """The time that --since names: a span such as 2h or 7d, or a date or time in ISO 8601, UTC where it has no zone.

    Raises:
        DeploymentError: FK773, it is neither.

    >>> since_when("1h", 7200.0), since_when("1970-01-02", 0.0), since_when("1970-01-01T01:00+01:00", 0.0)
    (3600.0, 86400.0, 0.0)
    """
    if span := _SPAN.fullmatch(text):
        return now - float(span[1]) * _SECONDS[span[2]]
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise DeploymentError(
            f"--since {text[:40]!r} is neither a span nor a time", code="FK773", remedy="use 90min, 7d or 2026-01-31"
        ) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def stamped(at: float) -> str:
    """A time for people.

    >>> stamped(0.0)
    '1970-01-01 00:00:00 UTC'
    """
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return "at no time"


def _no_log(path: Path, error: OSError) -> DeploymentError:
    return DeploymentError(
        f"the audit log {path} cannot be read: {error.strerror}", code="FK770", remedy="name the folder of a party"
    )


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
