"""What a site and a coordinator say to each other over gRPC when the site joins, and when it starts.

::

    fedkit.v1.Enrolment/Join      {secret, site, node_key, site_key, wire}
                                  -> {node_id, keyring, port, grpc_port, wire}
    fedkit.v1.Enrolment/Announce  {offer, wire} -> {keyring, wire}

Messages are JSON in UTF-8, so that no code has to be generated. A refusal is a gRPC status whose details are
``{"error": {"code", "message", "remedy"}}``. ``node_id`` is text: it has 64 bits, and a float 53.

    FK718  another version of this protocol
"""

from __future__ import annotations

import json
from typing import Any

from fedkit.errors import DeploymentError, FedkitError
from fedkit.federation import strict_json
from fedkit.federation.envelope import WIRE

SERVICE = "fedkit.v1.Enrolment"
JOIN, ANNOUNCE = "Join", "Announce"
MOST_BYTES = strict_json.MOST_BYTES
VERSION = (WIRE, 0)
"""Major: of every signed payload. Minor: of what is said here, where the one before is understood too."""

JOIN_FIELDS = {"secret": str, "site": str, "node_key": str, "site_key": str, "wire": str, "again": bool}
ANNOUNCE_FIELDS = {"offer": str, "wire": str}


def version_text(version: tuple[int, int] = VERSION) -> str:
    """The version as it travels.

    >>> version_text((1, 0))
    '1.0'
    """
    return f"{version[0]}.{version[1]}"


def check_version(text: str, ours: tuple[int, int] = VERSION) -> None:
    """Refuse a site that speaks another version; one minor version behind is understood.

    Raises:
        DeploymentError: FK718, naming the side that has to be updated.

    >>> check_version("1.4", ours=(1, 5))
    """
    major, _, minor = text.partition(".")
    digits = [part for part in (major, minor) if part.isascii() and part.isdecimal() and len(part) < 6]
    theirs = (int(major), int(minor)) if len(digits) == 2 else (0, 0)
    if theirs[0] == ours[0] and ours[1] - 1 <= theirs[1] <= ours[1]:
        return
    side = "coordinator" if theirs > ours else "site"
    raise DeploymentError(
        f"the site speaks version {text[:20]!r} of the enrolment protocol; the coordinator understands"
        f" {version_text((ours[0], max(0, ours[1] - 1)))} to {version_text(ours)}",
        code="FK718",
        remedy=f"update fedkit on the {side}",
    )


def encode(message: dict[str, Any]) -> bytes:
    """A message as bytes."""
    return strict_json.write(message).encode()


def decode(content: bytes, what: str) -> dict[str, Any]:
    """Bytes as a message.

    Raises:
        FederationError: FK540, anything but one JSON object.
    """
    try:
        value = strict_json.read(content.decode(), what)
    except UnicodeDecodeError:
        raise strict_json.unreadable(what, "is no UTF-8") from None
    if not isinstance(value, dict):
        raise strict_json.unreadable(what, "is no mapping of fields")
    return value


def error_text(error: FedkitError) -> str:
    """A refusal as it travels."""
    return json.dumps({"error": {"code": error.code, "message": error.message, "remedy": error.remedy}})


def read_error(text: str) -> DeploymentError | None:
    """The refusal in a status's details; None where they hold none."""
    try:
        error = json.loads(text)["error"]
        return DeploymentError(str(error["message"]), code=str(error["code"]), remedy=str(error["remedy"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
