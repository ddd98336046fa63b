"""``vault.json``: the keys of a site's folder, wrapped by the hospital's; and who uses them at a time.

What lies in the folder is sealed by keys that are the folder's own, so that another key of the hospital's comes into
force by the replacement of this one file: a kill leaves the old key or the new one.

::

    FK790  a key that cannot be had
    FK791  another key than the folder's, or a vault that was altered or is missing
    FK793  a vault that another process changes, or whose change is not finished
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedkit.errors import DeploymentError
from fedkit.governance.encryption import Encryption, KeySource, default_source
from fedkit.storage import private
from fedkit.storage.sealing import KEY_BYTES, Vault, new_name
from fedkit_client.key_source import read_key
from fedkit_client.vault_lost import require_vault

FORMAT = 1
SEAL, RENEW = "seal", "renew"
"""What is not finished: plain text that is still to be sealed, pieces under a key that is to go."""

UNFINISHED = "FK793"
PATIENCE = 10.0
_NONCE = 12


@dataclass(frozen=True)
class Opened:
    """A vault with the key that has opened it.

    Attributes:
        pending: empty, `SEAL` or `RENEW`; authenticated, so that nobody can have plain text taken for the site's own.
        source: of the key; the one before, where a rotation is still to be done.
    """

    vault: Vault
    pending: str
    source: KeySource
    _master: bytes = field(repr=False, compare=False)
    _keys: dict[str, bytes] = field(repr=False, compare=False)


@dataclass
class Keys:
    """The way to a folder's keys: gone once, when something sealed is first needed, and not for what is in the clear.

    Guarantee: while one of these has opened a vault no other process changes it.
    """

    path: Path
    encryption: Encryption
    opened: Opened | None = None
    _plain: bool = field(default=False, repr=False)
    _lock: _Lock | None = field(default=None, repr=False)

    def vault(self) -> Vault | None:
        """The vault; None where the folder holds plain text, before it is first sealed or because its file says so.

        Raises:
            DeploymentError: FK790, FK791, FK793.
        """
        if self.opened is None:
            if self._lock is None:
                self._lock = _Lock(self.path)
            try:
                self._lock.share()
                if not (self.path / "vault.json").exists():
                    if not self._plain:
                        require_vault(self.path)
                        self._plain = True
                    return None
                self.opened = _whole(self.path, open_vault(self.path, self.encryption))
            except BaseException:
                self._lock.let_go()
                raise
        return self.opened.vault

    def known(self) -> Vault | None:
        """The vault, if it was opened before; goes nowhere."""
        return None if self.opened is None else self.opened.vault

    def alone(self, work: Callable[[], Opened]) -> Opened:
        """Change the vault while nobody else uses it, and use it from then on.

        Raises:
            DeploymentError: FK793, and what ``work`` raises.
        """
        self._lock = self._lock or _Lock(self.path)
        try:
            self._lock.alone()
            self.opened = work()
            self._lock.share()
        except BaseException:
            self._lock.let_go()
            raise
        return self.opened


def _whole(folder: Path, opened: Opened) -> Opened:
    if opened.pending == SEAL:
        raise DeploymentError(
            f"{folder} is not sealed as a whole yet: that was broken off",
            code="FK793",
            remedy="`fedkit client start SITE.yaml` or `fedkit client encrypt SITE.yaml` goes on with it",
        )
    return opened


class _Lock:
    """A file's lock, for as long as this lives."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._handle = os.open(folder / "vault.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DeploymentError(
                f"{folder} cannot be written ({error.strerror})", code="FK793", remedy="run as the folder's owner"
            ) from None

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)

    def let_go(self) -> None:
        fcntl.flock(self._handle, fcntl.LOCK_UN)

    def share(self) -> None:
        self._take(fcntl.LOCK_SH)

    def alone(self) -> None:
        self._take(fcntl.LOCK_EX)

    def _take(self, kind: int) -> None:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(self._handle, kind | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > until:
                    raise DeploymentError(
                        f"another process uses the keys of {self._folder}",
                        code="FK793",
                        remedy="stop the site and its console, wait for other commands, then try again",
                    ) from None
                time.sleep(0.05)


def make_vault(folder: Path, source: KeySource, pending: str = "") -> Opened:
    """A new vault in a folder that has none.

    Args:
        pending: `SEAL` where the folder holds plain text.

    Raises:
        DeploymentError: FK790, no key; FK791, there was one; FK704, there is one; FK700, it cannot be written.
    """
    require_vault(folder)
    master, name = read_key(source), new_name()
    keys = {name: os.urandom(KEY_BYTES)}
    made = Opened(Vault(os.urandom(16).hex(), name, keys), pending, source, master, keys)
    private.write_new(folder / "vault.json", _content(made))
    return made


def open_vault(folder: Path, encryption: Encryption) -> Opened:
    """The vault of a folder, opened by the key that the site's file names, or by the one before.

    Raises:
        DeploymentError: FK790, FK791.
    """
    path = folder / "vault.json"
    private.require_private([path])
    if encryption.plaintext:
        raise DeploymentError(
            f"{path} says that the folder is encrypted, and the site's file has allow_plaintext: true",
            code="FK791",
            remedy="name the folder's key in encryption; what is sealed is not made plain again",
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        name, pending, entries = _read(values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _shut(path, f"cannot be read ({type(error).__name__})") from None
    tried = [encryption.source or default_source(folder)]
    tried += [] if encryption.previous is None else [encryption.previous]
    missing: DeploymentError | None = None
    for source in tried:
        try:
            master = read_key(source, in_use=True)
        except DeploymentError as error:
            missing = missing or error
            continue
        keys = _unwrapped(master, name, pending, entries)
        if keys is not None:
            return Opened(Vault(name, next(iter(keys)), keys), pending, source, master, keys)
    if missing is not None:
        raise missing
    raise _shut(path, f"is opened by another key than {' or '.join(each.shown for each in tried)}")


def renewed(folder: Path, opened: Opened, source: KeySource) -> Opened:
    """Bring another key of the hospital's into force, and a new one of the folder's; what there is stays readable.

    Guarantee: on the disk is the vault before or the one after, whatever ends this.

    Raises:
        DeploymentError: FK790, FK700.
    """
    master, name = read_key(source), new_name()
    keys = {name: os.urandom(KEY_BYTES), **opened._keys}
    made = Opened(Vault(opened.vault.name, name, keys), opened.pending or RENEW, source, master, keys)
    private.replace(folder / "vault.json", _content(made))
    return made


def finished(folder: Path, opened: Opened) -> Opened:
    """Forget the keys that nothing is sealed by any more.

    Raises:
        DeploymentError: FK700.
    """
    newest = opened.vault.newest
    keys = {newest: opened._keys[newest]}
    made = replace(opened, vault=Vault(opened.vault.name, newest, keys), pending="", _keys=keys)
    private.replace(folder / "vault.json", _content(made))
    return made


def _content(opened: Opened) -> bytes:
    entries = []
    for name, key in opened._keys.items():
        nonce = os.urandom(_NONCE)
        bound = _bound(opened.vault.name, opened.pending, name)
        entries.append({"name": name, "wrapped": base64.b64encode(nonce + AESGCM(opened._master).encrypt(nonce, key, bound)).decode()})  # fmt: skip  # noqa: E501
    values = {"format": FORMAT, "vault": opened.vault.name, "pending": opened.pending, "keys": entries}
    return (json.dumps(values, indent=2) + "\n").encode()


def _read(values: Any) -> tuple[str, str, dict[str, bytes]]:
    name, pending = values["vault"], values["pending"]
    entries = {each["name"]: base64.b64decode(each["wrapped"], validate=True) for each in values["keys"]}
    good = isinstance(name, str) and pending in ("", SEAL, RENEW) and entries
    if values["format"] != FORMAT or not good or any(len(bytes.fromhex(each)) != 8 for each in entries):
        raise ValueError("other values than a vault's")
    return name, pending, entries


def _unwrapped(master: bytes, name: str, pending: str, entries: dict[str, bytes]) -> dict[str, bytes] | None:
    try:
        return {
            each: AESGCM(master).decrypt(wrapped[:_NONCE], wrapped[_NONCE:], _bound(name, pending, each))
            for each, wrapped in entries.items()
        }
    except (InvalidTag, ValueError):
        return None


def _bound(vault: str, pending: str, name: str) -> bytes:
    return json.dumps(["fedkit-vault-1", vault, pending, name]).encode()


def _shut(path: Path, why: str) -> DeploymentError:
    return DeploymentError(
        f"{path} {why}",
        code="FK791",
        remedy="name the key that it was sealed by, as encryption.previous if another is to follow; if that is named"
        " already the file may be damaged: restore vault.json from the folder's backup. Until then the ledgers stay"
        " readable, and no round is answered",
    )
