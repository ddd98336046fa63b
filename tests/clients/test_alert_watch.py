"""A site that looks at itself: a real folder, real rounds, a real receiver and scrape, and the test's own clock."""

import http.client
import json
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import replace

import pytest
from fedkit_client.alert_book import AlertBook
from fedkit_client.alert_look import CERTIFICATE, Look, standing
from fedkit_client.alert_watch import Pulse, Watch, watch_of
from fedkit_client.audit import Trail, record
from fedkit_client.cli import main
from fedkit_client.gatekeeper import handle
from fedkit_client.start import open_site
from fedkit_client.state import State

from fedkit.errors import DeploymentError
from fedkit.storage.audit import Log
from fedkit.storage.audit_verify import readable_lines
from fedkit.storage.keys import load_signing_key
from tests.clients.coordinator import DATASET, SITE, UNPROTECTED, experiment, free_port, model
from tests.clients.receivers import Hook

from fedkit_client.answers import from_frame  # isort: skip

SIZE = 5
PLANTED = "table.csv"


class Owned:
    """A clock that stands until the test moves it."""

    def __init__(self):
        self.now = time.time()

    def __call__(self):
        return self.now


def train(bench, job, number=1, values=None):
    """One round as the node and its child do it; what was sent."""
    folder = bench.folder
    trail = Trail(folder, SITE, load_signing_key(folder.signing_key))
    keeper = replace(bench.keeper, findings=type(bench.keeper.findings)())
    request = bench.coordinator.request(job, "train", number, model(SIZE) if values is None else values)
    header = {"kind": "train", "order": request.order, "job": request.job, "keyring": list(request.keyring)}
    told, body = handle(keeper)(header, request.parameters.tobytes())
    trail.begin()
    trail.child(told)
    content = told["code"] if "code" in told else from_frame(told, body)
    return trail.sealed(content, "train", job_name(job), number)


def job_name(job):
    return json.loads(job.payload)["run"]


@pytest.fixture
def watch(bench):
    def make(clock=None, **changes):
        made = bench(**changes)
        opened = open_site(made.folder.site_yaml)
        state = State(made.folder.state_file, 1, "0")
        clock = clock or Owned()
        found = watch_of(opened, load_signing_key(made.folder.signing_key).public, state)
        found.clock = clock
        found.pulse = Pulse(clock)
        found.shown = lambda: clock.now + 300 * 86_400
        return made, found, clock

    return make


def keys(watch):
    watch.once()
    return {alert.key for alert in watch.figures.alerts}


def test_a_round_leaves_its_norm_bounds_and_config_in_the_log_and_a_new_config_is_told_once(watch):
    made, found, clock = watch()
    content = train(made, made.coordinator.job("run-a"))
    (line,) = readable_lines(made.folder.audit, ("released",))
    norm = float((content["arrays"]["parameters"].numpy().astype("f8") ** 2).sum() ** 0.5)
    assert line.fields["norm"] == pytest.approx(norm) and line.fields["norm_most"] > norm >= line.fields["norm_least"]
    (admitted,) = readable_lines(made.folder.audit, ("admitted",))
    assert admitted.fields["study"] == "none" and admitted.fields["for_purpose"] == "testing"
    assert admitted.fields["submitter_key"] == made.coordinator.root.fingerprint
    key = f"config:{admitted.fields['config']}"
    assert keys(found) == {key}
    train(made, made.coordinator.job("run-b"))
    assert keys(found) == {key}
    train(made, made.coordinator.job("run-c", experiment("training.local_steps=1")))
    assert len(keys(found)) == 2
    clock.now += 86_500
    found.pulse.beat()
    assert keys(found) == set()


def test_real_updates_of_a_larger_model_lie_within_bounds_that_say_something(watch):
    from fedkit.training.model import declared_model

    made, found, _ = watch()
    config = experiment("model=mlp", "training.local_steps=3")
    size = sum(part.numel() for part in declared_model(config, None, values=False).parameters())
    job = made.coordinator.job("run-m", config)
    for number in range(1, 5):
        train(made, job, number, model(size))
    lines = [line.fields for line in readable_lines(made.folder.audit, ("released",))]
    assert len(lines) == 4 and size > 150
    for told in lines:
        assert 0 < told["norm_least"] <= told["norm"] <= told["norm_most"]
    assert not any(key.startswith("norm") for key in keys(found))


def test_of_an_answer_without_privacy_no_norm_is_taken(watch):
    made, _, _ = watch(data={"allow_unprotected": True})
    train(made, made.coordinator.job("open", experiment(*UNPROTECTED)))
    (line,) = readable_lines(made.folder.audit, ("released",))
    assert line.fields["guarantee"] == "none" and not any(name.startswith("norm") for name in line.fields)


