"""What ``fedkit client doctor`` says of the folder's key."""

from __future__ import annotations

from fedkit.errors import DeploymentError
from fedkit_client.check import Check, failed
from fedkit_client.console_factors import users_of
from fedkit_client.settling import PLAIN, retired
from fedkit_client.start import Opened

_NAME = "encryption"


def encryption_check(opened: Opened) -> Check:
    """Whether the key is at hand, and whether a copy of the folder would carry it along."""
    folder, encryption = opened.folder, opened.file.encryption
    try:
        vault = folder.vault()
    except DeploymentError as error:
        return failed(_NAME, error)
    if vault is None and encryption.plaintext:
        return Check(_NAME, "warn", PLAIN, "leave allow_plaintext out, and run `fedkit client encrypt SITE.yaml`")
    if vault is None or folder.keys is None or folder.keys.opened is None:
        remedy = "`fedkit client start SITE.yaml` or `fedkit client encrypt SITE.yaml` encrypts it"
        return Check(_NAME, "warn", "the site's folder is not encrypted yet", remedy)
    found = folder.keys.opened
    try:
        users = users_of(folder)
        users.factors(users.read())
    except DeploymentError as error:
        return failed(_NAME, error)
    if found.source == encryption.previous:
        remedy = "stop the site, then `fedkit client encrypt SITE.yaml --rotate`"
        return Check(_NAME, "warn", f"the folder is still under {found.source.shown}, the key before", remedy)
    if found.pending:
        return Check(_NAME, "warn", "a rotation is not finished", "`fedkit client encrypt SITE.yaml` goes on with it")
    if encryption.previous is not None:
        text = "nothing in use is under encryption.previous any more"
        return Check(_NAME, "warn", text, retired(folder.path))
    if encryption.source is None:
        text = f"by {found.source.shown}, which lies beside the folder: who copies both reads what is in it"
        return Check(_NAME, "ok", f"{text}; encryption in site.yaml names a key that lies elsewhere")
    return Check(_NAME, "ok", f"what the folder holds of records is encrypted by {found.source.shown}")
