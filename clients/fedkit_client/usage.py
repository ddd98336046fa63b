"""``usage.jsonl``: what each message has cost the site; the newest lines, for whoever looks after its machine."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedkit.errors import DeploymentError
from fedkit.federation.public_codes import COMMON
from fedkit.storage.private import replace
from fedkit.storage.sealed_lines import from_text, to_text
from fedkit.storage.sealing import Vault
from fedkit_client.executor import Done

MOST_BYTES = 8 * 2**20
"""Of the file; as much lies beside it in ``usage.jsonl.1``."""

KIND = "usage"
_COST = ("seconds", "cpu_seconds", "peak_bytes")
_LOG = logging.getLogger("fedkit.node")


def read_usage(path: Path, vault: Vault | None) -> Iterator[dict[str, Any]]:
    """What was noted, oldest first, without what another key has sealed.

    Raises:
        OSError: there is none, or it cannot be read.
        ValueError: a line that nobody wrote.
    """
    with path.open(encoding="utf-8") as file:
        for text in file:
            line: dict[str, Any] = json.loads(text)
            if (sealed := line.pop("cost", None)) is not None:
                with suppress(DeploymentError):
                    line |= json.loads(from_text(vault, sealed.encode(), KIND))
            yield line


def note_usage(
    path: Path, kind: str, run: str, number: int, done: Done, seconds: float, vault: Vault | None = None
) -> None:
    """Append what a message has cost; a full disk keeps no message from being answered."""
    used = done.usage
    line = {
        "at": round(time.time(), 3),
        "kind": kind,
        "run": run,
        "round": number,
        "code": COMMON if done.header is None else done.header.get("code", ""),
    }
    cost = {
        "seconds": round(seconds, 3),
        "cpu_seconds": None if used is None else round(used.cpu_seconds, 3),
        "peak_bytes": None if used is None else used.peak_bytes,
    }
    # How long an answer took may follow from records.
    line |= cost if vault is None else {"cost": to_text(vault, json.dumps(cost).encode(), KIND).decode()}
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            size = file.tell()
        if size > MOST_BYTES:
            os.replace(path, path.with_name(path.name + ".1"))
    except OSError as error:
        _LOG.warning("%s cannot be written: %s", path, error.strerror)


def resealed(content: bytes, vault: Vault) -> bytes:
    """The file's lines with their costs under the newest key; what is no line of the file's is left out."""
    found = []
    for text in content.splitlines():
        with suppress(ValueError, TypeError, DeploymentError):
            line = json.loads(text)
            cost = {name: line.pop(name) for name in _COST if name in line}
            if (kept := line.pop("cost", None)) is not None:
                cost = json.loads(from_text(vault, kept.encode(), KIND))
            line["cost"] = to_text(vault, json.dumps(cost).encode(), KIND).decode()
            found.append(json.dumps(line).encode() + b"\n")
    return b"".join(found)


def cut(path: Path, before: float, remove: bool) -> bytes:
    """The lines that were written before a moment; taken out of the file if asked for.

    Raises:
        OSError: the disk, or there is no file.
    """
    content, at = path.read_bytes(), 0
    for line in content.splitlines(keepends=True):
        with suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["at"] >= before:
                break
        at += len(line)
    if remove and at:
        replace(path, content[at:])
    return content[:at]