def test_a_budget_that_a_real_ledger_charged_is_told_at_its_share(watch):
    made, found, _ = watch(data={"max_epsilon": 4.0}, alerts={"budget": [0.05, 0.999]})
    assert not any(key.startswith("budget") for key in keys(found))
    train(made, made.coordinator.job("run-a"))
    assert f"budget:{DATASET}:0.05" in keys(found)
    # The share that the log's line tells is the ledger's own.
    budget = found.figures.facts.budgets[DATASET]
    (line,) = readable_lines(made.folder.audit, ("reserved",))
    assert budget.share(line.fields["epsilon_spent"]) == pytest.approx(budget.spent, abs=1e-4)


def test_a_ledger_and_a_log_that_were_altered_are_told_and_a_restored_one_is_over(watch):
    made, found, clock = watch()
    train(made, made.coordinator.job("run-a"))
    assert not any(key.startswith("chain") for key in keys(found))
    ledger = made.folder.ledger(DATASET)
    good = ledger.read_bytes()
    with closing(sqlite3.connect(ledger)) as database:
        database.execute("DROP TRIGGER chain_is_fixed")
        database.execute("UPDATE chain SET body = replace(body, 'run-a', 'run-b')")
        database.commit()
    assert f"chain:ledgers/{DATASET}.sqlite" in keys(found)
    ledger.write_bytes(good)
    assert f"chain:ledgers/{DATASET}.sqlite" not in keys(found)
    log = made.folder.audit.read_bytes()
    made.folder.audit.write_bytes(b"".join(log.splitlines(keepends=True)[:-1]))
    assert "chain:audit.jsonl" in keys(found)
    # Another process knows where the log had ended.
    opened = open_site(made.folder.site_yaml)
    alerts, _ = standing(opened.file, opened.folder, load_signing_key(opened.folder.signing_key).public, clock.now)
    assert any(alert.key == "chain:audit.jsonl" and "missing" in alert.text for alert in alerts)


def test_silence_is_told_by_the_clock_and_a_word_ends_it(watch):
    _, found, clock = watch(alerts={"silent": 15})
    clock.now += 15 * 60 - 1
    assert keys(found) == set()
    clock.now += 1
    assert keys(found) == {"silent"}
    found.pulse.beat()
    assert keys(found) == set()


def test_a_certificate_that_is_asked_for_once_a_day(watch):
    _, found, clock = watch()
    asked, end = [], clock.now + 20 * 86_400

    def shown():
        asked.append(clock.now)
        return end

    found.shown = shown
    assert keys(found) == {f"certificate:{CERTIFICATE}:{end:.0f}"}
    clock.now += 3600
    keys(found)
    assert len(asked) == 1
    clock.now += 86_400
    keys(found)
    assert len(asked) == 2


@pytest.fixture
def hook(tmp_path):
    found = Hook(tmp_path)
    yield found
    found.close()


def channel(hook, tmp_path):
    (tmp_path / "secret").write_text("0123456789abcdef")
    (tmp_path / "secret").chmod(0o600)
    return {"webhook": {"url": hook.url, "secret_file": str(tmp_path / "secret"), "ca_file": str(hook.ca_file)}}


def test_a_refusal_reaches_a_real_receiver_once_and_again_when_it_is_over(watch, hook, tmp_path):
    made, found, clock = watch(alerts=channel(hook, tmp_path))
    record(made.folder, "refused", run="r", purpose="train", round=1, code="FK567")
    found.once()
    found.once()
    clock.now += 3700
    found.pulse.beat()
    found.once()
    told = [json.loads(body) for _, body in hook.taken]
    assert [(each["key"], each["state"]) for each in told] == [
        ("refused:FK567", "raised"),
        ("refused:FK567", "cleared"),
    ]
    # Nothing of the table, the folder or the reason.
    assert PLANTED not in str(hook.taken) and str(made.folder.path) not in str(hook.taken)


def test_a_receiver_that_fails_loses_nothing_and_its_failure_is_seen(watch, hook, tmp_path):
    made, found, clock = watch(alerts=channel(hook, tmp_path))
    hook.status = 503
    record(made.folder, "refused", run="r", purpose="train", round=1, code="FK541")
    found.once()
    assert "channel:webhook" in keys(found) and "HTTP 503" in str(found.figures.alerts)
    hook.taken.clear()
    hook.status = 200
    clock.now += 601
    found.once()
    assert [json.loads(body)["key"] for _, body in hook.taken] == ["refused:FK541"]
    assert "channel:webhook" not in keys(found)


def test_a_library_that_fails_in_one_channel_keeps_no_other_from_being_told(watch):
    made, found, _ = watch(alerts={"syslog": {"address": "udp://127.0.0.1:9", "least": "info"}})
    told = []

    def broken(body, now):
        raise KeyError("x")

    found.channels = {"syslog": broken, "other": lambda body, now: told.append(body)}
    record(made.folder, "refused", run="r", purpose="train", round=1, code="FK541")
    found.book.settle((), {}, 1.0, SITE, 0.0)
    found.look.file.alerts.channels["other"] = "info"
    found.once()
    assert told and found.book.channels(["syslog"], found.clock())["syslog"].why == "KeyError"


