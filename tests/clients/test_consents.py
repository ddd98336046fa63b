"""Consent and withdrawal at a site: what a round reads, what it leaves behind, and what counts from the next one on."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time

import pytest
from fedkit_client import consent_commands, lineage, withdrawals
from fedkit_client.pseudonyms import pseudonym_key, unit_pseudonym

from fedkit.cli.main import main
from fedkit.errors import DeploymentError, FederationError
from fedkit.federation import wire
from tests.clients.coordinator import DATASET, SITE, model

SIZE, PURPOSE = 5, "research"
N = 40


@pytest.fixture
def purposed(monkeypatch):
    """What the run says that it is for."""

    def say(purpose):
        monkeypatch.setattr("fedkit_client.gatekeeper.purpose_of", lambda config: purpose)

    say(PURPOSE)
    return say


@pytest.fixture
def consenting(bench, tmp_path, purposed):
    """A site whose patients p0 to p39 all consent, by a register beside the table."""

    def make(who=range(N), consent="register", **data):
        folder = tmp_path / "tables"
        folder.mkdir(exist_ok=True)
        rows = "".join(f"p{n},{20 + n},{60 + n},{n % 2},{'yes' if n in set(who) else 'no'}\n" for n in range(N))
        (folder / "icu.csv").write_text("pid,age,rate,died,said\n" + rows)
        entries = "".join(f"p{n},{PURPOSE},2020-01-01,\n" for n in who)
        (folder / "consent.csv").write_text("pid,purpose,from,until\n" + entries)
        register = {"source": {"kind": "csv", "path": str(folder / "consent.csv")}, "unit": "pid", "purpose": "purpose",
                    "from": "from", "until": "until"}  # fmt: skip
        terms = {
            "register": {"unit": "pid", "register": register},
            "column": {"unit": "pid", "column": {"name": "said", "values": ["yes"]}},
            "unit": {"unit": "pid"},
        }[consent]
        given = {"source": {"kind": "csv", "path": str(folder / "icu.csv")}, "consent": terms, **data}
        return bench(data={key: value for key, value in given.items() if value is not None})

    return make


def ask(made, number=1, run="run-1", kind="train"):
    # One job a run: signed a second later it would be another one.
    jobs = made.__dict__.setdefault("jobs", {})
    job = jobs[run] = jobs.get(run) or made.coordinator.job(run)
    return made.keeper.answer(kind, made.coordinator.request(job, kind, number, model(SIZE)))


def command(made, name, *words, stdin="", data=DATASET):
    given = ["--data", data] if data else []
    line = [sys.executable, "-m", "fedkit", "client", name, str(made.folder.site_yaml), *given, "--json", *words]
    done = subprocess.run(line, input=stdin, capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def read(made, run="run-1"):
    return {(each["kind"], each["round"]): each["units"] for each in lineage.rounds_of(made.folder, run)}


@pytest.mark.parametrize("consent", ["register", "column"])
def test_a_round_reads_who_consents_and_leaves_their_pseudonyms(consenting, consent):
    made = consenting(range(25), consent)
    update = wire.unpack_update(ask(made), SITE, SIZE)
    assert update.weight == 0.75 * 60
    assert read(made) == {("train", 1): 25}
    assert [run["train"] for run in lineage.runs_with(made.folder, DATASET, "p24")] == [[1]]
    assert lineage.runs_with(made.folder, DATASET, "p25") == []
    folder = b"".join(path.read_bytes() for path in made.folder.path.iterdir() if path.is_file())
    assert b"p24" not in folder
    for path in (made.folder.lineage, made.folder.pseudonym_key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_run_without_a_purpose_reads_nothing_holds_nothing_and_hears_why(consenting, purposed, monkeypatch):
    made = consenting()
    before = made.entries()
    monkeypatch.setattr("fedkit.data.load.load_site_dataset", lambda *a, **k: pytest.fail("a record was read"))
    for purpose in (None, ""):
        purposed(purpose)
        assert ask(made) == "FK590"
    assert made.entries() == before


def test_a_register_that_is_not_there_is_named_by_its_own_key(consenting, tmp_path):
    from fedkit_client.tables import look_at_tables

    made = consenting()
    (tmp_path / "tables" / "consent.csv").unlink()
    (look, *_) = look_at_tables(made.keeper.file, made.folder)
    assert look.code == "FK201" and f"data.{DATASET}.consent.register.source.path" in look.check.remedy
    (tmp_path / "tables" / "icu.csv").unlink()
    (look, *_) = look_at_tables(made.keeper.file, made.folder)
    assert "icu.csv" in look.check.found and f"data.{DATASET}.source.path" in look.check.remedy


def test_another_purpose_gets_an_answer_of_no_record(consenting, purposed):
    made = consenting()
    purposed("billing")
    assert not isinstance(ask(made), str)
    assert read(made) == {("train", 1): 0}


@pytest.mark.deploy
def test_a_withdrawal_counts_from_the_next_round_on(consenting):
    made = consenting()
    first = ask(made)
    status, told = command(made, "withdraw", stdin="p3\np7.0\n\np9\n")
    assert status == 0 and told["given"] == 3 and told["changed"] == 3 and told["used_before"] == 2
    assert not isinstance(ask(made, 2), str)
    assert read(made) == {("train", 1): 40, ("train", 2): 38}
    # What was answered is answered again, bit for bit, from the ledger.
    assert ask(made, 1) == first
    status, told = command(made, "withdraw", "--revoke", "--unit", "p3")
    assert told["changed"] == 1
    ask(made, 3)
    assert read(made)["train", 3] == 39
    assert [run["train"] for run in lineage.runs_with(made.folder, DATASET, "p3")] == [[1, 3]]
    assert [run["train"] for run in lineage.runs_with(made.folder, DATASET, "p9")] == [[1]]


@pytest.mark.slow
def test_a_withdrawal_needs_no_consent_key_but_an_id(bench):
    made = bench()
    assert not isinstance(ask(made), str)
    assert lineage.rounds_of(made.folder, "run-1")[0]["rows"] == 50
    status, told = command(made, "withdraw", "--unit", "p1")
    assert status == 2 and told["error"]["code"] == "FK592" and "consent.unit" in json.dumps(told)
    assert not made.folder.withdrawals.exists()


def test_ids_withdrawn_from_a_table_that_lost_its_column_stop_every_round(bench):
    made = bench()
    withdrawals.note(made.folder.withdrawals, DATASET, ["p1"], "withdrawn", time.time())
    before = made.entries()
    assert ask(made) == "FK500"
    assert made.entries() == before and "FK592" not in str(before)


@pytest.mark.parametrize(
    "content",
    [b"\x00", b"{}\n", b"p3\n", b'{"at": 1, "data": "icu", "unit": "p3", "action": "withdrwan"}\n', b"[" * 9999,
     b'{"at": 1, "data": "icu", "unit": 3, "action": "withdrawn"}\n', b"\n", b'{"at": 1, "data": "ic'],
)  # fmt: skip
def test_a_file_of_withdrawals_that_cannot_be_read_stops_every_round(consenting, content):
    made = consenting()
    made.folder.withdrawals.write_bytes(content)
    made.folder.withdrawals.chmod(0o600)
    assert ask(made) == "FK500" and read(made) == {}


def test_a_file_that_others_may_read_stops_every_round(consenting):
    made = consenting()
    command(made, "withdraw", "--unit", "p3")
    assert stat.S_IMODE(made.folder.withdrawals.stat().st_mode) == 0o600
    made.folder.withdrawals.chmod(0o644)
    assert ask(made) == "FK500"


def test_half_a_line_of_a_crash_is_mended_by_the_next_withdrawal(tmp_path):
    path = tmp_path / "withdrawals.jsonl"
    withdrawals.note(path, "icu", ["a"], "withdrawn", 1)
    whole = path.read_bytes()
    for cut in range(1, len(whole)):
        path.write_bytes(whole + whole[:cut])
        if cut < len(whole) - 1:
            with pytest.raises(FederationError, match="FK593"):
                withdrawals.read_withdrawn(path, "icu")
        assert withdrawals.note(path, "icu", ["b"], "withdrawn", 2) == ["b"]
        assert withdrawals.read_withdrawn(path, "icu") == {"a", "b"}


def test_the_last_word_on_a_unit_of_a_data_set_counts(tmp_path):
    path = tmp_path / "withdrawals.jsonl"
    for action, units, fresh in (
        ("withdrawn", ["a", "b", "a"], ["a", "b"]), ("withdrawn", ["b", "c"], ["c"]), ("revoked", ["a", "x"], ["a"]),
    ):  # fmt: skip
        assert withdrawals.note(path, "icu", units, action, 1) == fresh
    assert withdrawals.read_withdrawn(path, "icu") == {"b", "c"}
    assert withdrawals.read_withdrawn(path, "other") == frozenset()
    assert [json.loads(line)["unit"] for line in path.read_text().splitlines()] == ["a", "b", "c", "a"]


def test_writers_and_readers_do_not_tear_each_other_s_lines(tmp_path):
    path = tmp_path / "withdrawals.jsonl"
    names = [[f"{writer}-{n}" for n in range(60)] for writer in range(4)]

    def write(mine):
        for name in mine:
            withdrawals.note(path, "icu", [name], "withdrawn", 1)

    threads = [threading.Thread(target=write, args=[mine]) for mine in names]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        withdrawals.read_withdrawn(path, "icu")
    assert withdrawals.read_withdrawn(path, "icu") == {name for mine in names for name in mine}


@pytest.mark.parametrize("given", [[], ["", "  "], ["nan"], ["ok", "NULL"], ["a\x00b"], ["x" * 1001], ["\ud800"]])
def test_what_can_be_no_id_is_refused_without_being_repeated(given):
    with pytest.raises(FederationError, match="FK595") as refused:
        withdrawals.unit_ids(given)
    assert not any(each.strip() and each in str(refused.value).replace("'null'", "") for each in given)


def test_a_withdrawal_is_on_no_argument_list_and_in_no_log(consenting):
    made = consenting()
    status, told = command(made, "withdraw", stdin="patient-4711\n")
    assert status == 0 and told["used_before"] == 0
    log = made.folder.audit.read_text()
    assert "patient-4711" not in log and "patient-4711" not in json.dumps(told)
    assert unit_pseudonym(made.folder, DATASET, "patient-4711") in log


def test_a_pseudonym_is_one_of_its_site_its_data_set_and_its_unit(consenting, tmp_path):
    made = consenting()
    key = pseudonym_key(made.folder)
    marks = {key.of("a", "bc"), key.of("ab", "c"), key.of("a", "b"), key.of("a", "bc ")}
    assert len(marks) == 4 and pseudonym_key(made.folder).of("a", "bc") == key.of("a", "bc")
    other = type(made.folder)(tmp_path / "other")
    other.path.mkdir()
    assert pseudonym_key(other).of("a", "bc") not in marks and pseudonym_key(other).check != key.check
    assert key.of("a", "bc").hex() not in repr(key) and key._key.hex() not in repr(key)


def test_a_lost_key_stops_rounds_and_answers_rather_than_denying_that_a_unit_was_used(consenting):
    made = consenting()
    ask(made)
    made.folder.pseudonym_key.unlink()
    with pytest.raises(FederationError, match="FK593"):
        lineage.runs_with(made.folder, DATASET, "p3")
    assert ask(made, 2) == "FK500"
    with pytest.raises(FederationError, match="another key"):
        lineage.runs_with(made.folder, DATASET, "p3")


def test_no_answer_leaves_where_its_lineage_cannot_be_written(consenting):
    made = consenting()
    made.folder.lineage.write_bytes(b"no database, and long enough to be told from one" * 100)
    made.folder.lineage.chmod(0o600)
    charged = made.charged()
    assert ask(made) == "FK500" and made.charged() == charged


def test_equal_sets_are_stored_once(consenting):
    made = consenting()
    for number in range(1, 4):
        ask(made, number)
    with sqlite3.connect(made.folder.lineage) as database:
        assert database.execute("SELECT count(*), max(length(units)) FROM sets").fetchone() == (1, 16 * N)
        assert database.execute("SELECT count(*) FROM uses").fetchone() == (3,)
    database.close()


@pytest.mark.deploy
def test_a_unit_s_lineage_is_told_with_its_withdrawal_and_corrections(consenting, capsys):
    made = consenting()
    for number in (1, 2):
        ask(made, number)
    ask(made, 2, kind="evaluate")
    status, told = command(made, "rectify", "--reason", "a wrong unit", stdin="p5\n")
    assert status == 0 and told["rectified"] == 1
    assert "p5" not in made.folder.rectified.read_text() and "a wrong unit" in made.folder.rectified.read_text()
    command(made, "withdraw", "--unit", "p5")
    _, told = command(made, "lineage", stdin="p5\np99\n", data=None)
    five, nobody = told["units"]
    assert five["withdrawn"] and len(five["rectified"]) == 1 and nobody["runs"] == []
    (run,) = five["runs"]
    assert (run["run"], run["train"], run["evaluate"], run["purpose"]) == ("run-1", [1, 2], [2], PURPOSE)
    _, told = command(made, "lineage", "--run", "run-1", data=None)
    assert {(each["kind"], each["round"], each["units"]) for each in told["rounds"]} == {
        ("train", 1, N), ("train", 2, N), ("evaluate", 2, N)}  # fmt: skip
    with pytest.raises(SystemExit) as left:
        main(["client", "lineage", str(made.folder.site_yaml), "--data", DATASET, "--unit", "p5"])
    assert not left.value.code
    assert "every model of it from round 1 on was made with this unit" in capsys.readouterr().out
    assert consent_commands._spans([1, 2, 4]) == "rounds 1-2, 4"


def test_only_this_site_s_rows_are_in_its_lineage(consenting):
    made = consenting(site_column="said")
    table = made.folder.path.parent / "tables" / "icu.csv"
    table.write_text(table.read_text().replace("yes", SITE).replace("p0,20,60,0,north", "p0,20,60,0,south"))
    ask(made)
    assert read(made) == {("train", 1): N - 1}


def test_doctor_reads_as_a_run_for_a_purpose_would(consenting):
    from fedkit_client.start import open_site
    from fedkit_client.tables import look_at

    def _data(opened, name, purpose):
        return look_at(opened.file, opened.folder, name, purpose).check

    made = consenting(range(25))
    found = _data(open_site(made.folder.site_yaml), DATASET, PURPOSE)
    assert found.state != "fail" and "25 units with consent of at most 60 declared" in found.found
    assert _data(open_site(made.folder.site_yaml), DATASET, "billing").state == "warn"
    (made.folder.path.parent / "tables" / "consent.csv").unlink()
    found = _data(open_site(made.folder.site_yaml), DATASET, PURPOSE)
    assert found.state == "fail" and "FK201" in found.found and not made.folder.lineage.exists()


def test_files_that_others_may_read_are_found_at_the_start(consenting):
    made = consenting()
    command(made, "withdraw", "--unit", "p3")
    os.chmod(made.folder.pseudonym_key, 0o640)
    with pytest.raises(DeploymentError, match="FK706"):
        made.folder.require_closed()
