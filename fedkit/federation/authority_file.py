"""Statements of CAs as they travel: what a coordinator tells everybody, and the file that it gives whoever was away.

The coordinator answers ``{"coordinator": hex, "authorities": [envelope]}``; the file has ``format`` and the keyring in
place of the key, for whoever was away may not know that one yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedkit.errors import FederationError
from fedkit.federation import strict_json
from fedkit.federation.authority import Authority
from fedkit.federation.keyring import Keyring

FORMAT = "fedkit-authorities-1"
PATH = "/fedkit/v1/authorities"


def as_told(chain: Sequence[Authority], coordinator: bytes) -> dict[str, Any]:
    """What the coordinator answers."""
    return {"coordinator": coordinator.hex(), "authorities": [each.text for each in chain]}


def read_told(body: bytes) -> tuple[bytes, list[str]]:
    """The key and the statements of an answer; nothing of it is verified.

    Raises:
        FederationError: FK540.
    """
    try:
        values = strict_json.read(body.decode(), "the list of CAs")
        found = strict_json.fields(values, {"coordinator": str, "authorities": list}, "the list of CAs")
        return bytes.fromhex(found["coordinator"]), _texts(found["authorities"])
    except ValueError:
        raise strict_json.unreadable("the list of CAs", "names no key in hex") from None


def as_file(chain: Sequence[Authority], keyring: Keyring) -> str:
    """The file for whoever was away."""
    values = {"format": FORMAT, "keyring": list(keyring.statements), "authorities": [each.text for each in chain]}
    return strict_json.write(values) + "\n"


def read_file(path: Path) -> tuple[list[str], list[str]]:
    """Keyring and statements of a file; nothing of it is verified.

    Raises:
        FederationError: FK540, FK547.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise strict_json.unreadable(str(path), f"cannot be read ({type(error).__name__})") from None
    kinds = {"format": str, "keyring": list, "authorities": list}
    found = strict_json.fields(strict_json.read(text, str(path)), kinds, str(path))
    if found["format"] != FORMAT:
        raise FederationError(f"{path} has another format", code="FK547", remedy="update the older side")
    return _texts(found["keyring"]), _texts(found["authorities"])


def _texts(values: list[Any]) -> list[str]:
    if not all(isinstance(each, str) for each in values):
        raise strict_json.unreadable("the list of CAs", "holds what is no text")
    return values
