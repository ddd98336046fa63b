"""A run waits for a person: who decides is told what is new, and what cannot be read approves nothing."""

import json
import multiprocessing
import os
import stat
import time
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from fedkit_client.approvals import MOST_OPEN, Approvals
from fedkit_client.asked import Asked, asked_run
from fedkit_client.deciding import described, text_of
from fedkit_client.explain import Told, explain
from fedkit_client.template import example_file

from fedkit.cli.main import main
from fedkit.errors import DeploymentError, FederationError
from fedkit.federation import wire
from fedkit.federation.enrolled import make_enrolments
from fedkit.governance.terms import Hours
from fedkit.storage.keys import new_signing_key
from tests.clients.coordinator import DATASET, SITE, experiment, model

SIZE = 5
MANUAL = {"approval": "manual"}


@pytest.fixture
def manual(bench):
    return bench(policy=MANUAL)


def train(made, job, number=1):
    return made.keeper.answer("train", made.coordinator.request(job, "train", number, model(SIZE)))


def cli(capsys, *words):
    with pytest.raises(SystemExit) as left:
        main(["client", *map(str, words)])
    return left.value.code or 0, capsys.readouterr().out


def approvals(made):
    return Approvals(made.folder.approvals_file)


def test_a_run_waits_is_shown_approved_trains_and_is_denied_again(manual, capsys):
    job = manual.coordinator.job()
    assert train(manual, job) == "FK577" and manual.charged() == 0
    code, out = cli(capsys, "requests", manual.folder.site_yaml)
    assert code == 0 and "run-1: requested, and not decided" in out and job.digest in out and "purpose testing" in out
    assert "its whole config" in out and "training.local_steps: 2" in out
    code, out = cli(capsys, "approve", manual.folder.site_yaml, "run-1", "--days", 2)
    assert code == 0 and "approved until" in out
    assert wire.unpack_update(train(manual, job), SITE, SIZE).weight > 0
    assert "no run waits" in cli(capsys, "requests", manual.folder.site_yaml)[1]
    assert cli(capsys, "deny", manual.folder.site_yaml, "run-1", "--reason", "no vote")[0] == 0
    spent = manual.charged()
    assert train(manual, job, 2) == "FK577" and train(manual, job) == "FK577" and manual.charged() == spent


def test_a_decision_is_in_the_audit_log_or_is_no_approval(manual, capsys):
    train(manual, job := manual.coordinator.job())
    yaml, log = manual.folder.site_yaml, manual.folder.path / "audit.jsonl"
    assert cli(capsys, "approve", yaml, "run-1", "--days", 2)[0] == 0
    assert cli(capsys, "deny", yaml, "run-1", "--reason", "the ward said no")[0] == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    told = [(line["kind"], line["run"], line["job"]) for line in lines if line["kind"] in ("approved", "denied")]
    assert told == [("approved", "run-1", job.digest), ("denied", "run-1", job.digest)]
    assert "the ward" not in log.read_text()
    log.unlink()
    log.mkdir()
    assert cli(capsys, "approve", yaml, "run-1")[0] != 0
    assert approvals(manual).standing(job.digest, time.time()).startswith("denied")
    assert cli(capsys, "deny", yaml, "run-1", "--reason", "still no")[0] == 0


def test_an_approval_is_of_the_exact_job(manual):
    train(manual, first := manual.coordinator.job())
    approvals(manual).approve("run-1", 30, time.time())
    assert not isinstance(train(manual, first), str)
    assert train(manual, manual.coordinator.job("run-2")) == "FK577"
    other = manual.coordinator.job("run-1", experiment("seed=7"))
    assert train(manual, other) == "FK577"
    with pytest.raises(DeploymentError, match="2 jobs call themselves run-1") as caught:
        approvals(manual).approve("run-1", 30, time.time())
    assert caught.value.code == "FK763" and other.digest in str(caught.value)
    approvals(manual).deny(other.digest, "no", time.time())
    assert not isinstance(train(manual, first), str)


def test_an_approval_expires(manual):
    train(manual, job := manual.coordinator.job())
    now = time.time()
    approvals(manual).approve("run-1", 1, now - 86_390)
    assert approvals(manual).standing(job.digest, now) == "approved"
    assert approvals(manual).standing(job.digest, now + 20) == "expired"
    approvals(manual).approve("run-1", 1, now - 90_000)
    assert train(manual, job) == "FK577"
    assert [run.run for run in approvals(manual).read().open(now)] == ["run-1"]


