"""How a site is let in: an invitation that works once, and an offer that only its own key can sign.

::

    FK714  an invitation that was used, or was replaced by a newer one
    FK715  an invitation that has expired
    FK716  an invitation that is not known, or is another site's
    FK717  too many attempts
    FK719  a key that cannot be taken: none, or one that counted before
    FK736  a site that is not enrolled, or no longer
    FK737  a site that was enrolled before, and does not say what becomes of its ledgers
"""

from __future__ import annotations

import base64
import binascii
import hmac
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fedkit.errors import DeploymentError, FederationError, FedkitError
from fedkit.federation import enrolment as wire
from fedkit.federation import strict_json
from fedkit.federation.envelope import read, unseal
from fedkit.federation.invite import Invitation, new_secret, secret_hash
from fedkit.federation.offer import open_offer
from fedkit.storage.keys import PUBLIC_BYTES, fingerprint
from fedkit_server.authorities import chain_of
from fedkit_server.state import State
from fedkit_server.store import Invited
from fedkit_server.tokens import Brake

MOST_HOURS = 24.0 * 90
_GUESSES = ("FK540", "FK714", "FK715", "FK716", "FK736")
_NOBODY = bytes(PUBLIC_BYTES)
"""A key of which nobody has the other half, in place of that of a site that is not known: both cost the same."""

_ANOTHER = "ask the coordinator's admin for a new one: `fedkit server invite SITE`"


@dataclass
class Enrolment:
    """Answers Join and Announce; may be called from any thread.

    Guarantee: an invitation lets one node in, once, under the name that it was made for.
    """

    state: State
    version: tuple[int, int] = wire.VERSION
    brake: Brake = field(default_factory=lambda: Brake(most=10, seconds=60.0))
    _one: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def patience(self, address: str) -> Iterator[None]:
        """Stands around a request: one that looks like a guess counts, and from an address with many is not answered.

        What is right passes, whatever others behind the same address do: secrets and keys have 256 bits.

        Raises:
            DeploymentError: FK717, in place of what the request was refused with.
        """
        try:
            yield
        except FedkitError as error:
            if error.code not in _GUESSES:
                raise
            if self.brake.holds(address):
                raise DeploymentError(
                    "there were 10 failed attempts to join or announce from this address within a minute",
                    code="FK717",
                    remedy="wait a minute, then use the invitation as it was given",
                ) from None
            self.brake.failed(address)
            raise

    def join(self, request: dict[str, Any], address: str) -> dict[str, Any]:
        """Let a site in.

        Raises:
            DeploymentError: FK714 to FK719, FK737.
            FederationError: FK540, a request that cannot be read.
        """
        with self.patience(address):
            self._check_version(request)
            # One of before this was asked had to move its ledgers by hand, as its documentation said.
            values = strict_json.fields({"again": True} | request, wire.JOIN_FIELDS, "the request")
            node_key, site_key = _node_key(values["node_key"]), _site_key(values["site_key"])
            invited = self._invitation(values["secret"], values["site"])
        if not values["again"] and self.state.store.site(invited.site) is not None:
            raise DeploymentError(
                f"{invited.site} was enrolled before: with new ledgers its budgets would begin anew",
                code="FK737",
                remedy="join with --from OLD_FOLDER, which takes its ledgers and withdrawals along; only if the old"
                " ones never were or are of other patients, with --empty-ledgers. The invitation is still good",
            )
        # Two sites that join with one key at once must not become one node.
        with self._one:
            return self._enrol(invited, node_key, site_key)

    def _invitation(self, secret: str, site: str) -> Invited:
        wanted, found = secret_hash(secret), None
        for invited in self.state.store.invitations():
            if hmac.compare_digest(invited.secret, wanted):
                found = invited
        if found is None or found.site != site:
            raise DeploymentError("the invitation is not known for this site", code="FK716", remedy=_ANOTHER)
        if found.used_at is not None or found.void_at is not None:
            why = "was used before" if found.used_at is not None else "was replaced or withdrawn"
            raise DeploymentError(f"the invitation {why}; it works once", code="FK714", remedy=_ANOTHER)
        late = self.state.clock() - found.expires_at
        if late >= 0:
            raise DeploymentError(f"the invitation expired {late / 3600:.1f} hours ago", code="FK715", remedy=_ANOTHER)
        return found

    def _enrol(self, invited: Invited, node_key: bytes, site_key: bytes) -> dict[str, Any]:
        state, now = self.state, self.state.clock()
        for site in state.store.sites():
            if site.name != invited.site and (site.node_key == node_key or site.site_key == site_key):
                raise _taken("belongs to another site")
        if state.link.state.get_node_id_by_public_key(node_key) is not None:
            raise _taken("is enrolled already")
        if not state.store.use_invitation(invited.secret, now):
            raise DeploymentError("the invitation was used before; it works once", code="FK714", remedy=_ANOTHER)
        state.trail.record("enrolled", site=invited.site, key=fingerprint(site_key))
        # The old key goes out before the new one comes in.
        before = state.store.site(invited.site)
        if before is not None and before.revoked_at is None:
            state.revoke(before)
        try:
            node_id = state.link.register(node_key, invited.site)
        except ValueError:
            raise _taken("counted before and was revoked") from None
        state.store.put_site(invited.site, node_id, node_key, site_key, now)
        return {
            "node_id": str(node_id),
            "keyring": list(state.keyring.statements),
            "port": state.settings.port,
            "grpc_port": state.settings.grpc_port,
            "wire": wire.version_text(self.version),
        }

    def announce(self, request: dict[str, Any], address: str) -> dict[str, Any]:
        """Store a site's offer.

        Raises:
            DeploymentError: FK718; FK736, a site that is not enrolled, or not by the key that has signed.
            FederationError: an offer that cannot be read.

        Guarantee: whoever has no site's key hears the same of a site that takes part as of one that does not.
        """
        with self.patience(address):
            return self._announced(request)

    def _announced(self, request: dict[str, Any]) -> dict[str, Any]:
        self._check_version(request)
        text = strict_json.fields(request, wire.ANNOUNCE_FIELDS, "the request")["offer"]
        # Whose key is to be looked up; nothing is believed before the signature is found good.
        signed = read(text)
        said = strict_json.read(signed.payload, "the offer")
        name = said.get("site") if isinstance(said, dict) else None
        site = self.state.store.site(name) if isinstance(name, str) else None
        try:
            unseal(signed, "offer", _NOBODY if site is None else site.site_key)
        except FederationError as error:
            if error.code != "FK541":
                raise
            raise _not_enrolled("the site is not enrolled here, or with another key") from None
        if site is None or site.revoked_at is not None:
            raise _not_enrolled("the site was revoked")
        now = self.state.clock()
        offer = open_offer(text, site.site_key, site.name, now)
        newest = None if site.offer is None else strict_json.read(read(site.offer).payload, "the offer")["issued_at"]
        # An old one that somebody replays must not hide a budget that the site has lowered since.
        if newest is None or offer.issued_at >= newest:
            self.state.store.put_offer(site.name, text, now)
        return {"keyring": list(self.state.keyring.statements), "wire": wire.version_text(self.version)}

    def _check_version(self, request: dict[str, Any]) -> None:
        # Before the fields, which another version may have others of.
        said = request.get("wire")
        wire.check_version(f"{said}.0" if isinstance(said, int) else str(said), self.version)


