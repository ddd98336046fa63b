"""Logs of folders that were taken over: under keys that are not here any more, by their chain and where they ended."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedkit.storage.audit_line import Unreadable, read_line
from fedkit.storage.audit_verify import raw_lines, readable_lines
from fedkit.storage.chain import GENESIS
from fedkit_client.folder import SiteFolder
from fedkit_client.left import logs_of


def logs_before(folder: SiteFolder) -> dict[str, dict[str, Any]]:
    """Each log of before by its name: ``good``, ``why`` it is not, and how many ``lines`` could be read.

    Guarantee: one is good only where the log after it, which the site's key signs today, says that it ends like this;
    that one is to be verified too.
    """
    logs = logs_of(folder.path)
    ends = _ends(logs)
    return {log.name: _before(log, ends) for log in logs if log != folder.audit}


def _ends(logs: Iterable[Path]) -> set[tuple[Any, Any]]:
    """Where logs of before ended, as the signed lines of those after them tell."""
    joined = (line.fields for log in logs for line in readable_lines(log, ("joined",)))
    return {(fields.get("before_seq"), fields.get("before_digest")) for fields in joined}


def _before(log: Path, ends: set[tuple[Any, Any]]) -> dict[str, Any]:
    digest, seq = GENESIS, 0
    try:
        for raw in raw_lines(log):
            line = read_line(raw.removesuffix(b"\n"))
            if (line.prev, line.seq) != (digest, seq + 1):
                return {"good": False, "why": f"line {seq + 1} does not follow the one before it", "lines": seq}
            digest, seq = line.digest, line.seq
    except (OSError, Unreadable) as error:
        return {"good": False, "why": f"line {seq + 1} {error}", "lines": seq}
    good = (seq, digest) in ends
    return {"good": good, "why": "" if good else "it does not end where the log after it says", "lines": seq}
