"""The key of a site's folder, from where the site's file says that it comes from.

::

    FK790  a key that cannot be had, or is none
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import signal
import stat
import subprocess
from contextlib import suppress
from pathlib import Path

from fedkit.errors import DeploymentError
from fedkit.governance.encryption import KeySource
from fedkit.storage.private import write_new
from fedkit.storage.sealing import KEY_BYTES

COMMAND_SECONDS = 10.0
FORM = "32 random bytes as base64 (44 characters) or hex (64)"
_MOST_BYTES = 1024
_LEAST_DISTINCT = 8
"""Of 32 random bytes fewer are different in one of 10^40 keys."""

_BOM = b"\xef\xbb\xbf"
"""What an editor of another system puts before a text."""

_IN_USE = "bring the key back from its copy; do not make a new one, which would open nothing of what is encrypted"
_HEX = re.compile(rb"[0-9a-fA-F]{64}")


def read_key(source: KeySource, *, in_use: bool = False) -> bytes:
    """The key, 32 bytes.

    Args:
        in_use: something is sealed by it already, so that no new one can take its place.

    Raises:
        DeploymentError: FK790; what was read is in no message.
    """
    if source.file is not None:
        content = _file(source)
    elif source.variable is not None:
        content = os.environ.get(source.variable, "").encode("utf-8", "surrogateescape")
        if not content:
            raise no_key(source, "is not set in the environment", f"set {source.variable}, then start it again")
    else:
        content = _printed(source)
    return _parsed(source, content.removeprefix(_BOM).strip(), in_use)


def make_key_file(path: Path) -> None:
    """Write a new key to a file that was not there, mode 0600.

    Raises:
        DeploymentError: FK704, it is there; FK700, it cannot be written.
    """
    write_new(path, base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")


def no_key(source: KeySource, why: str, remedy: str = "") -> DeploymentError:
    """FK790, in which the budget is not lost with the key."""
    return DeploymentError(
        f"the key of the site's folder cannot be had: {source.shown} {why}",
        code="FK790",
        remedy=remedy or "bring the key back; without it no round is answered, while the ledgers stay readable",
    )


def _file(source: KeySource) -> bytes:
    path = source.file
    assert path is not None  # noqa: S101  # the caller has looked
    try:
        # Of the open file, so that nobody changes it between the look and the reading; a pipe would be waited for.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = os.fstat(handle)
            content = os.read(handle, _MOST_BYTES + 1) if stat.S_ISREG(found.st_mode) else b""
        finally:
            os.close(handle)
    except OSError as error:
        raise no_key(source, f"cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(found.st_mode):
        raise no_key(source, "is no regular file", "name the file that holds the key")
    if found.st_uid not in (os.geteuid(), 0):
        raise no_key(source, f"belongs to user {found.st_uid}, who can replace it", f"chown {os.geteuid()} {path}")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise no_key(
            source,
            f"has mode {mode:04o}, so others on this machine can read or replace it",
            f"chmod 600 {path}, and rotate the key if others had access",
        )
    return content


def _printed(source: KeySource) -> bytes:
    try:
        # In a group of its own, so that nothing of it outlives the limit.
        process = subprocess.Popen(
            source.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            # What it says may hold what it was asked for.
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise no_key(source, f"cannot be run ({why})") from None
    try:
        content, _ = process.communicate(timeout=COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        raise no_key(source, f"has printed no key within {COMMAND_SECONDS:g} s") from None
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()  # type: ignore[union-attr]  # it is a pipe
        process.wait()
    if process.returncode:
        raise no_key(source, f"ends with status {process.returncode}", "run it by hand as this user, and see why")
    return content


def _parsed(source: KeySource, content: bytes, in_use: bool) -> bytes:
    key = b""
    if _HEX.fullmatch(content):
        key = bytes.fromhex(content.decode())
    elif len(content) <= _MOST_BYTES:
        with suppress(binascii.Error, ValueError):
            key = base64.b64decode(content, validate=True)
    remedy = _IN_USE if in_use else "make one by: head -c 32 /dev/urandom | base64"
    if len(key) != KEY_BYTES:
        raise no_key(source, f"holds no key; {FORM} are needed", remedy)
    if len(set(key)) < _LEAST_DISTINCT:
        raise no_key(source, f"holds bytes that nobody has drawn at random; {FORM} are needed", remedy)
    return key
