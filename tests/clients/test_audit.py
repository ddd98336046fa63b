"""What a site's node writes before it sends: a log that cannot be written lets nothing out."""

import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from fedkit_client.audit import HEAD, Trail, record
from fedkit_client.digest import file_digest
from fedkit_client.executor import Done
from fedkit_client.findings import Findings, read_findings
from fedkit_client.folder import SiteFolder
from fedkit_client.gatekeeper import handle
from fedkit_client.node import Node
from fedkit_client.state import State
from fedkit_client.stopping import Stop, Stopping

from fedkit.errors import DeploymentError
from fedkit.federation import wire
from fedkit.federation.content import content_digest
from fedkit.federation.flower_node import Received
from fedkit.federation.heads import open_head, seal_head
from fedkit.federation.request import Request, pack_request
from fedkit.storage import audit
from fedkit.storage.audit_verify import readable_lines, verify
from fedkit.storage.chain import Head
from fedkit.storage.keys import create_signing_key, new_signing_key
from fedkit.types import ClientUpdate
from tests.clients.coordinator import model

from fedkit_client.answers import to_frame  # isort: skip


SIZE = 5


def update():
    return wire.pack_update(ClientUpdate("north", np.ones(3, np.float32), 5.0))


@pytest.fixture
def site(tmp_path):
    folder = SiteFolder(tmp_path)
    create_signing_key(folder.signing_key)
    return folder


def said(folder):
    return [(line.kind, dict(line.fields)) for line in readable_lines(folder.audit)]


class _Connection:
    address, node_id = "localhost:1", 1

    def __init__(self, times=1):
        content = pack_request(Request("{}", "{}", ("{}",), np.zeros(3, np.float32)))
        self.message = Received(SimpleNamespace(content=content, metadata=SimpleNamespace(message_type="train")))
        self.left, self.answers, self.on_answer = times, [], lambda: None

    def activate(self):
        pass

    def receive(self):
        if not self.left:
            raise Stopping
        self.left -= 1
        return self.message

    def answer(self, received, content, seconds):
        self.on_answer()
        self.answers.append(content)

    def close(self):
        pass


def loop(folder, done, times=1, connection=None):
    connection = connection or _Connection(times)
    stop = Stop()
    stop.sleep = lambda seconds: None
    trail = Trail(folder, "north", audit_key(folder))
    executor = SimpleNamespace(ask=lambda header, body, idle: done, close=lambda: None)
    state = State(folder.state_file, 1, "0")
    Node(connection, executor, state, stop, lambda: None, folder.usage, trail=trail).run()
    return connection


def audit_key(folder):
    from fedkit.storage.keys import load_signing_key

    return load_signing_key(folder.signing_key)


def done(**more):
    header, body = to_frame(update())
    return Done(header | {"events": [["admitted", {"run": "r"}]], "guarantee": {"guarantee": "dp"}} | more, body, None)


def test_an_answer_is_on_disk_before_it_is_sent_and_tells_the_head_of_exactly_that(site):
    connection = _Connection()
    seen = []
    connection.on_answer = lambda: seen.append(said(site))
    loop(site, done(), connection=connection)
    (sent,) = connection.answers
    (before,) = seen
    assert [kind for kind, _ in before] == ["requested", "admitted", "released"]
    key = audit_key(site)
    told = open_head(sent.pop(HEAD)[HEAD], "north", [key.public])
    assert content_digest(sent) == (before[2][1]["digest"], before[2][1]["size"]) == content_digest(update())
    assert before[2][1]["guarantee"] == "dp"
    assert verify(site.audit, [key.public], heads=[told.head]).kinds["stopped"] == 1 and told.head.seq == 3


def test_a_refusal_and_a_death_are_told_by_code_alone(site):
    loop(site, Done({"code": "FK567", "events": [], "guarantee": {"guarantee": "none"}}, b"", None))
    loop(site, Done(None, b"", None, "Jane Doe was too much"))
    kinds = [kind for kind, _ in said(site)]
    assert kinds == ["requested", "refused", "stopped", "requested", "died", "refused", "stopped"]
    assert said(site)[1][1]["code"] == "FK567" and said(site)[5][1]["code"] == "FK500"
    assert "Jane" not in site.audit.read_text()


