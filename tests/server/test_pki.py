from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from fedkit_server import pki

from fedkit.errors import DeploymentError


def _verify(ca: bytes, leaf: bytes, name: x509.GeneralName, at: datetime | None = None) -> None:
    builder = PolicyBuilder().store(Store([x509.load_pem_x509_certificate(ca)])).time(at or datetime.now(UTC))
    builder.build_server_verifier(name).verify(x509.load_pem_x509_certificate(leaf), [])


@pytest.mark.parametrize(
    "name",
    [x509.DNSName("fl.example.org"), x509.IPAddress(ipaddress.ip_address("192.0.2.7")), x509.DNSName("localhost")],
)
def test_a_certificate_holds_for_each_of_its_hosts_and_for_its_own(name):
    ca = pki.make_ca("heart")
    _verify(ca.certificate, pki.make_server(ca, ["fl.example.org", "192.0.2.7"]).certificate, name)


def test_a_certificate_holds_for_no_other_host_and_for_no_other_authority():
    ca = pki.make_ca("heart")
    leaf = pki.make_server(ca, ["fl.example.org"]).certificate
    with pytest.raises(VerificationError):
        _verify(ca.certificate, leaf, x509.DNSName("example.org"))
    with pytest.raises(VerificationError):
        _verify(pki.make_ca("heart").certificate, leaf, x509.DNSName("fl.example.org"))


def test_the_authority_lasts_ten_years_and_a_certificate_one():
    ca = pki.make_ca("heart")
    leaf = pki.make_server(ca, ["a.example"])
    now = datetime.now(UTC)
    assert timedelta(days=3650) < pki.expires_at(ca.certificate) - now < timedelta(days=3655)
    assert timedelta(days=364) < pki.expires_at(leaf.certificate) - now < timedelta(days=366)
    with pytest.raises(VerificationError):
        _verify(ca.certificate, leaf.certificate, x509.DNSName("a.example"), now + timedelta(days=366))


def test_keys_are_p384_and_the_authority_can_sign_no_further_authority():
    ca = x509.load_pem_x509_certificate(pki.make_ca("heart").certificate)
    public = ca.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP384R1)
    basic = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical and basic.value.ca and basic.value.path_length == 0


@pytest.mark.parametrize("host", ["", "https://a.example", "a.example:443", "a b", "300.1.1.1", "1.2", "-a", "a" * 64])
def test_what_is_no_host_is_refused_by_its_value(host):
    with pytest.raises(DeploymentError, match="FK707") as refused:
        pki.require_host(host)
    assert repr(host) in str(refused.value)


def test_a_private_key_is_in_no_repr():
    ca = pki.make_ca("heart")
    assert b"PRIVATE" in ca.key
    assert "PRIVATE" not in repr(ca)