@pytest.mark.parametrize("days", [0, -1, 367, float("nan"), float("inf")])
def test_days_have_bounds(manual, days):
    train(manual, manual.coordinator.job())
    with pytest.raises(DeploymentError, match=r"FK707.*more than 0 and at most 366 days; --days is"):
        approvals(manual).approve("run-1", days, time.time())


def test_what_is_new_since_the_last_approved_run_is_shown(manual, capsys):
    train(manual, manual.coordinator.job())
    approvals(manual).approve("run-1", 30, time.time())
    train(manual, manual.coordinator.job("run-2", experiment("federation.num_rounds=9", "training.learning_rate=0.1")))
    told = json.loads(cli(capsys, "requests", manual.folder.site_yaml, "--json")[1])["requests"]
    assert [each["run"] for each in told] == ["run-2"] and told[0]["last_approved"] == "run-1"
    assert told[0]["differences"] == {
        "training.learning_rate": {"approved": "0.5", "asked": "0.1"},
        "federation.num_rounds": {"approved": "5", "asked": "9"},
    }
    _, out = cli(capsys, "approve", manual.folder.site_yaml, "run-2")
    assert "differs from run-1" in out and "federation.num_rounds: 5 -> 9" in out
    train(manual, manual.coordinator.job("run-3", experiment("federation.num_rounds=9", "training.learning_rate=0.1")))
    assert "the same config as that of run-2" in cli(capsys, "requests", manual.folder.site_yaml)[1]


def test_what_a_config_says_cannot_move_a_cursor(manual):
    train(manual, job := manual.coordinator.job("run-1", experiment("data.description='a\x1b[31mb'")))
    record = approvals(manual).read()
    assert "\x1b" not in text_of(described(record.requests[job.digest], record, time.time()))


def test_a_run_that_another_clause_refuses_is_no_request(manual):
    assert train(manual, manual.coordinator.job("run-1", experiment("purpose=marketing"))) == "FK570"
    assert not manual.folder.approvals_file.exists()


def test_the_coordinator_learns_no_reason_and_the_log_no_traceback(manual, caplog):
    with caplog.at_level("INFO"):
        assert train(manual, manual.coordinator.job()) == "FK577"
    assert "Traceback" not in caplog.text and "requests SITE.yaml" in caplog.text


