"""Lines of ``server.log`` beyond ``log_days`` of ``server.json``: told in the audit log, then deleted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedkit.errors import DeploymentError
from fedkit.governance.retention import DAY
from fedkit.storage.audit_line import Event, Scalar
from fedkit.storage.chain import Head
from fedkit.storage.stamped_lines import cut
from fedkit_server.folder import ServerFolder
from fedkit_server.logs import KEPT

KIND = "deleted"


@dataclass(frozen=True)
class OldLines:
    """Lines of one file that are to be deleted.

    Attributes:
        deadline: seconds since the epoch: the moment before which they were written.
        digest: SHA-256 of them.
        size: bytes.
    """

    name: str
    deadline: int
    reason: str
    digest: str
    size: int
    count: int

    def receipt(self) -> Event:
        """As the audit log has it."""
        said: dict[str, Scalar] = {"what": "log", **asdict(self)}
        return Event(KIND, said)


def due_lines(folder: ServerFolder, now: float) -> list[OldLines]:
    """What is beyond its deadline, by file.

    Raises:
        DeploymentError: FK705, ``server.json``; FK700, a file that cannot be read.
    """
    days = folder.settings().log_days
    if days is None:
        return []
    found, before = [], int(now) - days * DAY
    for path in _files(folder):
        gone = _cut(path, before, remove=False)
        if gone:
            digest = hashlib.sha256(gone).hexdigest()
            found.append(OldLines(path.name, before, "log_days of server.json", digest, len(gone), gone.count(b"\n")))
    return found


def purge_log(folder: ServerFolder, now: float, tell: Callable[[Event], Head]) -> list[OldLines]:
    """Delete it, each after its receipt.

    Args:
        tell: appends to the audit log, or raises: then nothing more is deleted.

    Raises:
        DeploymentError: FK705, FK700; whatever ``tell`` raises.

    Guarantee: a kill leaves a receipt whose deletion the next purge does, with another receipt.
    """
    found = due_lines(folder, now)
    for each in found:
        tell(each.receipt())
        _cut(folder.path / each.name, each.deadline, remove=True)
    return found


def plain_lines(found: list[OldLines]) -> list[dict[str, Any]]:
    """For ``--json``."""
    return [asdict(each) for each in found]


def _files(folder: ServerFolder) -> Iterator[Path]:
    for number in range(KEPT, 0, -1):
        yield folder.log.with_name(f"{folder.log.name}.{number}")
    yield folder.log


def _cut(path: Path, before: int, *, remove: bool) -> bytes:
    try:
        with suppress(FileNotFoundError):
            return cut(path, before, remove)
    except OSError as error:
        raise DeploymentError(
            f"{path} cannot be cut: {error.strerror}", code="FK700", remedy="run it as the folder's owner, again"
        ) from None
    return b""
