"""What a site that joins again takes with it: what was spent, who has withdrawn, whose records were used, a pause.

::

    FK757  a folder that cannot be taken over
    FK758  ledgers of the site that joining would leave behind
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedkit.errors import DeploymentError, FedkitError
from fedkit.storage.audit_line import Scalar
from fedkit_client import lock
from fedkit_client.folder import SiteFolder
from fedkit_client.retired import CLOSED
from fedkit_client.unlinked import require_unlinked

_TAKEN = (
    "ledgers", "withdrawals.jsonl", "rectified.jsonl", "pseudonym.key", "lineage.sqlite", "paused.json",
    "quarantine.json", "rounds.json", "vault.json",
)  # fmt: skip
"""The memory of rounds too: without it an unprotected round could be trained again."""


@contextmanager
def taking_over(old: Path | None) -> Iterator[SiteFolder | None]:
    """Hold an old folder, so that it does not run; where the block fails it is again what it was.

    Within the block :func:`close` is called last, so that it never runs again.

    Raises:
        DeploymentError: FK757, it is no folder of a site; FK753, it runs.

    Guarantee: of two folders with one history at most one can be started: a budget is not spent twice.
    """
    if old is None:
        yield None
        return
    folder = require_open(old)
    with lock.hold(folder.pid_file):
        try:
            yield folder
        except BaseException:
            with suppress(FileNotFoundError):
                (folder.path / CLOSED).rename(folder.enrolment_file)
            raise


def require_open(old: Path) -> SiteFolder:
    """A folder that may be taken over.

    Raises:
        DeploymentError: FK757; FK706, there is a link in it.
    """
    folder = SiteFolder(old.absolute())
    if not folder.ledgers.is_dir() or not folder.enrolment_file.is_file():
        closed = (folder.path / CLOSED).exists()
        raise DeploymentError(
            f"{old} was taken over by a later joining" if closed else f"{old} is no folder of a site that has joined",
            code="FK757",
            remedy="name the folder that was in use last, in which ledgers/ and enrolment.json lie",
        )
    require_unlinked(folder.path)
    return folder


def close(old: SiteFolder) -> None:
    """Have no site run in a folder any more: before the one that takes its place is there, for a kill may come between.

    Raises:
        OSError: it is as it was.
    """
    old.enrolment_file.rename(old.path / CLOSED)


def require_nothing_near(site: str, places: Iterable[Path], but: Path | None) -> None:
    """Refuse to join beside a folder with ledgers of the same site; the coordinator, which tells too, may be a new one.

    Args:
        places: folders that are looked into, and those in them.
        but: the folder that is taken over; beside another one it may not be the newest.

    Raises:
        DeploymentError: FK758.
    """
    for place in places:
        for each in (place, *_folders(place)):
            if (but is None or each.resolve() != but.resolve()) and _may_have_ledgers(each, site):
                raise DeploymentError(
                    f"{each} holds ledgers of {site}; joining would leave behind what they have charged",
                    code="FK758",
                    remedy=f"join with --from {each}; only if they are of other patients, with --empty-ledgers",
                )


def _folders(place: Path) -> list[Path]:
    try:
        return sorted(each for each in place.iterdir() if each.is_dir())
    except OSError:
        return []


def _may_have_ledgers(folder: Path, site: str) -> bool:
    """Whether it has ledgers that may be this site's: those of nobody can tell whom may be."""
    try:
        if not any((folder / "ledgers").glob("*.sqlite")):
            return False
    except OSError:
        return False
    if (folder / CLOSED).exists() and not (folder / "enrolment.json").exists():
        return False
    try:
        return SiteFolder(folder).enrolment().site == site
    except FedkitError:
        return True


def carry_over(old: SiteFolder, made: SiteFolder) -> dict[str, Scalar]:
    """Copy what must outlive a joining into a folder that is being made.

    Returns:
        What the new audit log tells of it: where the old one ended, and whose signature that bears.

    Raises:
        OSError: something cannot be read or written.
        DeploymentError: FK770, FK771, the old log's end; FK702, FK703, its key.
    """
    for name in _TAKEN:
        # With what SQLite undoes a kill by.
        for source in old.path.glob(f"{name}*"):
            target = made.path / source.name
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copy2(source, target)
    return _logs(old, made)


def _logs(old: SiteFolder, made: SiteFolder) -> dict[str, Scalar]:
    """An old log stays under its key, by which it is verified; the new one begins with where it ended."""
    from fedkit.storage.audit import Log
    from fedkit.storage.keys import fingerprint, load_signing_key

    if not old.audit.exists():
        return {}
    key = load_signing_key(old.signing_key)
    head = Log(old.audit, key).head()
    before = sorted(old.path.glob("audit.before-*.jsonl"), key=lambda path: (len(path.name), path.name))
    for number, source in enumerate((*before, old.audit), 1):
        shutil.copy2(source, made.path / f"audit.before-{number}.jsonl")
    return {"before_seq": head.seq, "before_digest": head.digest, "before_key": fingerprint(key.public)}