def invite(state: State, site: str, hours: float) -> Invitation:
    """Make an invitation; older ones of the same site are void.

    Raises:
        DeploymentError: FK707, a time that is out of bounds.
    """
    if not 0 < hours <= MOST_HOURS:
        raise DeploymentError(
            f"an invitation is good for 0 to {MOST_HOURS:g} hours, not {hours:g}",
            code="FK707",
            remedy="use --hours 72",
        )
    now, secret = state.clock(), new_secret()
    expires_at = int(now + hours * 3600)
    state.store.add_invitation(secret_hash(secret), site, now, expires_at)
    keyring, settings = state.keyring, state.settings
    return Invitation(
        federation=settings.federation,
        coordinator=fingerprint(keyring.coordinator),
        root=keyring.root,
        site=site,
        secret=secret,
        expires_at=expires_at,
        port=settings.port,
        grpc_port=settings.grpc_port,
        authorities=len(chain_of(state.folder)),
    )


def _not_enrolled(why: str) -> DeploymentError:
    return DeploymentError(why, code="FK736", remedy="ask the coordinator's admin for an invitation and join again")


def _node_key(text: str) -> bytes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    try:
        key = load_pem_public_key(_base64(text))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _taken("is no EC P-384 public key in PEM")
    # Flower compares bytes, and a key has many texts.
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _site_key(text: str) -> bytes:
    raw = _base64(text)
    if len(raw) != PUBLIC_BYTES:
        raise _taken(f"is no Ed25519 public key of {PUBLIC_BYTES} bytes")
    return raw


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _taken("is no base64") from None


def _taken(why: str) -> DeploymentError:
    return DeploymentError(
        f"the site's key {why}", code="FK719", remedy="join with keys that are made anew: use an empty folder"
    )
