"""A coordinator's answers send a site nowhere, unpack to nothing and have a bound."""

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import ObjectTree

from fedkit.federation.flower_http import MOST_NAMES, MOST_RESPONSE, guard
from fedkit.federation.flower_node import NodeConnection
from tests.federation.link import certificate


class _Coordinator(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("accept-encoding")))
        status, headers, body = self.server.answers.get(self.path, (200, {}, b"inside"))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        for start in range(0, len(body), 2**16):
            try:
                self.wfile.write(body[start : start + 2**16])
            except OSError:
                return

    def log_message(self, *_):
        pass


@pytest.fixture
def coordinator():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Coordinator)
    server.seen, server.answers = [], {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def client():
    # As Flower makes its own.
    with httpx.Client(follow_redirects=True, trust_env=False) as made:
        guard(made)
        yield made


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_is_an_error(coordinator, client, status):
    coordinator.answers["/"] = (status, {"location": f"{coordinator.url}/inside"}, b"")
    with pytest.raises(httpx.HTTPStatusError):
        client.get(f"{coordinator.url}/").raise_for_status()
    assert coordinator.seen == [("/", "identity")]


def test_a_packed_answer_is_refused_unread(coordinator, client):
    bomb = gzip.compress(bytes(2**24))
    coordinator.answers["/"] = (200, {"content-encoding": "gzip"}, bomb)
    with pytest.raises(httpx.RemoteProtocolError, match="packed"):
        client.get(f"{coordinator.url}/")


def test_an_answer_has_a_bound(coordinator, client):
    coordinator.answers["/most"] = (200, {}, bytes(MOST_RESPONSE))
    coordinator.answers["/more"] = (200, {}, bytes(MOST_RESPONSE + 1))
    assert len(client.get(f"{coordinator.url}/most").content) == MOST_RESPONSE
    with pytest.raises(httpx.RemoteProtocolError, match="more than"):
        client.get(f"{coordinator.url}/more")


def test_an_answer_that_only_names_things_has_a_smaller_bound(coordinator, client):
    path = "/v1/fleet/pull-messages"
    coordinator.answers[path] = (200, {}, bytes(MOST_NAMES))
    assert len(client.get(coordinator.url + path).content) == MOST_NAMES
    coordinator.answers[path] = (200, {}, bytes(MOST_NAMES + 1))
    with pytest.raises(httpx.RemoteProtocolError, match="more than"):
        client.get(coordinator.url + path)


def test_as_many_parts_as_a_request_may_have_fit(coordinator):
    tree = ObjectTree(object_id="0" * 64, children=[ObjectTree(object_id="0" * 64)] * 4095)
    assert len(PullMessagesResponse(message_object_trees=[tree]).SerializeToString()) < MOST_NAMES - 2**16


def test_a_nodes_client_is_guarded(tmp_path):
    crt, _ = certificate(tmp_path)
    node = NodeConnection("127.0.0.1:1", crt.read_bytes(), ec.generate_private_key(ec.SECP384R1()))
    inner = node._client._client
    assert inner.follow_redirects is False and inner.headers["accept-encoding"] == "identity"
    assert inner.event_hooks["response"]
    node.close()
