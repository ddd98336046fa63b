"""What the coordinator's log tells: who came and went, and everything that a site sent, whatever it is."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from fedkit_server import rotation
from fedkit_server.audit import HEAD, Trail
from fedkit_server.enrolment import Enrolment, invite
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedkit.errors import DeploymentError
from fedkit.federation import statements, wire
from fedkit.federation.content import content_digest
from fedkit.federation.heads import coordinator_keys, seal_head
from fedkit.storage.audit import Log
from fedkit.storage.audit_verify import readable_lines, verify
from fedkit.storage.chain import Head
from fedkit.storage.keys import new_signing_key
from fedkit.types import ClientUpdate
from tests.server.builders import make_server_folder, new_site

COORDINATOR, NORTH = new_signing_key(), new_signing_key()


@pytest.fixture
def trail(tmp_path):
    return Trail(tmp_path / "audit.jsonl", COORDINATOR, {"north": NORTH.public}.get)


def reply(content=None, node=7, code=None, reason="", kind="train"):
    return SimpleNamespace(
        metadata=SimpleNamespace(src_node_id=node, message_type=kind),
        content=content,
        error=SimpleNamespace(code=code, reason=reason),
        has_content=lambda: content is not None,
        has_error=lambda: code is not None,
    )


def update(value=1.0):
    return wire.pack_update(ClientUpdate("north", np.full(3, value, np.float32), 5.0))


def lines(path):
    return [(line.kind, dict(line.fields)) for line in readable_lines(path)]


def test_what_came_in_is_told_as_it_came_and_the_head_is_taken_out(trail):
    content = update()
    content[HEAD] = ConfigRecord({HEAD: seal_head("north", Head(5, "a" * 64), NORTH)})
    trail.arrived("r", 3, {7: "north"}, [reply(content), reply(None, code=2, reason="FK567")])
    assert HEAD not in content and list(content) == list(update())
    received, acknowledged, refused = lines(trail.path)
    digest, size = content_digest(update())
    assert received == ("received", {"run": "r", "site": "north", "round": 3, "purpose": "train", "digest": digest,
                                     "size": size})  # fmt: skip
    assert acknowledged[0] == "acknowledged" and acknowledged[1]["peer_seq"] == 5
    assert refused == ("refused", {"run": "r", "site": "north", "round": 3, "code": "FK567"})


def test_what_flower_says_in_a_sites_place_is_no_site_s(trail):
    trail.arrived("r", 3, {7: "north"}, [reply(None, code=3, reason="gone")])
    trail.arrived("r", 3, {7: "north"}, [])
    assert not trail.path.exists()


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({HEAD: MetricRecord({"a": 1.0})}),
        RecordDict({HEAD: ConfigRecord({HEAD: b"x"})}),
        RecordDict({HEAD: ConfigRecord({HEAD: "x" * 10**6})}),
        RecordDict({HEAD: ConfigRecord({HEAD: "\x00\ud800"})}),
        RecordDict({"\x1b[31m": ConfigRecord({"\n": [b"\xff", b""], "b": True})}),
        RecordDict({"a": MetricRecord({"nan": float("nan"), "l": [1, 2]})}),
        RecordDict({"a": ArrayRecord({"x": Array("float32", (0,), "numpy.ndarray", b"")})}),
        RecordDict({"config": ConfigRecord({"ended": "true"})}),
    ],
)
def test_no_reply_of_a_site_can_stop_the_log(trail, content):
    trail.arrived("r", 1, {7: "north"}, [reply(content, kind="\x1b[31m"), reply(RecordDict(), node=99)])
    trail.arrived("r", 1, {7: "north"}, [reply(None, code=2, reason="<b>\n")])
    told = lines(trail.path)
    assert [kind for kind, _ in told if kind != "contradicted"] == ["received", "received", "refused"]
    assert told[0][1]["purpose"] == "unknown" and told[-1][1]["code"] == "an error without a readable code"
    verify(trail.path, [COORDINATOR.public], every=True)


def test_where_the_log_cannot_be_written_no_reply_is_used(trail):
    trail.path.mkdir()
    with pytest.raises(DeploymentError, match="FK770"):
        trail.arrived("r", 1, {7: "north"}, [reply(update())])
    trail.told("run_ended", run="r")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (update(1.0), update(2.0)),
        (RecordDict({"a": MetricRecord({"x": 1})}), RecordDict({"a": MetricRecord({"x": 1.0})})),
        (RecordDict({"a": MetricRecord({"x": 1})}), RecordDict({"a": ConfigRecord({"x": 1})})),
        (RecordDict({"a": ConfigRecord({"x": "01"})}), RecordDict({"a": ConfigRecord({"x": b"\x01"})})),
        (RecordDict({"a": ConfigRecord({"x": True})}), RecordDict({"a": ConfigRecord({"x": 1})})),
        (RecordDict({"a": ConfigRecord({})}), RecordDict({"b": ConfigRecord({})})),
        (RecordDict({"a": ConfigRecord({})}), RecordDict()),
    ],
)
def test_contents_that_differ_have_two_digests(one, two):
    assert content_digest(one)[0] != content_digest(two)[0]


def test_who_joins_who_leaves_and_who_may_do_what(coordinator):
    state, root = coordinator.state, coordinator.root
    secret = invite(state, "north", 1.0).secret
    Enrolment(state).join(new_site().request("north", secret), "a")
    ben, now = new_signing_key(), coordinator.clock()
    added = statements.add(state.keyring, "ben", "viewer", ben.public, root, now)
    state.extend_keyring(added.statements[-1])
    revoked = statements.revoke(state.keyring, "ben", root, now)
    state.extend_keyring(revoked.statements[-1])
    state.revoke(state.store.site("north"))
    told = lines(state.folder.audit)
    assert [kind for kind, _ in told] == ["enrolled", "user_added", "user_revoked", "revoked"]
    assert told[1][1] == {"user": "ben", "role": "viewer", "key": ben.fingerprint}
    text = json.dumps(told)
    assert secret not in text and coordinator.token not in text


def test_who_is_not_logged_is_not_let_in_and_who_is_revoked_is_out_all_the_same(coordinator):
    state = coordinator.state
    secret = invite(state, "north", 1.0).secret
    Enrolment(state).join(new_site().request("north", secret), "a")
    state.folder.audit.write_bytes(b"broken\n")
    statement = statements.add(state.keyring, "ben", "viewer", new_signing_key().public, coordinator.root, 0.0)
    with pytest.raises(DeploymentError, match="FK771"):
        state.extend_keyring(statement.statements[-1])
    assert state.member("ben") is None
    another = invite(state, "south", 1.0).secret
    with pytest.raises(DeploymentError, match="FK771"):
        Enrolment(state).join(new_site().request("south", another), "a")
    assert state.store.site("south") is None
    with pytest.raises(DeploymentError, match="FK771"):
        state.revoke(state.store.site("north"))
    assert state.store.site("north").revoked_at is not None


def test_a_new_coordinators_key_goes_on_with_the_log_even_across_a_crash(tmp_path, monkeypatch):
    folder = make_server_folder(tmp_path / "c", new_signing_key())
    Trail(folder.audit, folder.key(), lambda _: None).record("started", version="0")
    monkeypatch.setattr("pathlib.Path.replace", _crash)
    with pytest.raises(_Crashed):
        rotation.renew_coordinator_key(folder, 2_000_000_000.0)
    monkeypatch.undo()
    for _ in range(2):
        rotation.finish(folder)
    Trail(folder.audit, folder.key(), lambda _: None).record("started", version="0")
    found = verify(folder.audit, coordinator_keys(folder.keyring()), every=True)
    assert found.kinds == {"started": 2, "rotated": 1}
    assert Log(folder.audit, folder.key()).head() == found.head


class _Crashed(Exception):
    pass


def _crash(path, target):
    import os

    if path.name == "coordinator.key.new":
        raise _Crashed
    os.replace(path, target)
