"""A CA that takes the place of another: only the coordinator's key says so, step by step, and the old one ends."""

from __future__ import annotations

import socket
import ssl
import threading

import pytest
from fedkit_client.trust import pinned
from fedkit_server.pki import certificate_fingerprint, make_ca, make_server

from fedkit.errors import FederationError
from fedkit.federation.authority import add_authority, open_chain, signed_anew, trusted
from fedkit.storage.keys import new_signing_key

FIRST, SECOND, THIRD = make_ca("heart"), make_ca("heart", number=2), make_ca("heart", number=3)
FEDERATION = certificate_fingerprint(FIRST.certificate)
KEY, OTHER = new_signing_key(), new_signing_key()
UNTIL = 1000


def chain(*pairs, key=KEY, federation=FEDERATION):
    made = ()
    for pair in pairs:
        made = add_authority(made, federation, pair.certificate.decode(), UNTIL * (len(made) + 1), key, 1.0)
    return made


def texts(made):
    return [each.text for each in made]


def accepts(tmp_path, authority, shown):
    """Whether a client that trusts ``authority`` shakes hands with a server of a certificate by ``shown``."""
    pair = make_server(shown, ["localhost"])
    (tmp_path / "crt").write_bytes(pair.certificate)
    (tmp_path / "key").write_bytes(pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            connection, _ = listening.accept()
            try:
                context.wrap_socket(connection, server_side=True).close()
            except OSError:
                connection.close()

        worker = threading.Thread(target=serve)
        worker.start()
        try:
            with socket.create_connection(listening.getsockname()) as plain:
                pinned(authority).wrap_socket(plain, server_hostname="localhost").close()
            return True
        except ssl.SSLCertVerificationError:
            return False
        finally:
            worker.join()


def test_both_count_until_the_day_and_then_the_new_one_alone_over_real_tls(tmp_path):
    made = open_chain(texts(chain(SECOND)), FEDERATION, [KEY.public])
    for now, old in ((UNTIL - 1, True), (UNTIL, False)):
        bundle = trusted(FIRST.certificate, made, now)
        assert accepts(tmp_path, bundle, FIRST) is old and accepts(tmp_path, bundle, SECOND)
        assert not accepts(tmp_path, bundle, make_ca("heart", number=2))
    assert not accepts(tmp_path, trusted(FIRST.certificate, (), UNTIL + 1), SECOND)
    assert accepts(tmp_path, trusted(FIRST.certificate, (), 10 * UNTIL), FIRST)


def test_each_of_several_ends_by_its_own_successors_day():
    made = chain(SECOND, THIRD)
    for now, count in ((999, 3), (1000, 2), (1999, 2), (2000, 1)):
        assert trusted(FIRST.certificate, made, now).count(b"BEGIN CERTIFICATE") == count


@pytest.mark.parametrize(
    ("told", "code"),
    [
        (lambda: texts(chain(SECOND, key=OTHER)), "FK541"),
        (lambda: texts(chain(SECOND, federation=certificate_fingerprint(SECOND.certificate))), "FK542"),
        (lambda: texts(chain(SECOND, THIRD))[1:], "FK544"),
        (lambda: texts(chain(SECOND)) * 2, "FK544"),
        (lambda: texts(chain(SECOND)) * 21, "FK544"),
        (lambda: [texts(chain(SECOND))[0].replace("BEGIN", "BEGUN")], "FK541"),
        (lambda: ["{}"], "FK540"),
    ],
)
def test_whatever_the_coordinators_key_in_force_has_not_said_is_refused(told, code):
    with pytest.raises(FederationError) as refused:
        open_chain(told(), FEDERATION, [KEY.public])
    assert refused.value.code == code


@pytest.mark.parametrize("pem", [b"", b"junk", make_server(FIRST, ["localhost"]).certificate, FIRST.certificate * 2])
def test_what_is_no_single_ca_is_never_signed(pem):
    with pytest.raises(FederationError, match="FK540"):
        add_authority((), FEDERATION, pem.decode(), UNTIL, KEY, 1.0)


def test_what_is_known_stays_whoever_tells_less_or_something_else():
    known = chain(SECOND)
    assert open_chain([], FEDERATION, [KEY.public], known) == known
    with pytest.raises(FederationError, match="FK544"):
        open_chain(texts(chain(THIRD)), FEDERATION, [KEY.public], known)


def test_a_chain_under_the_coordinators_next_key_is_the_same_chain():
    known, anew = chain(SECOND), signed_anew(chain(SECOND, THIRD), OTHER)
    assert len(open_chain(texts(anew), FEDERATION, [OTHER.public], known)) == 2
    assert [each.payload for each in anew] == [each.payload for each in chain(SECOND, THIRD)]
    with pytest.raises(FederationError, match="FK541"):
        open_chain(texts(chain(SECOND, THIRD)), FEDERATION, [OTHER.public], known)
