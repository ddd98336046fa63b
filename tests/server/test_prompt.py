"""Who connects and says nothing, or too slowly, is shown out; whoever else connects is served all the while."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any

import pytest
from fedkit_server import enrolment_grpc, prompt, service
from fedkit_server.enrolment import Enrolment

from fedkit.federation.flower_node import NodeConnection
from tests.federation.link import free_port, let_go
from tests.server.builders import FakeRuns, new_site

pytestmark = pytest.mark.slow

GET = b"GET /fedkit/v1/health HTTP/1.1\r\nhost: localhost\r\n\r\n"


@dataclass(frozen=True)
class Served:
    port: int
    ca: bytes
    state: Any

    def tcp(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 10.0)

    def tls(self, protocols: Sequence[str] = ()) -> ssl.SSLSocket:
        context = ssl.create_default_context(cadata=self.ca.decode())
        context.set_alpn_protocols(list(protocols))
        return context.wrap_socket(self.tcp(), server_hostname="localhost")


@pytest.fixture
def served(coordinator, monkeypatch) -> Iterator[Served]:
    for name, value in (("HANDSHAKE_SECONDS", 1.0), ("HEAD_SECONDS", 1.5), ("MOST_OF_ONE", 210)):
        monkeypatch.setattr(prompt, name, value)
    state, up = coordinator.state, threading.Event()
    # All tests share one link: it must not wake a loop that is closed.
    monkeypatch.setattr(state.link, "on_wake", state.link.on_wake)
    with closing(service._listen("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        server = service._server(state, FakeRuns(state), up.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        assert up.wait(20.0)
        yield Served(port, state.folder.read(state.folder.ca), state)
        server.should_exit = True
        thread.join(20.0)
    let_go()


def open_for(connection: socket.socket, trickle: bytes = b"") -> float:
    """Seconds until the other side closes, while one byte after the other is sent to it."""
    began = time.monotonic()
    connection.settimeout(0.2)
    with closing(connection), suppress(ConnectionError, ssl.SSLEOFError, BrokenPipeError):
        while time.monotonic() - began < 10.0:
            try:
                if not connection.recv(4096):
                    break
            except TimeoutError:
                if trickle:
                    connection.send(trickle[:1])
                    trickle = trickle[1:] or trickle
    return time.monotonic() - began


def answered(connection: socket.socket) -> bool:
    connection.settimeout(10.0)
    connection.sendall(GET)
    response = HTTPResponse(connection)
    response.begin()
    return response.status == 200 and response.read() != b""


def test_a_connection_without_a_handshake_is_closed(served):
    assert 0.8 < open_for(served.tcp()) < 5.0


@pytest.mark.parametrize("begun", [b"", GET[:-2], b"\r\n"])
def test_a_connection_without_a_whole_request_is_closed(served, begun):
    connection = served.tls()
    connection.sendall(begun)
    assert 1.2 < open_for(connection) < 5.0


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("trickle", [b"GET /a" + b"a" * 100, b"\r\n" * 100])
def test_a_byte_now_and_then_keeps_nothing_open(served, first, trickle):
    connection = served.tls()
    assert not first or answered(connection)
    assert 1.2 < open_for(connection, trickle) < 5.0


def test_a_head_without_end_is_cut_off(served):
    with closing(served.tls()) as connection, suppress(ConnectionError, ssl.SSLEOFError):
        connection.sendall(GET[:-2] + b"x: " + b"y" * (2 * prompt.MOST_HEAD))
        assert connection.recv(4096) == b""


def test_a_body_that_is_refused_early_gets_its_answer_all_the_same(served):
    size = 2**20
    with closing(served.tls()) as connection:
        connection.sendall(b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(16):
            connection.sendall(b"0" * (size // 16))
        assert b" 413 " in connection.recv(4096)


def test_between_requests_a_connection_may_rest_longer_than_a_head_may_take(served):
    with closing(served.tls()) as connection:
        assert answered(connection)
        time.sleep(2.5)
        assert answered(connection)


def test_a_site_connects_beside_200_idle_connections_and_their_address_gets_no_more_than_its_share(served, monkeypatch):
    keys = new_site()
    served.state.link.register(keys.node_bytes, "north")
    with ExitStack() as stack:
        monkeypatch.setattr(prompt, "HEAD_SECONDS", 60.0)
        idle = [stack.enter_context(closing(served.tls())) for _ in range(200)]
        site = NodeConnection(f"localhost:{served.port}", served.ca, keys.node, wait=0.2)
        stack.callback(site.close)
        began = time.monotonic()
        site.activate()
        assert site.receive() is None and time.monotonic() - began < 5.0
        more = [stack.enter_context(closing(served.tls())) for _ in range(15)]
        assert sum(_is_closed(each) for each in more) == 200 + 1 + 15 - prompt.MOST_OF_ONE
        assert not any(_is_closed(each, 0.0) for each in idle)
        assert answered(idle[0])


@pytest.fixture
def enrolment(coordinator, monkeypatch) -> Iterator[Served]:
    monkeypatch.setattr(enrolment_grpc, "HANDSHAKE_MS", 1000)
    monkeypatch.setattr(enrolment_grpc, "IDLE_MS", 2000)
    folder, port = coordinator.state.folder, free_port()
    certificate, key = folder.read(folder.certificate), folder.read(folder.certificate_key)
    server = enrolment_grpc.serve(Enrolment(coordinator.state), f"127.0.0.1:{port}", certificate, key)
    yield Served(port, folder.read(folder.ca), coordinator.state)
    server.stop(0).wait()


def test_whoever_says_nothing_to_enrolment_is_shown_out_too(enrolment):
    assert 0.5 < open_for(enrolment.tcp()) < 5.0
    assert 0.5 < open_for(enrolment.tls(["h2"])) < 5.0
    connection = enrolment.tls(["h2"])
    # HTTP/2's preface and empty settings, and then no call.
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    assert 1.0 < open_for(connection) < 9.0


def test_one_address_has_so_many_connections_to_enrolment_and_calls_count_for_whoever_makes_them(
    coordinator, monkeypatch
):
    monkeypatch.setattr(prompt, "MOST_OF_ONE", 20)
    folder, port = coordinator.state.folder, free_port()
    certificate, key = folder.read(folder.certificate), folder.read(folder.certificate_key)
    with ExitStack() as stack:
        server = enrolment_grpc.serve(Enrolment(coordinator.state), f"127.0.0.1:{port}", certificate, key)
        stack.callback(server.wait)
        stack.callback(server.stop, 0)
        here = Served(port, folder.read(folder.ca), coordinator.state)
        idle = [stack.enter_context(closing(here.tcp())) for _ in range(25)]
        time.sleep(1.0)
        assert sum(_is_closed(each, 0.01) for each in idle) == 5
        other = socket.create_connection(("127.0.0.1", port), 10.0, ("127.0.0.2", 0))
        context = ssl.create_default_context(cadata=here.ca.decode())
        context.set_alpn_protocols(["h2"])
        stack.enter_context(closing(context.wrap_socket(other, server_hostname="localhost")))
        (inner,) = [each for each, whose in server.doorway._peers.items() if whose == "127.0.0.2"]
        assert server.address(f"ipv4:127.0.0.1:{inner}") == "127.0.0.2"
        assert server.address("ipv4:127.0.0.1:1") == "127.0.0.1"
        for each in idle:
            each.close()
        deadline = time.monotonic() + 5.0
        while server.doorway._open["127.0.0.1"] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not server.doorway._open["127.0.0.1"], "with those gone there is room again"
    assert not server.doorway._thread.is_alive()


def _is_closed(connection: socket.socket, patience: float = 0.5) -> bool:
    connection.settimeout(max(patience, 0.001))
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except (ConnectionError, ssl.SSLEOFError):
        return True
