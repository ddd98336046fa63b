"""A folder whose ``vault.json`` is gone while what its keys have sealed still lies there: no new one opens that.

::

    FK791  a vault that is missing
"""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from fedkit.errors import DeploymentError
from fedkit.storage.sealed_lines import piece_of
from fedkit.storage.sealing import MAGIC, is_sealed
from fedkit_client.folder import SiteFolder

_LOGGED = re.compile(rb"(?:\S+ \S+ (?:\d+ [A-Z]+ \S+: )?)?(sealed:\S+)")
"""A line of the log that is sealed, and none that speaks of one: what others sent may stand behind its beginning."""


def require_vault(path: Path) -> None:
    """Refuse a folder without a vault in which something is sealed; one in the clear passes.

    Raises:
        DeploymentError: FK791.

    Guarantee: nothing is written.
    """
    folder = SiteFolder(path)
    if folder.vault_file.exists() or (found := _sealed(folder)) is None:
        return
    kept = sorted(each.parent.name for each in folder.evidence.glob("*/vault.json"))
    or_evidence = f", or from evidence/{kept[-1]}/ if no key was rotated since" if kept else ""
    raise DeploymentError(
        f"{folder.vault_file} is missing, and {found.relative_to(path)} was encrypted by the keys in it",
        code="FK791",
        remedy=f"restore vault.json from the folder's backup{or_evidence}; a new one would open nothing",
    )


def _sealed(folder: SiteFolder) -> Path | None:
    """One of the folder's files in which something is sealed."""
    for path in (folder.pseudonym_key, folder.withdrawals, folder.rectified):
        if any(is_sealed(piece_of(line)) for line in _lines(path)):
            return path
    if _holds(folder.lineage, (("sets", "units"), ("uses", "rows"))):
        return folder.lineage
    for path in sorted(folder.ledgers.glob("*.sqlite")):
        if _holds(path, (("replies", "reply"), ("replies", "state"))):
            return path
    for path in (folder.usage, folder.log):
        for each in (path, path.with_name(path.name + ".1")):
            if any(_is_sealed_line(line) for line in _lines(each)):
                return each
    from fedkit_client.console_factors import any_sealed

    return folder.console_users if any_sealed(folder.console_users) else None


def _lines(path: Path) -> list[bytes]:
    # What cannot be read is refused by whoever needs it.
    with suppress(OSError):
        return path.read_bytes().splitlines()
    return []


def _is_sealed_line(line: bytes) -> bool:
    if line.startswith(b"{"):
        with suppress(ValueError, AttributeError):
            return is_sealed(piece_of(str(json.loads(line).get("cost", "")).encode()))
        return False
    found = _LOGGED.match(line)
    return found is not None and is_sealed(piece_of(found[1]))


def _holds(path: Path, columns: tuple[tuple[str, str], ...]) -> bool:
    if not path.exists():
        return False
    # Nothing may come to lie beside it, as a journal's shared memory would.
    how = "mode=ro" if path.with_name(path.name + "-wal").exists() else "immutable=1"
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True)) as database:
        for table, column in columns:
            text = f"SELECT 1 FROM {table} WHERE substr({column}, 1, {len(MAGIC)}) = ? LIMIT 1"  # noqa: S608
            if database.execute(text, (MAGIC,)).fetchone() is not None:
                return True
    return False