def _scrape(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


def _until(done, seconds=30.0):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_real_scrape_tells_budgets_answers_and_alerts(watch):
    port = free_port()
    made, found, clock = watch(alerts={"prometheus": f"127.0.0.1:{port}"})
    train(made, made.coordinator.job("run-a"))
    record(made.folder, "refused", run="r", purpose="train", round=1, code="FK567")
    found.start()
    try:
        _until(lambda: found.figures.at)
        told = _scrape(port)
    finally:
        found.stop()
    assert float(told[f'fedkit_site_budget{{dataset="{DATASET}",part="spent"}}']) > 0
    assert (
        told['fedkit_site_requests_total{code="answered"}'] == told['fedkit_site_requests_total{code="FK567"}'] == "1.0"
    )
    assert told['fedkit_site_alerts{rule="refused",severity="warning"}'] == "1.0"
    assert float(told["fedkit_site_coordinator_heard_seconds"]) == pytest.approx(clock.now, abs=1)
    with pytest.raises(ConnectionRefusedError):
        _scrape(port)


def test_a_port_that_is_taken_is_an_alert_and_ends_nothing(watch):
    port = free_port()
    _, one, _ = watch(alerts={"prometheus": f"127.0.0.1:{port}"})
    two = Watch(one.look, one.book, one.pulse, one.problem, clock=one.clock)
    two.look = Look(one.look.file, one.look.folder, one.look.public)
    one.start()
    _until(lambda: one.figures.at)
    two.start()
    try:
        _until(lambda: two.figures.at)
        assert any(alert.key == "channel:prometheus" for alert in two.figures.alerts)
    finally:
        one.stop()
        two.stop()


def test_a_book_that_cannot_be_used_ends_no_look(watch):
    made, found, _ = watch()
    made.folder.alerts.mkdir()
    record(made.folder, "refused", run="r", purpose="train", round=1, code="FK541")
    with pytest.raises(DeploymentError):
        found.once()
    assert [alert.key for alert in found.figures.alerts] == ["refused:FK541"]


def test_many_lines_are_looked_at_in_a_moment_and_a_look_at_nothing_new_is_nothing(watch):
    made, found, clock = watch()
    log = Log(made.folder.audit, load_signing_key(made.folder.signing_key), clock)
    from fedkit.storage.audit_line import Event

    for _ in range(100):
        log.append(*[Event("requested", {"run": "r", "purpose": "train", "round": 1}) for _ in range(100)])
    began = time.monotonic()
    found.once()
    assert time.monotonic() - began < 10
    spent = time.thread_time()
    for _ in range(20):
        found.once()
    # Every 15 s one: below 2 % of a core by far.
    assert (time.thread_time() - spent) / 20 < 0.15


def _run(words, capsys):
    code = 0
    try:
        main(list(words))
    except BaseException as error:
        code = getattr(error, "exit_code", 2)
    return code, capsys.readouterr().out


def test_the_command_lists_what_stands_and_tests_the_channels(watch, hook, tmp_path, capsys):
    made, _, _ = watch(alerts=channel(hook, tmp_path))
    file = str(made.folder.site_yaml)
    code, out = _run(["alerts", file], capsys)
    assert code == 0 and "nothing stands" in out
    record(made.folder, "refused", run="r", purpose="train", round=1, code="FK541")
    code, out = _run(["alerts", file, "--json"], capsys)
    told = json.loads(out)
    assert code == 1 and [each["key"] for each in told["alerts"]] == ["refused:FK541"]
    assert told["channels"]["webhook"]["queued"] == 0
    code, out = _run(["alerts", file, "--test", "--json"], capsys)
    assert code == 0 and json.loads(out) == {"channels": {"webhook": ""}}
    ((_, body),) = hook.taken
    assert json.loads(body)["state"] == "test"
    hook.status = 500
    code, out = _run(["alerts", file, "--test"], capsys)
    assert code == 1 and "HTTP 500" in out
    # Looking and testing leave nothing behind.
    assert not made.folder.alerts.exists()


def test_one_alert_is_one_and_a_test_without_a_channel_says_what_to_write(watch, capsys):
    made, _, _ = watch()
    record(made.folder, "refused", run="r", purpose="train", round=1, code="FK541")
    assert f"{SITE}: 1 alert\n" in _run(["alerts", str(made.folder.site_yaml)], capsys)[1]
    with pytest.raises(DeploymentError, match=r"FK786.*alerts\.webhook or alerts\.syslog"):
        main(["alerts", str(made.folder.site_yaml), "--test"])


def test_a_thread_that_watches_keeps_no_process_alive(watch):
    _, found, _ = watch()
    found.start()
    thread = next(each for each in threading.enumerate() if each.name == "alerts")
    assert thread.daemon
    found.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert AlertBook(found.book.path).recall()["head"][0] == 0
