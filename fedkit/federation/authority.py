"""A CA that takes the place of the one that everybody has pinned, said by the coordinator's key and believed for that.

The federation keeps its name, the fingerprint of its first CA. Each statement names one further CA and the time until
which the one before it still counts; sites and users who know the coordinator's key need not trust who brings it.

::

    FK540  a statement that cannot be read       FK542  of another federation
    FK541  not by the coordinator's key          FK544  it does not go on from those that are known
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fedkit.errors import FederationError
from fedkit.federation import strict_json
from fedkit.federation.envelope import read, seal, unseal
from fedkit.storage.keys import SigningKey, fingerprint

MOST = 20
"""CAs that one federation can have after its first."""

_FIELDS = {
    "wire": int,
    "federation": str,
    "serial": int,
    "previous": str,
    "certificate": str,
    "until": int,
    "issued_at": int,
}


@dataclass(frozen=True)
class Authority:
    """One CA after the first.

    Attributes:
        serial: its place, from 1 on.
        certificate: PEM.
        until: seconds since the epoch; up to then the CA before it counts too.
        text: the envelope.
    """

    serial: int
    certificate: str
    until: int
    text: str

    @property
    def payload(self) -> str:
        """What was signed, whoever of the coordinator's keys has signed it."""
        return read(self.text).payload


def authority_fingerprint(pem: str | bytes) -> str:
    """The fingerprint of a CA's certificate.

    Raises:
        FederationError: FK540, it is not one certificate, in PEM, of a CA.
    """
    try:
        (certificate,) = x509.load_pem_x509_certificates(pem.encode() if isinstance(pem, str) else pem)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, x509.ExtensionNotFound):
        raise strict_json.unreadable("the CA", "is no single certificate in PEM") from None
    if not constraints.ca:
        raise strict_json.unreadable("the CA", "is a certificate that may sign no other")
    return fingerprint(certificate.public_bytes(Encoding.DER))


def add_authority(
    chain: Sequence[Authority], federation: str, certificate: str, until: int, key: SigningKey, now: float
) -> tuple[Authority, ...]:
    """The chain with one CA more, signed by the coordinator.

    Raises:
        FederationError: FK544, there are too many; FK540, no certificate of a CA.
    """
    if len(chain) >= MOST:
        raise _broken(f"a federation has at most {MOST} CAs after its first")
    previous = authority_fingerprint(chain[-1].certificate) if chain else federation
    authority_fingerprint(certificate)
    values = {"federation": federation, "serial": len(chain) + 1, "previous": previous, "certificate": certificate,
              "until": until, "issued_at": int(now)}  # fmt: skip
    return (*chain, Authority(len(chain) + 1, certificate, until, seal("authority", values, key).text))


def signed_anew(chain: Sequence[Authority], key: SigningKey) -> tuple[Authority, ...]:
    """The same statements under the coordinator's new key, for who has not heard of them yet."""
    values = [strict_json.read(each.payload, "the CA's statement") for each in chain]
    texts = [seal("authority", {k: v for k, v in each.items() if k != "wire"}, key).text for each in values]
    return tuple(
        Authority(each.serial, each.certificate, each.until, text) for each, text in zip(chain, texts, strict=True)
    )


def open_chain(
    texts: Sequence[str], federation: str, keys: Sequence[bytes], known: Sequence[Authority] = ()
) -> tuple[Authority, ...]:
    """Statements as they were received, on top of those that are known.

    Args:
        keys: raw keys of the coordinator that count; of a chain from outside, the one in force alone.
        known: was accepted before; what it says stays, under whatever key.

    Returns:
        The longer of the two.

    Raises:
        FederationError: see the module.

    Guarantee: a CA that is returned and was not known is named by a holder of one of ``keys``.
    """
    if len(texts) > MOST:
        raise _broken(f"a federation has at most {MOST} CAs after its first, not {len(texts)}")
    found = list(known)
    previous = authority_fingerprint(known[-1].certificate) if known else federation
    for place, text in enumerate(texts):
        signed = read(text)
        if place < len(known):
            if signed.payload != known[place].payload:
                raise _broken(f"statement {place + 1} is another than the one that is known")
            continue
        signer = next((key for key in keys if fingerprint(key) == signed.key), None)
        if signer is None:
            raise FederationError(
                f"the CA's statement is signed by {signed.key}, which is not the coordinator's key",
                code="FK541",
                remedy="ask the coordinator's operator for the file of `fedkit server authority`",
            )
        values = strict_json.fields(unseal(signed, "authority", signer), _FIELDS, "the CA's statement")
        if values["federation"] != federation:
            raise FederationError(
                "the CA's statement is of another federation", code="FK542", remedy="ask for this federation's"
            )
        if (values["serial"], values["previous"]) != (place + 1, previous):
            raise _broken(f"statement {place + 1} does not follow the one before it")
        previous = authority_fingerprint(values["certificate"])
        found.append(Authority(place + 1, values["certificate"], values["until"], text))
    return tuple(found)


def trusted(first: bytes, chain: Sequence[Authority], now: float) -> bytes:
    """The CAs that count now, PEM, the newest last.

    Args:
        first: the CA whose fingerprint is the federation's name.
    """
    certificates = [first, *(each.certificate.encode() for each in chain)]
    ends = [each.until for each in chain]
    counts = [pem for pem, end in zip(certificates, ends, strict=False) if now < end]
    return b"".join([*counts, certificates[-1]])


def _broken(why: str) -> FederationError:
    return FederationError(why, code="FK544", remedy="ask the coordinator's operator for `fedkit server authority`")
