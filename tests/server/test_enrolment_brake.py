"""What cannot be read slows its sender like a wrong invitation does, whichever method it was sent to."""

import json

import grpc
import pytest
from fedkit_server.enrolment import Enrolment
from fedkit_server.enrolment_grpc import _method

from fedkit.federation import enrolment as wire


class _Refused(Exception):
    pass


class _Context:
    def __init__(self, address):
        self.address = address

    def peer(self):
        return f"ipv4:{self.address}:5000"

    def abort(self, status, details):
        raise _Refused(status, json.loads(details)["error"]["code"])


@pytest.mark.parametrize("unreadable", [b'"' + b'\\"' * 100, b"[]", b"\xff", b'{"wire": "1.0", "more": 1}'])
@pytest.mark.parametrize("name", [wire.JOIN, wire.ANNOUNCE])
def test_who_sends_what_cannot_be_read_has_to_wait_and_others_do_not(coordinator, name, unreadable):
    enrolment = Enrolment(coordinator.state)
    answer = enrolment.join if name == wire.JOIN else enrolment.announce
    handle = _method(enrolment, answer).unary_unary

    def code(address, content=unreadable):
        with pytest.raises(_Refused) as caught:
            handle(content, _Context(address))
        return caught.value.args

    for _ in range(10):
        assert code("192.0.2.1") == (grpc.StatusCode.INVALID_ARGUMENT, "FK540")
    assert code("192.0.2.1") == (grpc.StatusCode.RESOURCE_EXHAUSTED, "FK717")
    assert code("192.0.2.2")[1] == "FK540"
