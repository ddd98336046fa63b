"""What a site that joins again takes with it: what was spent, who has withdrawn, whose records were used, a pause.

::

    FK757  a folder that cannot be taken over
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedkit.errors import DeploymentError
from fedkit_client import lock
from fedkit_client.folder import SiteFolder

_TAKEN = ("ledgers", "withdrawals.jsonl", "rectified.jsonl", "pseudonym.key", "lineage.sqlite", "paused.json")
_CLOSED = "enrolment.closed.json"


@contextmanager
def taking_over(old: Path | None) -> Iterator[SiteFolder | None]:
    """Hold an old folder, so that it does not run; once the block has ended well it never runs again.

    Raises:
        DeploymentError: FK757, it is no folder of a site; FK753, it runs.

    Guarantee: of two folders with one history at most one can be started: a budget is not spent twice.
    """
    if old is None:
        yield None
        return
    folder = SiteFolder(old.absolute())
    if not folder.ledgers.is_dir() or not folder.enrolment_file.is_file():
        closed = (folder.path / _CLOSED).exists()
        raise DeploymentError(
            f"{old} was taken over by a later joining" if closed else f"{old} is no folder of a site that has joined",
            code="FK757",
            remedy="name the folder that was in use last, in which ledgers/ and enrolment.json lie",
        )
    with lock.hold(folder.pid_file):
        yield folder
        folder.enrolment_file.rename(folder.path / _CLOSED)


def carry_over(old: SiteFolder, made: SiteFolder) -> None:
    """Copy what must outlive a joining into a folder that is being made.

    Raises:
        OSError: something cannot be read or written.
    """
    for name in _TAKEN:
        source, target = old.path / name, made.path / name
        if source.is_dir():
            shutil.copytree(source, target)
        elif source.exists():
            shutil.copy2(source, target)
