"""``fedkit server backup`` and ``restore``: a coordinator's folder copied while it runs, and made anew from the copy.

The order is what makes the copy one that a crash could have left: what is known of sites and runs first, each run's
journal before the files that it names, the audit log last, for it tells of things before they happen. Flower's own
state (``link.db``, ``objects``) is made anew at the start, as after its loss; what a tracker mirrors (``tracking``) is
filled anew from the runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedkit import __version__
from fedkit.errors import DeploymentError, FedkitError, RunError
from fedkit.federation.keyring import extend
from fedkit.runs.resume import resume_point
from fedkit.storage.audit import Log
from fedkit.storage.audit_line import Event
from fedkit.storage.backup import LIST, becoming, copy_file, described, make_folders, put_back, read_list, write_list
from fedkit_server.authorities import newest_pair
from fedkit_server.folder import ServerFolder
from fedkit_server.store import Store

KIND = "coordinator"
RESTORED = "restored"
ATTEMPTS = 20
"""How often a run that goes on is copied, until no round ended meanwhile."""

_FIRST = (
    "server.json",
    "allow.yaml",
    "authorities.jsonl",
    "ca/*",
    "tls/*",
    "keys/*",
    "keyring.jsonl",
    "fedkit.db",
    "studies/**/*",
)
_LAST = ("server.log*", "audit*")
_STEPS = "journal/steps.jsonl"


def make_backup(folder: ServerFolder, target: Path, now: float | None = None) -> dict[str, Any]:
    """Copy a coordinator's folder into a new one, and look at the copy.

    Raises:
        DeploymentError: FK704, FK700; FK766, a disk, a run whose rounds end faster than it is copied, or keys that were
            exchanged meanwhile.

    Guarantee: the backup is there as a whole, on disk and read again, or not at all; nothing in the folder changes.
    """
    if target.absolute().resolve().is_relative_to(folder.path.resolve()):
        raise DeploymentError(
            f"{target} lies in the folder that is to be copied", code="FK704", remedy="name a folder on another disk"
        )
    at = time.time() if now is None else now
    with becoming(target) as scrap:
        _copy(folder.path, _files(folder.path, _FIRST), scrap)
        runs = sorted(path for path in folder.runs.glob("*") if path.is_dir() and not path.is_symlink())
        for run in runs:
            _copy_run(folder.path, run, scrap)
        _copy(folder.path, _files(folder.path, _LAST), scrap)
        _look_at(ServerFolder(scrap))
        names = [path.relative_to(scrap).as_posix() for path in scrap.rglob("*") if path.is_file()]
        values = {"name": folder.settings().name, "fedkit": __version__, "made_at": int(at), "runs": len(runs)}
        made = write_list(scrap, KIND, names, values)
    return {**made, "folder": str(target), "tracking": (folder.path / "tracking").is_dir()}


def put_back_coordinator(backup: Path, target: Path, keyring: Path | None = None) -> dict[str, Any]:
    """Make a coordinator's folder from a backup.

    Args:
        keyring: a newer chain of statements, such as a site's ``keyring.jsonl``; without it sites that know a newer one
            refuse whatever the coordinator says (FK544).

    Raises:
        DeploymentError: FK766, FK759, FK704, FK700.
        FederationError: FK540 to FK544, the keyring does not go on from the backup's.
    """
    values = read_list(backup, KIND, ("name",))
    with becoming(target) as scrap:
        put_back(backup, values["files"], scrap)
        make_folders(scrap, ("runs", "objects"))
        folder = ServerFolder(scrap)
        known = folder.keyring()
        if keyring is not None:
            known = extend(known, keyring.read_text(encoding="utf-8", errors="replace").splitlines())
            folder.write_keyring(known)
            folder.keyring()
        told = {
            "made_at": values["made_at"],
            "digest": described(backup / LIST)["sha256"],
            "serial": len(known.statements) - 1,
        }
        Log(folder.audit, folder.key()).append(Event(RESTORED, told))
    return {
        "folder": str(target),
        "name": values["name"],
        "made_at": values["made_at"],
        "statements": len(known.statements),
    }


def text_of(done: dict[str, Any]) -> str:
    """What was put back, for a person."""
    made_at = datetime.fromtimestamp(done["made_at"], UTC)
    return (
        f"{done['folder']}: the coordinator of {done['name']} as of {made_at:%Y-%m-%d %H:%M} UTC, with a keyring of"
        f" {done['statements']} statements\n"
        "  sites and runs of since are not known; a site with a longer keyring refuses (FK544): see --keyring\n"
        f"next: `fedkit server start {done['folder']}`"
    )


def _copy_run(base: Path, run: Path, scrap: Path) -> None:
    copy = scrap / run.relative_to(base)
    for _ in range(ATTEMPTS):
        _remove(copy)
        try:
            _copy(base, _files(run, (_STEPS, "**/*")), scrap)
            if (copy / _STEPS).exists():
                # Each file that the journal names is read: the end of a round deletes those of the one before.
                resume_point(copy / "journal")
            return
        except (RunError, FileNotFoundError):
            continue
    raise DeploymentError(
        f"rounds of {run.name} end faster than it can be copied",
        code="FK766",
        remedy=f"`fedkit server halt {base}`, back up, and start it again: the run goes on; if that is refused"
        " too, its journal is damaged",
    )


def _copy(base: Path, sources: Iterator[Path], scrap: Path) -> None:
    for source in sources:
        copy_file(source, scrap / source.relative_to(base))


def _files(folder: Path, patterns: Sequence[str]) -> Iterator[Path]:
    seen = set[Path]()
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            if path.is_file() and not path.is_symlink() and path not in seen and not path.name.startswith("."):
                seen.add(path)
                yield path


def _look_at(copy: ServerFolder) -> None:
    """Keyring, coordinator's key, certificate and what is known of sites belong together."""
    try:
        copy.keyring()
        newest_pair(copy)
        with closing(Store(copy.database)) as store:
            store.sites()
    except FedkitError as error:
        raise DeploymentError(
            f"the copy does not hold together: {error.message}",
            code="FK766",
            remedy="if keys were exchanged meanwhile, try again; else the folder itself is damaged",
        ) from None
    for path in copy.path.glob("fedkit.db-*"):
        path.unlink()


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
