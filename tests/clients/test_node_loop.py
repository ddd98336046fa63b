"""No message and no full disk ends a site's loop: each is answered, or comes again."""

import json
import logging
import time
from types import SimpleNamespace

import numpy as np
import pytest
from fedkit_client import logs
from fedkit_client.audit import Trail
from fedkit_client.folder import SiteFolder
from fedkit_client.node import Node
from fedkit_client.order_said import shown_order
from fedkit_client.patience import Patience
from fedkit_client.state import State
from fedkit_client.status import status_text
from fedkit_client.stopping import Stop, Stopping
from flwr.app import RecordDict
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import Metadata, ObjectTree
from hypothesis import given
from hypothesis import strategies as st

from fedkit.errors import DeploymentError
from fedkit.federation.flower_node import NodeConnection, Received, UnreadableRequest
from fedkit.federation.request import Request, pack_request
from fedkit.storage.keys import new_signing_key

FORGED = "x was answered\n2026-11-25 00:00:00,000 1 INFO fedkit.node: FORGED\x1b[31m"


def _order(**payload):
    return Request(json.dumps({"payload": json.dumps(payload)}), "{}", ("{}",), np.zeros(3, np.float32))


def _received(content, kind="train"):
    return Received(SimpleNamespace(content=content, metadata=SimpleNamespace(message_type=kind)))


class _Connection:
    address, node_id = "localhost:1", 1

    def __init__(self, stop, messages):
        self.stop, self.messages, self.answers, self.activations = stop, list(messages), [], 0

    def activate(self):
        self.activations += 1

    def receive(self):
        if not self.messages:
            raise Stopping
        found = self.messages.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def answer(self, received, content, seconds):
        self.answers.append(content)

    def beat(self):
        pass

    def close(self):
        pass


class _Executor:
    def __init__(self, error):
        self.error = error

    def ask(self, header, body, idle):
        idle()
        raise self.error

    def close(self):
        pass


@pytest.fixture
def loop(tmp_path):
    def run(*messages, error=None):
        stop = Stop()
        stop.sleep = lambda seconds: None
        told = []
        connection = _Connection(stop, messages)
        state = State(tmp_path / "state.json", 1, "0")
        trail = Trail(SiteFolder(tmp_path), "north", new_signing_key())
        Node(
            connection, _Executor(error or KeyError("x")), state, stop, lambda: None, tmp_path / "u", say=told.append,
            trail=trail,
        ).run()  # fmt: skip
        return connection, told

    return run


def test_messages_that_are_refused_wait_before_anything_of_them_is_read_or_logged(tmp_path):
    stop, slept, lines = Stop(), [], []
    patience = Patience(most=2, each=5.0, clock=lambda: sum(slept))
    folder = SiteFolder(tmp_path)
    connection = _Connection(stop, [_received(None) for _ in range(6)])
    receive = connection.receive

    def received():
        lines.append(len(folder.audit.read_text().splitlines()) if folder.audit.exists() else 0)
        return receive()

    connection.receive, stop.sleep = received, slept.append
    state, trail = State(tmp_path / "state.json", 1, "0"), Trail(folder, "north", new_signing_key())
    Node(
        connection, _Executor(KeyError("x")), state, stop, lambda: None, tmp_path / "u", trail=trail, patience=patience
    ).run()  # fmt: skip
    assert connection.answers == ["FK500"] * 6, "none is lost"
    assert slept == [5.0] * 4
    assert lines == sorted(lines)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", '"1"', "[]", "9" * 5000])
def test_an_order_with_any_round_is_answered_once(loop, number):
    order = json.dumps({"payload": '{"kind": "train", "run": "x", "round": ' + number + "}"})
    connection, _ = loop(_received(pack_request(Request(order, "{}", ("{}",), np.zeros(3, np.float32)))))
    assert connection.answers == ["FK500"] and connection.activations == 1


def test_what_nobody_expects_is_answered_with_the_common_code(loop):
    good = _received(pack_request(_order(kind="train", run="x", round=1)))
    connection, _ = loop(good, _received(None), error=OverflowError("x"))
    assert connection.answers == ["FK500", "FK500"]


def test_a_request_that_expires_at_work_is_given_up_and_the_next_one_is_served(loop):
    gone, now = _order(kind="train", run="x", round=1, expires_at=int(time.time()) - 6), int(time.time())
    kept = [_order(kind="train", run="x", round=1, expires_at=end) for end in (now, now + 60)]
    connection, told = loop(*(_received(pack_request(each)) for each in (gone, *kept)))
    # A site's clock may be 5 s ahead of the coordinator's.
    assert connection.answers == ["FK543", "FK500", "FK500"] and connection.activations == 1
    assert [event["code"] for event in told if event["event"] == "answered"] == connection.answers


@pytest.mark.parametrize("end", ["1e999", "-1e999", "NaN", '"1"', "[]", "true", "-1", "9" * 4000, "9" * 5000, "null"])
def test_an_order_with_any_end_is_answered_and_not_given_up(loop, end):
    order = json.dumps({"payload": '{"kind": "train", "run": "x", "round": 1, "expires_at": ' + end + "}"})
    connection, _ = loop(_received(pack_request(Request(order, "{}", ("{}",), np.zeros(3, np.float32)))))
    assert connection.answers == ["FK500"] and connection.activations == 1


