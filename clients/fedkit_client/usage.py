"""``usage.jsonl``: what each message has cost the site; the newest lines, for whoever looks after its machine."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

from fedkit.federation.public_codes import COMMON
from fedkit_client.executor import Done

MOST_BYTES = 8 * 2**20
"""Of the file; as much lies beside it in ``usage.jsonl.1``."""

_LOG = logging.getLogger("fedkit.node")


def note_usage(path: Path, kind: str, run: str, number: int, done: Done, seconds: float) -> None:
    """Append what a message has cost; a full disk keeps no message from being answered."""
    used = done.usage
    line = {
        "at": round(time.time(), 3),
        "kind": kind,
        "run": run,
        "round": number,
        "code": COMMON if done.header is None else done.header.get("code", ""),
        "seconds": round(seconds, 3),
        "cpu_seconds": None if used is None else round(used.cpu_seconds, 3),
        "peak_bytes": None if used is None else used.peak_bytes,
    }
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            size = file.tell()
        if size > MOST_BYTES:
            os.replace(path, path.with_name(path.name + ".1"))
    except OSError as error:
        _LOG.warning("%s cannot be written: %s", path, error.strerror)
