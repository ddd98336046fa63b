"""A site's folder brought under its key: plain text of before is sealed, pieces under a key that is to go are renewed.

Each file changes as a whole or not at all, and may be done again: what ends this half-way is gone on with.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from fedkit.errors import DeploymentError, FederationError
from fedkit.governance.encryption import default_source
from fedkit.storage.private import replace
from fedkit.storage.sealed_lines import MARK, from_text, is_settled, to_text
from fedkit_client import console_factors, logs, pseudonyms, rectified, usage, withdrawals
from fedkit_client.appending import appending
from fedkit_client.hidden import resealed_count, resealed_units
from fedkit_client.key_source import make_key_file
from fedkit_client.vault_lost import require_vault
from fedkit_client.vaults import SEAL, UNFINISHED, Keys, Opened, finished, make_vault, open_vault, renewed

if TYPE_CHECKING:
    from fedkit.storage.sealing import Vault
    from fedkit_client.folder import SiteFolder

PLAIN = (
    "the site's folder is not encrypted (allow_plaintext): whoever copies it reads what it holds, second factors of the"
    " console among it"
)


def settle(folder: SiteFolder, *, renew: bool = False) -> list[str]:
    """Have a folder sealed as its site's file says, with a key that is made where none was ever named.

    Args:
        renew: bring the key that the file names into force in the place of the one before, and new ones of the
            folder's own with it.

    Returns:
        What a person should know, each as a sentence.

    Raises:
        DeploymentError: FK790, FK791, FK793; FK700, the disk.
        PrivacyError, FederationError: a ledger, or a file of before, that cannot be read.

    Guarantee: whatever ends this, the key before or the one after opens all that is sealed, and doing it again ends it.
    """
    # Before a key is made, and where a file says that all is in the clear too.
    require_vault(folder.path)
    keys = folder.keys
    if keys is None or (keys.encryption.plaintext and not folder.vault_file.exists()):
        return [PLAIN]
    said: list[str] = []
    encryption = keys.encryption
    source = encryption.source or default_source(folder.path)
    if folder.vault_file.exists() and not renew:
        # Every start looks; only who has something to change needs to be alone.
        try:
            keys.vault()
        except DeploymentError as error:
            if error.code != UNFINISHED:
                raise
        if keys.opened is not None and not keys.opened.pending:
            return _remarks(keys.opened, keys)

    def work() -> Opened:
        if folder.vault_file.exists():
            opened = open_vault(folder.path, encryption)
            if renew and (opened.source != source or not opened.pending):
                opened = renewed(folder.path, opened, source)
        else:
            if encryption.source is None and source.file is not None and not source.file.exists():
                make_key_file(source.file)
                said.append(f"a key was made: {source.file}; keep a copy of it apart from copies of the folder")
            opened = make_vault(folder.path, source, SEAL)
        if opened.pending:
            _seal_all(folder, opened.vault, plain=opened.pending == SEAL)
            said.append(f"what lies in {folder.path} is encrypted by {opened.source.shown}")
            said.extend(_evidence_in_clear(folder))
            opened = finished(folder.path, opened)
        return opened

    opened = keys.alone(work)
    return [*said, *_remarks(opened, keys)]


def _remarks(opened: Opened, keys: Keys) -> list[str]:
    if keys.encryption.previous is None:
        return []
    if opened.source == keys.encryption.previous:
        return [f"the folder is still under {opened.source.shown}: run `fedkit client encrypt SITE.yaml --rotate`"]
    return [f"nothing in use is under encryption.previous any more: {retired(keys.path)}"]


def retired(folder: Path) -> str:
    """What is to become of the key before, once a rotation is done."""
    copied = any((folder / "evidence").glob("*/vault.json"))
    evidence = f" and what lies in {folder / 'evidence'} from before" if copied else ""
    return (
        f"leave it out of site.yaml; backups that were made before the rotation{evidence} open by that key alone, so"
        " keep it apart for as long as them, and destroy it then"
    )


def _seal_all(folder: SiteFolder, vault: Vault, *, plain: bool) -> None:
    for path in sorted(folder.ledgers.glob("*.sqlite")):
        _ledger(path, vault)
    _lineage(folder.lineage, vault, plain=plain)
    _text(folder.pseudonym_key, vault, plain=plain)
    for path, kind in ((folder.withdrawals, withdrawals.KIND), (folder.rectified, rectified.KIND)):
        _lines(path, vault, kind, plain=plain)
    for path in (folder.usage, folder.log):
        for each in (path.with_name(path.name + ".1"), path):
            if each.exists():
                _rewritten(each, _renewer(each.name, vault))
    console_factors.renew(folder, vault, _rewritten, plain=plain)


def seal_factors(folder: SiteFolder) -> list[str]:
    """Second factors of a version before, which has left them in the clear in a folder that it had encrypted.

    Nobody but a person can tell them from what somebody has written there, so that no start does this.

    Returns:
        What that person should know, as sentences.

    Raises:
        DeploymentError: FK795, FK706, FK700; FK790, FK791, FK793, the key.
    """
    found = console_factors.seal_clear(folder, _rewritten)
    if not found:
        return []
    return [
        f"second factors of the console lay in the clear and are encrypted: {', '.join(found)}; remove whom you do not"
        " know by `fedkit client console-user SITE.yaml remove NAME`"
    ]


def _evidence_in_clear(folder: SiteFolder) -> list[str]:
    """Evidence is never written anew, for its digests are signed."""
    clear = [each.name for each in sorted(folder.evidence.glob("*")) if not (each / "vault.json").exists()]
    if not clear:
        return []
    return [
        f"{folder.evidence} holds {', '.join(clear)} in the clear, as it was copied before the folder was encrypted:"
        " move it to an encrypted disk"
    ]


def _renewer(name: str, vault: Vault) -> Callable[[bytes], bytes]:
    if name.startswith("usage"):
        return lambda content: usage.resealed(content, vault)
    return lambda content: logs.resealed(content, vault)


def _ledger(path: Path, vault: Vault) -> None:
    from fedkit.privacy.ledger.ledger import Ledger

    with Ledger(path, vault=vault) as ledger:
        ledger.file.reseal()


def _lineage(path: Path, vault: Vault, *, plain: bool) -> None:
    if not path.exists():
        return
    try:
        _resealed(path, vault, plain=plain)
    except sqlite3.Error as error:
        raise FederationError(
            f"{path.name} cannot be used ({type(error).__name__}: {error})",
            code="FK593",
            remedy="see that the disk has room, or restore it from the folder's backup",
        ) from None


def _resealed(path: Path, vault: Vault, *, plain: bool) -> None:
    with closing(sqlite3.connect(path, timeout=30)) as database:
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA secure_delete = ON")
        for number, digest, kept in database.execute("SELECT id, digest, units FROM sets").fetchall():
            fresh = resealed_units(vault, kept, digest, plain=plain)
            database.execute("UPDATE sets SET units = ? WHERE id = ?", (fresh, number))
        found = database.execute("SELECT rowid, run, round, kind, rows FROM uses").fetchall()
        for row, run, number, kind, kept in found:
            counted = resealed_count(vault, kept, run, number, kind, plain=plain)
            database.execute("UPDATE uses SET rows = ? WHERE rowid = ?", (counted, row))
        database.commit()
        # Pages that were freed before hold what stood in them.
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.execute("VACUUM")


def _text(path: Path, vault: Vault, *, plain: bool) -> None:
    if path.exists():
        _rewritten(path, lambda content: _renewed(content.strip(), vault, plain, pseudonyms.KIND) + b"\n")


def _lines(path: Path, vault: Vault, kind: str, *, plain: bool) -> None:
    if not path.exists():
        return

    def fresh(content: bytes) -> bytes:
        # Half a line of a crash was never vouched for.
        whole = content[: content.rfind(b"\n") + 1].splitlines()
        found = [_renewed(line, vault, plain, kind, str(number)) for number, line in enumerate(whole, 1)]
        return b"".join(line + b"\n" for line in found)

    with appending(path):
        _rewritten(path, fresh)


def _renewed(text: bytes, vault: Vault, plain: bool, *context: str) -> bytes:
    if is_settled(vault, text):
        return text
    if plain and not text.startswith(MARK):
        return to_text(vault, text, *context)
    return to_text(vault, from_text(vault, text, *context), *context)


def _rewritten(path: Path, fresh: Callable[[bytes], bytes]) -> None:
    """Replace a file's content, and overwrite what it held where that lies."""
    with path.open("r+b") as before:
        content = before.read()
        made = fresh(content)
        if made == content:
            return
        replace(path, made)
        # The name leads to the new file. A disk that writes elsewhere keeps the old bytes until it needs the place.
        before.seek(0)
        before.write(bytes(len(content)))
        before.flush()
        os.fsync(before.fileno())
