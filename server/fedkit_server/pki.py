"""The federation's own certificate authority, and the certificate that the coordinator shows."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedkit.errors import DeploymentError
from fedkit.storage.keys import fingerprint

CA_DAYS, SERVER_DAYS = 3653, 365
WARN_DAYS = 30
LOOPBACK = ("localhost", "127.0.0.1", "::1")
# A clock that is a little behind must not refuse a certificate of a minute ago.
_EARLIER = timedelta(hours=1)
_HOST = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


def make_ca(name: str, now: datetime | None = None, number: int = 1) -> Pair:
    """A new authority that may sign servers' certificates and no further authority; EC P-384, ten years.

    Args:
        number: of the federation's; two that are trusted at a time have two names.
    """
    key, start = ec.generate_private_key(ec.SECP384R1()), (now or datetime.now(UTC)) - _EARLIER
    subject = _subject(f"fedkit CA{'' if number == 1 else f' {number}'} of {name}")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    return Pair(certificate.public_bytes(Encoding.PEM), _pem(key))


def make_server(ca: Pair, hosts: Sequence[str], now: datetime | None = None) -> Pair:
    """A certificate for a server that is reached under these names and addresses, and from its own host; one year.

    Raises:
        DeploymentError: FK707, a host that is neither; FK710, the authority's files cannot be used.
    """
    authority, authority_key = _ca(ca)
    key, start = ec.generate_private_key(ec.SECP384R1()), (now or datetime.now(UTC)) - _EARLIER
    public = authority_key.public_key()
    names = dict.fromkeys([*hosts, *LOOPBACK])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_subject(hosts[0]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=SERVER_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_san(host) for host in names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(authority_key, hashes.SHA384())
    )
    return Pair(certificate.public_bytes(Encoding.PEM), _pem(key))


def certificate_fingerprint(pem: bytes) -> str:
    """The fingerprint of a certificate's DER; of the CA's it is the federation id.

    Raises:
        DeploymentError: FK710, it is none.
    """
    return fingerprint(_certificate(pem).public_bytes(Encoding.DER))


def expires_at(pem: bytes) -> datetime:
    """When a certificate ends.

    Raises:
        DeploymentError: FK710, it is none.
    """
    return _certificate(pem).not_valid_after_utc


def require_host(host: str) -> None:
    """Refuse what is neither a host's name nor an address.

    Raises:
        DeploymentError: FK707.
    """
    _san(host)


def _san(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    # What looks like an address and is none would be taken for a name.
    if not _HOST.fullmatch(host) or host.replace(".", "").isdecimal():
        raise DeploymentError(
            f"--host {host!r} is neither a host's name nor an IP address",
            code="FK707",
            remedy="name it as sites will, without https:// and port, such as fl.example.org or 192.0.2.7",
        )
    return x509.DNSName(host)


def _ca(ca: Pair) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        key = load_pem_private_key(ca.key, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise DeploymentError("ca/ca.key holds no EC key", code="FK710", remedy="restore it from its backup")
    return _certificate(ca.certificate), key


def _certificate(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise DeploymentError("the file holds no PEM certificate", code="FK710", remedy="restore the file") from None


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=signs, crl_sign=signs, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
