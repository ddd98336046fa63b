"""Which units' records were corrected, and when: pseudonyms with a time and a reason, one line each.

::

    FK593  the file cannot be read
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fedkit.errors import DeploymentError, FederationError
from fedkit.storage.sealed_lines import from_text, to_text
from fedkit.storage.sealing import Vault
from fedkit_client.appending import append, appending, mended, read_shared

KIND = "rectification"


def note(
    path: Path, dataset: str, pseudonyms: Sequence[str], reason: str, now: float, vault: Vault | None = None
) -> None:
    """Write down that a corrected record takes effect; on disk when it returns.

    Raises:
        DeploymentError: FK700, FK706.
    """
    lines = [json.dumps({"at": int(now), "data": dataset, "unit": mark, "reason": reason}) for mark in pseudonyms]
    with appending(path) as handle:
        count = len(mended(handle, lambda line: vault is None and line.endswith(b"}")).splitlines())
        append(handle, [to_text(vault, line.encode(), KIND, str(number)).decode()
                        for number, line in enumerate(lines, count + 1)])  # fmt: skip


def times_of(path: Path, dataset: str, pseudonym: str, vault: Vault | None = None) -> list[int]:
    """When a unit's records were corrected, in seconds since the epoch.

    Raises:
        FederationError: FK593.
        DeploymentError: FK706.
    """
    try:
        texts = enumerate(read_shared(path).splitlines(), 1)
        entries = [json.loads(from_text(vault, line, KIND, str(number))) for number, line in texts]
        return [int(each["at"]) for each in entries if (each["data"], each["unit"]) == (dataset, pseudonym)]
    except DeploymentError as error:
        if error.code == "FK706":
            raise
        raise FederationError(
            f"{path.name} cannot be opened: {error.message}", code="FK593", remedy=error.remedy
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FederationError(
            f"{path.name} cannot be read ({type(error).__name__})",
            code="FK593",
            remedy="restore it from the folder's backup",
        ) from None
