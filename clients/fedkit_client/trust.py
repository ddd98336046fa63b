"""TLS that hangs on the federation's own CA: how it is fetched once, and what is wrong when it does not hold.

::

    FK742  a CA that is not the invitation's     FK750  no coordinator of fedkit
    and those of `trouble`
"""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fedkit.errors import DeploymentError
from fedkit.storage.keys import fingerprint
from fedkit_client.address import joined
from fedkit_client.proxy import connect
from fedkit_client.trouble import EARLIEST, LATEST, clocks_apart, no_connection, skew_of, untrusted

AUTHORITIES = "/fedkit/v1/authorities"
CA_PATH = "/fedkit/v1/ca"
_MOST_BYTES = 65536
_TIMEOUT = 15.0


@dataclass(frozen=True)
class Shown:
    """The certificate that a server, or whoever is in between, has shown.

    Attributes:
        issuer, subject: as RFC 4514 writes them.
        names: DNS names and addresses that it is for.
        ends: when it expires.
    """

    issuer: str
    subject: str
    names: tuple[str, ...]
    begins: datetime
    ends: datetime
    fingerprint: str


def certificate_fingerprint(pem: bytes) -> str:
    """The fingerprint of a certificate's DER; of the CA's it is the federation id.

    Raises:
        ValueError: no certificate, or more than one.
    """
    (certificate,) = x509.load_pem_x509_certificates(pem)
    return fingerprint(certificate.public_bytes(Encoding.DER))


def fetch_authority(host: str, port: int, wanted: str) -> bytes:
    """The CA's certificate, PEM, by an unverified request in which nothing secret is sent.

    Args:
        wanted: the fingerprint that the invitation gives.

    Raises:
        DeploymentError: FK742, another CA; FK750, no coordinator there; FK746 to FK748.

    Guarantee: what is returned has the wanted fingerprint, whoever was on the way.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    status, _, body = _get(host, port, CA_PATH, context)
    try:
        found = certificate_fingerprint(body) if status == 200 else ""
    except ValueError:
        found = ""
    if not found:
        raise DeploymentError(
            f"{joined(host, port)} answers with HTTP {status}, and with no CA: it is no coordinator of fedkit",
            code="FK750",
            remedy="check host and port with the coordinator's admin; a proxy's own page may have answered too",
        )
    if found != wanted:
        raise DeploymentError(
            f"the CA at {joined(host, port)} is {found}, and the invitation is for {wanted}",
            code="FK742",
            remedy="ask the coordinator's admin by phone which one is right; nothing secret was sent",
        )
    return body


def fetch_authorities(host: str, port: int, authority: bytes | None) -> bytes | None:
    """What the coordinator tells of CAs after the first; None where it tells nothing, as an older one.

    Args:
        authority: the CAs that are trusted, PEM; None asks whoever answers, and what they say is worth its signature.

    Raises:
        DeploymentError: FK743, FK744, FK746 to FK749.
    """
    context = ssl.create_default_context() if authority is None else pinned(authority)
    if authority is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        status, _, body = _get(host, port, AUTHORITIES, context)
    except ssl.SSLCertVerificationError as error:
        raise untrusted(joined(host, port), error.verify_message) from None
    return body if status == 200 else None


def pinned(authority: bytes) -> ssl.SSLContext:
    """TLS that trusts the federation's CA and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=authority.decode("ascii"))
    return context


def check_connection(host: str, port: int, authority: bytes, path: str | None = CA_PATH) -> float | None:
    """Connect with the pinned CA, and compare the clocks if something is asked for.

    Returns:
        Seconds by which the coordinator's clock is ahead; None where it does not say.

    Raises:
        DeploymentError: FK743, FK744, FK746 to FK749; FK745, clocks too far apart.
    """
    try:
        if path is None:
            with _handshake(host, port, pinned(authority)):
                return None
        _, headers, _ = _get(host, port, path, pinned(authority))
    except ssl.SSLCertVerificationError as error:
        shown = shown_certificate(host, port)
        seen = f"; the one seen is {shown.subject}, issued by {shown.issuer}" if shown else ""
        raise untrusted(joined(host, port), error.verify_message, seen) from None
    skew = skew_of(headers, time.time())
    if skew is not None and not EARLIEST < skew < LATEST:
        raise clocks_apart(skew)
    return skew


def skew_seen(host: str, port: int) -> float | None:
    """Seconds by which whoever answers is ahead of this clock, before anything is pinned; None where it is not told.

    Raises:
        DeploymentError: FK746 to FK748; FK745, clocks too far apart.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _, headers, _ = _get(host, port, CA_PATH, context)
    skew = skew_of(headers, time.time())
    if skew is not None and not EARLIEST < skew < LATEST:
        raise clocks_apart(skew)
    return skew


def shown_certificate(host: str, port: int) -> Shown | None:
    """Whatever certificate is shown at an address; nothing is sent."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with _handshake(host, port, context) as secured:
            der = secured.getpeercert(binary_form=True)
        certificate = x509.load_der_x509_certificate(der or b"")
    except (DeploymentError, OSError, ValueError):
        return None
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [*san.get_values_for_type(x509.DNSName), *map(str, san.get_values_for_type(x509.IPAddress))]
    except (x509.ExtensionNotFound, ValueError):
        names = []
    return Shown(
        certificate.issuer.rfc4514_string()[:200],
        certificate.subject.rfc4514_string()[:200],
        tuple(names),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        fingerprint(certificate.public_bytes(Encoding.DER)),
    )


def _handshake(host: str, port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    connection = connect(host, port, _TIMEOUT)
    try:
        # gRPC servers end a handshake that does not offer HTTP/2.
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context.wrap_socket(connection, server_hostname=host)
    except ssl.SSLCertVerificationError:
        connection.close()
        raise
    except OSError as error:
        connection.close()
        raise no_connection(joined(host, port), f"no TLS ({error})") from None


def _get(host: str, port: int, path: str, context: ssl.SSLContext) -> tuple[int, dict[str, str], bytes]:
    import http.client

    connection = connect(host, port, _TIMEOUT)
    try:
        secured = context.wrap_socket(connection, server_hostname=host)
        connection = secured
        secured.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {joined(host, port)}\r\nAccept: */*\r\nConnection: close\r\n\r\n".encode()
        )
        response = http.client.HTTPResponse(secured, method="GET")
        response.begin()
        body = response.read(_MOST_BYTES)
        return response.status, {name.lower(): value for name, value in response.getheaders()}, body
    except ssl.SSLCertVerificationError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise no_connection(joined(host, port), f"no HTTPS ({error or type(error).__name__})") from None
    finally:
        _close(connection)


def _close(connection: socket.socket) -> None:
    try:
        connection.close()
    except OSError:
        return
