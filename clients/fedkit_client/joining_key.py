"""The key of a folder that is being made by joining."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedkit.errors import DeploymentError
from fedkit.governance.encryption import Encryption, KeySource, default_source
from fedkit.storage.private import write_new
from fedkit_client.folder import SiteFolder
from fedkit_client.key_source import make_key_file, read_key
from fedkit_client.vault_lost import require_vault
from fedkit_client.vaults import SEAL, make_vault, open_vault


@contextmanager
def key_for(folder: Path, encryption: Encryption, old: Path | None) -> Iterator[KeySource | None]:
    """Where the folder's key comes from; one that no file names lies beside the folder, and is made if need be.

    Args:
        folder: which is made in the block; where that fails, a key that was made for it is gone again.
        old: of an earlier joining; what it is sealed by must open here too.

    Yields:
        None where the file asks for plain text.

    Raises:
        DeploymentError: FK790, FK791; FK700, no key can be written.
    """
    if old is not None:
        require_vault(old.absolute())
    if encryption.plaintext:
        yield None
        return
    source = encryption.source or default_source(folder)
    sealed = None if old is None or not (old / "vault.json").exists() else old.absolute()
    made = None
    if encryption.source is None and source.file is not None and not source.file.exists():
        made = source.file
        made.parent.mkdir(parents=True, exist_ok=True)
        before = None if sealed is None else default_source(sealed).file
        if before is not None and before.exists():
            write_new(made, before.read_bytes())
        else:
            make_key_file(made)
    try:
        # Where another was named before, this one may be new.
        read_key(source, in_use=sealed is not None and encryption.previous is None)
        if sealed is not None:
            open_vault(sealed, Encryption(source, encryption.previous))
        yield source
    except BaseException:
        if made is not None:
            made.unlink(missing_ok=True)
        raise


def seal(made: SiteFolder, source: KeySource | None) -> None:
    """Give a folder that is being made its vault; what an older one brought along in the clear is sealed at the start.

    Raises:
        DeploymentError: FK790, FK791; FK700.
    """
    if made.vault_file.exists():
        if source is None:
            raise DeploymentError(
                "the old folder is encrypted, and the new site's file has allow_plaintext: true",
                code="FK791",
                remedy="name the old folder's key in encryption",
            )
        return
    if source is None:
        return
    brought = any(made.ledgers.glob("*")) or made.withdrawals.exists() or made.lineage.exists()
    make_vault(made.path, source, SEAL if brought or made.pseudonym_key.exists() else "")
