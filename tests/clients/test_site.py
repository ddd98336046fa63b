"""A site's real processes against a coordinator over TLS: what it answers, and what no coordinator gets out of it."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fedkit_client.start import open_site
from fedkit_client.usage import read_usage
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedkit.federation import wire
from fedkit.federation.offer import open_offer
from fedkit.federation.request import pack_request
from fedkit.federation.wire import WIRE_VERSION
from fedkit.governance.encryption import default_source
from fedkit.storage.keys import load_signing_key
from tests.clients.conftest import FEDKIT, NO_PROXY
from tests.clients.coordinator import DATASET, RECORDS, SITE, experiment, model, site_yaml

# The coordinator of these tests ends beside clients that still speak to it: what uvicorn leaves open is its own affair.
pytestmark = [
    pytest.mark.deploy,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SIZE = 5
SLOW = Path(__file__).with_name("slow_site.py")
IDLE_SECONDS, MOST_IDLE = 20.0, 0.05


@pytest.fixture(scope="module")
def federation(running):
    return running()


def _wait(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def _client(*words):
    done = subprocess.run([*FEDKIT, "client", *words], capture_output=True, text=True, env={**os.environ, **NO_PROXY})
    return done.returncode, done.stdout, done.stderr


def test_a_round_is_trained_measured_and_ended(federation):
    coordinator, site = federation
    job = coordinator.job("whole")
    for number in (1, 2):
        reply = coordinator.ask(coordinator.request(job, "train", number, model(SIZE)))
        update = wire.unpack_update(reply.content, SITE, SIZE)
        assert update.weight == 0.75 * RECORDS and set(reply.content) == {"arrays", "head", "metrics"}
        measured = coordinator.ask(coordinator.request(job, "evaluate", number, model(SIZE)), "evaluate")
        assert len(wire.unpack_histograms(measured.content, 16)) == 16
    code, out, _ = _client("status", str(site.folder.site_yaml), "--json")
    told = json.loads(out)
    assert code == 0 and told["running"] and told["connected"] and told["last"]["round"] == 2
    assert told["budgets"][DATASET]["spent"] > 0 and told["budgets"][DATASET]["held"] > 0
    assert told["usage"]["answers"] >= 4 and told["usage"]["cpu_seconds"] > 0
    end = coordinator.ask(coordinator.request(job, "end", 2, model(0)), "query")
    assert not end.has_error()
    told = json.loads(_client("status", str(site.folder.site_yaml), "--json")[1])
    assert told["last"]["kind"] == "end" and told["budgets"][DATASET]["held"] == 0


def test_the_offer_is_signed_and_says_declared_constants_only(federation):
    coordinator, site = federation
    key = load_signing_key(site.folder.signing_key)
    offer = open_offer(coordinator.offers[-1], key.public, SITE, time.time())
    assert offer.datasets[DATASET].records == RECORDS
    assert str(site.folder.path) not in coordinator.offers[-1]


def _array(data, dtype="float32", shape=(SIZE,), stype="numpy.ndarray"):
    return ArrayRecord({"parameters": Array(dtype, shape, stype, data)})


def _changed(coordinator, **records):
    content = pack_request(coordinator.request(coordinator.job("hostile"), "train", 1, model(SIZE)))
    for name, record in records.items():
        content[name] = record
    return content


def _config(coordinator, **entries):
    content = _changed(coordinator)
    content["config"] = ConfigRecord({**content["config"], **entries})
    return content


class _Exploit:
    def __reduce__(self):
        return os.system, ("touch /tmp/fedkit-was-here",)


EXPLOIT = pickle.dumps(_Exploit())
HOSTILE = {
    "nothing": (lambda c: RecordDict(), "train", "FK540"),
    "a pickle in the array": (lambda c: _changed(c, arrays=_array(EXPLOIT)), "train", "FK516"),
    "an array of objects": (lambda c: _changed(c, arrays=_array(EXPLOIT, dtype="object")), "train", "FK516"),
    "an array of torch": (lambda c: _changed(c, arrays=_array(EXPLOIT, stype="torch.Tensor")), "train", "FK516"),
    "a shape that lies": (
        lambda c: _changed(c, arrays=_array(Array(model(SIZE)).data, shape=(10**12,))), "train", "FK516"),
    "a matrix": (lambda c: _changed(c, arrays=ArrayRecord({"parameters": Array(np.zeros((5, 5), np.float32))})),
                 "train", "FK516"),
    "two arrays": (lambda c: _changed(c, arrays=ArrayRecord({"a": Array(model(1)), "b": Array(model(1))})),
                   "train", "FK515"),
    "metrics": (lambda c: _changed(c, metrics=MetricRecord({"a": 1.0})), "train", "FK540"),
    "a newer wire version": (lambda c: _config(c, wire=WIRE_VERSION + 1), "train", "FK547"),
    "an older wire version": (lambda c: _config(c, wire=WIRE_VERSION - 2), "train", "FK547"),
    "numbers for texts": (lambda c: _config(c, order=7), "train", "FK540"),
    "a pickle for a text": (lambda c: _config(c, job=EXPLOIT), "train", "FK540"),
    "a huge keyring": (lambda c: _config(c, keyring="[" + '"a",' * 700_000 + '"a"]'), "train", "FK540"),
    "a keyring that is none": (lambda c: _config(c, keyring='{"a": 1}'), "train", "FK540"),
    "another field": (lambda c: _config(c, fab="x"), "train", "FK540"),
    "a kind of its own": (_changed, "train.fab", "FK510"),
    "a query": (lambda c: RecordDict(), "query", "FK540"),
    "an order to train as an evaluation": (_changed, "evaluate", "FK542"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_message_gets_a_code_and_nothing_else(federation, name):
    coordinator, site = federation
    build, kind, code = HOSTILE[name]
    before = site.charged()
    reply = coordinator.ask(build(coordinator), kind)
    assert reply.has_error() and reply.error.reason == code
    assert site.charged() == before
    assert not Path("/tmp/fedkit-was-here").exists()
    assert site.process.poll() is None


def test_a_message_one_wire_version_behind_is_answered(federation):
    coordinator, _ = federation
    content = pack_request(coordinator.request(coordinator.job("behind"), "train", 1, model(SIZE)))
    content["config"] = ConfigRecord({**content["config"], "wire": WIRE_VERSION - 1})
    assert not coordinator.ask(content).has_error()


def test_an_object_that_is_not_what_its_name_says_gets_a_code(federation):
    coordinator, _ = federation
    content = pack_request(coordinator.request(coordinator.job("objects"), "train", 1, model(SIZE)))
    store, real = coordinator.link.state.object_store, coordinator.link.state.object_store.get
    try:
        store.get = lambda object_id: EXPLOIT if real(object_id) else None
        message_id = coordinator.send(content)
        time.sleep(1)
    finally:
        store.get = real
    reply = coordinator.reply(message_id)
    assert reply.has_error() and reply.error.reason == "FK540"


def test_usage_stays_at_the_site_unless_it_says_otherwise(federation):
    coordinator, site = federation
    reply = coordinator.ask(coordinator.request(coordinator.job("usage"), "train", 1, model(SIZE)))
    assert "usage" not in reply.content
    vault = open_site(site.folder.site_yaml).folder.vault()
    *_, line = read_usage(site.folder.usage, vault)
    assert line["cpu_seconds"] > 0 and line["peak_bytes"] > 0


def test_a_second_start_is_refused_and_leaves_the_first_alone(federation):
    _, site = federation
    code, out, _ = _client("start", str(site.folder.site_yaml), "--json")
    assert code == 2 and json.loads(out.splitlines()[-1])["error"]["code"] == "FK753"
    assert site.process.poll() is None


def test_status_and_doctor_tell_that_a_running_site_goes_by_an_older_file(federation):
    _, site = federation
    path = site.folder.site_yaml
    before = path.read_text()
    assert not json.loads(_client("status", str(path), "--json")[1])["file_changed"]
    try:
        path.write_text(before + " ")
        assert json.loads(_client("status", str(path), "--json")[1])["file_changed"]
        assert "site.yaml has changed since the start" in _client("status", str(path))[1]
        assert "warn  site file and folder" in _client("doctor", str(path))[1]
        # The idle site notices by itself.
        until = time.monotonic() + 30
        while '"edited"' not in site.folder.audit.read_text() and time.monotonic() < until:
            time.sleep(0.2)
        assert '"edited"' in site.folder.audit.read_text()
    finally:
        path.write_text(before)


def test_a_copy_of_a_running_site_s_folder_is_refused_though_its_lock_is_another(federation, tmp_path):
    _, site = federation
    copy = tmp_path / "copy"
    shutil.copytree(site.folder.path, copy)
    values = json.loads((copy / "site.yaml").read_text())
    (copy / "site.yaml").write_text(json.dumps({**values, "folder": "."}))
    # Without the key, which lies beside the folder, it is refused before that.
    code, out, _ = _client("start", str(copy / "site.yaml"), "--json")
    assert code == 2 and json.loads(out.splitlines()[-1])["error"]["code"] == "FK790"
    shutil.copy(default_source(site.folder.path).file, default_source(copy).file)
    code, out, _ = _client("start", str(copy / "site.yaml"), "--json")
    error = json.loads(out.splitlines()[-1])["error"]
    assert code == 2 and error["code"] == "FK753" and "copy" in error["message"]
    assert site.process.poll() is None


def test_a_zygote_that_dies_is_replaced(federation):
    coordinator, site = federation
    os.kill(site.children()["zygote"], signal.SIGKILL)
    job = coordinator.job("again")
    request = coordinator.request(job, "train", 1, model(SIZE))
    reply = coordinator.ask(request)
    if reply.has_error():
        # It had been handed to the dying one.
        reply = coordinator.ask(request)
    assert not reply.has_error()


def _cpu_seconds(pids):
    ticks = os.sysconf("SC_CLK_TCK")
    return (
        sum(sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13])) for pid in pids)
        / ticks
    )


def test_an_idle_site_takes_next_to_no_cpu(federation):
    _, site = federation
    pids = [site.process.pid, *site.children().values()]
    time.sleep(2)
    before = _cpu_seconds(pids)
    time.sleep(IDLE_SECONDS)
    assert len(pids) == 3
    assert (_cpu_seconds(pids) - before) / IDLE_SECONDS < MOST_IDLE


def test_nothing_that_was_refused_left_a_text_with_the_coordinator(federation):
    coordinator, site = federation
    (site.folder.path / "table.csv").rename(site.folder.path / "away.csv")
    try:
        request = coordinator.request(coordinator.job("absent"), "train", 1, model(SIZE))
        assert coordinator.code(request) == "FK500"
    finally:
        (site.folder.path / "away.csv").rename(site.folder.path / "table.csv")
    assert "table.csv" in site.log()


def test_doctor_finds_a_running_site_in_order(federation):
    _, site = federation
    code, out, err = _client("doctor", str(site.folder.site_yaml), "--json")
    told = json.loads(out)
    assert {each["check"]: each["state"] for each in told["checks"] if each["state"] == "fail"} == {}, err
    assert code == 0 and told["ok"]
    assert {
        "DNS",
        "TCP",
        "TLS",
        "clock",
        "certificate",
        "enrolment",
        "disk",
        "ledgers",
        "limits",
        "lineage",
        "audit log",
    } <= {each["check"] for each in told["checks"]}


def test_sigterm_ends_it_with_nothing_left_behind(federation):
    _, site = federation
    pids = [site.process.pid, *site.children().values()]
    assert site.stop() == 0
    assert site.event("stopped")
    _wait(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids[1:]), 10)
    assert json.loads(_client("status", str(site.folder.site_yaml), "--json")[1])["running"] is False


@pytest.fixture
def slow(running, tmp_path):
    (tmp_path / "hold").touch()
    coordinator, site = running(command=(sys.executable, str(SLOW), str(tmp_path)))
    return coordinator, site, tmp_path


def test_a_child_that_is_killed_while_it_trains_costs_one_charge(slow):
    coordinator, site, path = slow
    request = coordinator.request(coordinator.job(), "train", 1, model(SIZE))
    message_id = coordinator.send(request)
    _wait((path / "training").exists)
    os.kill(site.children()["child"], signal.SIGKILL)
    reply = coordinator.reply(message_id)
    assert reply.has_error() and reply.error.reason == "FK500"
    spent = site.charged()
    assert spent > 0
    (path / "hold").unlink()
    first = coordinator.ask(request)
    assert not first.has_error() and site.charged() == spent
    again = coordinator.ask(request)
    # The log has grown meanwhile, and tells of both.
    assert first.content.pop("head") != again.content.pop("head")
    assert again.content == first.content and site.charged() == spent
    told = [json.loads(line)["kind"] for line in site.folder.audit.read_text().splitlines()]
    assert told.count("died") == 1 and told.count("released") == 2


def test_a_site_that_is_killed_while_it_trains_is_asked_again_and_charges_once(slow):
    coordinator, site, path = slow
    message_id = coordinator.send(coordinator.request(coordinator.job(), "train", 1, model(SIZE)))
    _wait((path / "training").exists)
    pids = list(site.children().values())
    site.kill()
    spent = site.charged()
    _wait(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 10)
    (path / "hold").unlink()
    site.start().event("connected")
    assert not coordinator.reply(message_id).has_error()
    assert site.charged() == spent > 0


def test_a_stop_while_it_trains_abandons_the_child_and_loses_nothing(slow):
    coordinator, site, path = slow
    message_id = coordinator.send(coordinator.request(coordinator.job(), "train", 1, model(SIZE)))
    _wait((path / "training").exists)
    assert site.stop() == 0
    spent = site.charged()
    (path / "hold").unlink()
    site.start().event("connected")
    assert not coordinator.reply(message_id).has_error()
    assert site.charged() == spent > 0


def test_a_coordinator_may_go_away_and_come_back(running):
    coordinator, site = running()
    coordinator.down()
    assert site.event("retrying")["code"] in ("FK747", "FK756")
    coordinator.up()
    site.event("connected")
    reply = coordinator.ask(coordinator.request(coordinator.job(), "train", 1, model(SIZE)))
    assert not reply.has_error()
    # A key that was revoked: one clear error, and no end of trying.
    coordinator.link.unregister(coordinator.nodes[SITE])
    assert site.event("retrying")["code"] == "FK755"
    assert site.process.poll() is None


def test_a_memory_limit_under_which_nothing_works_is_refused_at_the_start(running):
    _, site = running(start=False, limits={"memory": "1GiB"})
    code, out, _ = _client("start", str(site.folder.site_yaml), "--json")
    assert code == 2 and json.loads(out.splitlines()[-1])["error"]["code"] == "FK760"


def test_limits_that_can_be_met_are_kept(running):
    coordinator, _ = running(limits={"memory": "3GiB", "cpus": 1, "disk": "5GiB", "bandwidth": "10MiB/s"},
                             disclose_usage=True)  # fmt: skip
    reply = coordinator.ask(coordinator.request(coordinator.job(), "train", 1, model(SIZE)))
    assert not reply.has_error() and reply.content["usage"]["cpu-seconds"] > 0


def test_it_goes_on_in_the_background_and_is_stopped_from_elsewhere(running):
    coordinator, site = running(start=False)
    code, out, err = _client("start", str(site.folder.site_yaml), "--detach", "--json")
    assert code == 0, err + site.log()
    told = json.loads(out.splitlines()[-1])
    # Whoever submits a run next finds the site there.
    assert told["event"] == "started" and told["connected"] and coordinator.link.online()
    pid = told["pid"]
    assert json.loads(_client("stop", str(site.folder.site_yaml), "--json")[1]) == {"stopped": pid}


def test_joined_and_started_in_one_command_it_tells_in_front_whether_it_has_connected(running, tmp_path):
    coordinator, _ = running(start=False)
    (tmp_path / "token").write_text(coordinator.invite())
    (tmp_path / "given.yaml").write_text(site_yaml(tmp_path))
    words = ("--token-file", str(tmp_path / "token"), "--folder", str(tmp_path / "site"), "--detach")
    address = f"127.0.0.1:{coordinator.port}"
    assert _client("join", address, *words)[0] == 2 and not (tmp_path / "site").exists()
    code, out, err = _client("join", address, *words, "--start", "--site-file", str(tmp_path / "given.yaml"))
    assert code == 0, err
    first, kept, second = out.splitlines()
    assert "has joined" in first and str(tmp_path / "site.key") in kept and second.endswith(f"connected to {address}")
    file = tmp_path / "site" / "site.yaml"
    assert _client("stop", str(file))[0] == 0
    # Without a coordinator it starts too, and says so.
    coordinator.down()
    code, out, err = _client("start", str(file), "--detach", "--json")
    told = json.loads(out.splitlines()[-1])
    assert code == 0 and told["event"] == "started" and not told["connected"] and told["code"] in ("FK747", "FK756")
    assert json.loads(_client("stop", str(file), "--json")[1]) == {"stopped": told["pid"]}


def test_a_running_site_heeds_a_withdrawal_in_its_next_round(running):
    from fedkit_client.lineage import rounds_of

    coordinator, site = running(start=False)
    rows = "".join(f"p{n},{20 + n},{60 + n},{n % 2}\n" for n in range(RECORDS))
    (site.folder.path / "table.csv").write_text(f"pid,age,rate,died\n{rows}")
    values = json.loads(site.folder.site_yaml.read_text())
    values["data"][DATASET] |= {"unit": "patient", "unit_column": "pid"}
    site.folder.site_yaml.write_text(json.dumps(values))
    site.start().event("connected")
    job = coordinator.job("leaving", experiment("data.unit_column=pid"))
    assert not coordinator.ask(coordinator.request(job, "train", 1, model(SIZE))).has_error()
    words = [*FEDKIT, "client", "withdraw", str(site.folder.site_yaml), "--data", DATASET, "--file", "-"]
    subprocess.run(words, input="p7\np8\n", text=True, check=True, env={**os.environ, **NO_PROXY})
    assert not coordinator.ask(coordinator.request(job, "train", 2, model(SIZE))).has_error()
    told = rounds_of(open_site(site.folder.site_yaml).folder, "leaving")
    assert [(each["round"], each["units"]) for each in told] == [(1, RECORDS), (2, RECORDS - 2)]
    assert "p7" not in site.log()
