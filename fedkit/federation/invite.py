"""An invitation: the one line that a site gets by another way than the network, with all that it must pin."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from fedkit.data.names import require_site_names
from fedkit.errors import DataError, FederationError
from fedkit.federation import strict_json
from fedkit.federation.authority import MOST
from fedkit.storage.keys import is_fingerprint

PREFIX = "fedkit-invite-1."
_MOST_CHARACTERS = 4096
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
_FIELDS: Mapping[str, type] = {
    "federation": str, "coordinator": str, "root": str, "site": str, "secret": str, "expires_at": int, "port": int,
    "grpc_port": int,
}  # fmt: skip


@dataclass(frozen=True)
class Invitation:
    """What a site pins before it speaks to anybody.

    Attributes:
        federation, coordinator, root: fingerprints of the CA, the coordinator's key and the first user's key.
        secret: good for one joining; the coordinator stores its SHA-256 only.
        port: of the fleet interface, where nodes fetch their messages.
        grpc_port: of enrolment.
        authorities: CAs that the federation had after the first when this was written. Whoever has the first one's key
            and stands between could else keep silent about them, and be taken for the coordinator.
    """

    federation: str
    coordinator: str
    root: str
    site: str
    secret: str = field(repr=False)
    expires_at: int
    port: int
    grpc_port: int
    authorities: int = 0


def new_secret() -> str:
    """256 random bits as 43 characters."""
    return secrets.token_urlsafe(32)


def secret_hash(secret: str) -> str:
    """What the coordinator stores of a secret: its SHA-256, hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


def invitation_line(invitation: Invitation) -> str:
    """The invitation as one line.

    Raises:
        FederationError: FK540, values that no invitation can have.
    """
    values = asdict(invitation)
    if not invitation.authorities:
        # A fedkit of before knows no other CA than the first, and reads this.
        del values["authorities"]
    text = strict_json.write(values)
    line = PREFIX + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    read_invitation(line)
    return line


def read_invitation(line: str, now: float | None = None) -> Invitation:
    """Read an invitation; blanks around and line breaks within, as mail programs add them, are left out.

    Args:
        now: seconds since the epoch; None reads an expired one too.

    Raises:
        FederationError: FK540, no invitation or a part of one; FK543, expired; FK547, of another version.
    """
    text = "".join(line.split()) if len(line) <= _MOST_CHARACTERS else ""
    if text.startswith("fedkit-invite-") and not text.startswith(PREFIX):
        raise FederationError(
            "the invitation is of another version", code="FK547", remedy="update fedkit on the older side"
        )
    coded = text.removeprefix(PREFIX)
    try:
        decoded = base64.b64decode(coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        decoded = ""
    if not text.startswith(PREFIX) or not decoded:
        raise _no_invitation(f"is not one line that begins with {PREFIX}")
    told = strict_json.read(decoded, "the invitation")
    known = {**_FIELDS, "authorities": int} if isinstance(told, dict) and "authorities" in told else _FIELDS
    values = strict_json.fields(told, known, "the invitation")
    if not all(is_fingerprint(values[name]) for name in ("federation", "coordinator", "root")):
        raise _no_invitation("pins no three fingerprints")
    if not _SECRET.fullmatch(values["secret"]):
        raise _no_invitation("holds no secret of 43 characters")
    if not all(1 <= values[name] <= 65535 for name in ("port", "grpc_port")):
        raise _no_invitation("names a port that is not between 1 and 65535")
    if not 0 <= values.get("authorities", 0) <= MOST:
        raise _no_invitation(f"tells of a number of CAs that is not between 0 and {MOST}")
    try:
        require_site_names([values["site"]])
    except DataError as error:
        raise _no_invitation(f"is unusable: {error.message}") from None
    invitation = Invitation(**values)
    if now is not None and now >= invitation.expires_at:
        raise FederationError(
            f"the invitation expired {(now - invitation.expires_at) / 3600:.1f} hours ago",
            code="FK543",
            remedy="ask for a new one: `fedkit server invite SITE`",
        )
    return invitation


def _no_invitation(why: str) -> FederationError:
    return FederationError(
        f"the invitation {why}", code="FK540", remedy="paste the whole line that `fedkit server invite` printed"
    )
