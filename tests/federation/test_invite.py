import base64
import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.errors import FederationError
from fedkit.federation.invite import PREFIX, Invitation, invitation_line, new_secret, read_invitation, secret_hash
from tests.federation.signers import COORDINATOR, FEDERATION, NOW, ROOT

INVITATION = Invitation(
    FEDERATION, COORDINATOR.fingerprint, ROOT.fingerprint, "Universitätsklinikum Köln", new_secret(), int(NOW) + 60,
    9092, 9093,
)  # fmt: skip
LINE = invitation_line(INVITATION)


def coded(**changes):
    text = json.dumps({**asdict(INVITATION), **changes})
    return PREFIX + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def refused(line, now=None):
    with pytest.raises(FederationError) as caught:
        read_invitation(line, now)
    return caught.value.code


def test_an_invitation_is_one_line_that_mail_may_break():
    assert read_invitation(LINE, NOW) == INVITATION
    assert len(LINE.split()) == 1
    assert read_invitation(f"  {LINE[:76]}\r\n{LINE[76:150]}\n {LINE[150:]}\n", NOW) == INVITATION


def test_an_invitation_ends():
    assert refused(LINE, NOW + 60) == "FK543"
    assert read_invitation(LINE) == INVITATION


@given(st.text(max_size=50) | st.text(max_size=50).map(lambda text: PREFIX + text))
def test_anything_else_is_no_invitation(text):
    assert refused(text) in ("FK540", "FK547")


@given(st.integers(0, len(LINE) - 1))
def test_a_part_of_one_is_no_invitation(end):
    assert refused(LINE[:end]) in ("FK540", "FK547")


def test_a_later_version_asks_for_an_update():
    assert refused(LINE.replace("invite-1", "invite-2")) == "FK547"


@pytest.mark.parametrize(
    "changes",
    [
        {"federation": "x"}, {"coordinator": ""}, {"root": ROOT.fingerprint.upper()}, {"site": "a/b"}, {"site": ""},
        {"secret": "short"}, {"port": 0}, {"grpc_port": 65536}, {"port": "9092"}, {"host": "evil"}, {"expires_at": 1.5},
    ],
)  # fmt: skip
def test_values_that_no_invitation_has_are_refused(changes):
    assert refused(coded(**changes)) == "FK540"


def test_the_number_of_later_cas_is_told_where_there_are_any():
    later = replace(INVITATION, authorities=2)
    assert read_invitation(invitation_line(later), NOW) == later
    # What a fedkit of before reads, and writes.
    assert "authorities" not in base64.urlsafe_b64decode(LINE.removeprefix(PREFIX) + "==").decode()
    for wrong in (-1, 21, True, "1", 1.0):
        assert refused(coded(authorities=wrong)) == "FK540"


def test_the_secret_is_new_each_time_and_not_shown():
    assert len({new_secret() for _ in range(50)}) == 50
    assert INVITATION.secret not in repr(INVITATION)
    assert secret_hash("a") != secret_hash("b") and len(secret_hash("a")) == 64
    with pytest.raises(FederationError):
        invitation_line(replace(INVITATION, port=0))