def test_what_nobody_expects_while_waiting_ends_nothing(loop):
    connection, told = loop(TypeError("x"), _received(RecordDict()))
    assert connection.answers == ["FK540"] and connection.activations == 2
    assert [event["code"] for event in told if event["event"] == "retrying"] == ["FK500"]


def test_an_executor_that_is_gone_ends_the_loop(loop):
    with pytest.raises(DeploymentError, match="gone"):
        loop(
            _received(pack_request(_order(kind="train", run="x", round=1))),
            error=DeploymentError("gone", code="FK768", remedy="r"),
        )


def test_neither_runs_nor_kinds_are_shown_as_they_come(loop):
    bad = _received(pack_request(_order(kind="train", run=FORGED, round=1)))
    _, told = loop(bad, _received(RecordDict(), kind=FORGED))
    answered = [(event["kind"], event["run"]) for event in told if event["event"] == "answered"]
    assert answered == [("train", ""), ("unknown", "")]


@given(st.recursive(st.none() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner)), st.text())
def test_what_an_order_says_is_shown_without_an_error(value, text):
    for order in (text, json.dumps(value), _order(kind=value, run=value, round=value).order):
        assert shown_order(Request(order, "", (), np.zeros(0, np.float32)), "train")[0] == "train"
    assert shown_order(_order(kind="end", run="a.b", round=3), "query") == ("end", "a.b", 3)


class _Fleet(NodeConnection):
    def __init__(self, tmp_path, *trees):
        self.node_id, self.spool, self.most_bytes, self.refusal = 1, tmp_path, 2**20, lambda: ""
        message = ProtoMessage(metadata=Metadata(run_id=1, message_id="m", message_type="train"))
        reply = PullMessagesResponse(messages_list=[message], message_object_trees=trees)
        self._client = SimpleNamespace(PullMessages=lambda _: reply)

    def beat(self):
        pass


@pytest.mark.parametrize("trees", [[], [ObjectTree(object_id="0" * 64)]])
def test_a_message_with_neither_content_nor_error_can_be_answered(tmp_path, trees):
    connection = _Fleet(tmp_path, *trees)
    connection._object = lambda run, name: b"x"
    with pytest.raises(UnreadableRequest) as caught:
        connection.receive()
    assert caught.value.code == "FK540" and caught.value.received.kind == "train"


def test_a_full_disk_is_a_trouble_that_passes(tmp_path, monkeypatch, loop):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedkit.federation.flower_node.assemble", full)
    with pytest.raises(DeploymentError, match="No space left") as caught:
        _Fleet(tmp_path, ObjectTree(object_id="0" * 64)).receive()
    assert caught.value.code == "FK762"
    connection, told = loop(caught.value, _received(RecordDict()))
    assert connection.answers == ["FK540"] and connection.activations == 2
    assert [event["code"] for event in told if event["event"] == "retrying"] == ["FK762"]


def test_a_log_line_is_one_line(tmp_path):
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        logs.configure(tmp_path / "client.log")
        logging.getLogger("fedkit.node").warning("run %s", FORGED)
    finally:
        for handler in root.handlers:
            if handler not in handlers:
                handler.stream.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)
    text = (tmp_path / "client.log").read_text()
    assert text.count("\n") == 1 and "\x1b" not in text


def test_status_shows_no_control_characters():
    last = {"kind": FORGED, "run": FORGED, "round": 1, "code": FORGED, "at": 0}
    problem = {"code": "FK756", "message": FORGED, "remedy": FORGED}
    usage = {"answers": 0, "cpu_seconds": 0.0, "peak_bytes": 0}
    log = {"contradicted": 1, "recovered": 0}
    found = {
        "site": "north",
        "running": False,
        "paused": None,
        "quarantined": None,
        "file_changed": False,
        "problem": problem,
        "last": last,
        "budgets": {},
        "usage": usage,
        "log": log,
    }
    text = status_text(found)
    assert text.count("\n") == 5 and "ALERT" in text and text.replace("\n", "").isprintable()


@pytest.mark.parametrize("quarantined", [False, True])
def test_what_is_due_goes_where_no_coordinator_is_reached_too_but_in_quarantine_stays(tmp_path, quarantined):
    stop, folder, looked = Stop(), SiteFolder(tmp_path), []
    connection = _Connection(stop, [])

    def unreachable():
        raise DeploymentError("nobody answers", code="FK743")

    def sleep(seconds):
        connection.activations += 1
        if connection.activations == 3:
            raise Stopping

    connection.activate, stop.sleep = unreachable, sleep
    if quarantined:
        folder.quarantine.put("looked at", time.time())
    state = State(tmp_path / "state.json", 1, "0")
    trail = Trail(folder, "north", new_signing_key())
    Node(
        connection, _Executor(KeyError("x")), state, stop, lambda: None, tmp_path / "u", pause=folder.pause,
        upkeep=lambda: looked.append(1), trail=trail,
    ).run()  # fmt: skip
    assert len(looked) == (0 if quarantined else 3)