@pytest.mark.parametrize("answer", [done(), Done({"code": "FK567"}, b"", None), Done(None, b"", None)])
def test_a_full_disk_lets_nothing_out_and_the_request_comes_again(site, answer, monkeypatch):
    record(site, "joined", site="north")
    good, real = site.audit.read_bytes(), os.fsync

    def full(handle):
        if os.readlink(f"/proc/self/fd/{handle}") == str(site.audit):
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(audit.os, "fsync", full)
    assert loop(site, answer, times=3).answers == []
    assert site.audit.read_bytes() == good
    monkeypatch.setattr(audit.os, "fsync", real)
    assert len(loop(site, answer).answers) == 1


def test_a_log_that_was_altered_lets_nothing_out(site):
    record(site, "joined", site="north")
    site.audit.write_bytes(site.audit.read_bytes().replace(b"north", b"south"))
    assert loop(site, done(), times=2).answers == []


def test_a_child_may_tell_only_what_a_child_knows(site):
    for bad in ([["released", {}]], [["joined", {}]], "x", [["admitted"]], [["admitted", {"a": {}}]]):
        with pytest.raises(DeploymentError, match=r"FK769|FK770"):
            Trail(site, "north", new_signing_key()).log.append(*read_findings({"events": bad})[0])
    assert not site.audit.exists()


def test_a_start_tells_whether_the_site_file_is_another_one(site):
    site.site_yaml.write_text("site: north\n")
    for text in ("site: north\n", "site: north\n", "site: south\n"):
        site.site_yaml.write_text(text)
        Trail(site, "north", audit_key(site)).started("0.1", site.site_yaml, file_digest(site.site_yaml))
    assert [kind for kind, _ in said(site)] == ["started", "configured", "started", "started", "configured"]


def asked(made, kind, number, job, parameters):
    request = made.coordinator.request(job, kind, number, parameters)
    header = {"kind": kind if kind != "end" else "query", "order": request.order, "job": request.job}
    keeper = replace(made.keeper, findings=Findings())
    told, _ = handle(keeper)(header | {"keyring": list(request.keyring)}, request.parameters.tobytes())
    events, guarantee = read_findings(told)
    return [(event.kind, event.fields) for event in events], guarantee, told.get("code")


def test_what_a_child_tells_is_what_the_ledger_holds(bench):
    made = bench()
    job = made.coordinator.job()
    spent = []
    for number in (1, 2):
        events, guarantee, code = asked(made, "train", number, job, model(SIZE, float(number)))
        assert code is None and [kind for kind, _ in events] == ["admitted", "reserved"]
        reserved = events[1][1]
        assert (reserved["purpose"], reserved["round"], reserved["again"]) == ("train", number, False)
        (limit,) = (data.max_epsilon for data in made.keeper.file.data.values())
        assert guarantee["guarantee"] == "dp" and 0 < reserved["epsilon_spent"] <= limit
        spent.append(reserved["epsilon_spent"])
    assert spent[0] < spent[1]
    charged = made.charged()
    # Given again from the ledger: nothing is charged, and nothing tells of a charge.
    events, guarantee, _ = asked(made, "train", 2, job, model(SIZE, 2.0))
    assert [kind for kind, _ in events] == ["admitted"] and guarantee["guarantee"] == "dp"
    assert made.charged() == charged
    # Another model for a round that was answered is refused before anything is charged.
    events, _, code = asked(made, "train", 2, job, model(SIZE, 3.0))
    assert code == "FK347" and made.charged() == charged
    assert [kind for kind, _ in asked(made, "end", 2, job, model(0))[0]] == ["ended"]


def test_a_round_that_fails_on_records_is_told_as_charged(bench):
    made = bench()
    (made.folder.path / "table.csv").unlink()
    before = made.charged()
    events, _, code = asked(made, "train", 1, made.coordinator.job(), model(SIZE))
    assert code is not None and (made.charged() > before) == ("reserved" in [kind for kind, _ in events])


def test_the_coordinators_head_is_kept_only_if_it_is_the_coordinators(bench):
    found = bench()
    coordinator, key = found.coordinator, audit_key(found.folder)
    trail = Trail(found.folder, "north", key)
    for signer in (coordinator.key, new_signing_key()):
        trail.begin()
        trail.peer_head = seal_head("coordinator", Head(4, "a" * 64), signer)
        trail.sealed("FK500", "train", signer.fingerprint[:20], 1)
    kept = [line for line in readable_lines(found.folder.audit, ("acknowledged", "contradicted"))]
    assert [(line.kind, line.fields.get("why")) for line in kept] == [
        ("acknowledged", None), ("contradicted", "unreadable")]  # fmt: skip
