"""``encryption:`` of a site's file: where the key of what lies in the site's folder comes from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkit.config.wording import shown
from fedkit.governance.reading import Reader

SOURCES = ("key_file", "key_env", "key_command")
_KEYS = (*SOURCES, "previous", "allow_plaintext")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_EXAMPLE = "such as key_file: /etc/fedkit/north.key"


@dataclass(frozen=True)
class KeySource:
    """Where one key comes from; exactly one is set.

    Attributes:
        file: absolute.
        variable: of the environment.
        command: a program by its absolute path, and its arguments; it prints the key.
    """

    file: Path | None = None
    variable: str | None = None
    command: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """For a person; the arguments of a command are left out."""
        if self.file is not None:
            return f"key_file {self.file}"
        return f"key_env {self.variable}" if self.variable else f"key_command {self.command[0]}"


@dataclass(frozen=True)
class Encryption:
    """What a site's file says of it.

    Attributes:
        source: None: a file beside the folder, made when it is first needed; see `default_source`.
        previous: the key before, for as long as a rotation takes.
        plaintext: nothing is encrypted.
    """

    source: KeySource | None = None
    previous: KeySource | None = None
    plaintext: bool = False


def default_source(folder: Path) -> KeySource:
    """The key of a folder whose file names none: beside the folder, so that a copy of the folder is without it.

    >>> default_source(Path("/srv/site")).shown
    'key_file /srv/site.key'
    """
    return KeySource(file=folder.with_name(f"{folder.name}.key"))


def encryption_of(found: Reader, value: Any, folder: Path) -> Encryption:
    """The checked values of a site's file.

    Args:
        folder: the site's own, in which no key lies.
    """
    if value is None:
        return Encryption()
    raw = found.mapping(value, "encryption", _KEYS)
    plaintext = found.flag(raw.get("allow_plaintext", False), "encryption.allow_plaintext")
    if plaintext:
        if len(raw) > 1:
            found.add("encryption", "has allow_plaintext: true and a key; leave one of them out")
        return Encryption(plaintext=True)
    previous = raw.get("previous")
    source = _source(found, {key: raw.get(key) for key in SOURCES}, "encryption", folder)
    if previous is None:
        return Encryption(source)
    before = _source(found, found.mapping(previous, "encryption.previous", SOURCES), "encryption.previous", folder)
    if before == source:
        found.add("encryption.previous", "is the key itself; name the one before, or leave it out")
    return Encryption(source, before)


def _source(found: Reader, raw: dict[str, Any], key: str, folder: Path) -> KeySource | None:
    given = {name: value for name, value in raw.items() if value is not None}
    if len(given) != 1:
        told = f"has {', '.join(given)}" if given else "names no key"
        found.add(key, f"{told}; exactly one of {', '.join(SOURCES)} is needed, {_EXAMPLE}")
        return None
    ((name, value),) = given.items()
    key = f"{key}.{name}"
    if name == "key_env":
        if isinstance(value, str) and _VARIABLE.fullmatch(value):
            return KeySource(variable=value)
        found.add(key, f"is {shown(value)}; the name of an environment variable is needed, such as FEDKIT_SITE_KEY")
        return None
    if name == "key_command":
        if isinstance(value, list) and value and all(isinstance(each, str) and "\x00" not in each for each in value):
            if Path(value[0]).is_absolute():
                return KeySource(command=tuple(value))
            found.add(
                key, f"begins with {shown(value[0])}; a program's absolute path is needed, such as /usr/bin/vault"
            )
            return None
        found.add(key, f"is {shown(value)}; a list is needed, which no shell reads: [/usr/bin/vault, kv, get, ...]")
        return None
    if not isinstance(value, str) or not Path(value).expanduser().is_absolute():
        found.add(key, f"is {shown(value)}; an absolute path is needed, {_EXAMPLE}")
        return None
    path = Path(value).expanduser()
    if path.resolve().is_relative_to(folder.resolve()):
        found.add(key, f"is {value}, which lies in the site's folder: a copy of it would carry its key along")
        return None
    return KeySource(file=path)
