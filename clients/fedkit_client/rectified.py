"""Which units' records were corrected, and when: pseudonyms with a time and a reason, one line each.

::

    FK593  the file cannot be read
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fedkit.errors import FederationError
from fedkit_client.appending import append, appending, mended, read_shared


def note(path: Path, dataset: str, pseudonyms: Sequence[str], reason: str, now: float) -> None:
    """Write down that a corrected record takes effect; on disk when it returns.

    Raises:
        DeploymentError: FK700, FK706.
    """
    lines = [json.dumps({"at": int(now), "data": dataset, "unit": mark, "reason": reason}) for mark in pseudonyms]
    with appending(path) as handle:
        mended(handle, lambda line: line.endswith(b"}"))
        append(handle, lines)


def times_of(path: Path, dataset: str, pseudonym: str) -> list[int]:
    """When a unit's records were corrected, in seconds since the epoch.

    Raises:
        FederationError: FK593.
        DeploymentError: FK706.
    """
    try:
        entries = [json.loads(line) for line in read_shared(path).splitlines()]
        return [int(each["at"]) for each in entries if (each["data"], each["unit"]) == (dataset, pseudonym)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FederationError(
            f"{path.name} cannot be read ({type(error).__name__})",
            code="FK593",
            remedy="restore it from the folder's backup",
        ) from None
