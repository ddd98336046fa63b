"""What shows what happened at a site, copied as it is, with digests under the site's signature.

No key is among it but the folder's own, wrapped by the hospital's: whoever has that one of the time opens what is
encrypted, also after a rotation.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedkit.errors import DeploymentError, FedkitError
from fedkit.federation.envelope import Kind, read, seal, unseal
from fedkit.storage.backup import copy_database, described
from fedkit.storage.keys import SigningKey
from fedkit.storage.private import make_folder, write_new
from fedkit_client.evidence_kept import STAMP
from fedkit_client.folder import SiteFolder

MANIFEST = "manifest.json"
_KEPT = (
    "site.yaml", "enrolment.json", "ca.crt", "authorities.jsonl", "keyring.jsonl", "state.json", "paused.json",
    "quarantine.json", "audit*",
    "approvals.jsonl", "asked.json", "rounds.json", "usage.jsonl*", "withdrawals.jsonl", "rectified.jsonl",
    "studies/*.json", "client.log*", "alerts.sqlite", "lineage.sqlite", "ledgers/*.sqlite", "vault.json",
)  # fmt: skip


def keep_evidence(folder: SiteFolder, key: SigningKey, now: float) -> dict[str, Any]:
    """Copy what is there into a new folder of `SiteFolder.evidence`; one file that cannot be copied stops no other.

    Returns:
        The folder, its files with digest and size, and those that could not be copied with why.

    Raises:
        DeploymentError: FK700, FK704, the new folder cannot be made or the manifest not be written; FK706, a link is in
            its place.
    """
    if folder.evidence.is_symlink():
        raise DeploymentError(
            f"{folder.evidence} is a link, through which nothing is written",
            code="FK706",
            remedy="take it away, and quarantine the site again",
        )
    target = folder.evidence / datetime.fromtimestamp(now, UTC).strftime(STAMP)
    if not folder.evidence.exists():
        make_folder(folder.evidence)
    make_folder(target)
    files, failed = dict[str, dict[str, Any]](), dict[str, str]()
    for source in _sources(folder):
        name = source.relative_to(folder.path).as_posix()
        copy = target / name
        try:
            copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _copy(source, copy)
            files[name] = described(copy)
        except (OSError, sqlite3.Error) as error:
            failed[name] = type(error).__name__
    values = {"made_at": int(now), "files": files, "failed": failed}
    write_manifest(target, "evidence", values, key)
    return {"folder": str(target), **values}


def write_manifest(folder: Path, kind: Kind, values: Mapping[str, Any], key: SigningKey) -> None:
    """Sign what a folder holds; the raw public key stands beside it, for whoever verifies it without the site.

    Raises:
        DeploymentError: FK700, FK704.
    """
    signed = seal(kind, {**values, "public": key.public.hex()}, key)
    write_new(folder / MANIFEST, (signed.text + "\n").encode())


def check_manifest(folder: Path, kind: Kind, public: bytes) -> dict[str, Any]:
    """The manifest's values, once its signature and every file that it names are found good.

    Raises:
        DeploymentError: FK788, it cannot be read, is another key's, or a file is missing or another one.
    """
    try:
        signed = read((folder / MANIFEST).read_text(encoding="utf-8").removesuffix("\n"))
        values = unseal(signed, kind, public)
        files = dict(values["files"])
    except (OSError, ValueError, KeyError, TypeError, FedkitError) as error:
        raise _unusable(folder, error.message if isinstance(error, FedkitError) else type(error).__name__) from None
    for name, told in files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise _unusable(folder, f"{name} lies elsewhere")
        try:
            same = described(path) == told
        except OSError:
            same = False
        if not same:
            raise _unusable(folder, f"{name} is missing, or is not what was signed")
    return values


def _sources(folder: SiteFolder) -> Iterator[Path]:
    seen = set[Path]()
    for pattern in _KEPT:
        for path in sorted(folder.path.glob(pattern)):
            linked = path.is_symlink() or path.parent.is_symlink()
            if not linked and path.is_file() and path not in seen:
                seen.add(path)
                yield path


def _copy(source: Path, copy: Path) -> None:
    if source.suffix == ".sqlite":
        try:
            copy_database(source, copy, mend=False)
        except sqlite3.Error:
            # One that is broken is evidence byte by byte, with what SQLite keeps beside it.
            for each in _with_journals(source):
                shutil.copyfile(each, copy.with_name(each.name))
    else:
        shutil.copyfile(source, copy)
    copy.chmod(0o600)


def _with_journals(source: Path) -> Iterable[Path]:
    return [each for each in source.parent.glob(f"{source.name}*") if each.is_file()]


def _unusable(folder: Path, why: str) -> DeploymentError:
    return DeploymentError(
        f"the manifest of {folder} does not hold: {why}",
        code="FK788",
        remedy="take the folder as it was written, and the site that wrote it",
    )


def plain_json(values: Mapping[str, Any]) -> str:
    """Plain values as a file of them has them."""
    return json.dumps(values, indent=2, allow_nan=False) + "\n"