BROKEN = {
    "cut": lambda text: text[:-3], "no JSON": lambda text: text + b"{\n", "a blank line": lambda text: b"\n" + text,
    "another kind": lambda text: text.replace(b'"approved","at"', b'"allowed","at"'),
    "a field more": lambda text: text.replace(b'"until":', b'"x":1,"until":'),
    "a key twice": lambda text: text.replace(b'"until":', b'"until":9e9,"until":'),
    "an approval of nothing": lambda text: text.split(b"\n", 1)[1],
    "no end": lambda text: text.replace(b'"until":', b'"until":null,"reason":'),
    "binary": lambda text: b"\x00\xff" + text, "a list": lambda text: text + b"[]\n",
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_approves_nothing_and_is_left_as_it_is(manual, name, capsys):
    train(manual, job := manual.coordinator.job())
    approvals(manual).approve("run-1", 30, time.time())
    path = manual.folder.approvals_file
    broken = BROKEN[name](path.read_bytes())
    assert broken != path.read_bytes()
    path.write_bytes(broken)
    assert train(manual, job) == "FK577" and manual.charged() == 0
    for words in (("requests",), ("approve", "run-1"), ("deny", "run-1", "--reason", "x")):
        with pytest.raises(DeploymentError, match="FK765"):
            _raises(words, manual)
    assert path.read_bytes() == broken


def _raises(words, made):
    file = approvals(made)
    {"requests": lambda: file.read(), "approve": lambda: file.approve("run-1", 1, time.time()),
     "deny": lambda: file.deny("run-1", "x", time.time())}[words[0]]()  # fmt: skip


def test_a_file_that_others_can_write_approves_nothing(manual):
    train(manual, job := manual.coordinator.job())
    approvals(manual).approve("run-1", 30, time.time())
    assert stat.S_IMODE(manual.folder.approvals_file.stat().st_mode) == 0o600
    manual.folder.approvals_file.chmod(0o620)
    assert train(manual, job) == "FK577"
    manual.folder.approvals_file.chmod(0o600)
    assert not isinstance(train(manual, job), str)
    manual.folder.approvals_file.rename(manual.folder.path / "away")
    assert train(manual, job) == "FK577"
    manual.folder.approvals_file.unlink()
    manual.folder.approvals_file.mkdir()
    assert train(manual, job) == "FK577"


def test_a_line_that_was_written_stays(manual):
    path, before = manual.folder.approvals_file, b""
    for number in range(3):
        # One job: two would differ where the second changes between them.
        job = manual.coordinator.job(f"run-{number}")
        train(manual, job)
        train(manual, job)
        approvals(manual).approve(f"run-{number}", 1, time.time())
        approvals(manual).deny(f"run-{number}", "no", time.time())
        assert path.read_bytes().startswith(before)
        before = path.read_bytes()
    kinds = [json.loads(line)["kind"] for line in before.splitlines()]
    assert kinds == ["requested", "approved", "denied"] * 3


@pytest.mark.slow
def test_requests_that_nobody_decides_do_not_fill_the_disk(manual):
    opened = manual.coordinator.opened(manual.coordinator.job())
    run, now, file = asked_run(opened, (), time.time()), time.time(), approvals(manual)
    assert all(file.note(replace(run, run=f"r{n}", job=f"{n:064}"), now) for n in range(MOST_OPEN))
    assert not file.note(replace(run, run="one-more", job="f" * 64), now)
    file.deny("r0", "no", now)
    assert file.note(replace(run, run="one-more", job="f" * 64), now)


def test_large_requests_leave_room_for_decisions(manual, monkeypatch):
    monkeypatch.setattr("fedkit_client.approvals._MOST_BYTES", 40_000)
    opened, now, file = manual.coordinator.opened(manual.coordinator.job()), time.time(), approvals(manual)
    run = asked_run(opened, (), now)
    noted = [file.note(replace(run, run=f"r{n}", job=f"{n:064}"), now) for n in range(30)]
    assert noted[0] and not noted[-1] and noted == sorted(noted, reverse=True)
    for _ in range(20):
        file.deny("r0", "no", now)


def test_what_is_remembered_for_explanations_stays_small(manual):
    opened, asked = manual.coordinator.opened(manual.coordinator.job()), Asked(manual.folder.path / "asked.json")
    run = asked_run(opened, (), time.time())
    for n in range(4):
        config = {**run.config, "data": {**run.config["data"], "description": "x" * 900_000}}
        asked.note(replace(run, run=f"r{n}", job=f"{n:064}", config=config))
    assert [each.run for each in asked.runs()] == ["r2", "r3"]


def _many(path, run, start):
    start.wait()
    for _ in range(20):
        Approvals(path).deny(run, "x" * 1000, time.time())


def test_processes_that_decide_at_once_lose_no_line(manual):
    for name in ("a", "b", "c"):
        train(manual, manual.coordinator.job(name))
    context = multiprocessing.get_context("fork")
    start = context.Event()
    workers = [context.Process(target=_many, args=(manual.folder.approvals_file, n, start)) for n in ("a", "b", "c")]
    for worker in workers:
        worker.start()
    start.set()
    for worker in workers:
        worker.join(60)
    assert len(manual.folder.approvals_file.read_bytes().splitlines()) == 3 + 60
    approvals(manual).read()


def test_a_killed_writer_leaves_the_file_whole(manual):
    train(manual, manual.coordinator.job())
    context = multiprocessing.get_context("fork")
    for _ in range(6):
        start = context.Event()
        worker = context.Process(target=_many, args=(manual.folder.approvals_file, "run-1", start))
        worker.start()
        start.set()
        time.sleep(0.03)
        os.kill(worker.pid, 9)
        worker.join(20)
        approvals(manual).read()
    assert len(manual.folder.approvals_file.read_bytes().splitlines()) > 3


def test_hours_are_checked_on_every_message(bench):
    zone = {"days": ["mon"], "from": "00:00", "to": "24:00", "timezone": "UTC"}
    made = bench(policy={"hours": zone})
    job, now = made.coordinator.job(), time.time()
    weekday = int(now // 86_400 + 3) % 7
    monday = now - weekday * 86_400 if weekday else now
    inside = replace(made.keeper, clock=lambda: now)
    code = inside.answer("train", made.coordinator.request(job, "train", 1, model(SIZE)))
    assert (code == "FK576") == (weekday != 0) and monday <= now


def test_an_answered_round_is_not_given_again_outside_the_hours(bench):
    made = bench()
    job = made.coordinator.job()
    assert not isinstance(train(made, job), str)

    own = made.keeper.file.data[DATASET]
    yesterday = (datetime.now(UTC).weekday() - 1) % 7
    closed = replace(own, policy=replace(own.policy, hours=Hours((yesterday,), 0, 1440, "UTC")))
    keeper = replace(made.keeper, file=replace(made.keeper.file, data={DATASET: closed}))
    again = made.coordinator.request(job, "train", 1, model(SIZE))
    assert keeper.answer("train", again) == "FK576"
    end = made.coordinator.request(job, "end", 1, model(0))
    assert not isinstance(keeper.answer("query", end), str)


def test_other_sites_count_by_the_coordinators_word(bench):
    made = bench(policy={"min_other_sites": 1})
    config = experiment()
    job = made.coordinator.job(config=replace(config, data=replace(config.data, records={SITE: 60, "south": 60})))
    coordinator, keys = made.coordinator, {name: new_signing_key().public for name in (SITE, "south", "west")}

    def ask(names, key=coordinator.key):
        sealed = make_enrolments(coordinator.federation, names, keys, key, time.time())
        return made.keeper.answer("train", coordinator.request(job, "train", 1, model(SIZE), enrolments=sealed))

    assert ask(()) == "FK578" and ask((SITE,)) == "FK578" and ask((SITE, "west")) == "FK578"
    assert ask(("south",), new_signing_key()) == "FK541" and ask(("south", "south")) == "FK542"
    assert made.charged() == 0
    assert not isinstance(ask((SITE, "south")), str)


def test_a_run_that_was_asked_for_is_explained_by_the_same_function(manual, capsys):
    train(manual, manual.coordinator.job())
    code, out = cli(capsys, "explain", manual.folder.site_yaml, "run-1", "--json")
    told = json.loads(out)
    assert code == 1 and not told["admitted"] and told["what"] == "run run-1"
    assert [(c["code"], c["verdict"]) for c in told["clauses"] if not c["holds"]] == [("FK577", "waits")]
    approvals(manual).approve("run-1", 1, time.time())
    code, out = cli(capsys, "explain", manual.folder.site_yaml, "run-1")
    assert code == 0 and "admitted: every clause holds" in out and "FK573" in out and "at most 100" in out


def test_a_run_that_was_refused_is_explained_too_and_what_is_remembered_may_be_lost(bench, capsys):
    made = bench()
    assert train(made, made.coordinator.job("r", experiment("purpose=marketing"))) == "FK570"
    code, out = cli(capsys, "explain", made.folder.site_yaml, "r")
    assert code == 1 and "refused (FK570): policy.purposes: the purpose is 'marketing'" in out
    made.folder.asked_file.write_text("[1, {")
    assert Asked(made.folder.asked_file).runs() == []
    assert train(made, made.coordinator.job("r", experiment("purpose=marketing"))) == "FK570"
    assert Asked(made.folder.asked_file).find("r") is not None


def test_a_run_that_nobody_asked_for_is_no_experiment_and_the_newest_are_named(bench, capsys):
    made = bench()
    made.keeper.answer("train", made.coordinator.request(made.coordinator.job("r"), "train", 1, model(SIZE)))
    with pytest.raises(FederationError, match=r"FK763.*20260101-120000-heart.*the newest are r\b"):
        explain(made.folder.site_yaml, "20260101-120000-heart-abcdef", (), Told())
    # Whatever else is spelled as no experiment is: a rehearsal's run, which an alert names.
    with pytest.raises(
        FederationError, match=r"FK763.*rehearsal-unknown.*still remembers.*the last 30.*retention\.caches"
    ):
        explain(made.folder.site_yaml, "rehearsal-unknown", (), Told())


def test_a_data_set_s_name_alone_is_told_how_it_is_given(bench):
    with pytest.raises(FederationError, match=rf"FK763.*is a data set of {SITE}.*write data={DATASET}"):
        explain(bench().folder.site_yaml, DATASET, (), Told())


def test_an_experiment_is_explained_with_the_sites_own_records(tmp_path, capsys):

    path = tmp_path / "site.yaml"
    path.write_text(example_file("cleveland"))
    code, out = cli(capsys, "explain", path, "heart_disease", "--json")
    told = {clause["code"]: clause for clause in json.loads(out)["clauses"]}
    assert code == 0 and told["FK562"]["value"] == "303" and told["FK569"]["value"] == "secure"
    code, out = cli(capsys, "explain", path, "heart_disease", "purpose=null", "federation.num_rounds=500", "--json")
    refused = {clause["code"]: clause for clause in json.loads(out)["clauses"] if not clause["holds"]}
    assert code == 1 and set(refused) == {"FK570", "FK573"}
    assert (refused["FK573"]["value"], refused["FK573"]["bound"]) == ("500", "at most 100")
    path.write_text(example_file("cleveland").replace("submitters: any", "submitters: [ana]"))
    assert cli(capsys, "explain", path, "heart_disease")[0] == 1
    assert cli(capsys, "explain", path, "heart_disease", "--submitter", "ana")[0] == 0
    assert np.isfinite(float(told["FK567"]["value"]))
