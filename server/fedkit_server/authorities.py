"""The coordinator's CAs: the first, whose fingerprint names the federation, and those that took its place."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from fedkit.errors import DeploymentError
from fedkit.federation.authority import Authority, add_authority, open_chain, signed_anew, trusted
from fedkit.federation.heads import coordinator_keys
from fedkit.federation.keyring import open_keyring
from fedkit.storage.audit import Log
from fedkit.storage.audit_line import Event, Scalar
from fedkit.storage.keys import SigningKey
from fedkit.storage.private import replace
from fedkit_server import pki
from fedkit_server.folder import ServerFolder

FILE = "authorities.jsonl"
MOST_DAYS = 366
REPLACED = "authority"


def chain_of(folder: ServerFolder) -> tuple[Authority, ...]:
    """The CAs after the first.

    Raises:
        DeploymentError: FK705. FederationError: they are not what the coordinator's keys have signed.
    """
    path = folder.path / FILE
    if not path.exists():
        return ()
    texts = folder.read(path).decode("utf-8", errors="replace").splitlines()
    settings = folder.settings()
    lines = folder.read(folder.keyring_file).decode("utf-8", errors="replace").splitlines()
    # Whatever key lies in the folder: in the middle of a rotation it is not the keyring's newest.
    keyring = open_keyring(lines, federation=settings.federation, root=settings.root)
    return open_chain(texts, settings.federation, coordinator_keys(keyring))


def trusted_by_all(folder: ServerFolder) -> bytes:
    """Every CA of the federation, PEM, for a look at one's own certificate."""
    return trusted(folder.read(folder.ca), chain_of(folder), 0.0)


def newest_pair(folder: ServerFolder) -> pki.Pair:
    """The CA that issues certificates from now on."""
    chain = chain_of(folder)
    if not chain:
        return folder.ca_pair()
    return pki.Pair(chain[-1].certificate.encode(), folder.read(_key(folder, chain[-1].serial)))


def require_next(folder: ServerFolder, days: float) -> None:
    """Refuse an overlap that cannot be, or a CA while the one before is still to issue the certificate.

    Raises:
        DeploymentError: FK707; FK723.
    """
    if not 0 < days <= MOST_DAYS:
        raise DeploymentError(
            f"--authority {days:g} is not between 0 and {MOST_DAYS} days", code="FK707", remedy="use --authority 30"
        )
    chain = chain_of(folder)
    if chain and not issued(folder, chain[-1].certificate.encode()):
        raise DeploymentError(
            f"CA {chain[-1].serial + 1} was made before, and has not issued the certificate yet",
            code="FK723",
            remedy=f"run `fedkit server rotate {folder.path}` first, before {_day(chain[-1].until)}",
        )


def begin_authority(folder: ServerFolder, days: float, now: float) -> Authority:
    """Make a CA and say so under the coordinator's key; the certificate that is shown stays the old one's.

    Args:
        days: see `require_next`.

    Raises:
        DeploymentError: FK700; FK770, the log. FederationError: FK544, there are too many.
    """
    chain, settings = chain_of(folder), folder.settings()
    made = pki.make_ca(settings.name, number=len(chain) + 2)
    # The key first: what a crash leaves of it is written anew.
    replace(_key(folder, len(chain) + 1), made.key)
    grown = add_authority(
        chain, settings.federation, made.certificate.decode(), int(now + days * 86_400), folder.key(), now
    )
    told: dict[str, Scalar] = {
        "serial": grown[-1].serial,
        "digest": pki.certificate_fingerprint(made.certificate),
        "until": grown[-1].until,
    }
    Log(folder.audit, folder.key()).append(Event(REPLACED, told))
    _write(folder, grown)
    return grown[-1]


def sign_anew(folder: ServerFolder, key: SigningKey) -> None:
    """Have the statements signed by the coordinator's new key, which is in the keyring already."""
    if chain := chain_of(folder):
        _write(folder, signed_anew(chain, key))


def forget_keys(folder: ServerFolder) -> list[str]:
    """Delete the keys of CAs whose successor has issued the certificate: nothing is to be signed by them any more."""
    chain = chain_of(folder)
    if not chain or not issued(folder, chain[-1].certificate.encode()):
        return []
    old = [folder.ca_key, *(_key(folder, each.serial) for each in chain[:-1])]
    gone = [path for path in old if path.exists()]
    for path in gone:
        path.unlink()
    return [path.name for path in gone]


def issued(folder: ServerFolder, authority: bytes) -> bool:
    """Whether a CA has issued the certificate that is shown."""
    shown = x509.load_pem_x509_certificate(folder.read(folder.certificate))
    try:
        shown.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def certificate_end(folder: ServerFolder) -> datetime:
    """Until when the certificate that is shown is trusted: its own end, or that of the CA which has issued it.

    Raises:
        DeploymentError: FK710, FK705.
    """
    ends = pki.expires_at(folder.read(folder.certificate))
    chain = chain_of(folder)
    if chain and not issued(folder, chain[-1].certificate.encode()):
        return min(ends, datetime.fromtimestamp(chain[-1].until, UTC))
    return ends


def _key(folder: ServerFolder, serial: int) -> Path:
    return folder.path / "ca" / f"ca-{serial + 1}.key"


def _write(folder: ServerFolder, chain: tuple[Authority, ...]) -> None:
    replace(folder.path / FILE, "".join(f"{each.text}\n" for each in chain).encode())


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
