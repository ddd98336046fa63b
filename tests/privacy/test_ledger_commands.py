"""``fedkit ledger``, as its Typer app; errors come through as they reach the entry point."""

import json
from contextlib import contextmanager, nullcontext

import pytest
from typer.testing import CliRunner

from fedkit.cli.ledger_commands import computing, ledger_app
from fedkit.errors import PrivacyError
from fedkit.privacy.accounting import GaussianEvent
from fedkit.privacy.ledger.facts import Job
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.ledger.messages import Message
from fedkit.privacy.rdp_filter import rounded

ROUND = GaussianEvent(1.0, 10.0, 1)


@pytest.fixture
def path(tmp_path):
    with Ledger.create(tmp_path / "ledger.db") as made:
        made.create_budget("icu", unit="record", limit=3.0, delta=1e-5)
        made.create_budget("ward", unit="patient", limit=8.0, delta=1e-6)
        made.admit("icu", "r1", "sepsis", Job("record", "add_remove", (rounded(GaussianEvent(1.0, 10.0, 4)),)), 4e9)
        made.reserve(Message("icu", "r1", 1, "d1"), [ROUND])
        made.commit(Message("icu", "r1", 1, "d1"), b"reply")
    return tmp_path / "ledger.db"


def run(*words):
    done = CliRunner().invoke(ledger_app, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def show(path, *words):
    return {each["dataset"]: each for each in json.loads(run("show", "--ledger", path, "--json", *words))["datasets"]}


def refused(code, *words):
    with pytest.raises(PrivacyError) as caught:
        run(*words)
    assert caught.value.code == code, caught.value


def test_show_gives_spent_held_and_left_per_data_set_study_and_run(path):
    icu, ward = show(path).values()
    assert (icu["limit"], icu["delta"], icu["order"], icu["unit"]) == (3.0, 1e-5, 7.5, "record")
    assert icu["held"] == pytest.approx(3 * icu["spent"])
    assert icu["spent"] + icu["held"] + icu["left"] == pytest.approx(1)
    assert icu["studies"] == {"sepsis": {"spent": icu["spent"], "held": icu["held"]}}
    assert [(each["run"], each["replies"]) for each in icu["runs"]] == [("r1", 1)]
    assert 0 < icu["epsilon_pld"] < icu["epsilon_spent"]
    assert (ward["spent"], ward["epsilon_spent"], ward["epsilon_pld"], ward["left"]) == (0, 0, 0, 1)
    assert set(show(path, "--dataset", "ward")) == {"ward"}


def test_show_without_the_pld_figure_says_that_it_is_not_there_yet(path):
    assert show(path, "--no-pld")["icu"]["epsilon_pld"] is None
    assert "PLD not computed" in " ".join(run("show", "--ledger", path, "--no-pld").split())
    found = show(path)["icu"]["epsilon_pld"]
    assert show(path, "--no-pld")["icu"]["epsilon_pld"] == found


def test_show_says_that_a_figure_is_being_computed_until_it_is_stored(path, monkeypatch):
    said = []

    @contextmanager
    def status(sentence):
        said.append(sentence)
        yield

    monkeypatch.setattr("fedkit.cli.ledger_commands.computing", lambda *, enabled: status if enabled else nullcontext)
    run("show", "--ledger", path, "--dataset", "icu")
    assert said == ["computing the PLD figure of icu (1 kinds of events)"]
    run("show", "--ledger", path, "--dataset", "icu")
    show(path)
    assert len(said) == 1


def test_computing_is_shown_on_a_terminal_and_nowhere_else():
    assert computing(enabled=True) is nullcontext
    assert computing(enabled=False) is nullcontext


def test_show_counts_the_jobs_that_are_still_affordable(path, tmp_path):
    shown = show(path, "--event", "1.0,10,4")
    assert shown["icu"]["jobs_left"] == 10
    assert show(path, "--event", "1.0,10,2", "--event", "1.0,10,2")["icu"]["jobs_left"] == 10
    plan = tmp_path / "plan.json"
    values = {"unit": "record", "adjacency": "add_remove", "sample_rate": 1.0, "noise_multiplier": 10.0}
    plan.write_text(json.dumps({**values, "steps": 2, "rounds": 2, "noise": "seeded"}))
    assert show(path, "--plan", plan, "--dataset", "icu")["icu"]["jobs_left"] == 10
    refused("FK341", "show", "--ledger", path, "--plan", plan, "--dataset", "ward")
    # Six histograms of sigma 10 beside two rounds of two steps: as much as ten steps.
    evaluation = {"noise_multiplier": 10.0, "rounds": [1, 2], "histograms": 3, "bins": 10}
    plan.write_text(json.dumps({**values, "steps": 2, "rounds": 2, "evaluation": evaluation}))
    assert show(path, "--plan", plan, "--dataset", "icu")["icu"]["jobs_left"] == 4
    plan.write_text(json.dumps({**values, "steps": 2, "rounds": 2, "evaluation": {"sigma": 10.0}}))
    refused("FK350", "show", "--ledger", path, "--plan", plan, "--dataset", "icu")


def test_show_for_people_names_the_budget_and_its_runs(path):
    text = " ".join(run("show", "--ledger", path, "--event", "1.0,10,4").split())
    assert "icu: epsilon 3 at delta 1e-05 for one record (add_remove), enforced at order 7.5" in text
    assert "10 more are affordable" in text and "sepsis r1 held" in text
    assert "tight only if all parameters had been fixed in advance" in text


def test_export_and_verify_tell_a_restored_backup(path, tmp_path):
    head, backup = tmp_path / "head.json", tmp_path / "backup.db"
    backup.write_bytes(path.read_bytes())
    with Ledger(path) as opened:
        opened.reserve(Message("icu", "r1", 2, "d2"), [ROUND])
    assert json.loads(run("export", "--ledger", path, "--out", head, "--json"))["entries"] == 7
    assert json.loads(run("export", "--ledger", path)) == json.loads(head.read_text())
    found = json.loads(run("verify", "--ledger", path, "--head", head, "--json"))
    assert (found["entries"], found["replies"], found["checked_against_head"]) == (7, 1, True)
    assert "only against an export" in run("verify", "--ledger", path)
    refused("FK334", "verify", "--ledger", backup, "--head", head)
    done = json.loads(run("reconcile", "--ledger", backup, "--export", head, "--json"))
    assert done["charged"] == [{"dataset": "icu", "run": "r1", "round": 2, "purpose": "train"}]
    assert show(backup)["icu"]["spent"] == show(path)["icu"]["spent"]
    run("verify", "--ledger", backup, "--head", head)
    assert "0 forgotten reservations" in run("reconcile", "--ledger", backup, "--export", head)


def test_reading_commands_write_nothing_to_a_ledger_that_may_only_be_read(path, monkeypatch):
    monkeypatch.setattr("fedkit.cli.ledger_commands._writable", lambda _: False)
    before = path.read_bytes()
    run("show", "--ledger", path)
    run("verify", "--ledger", path)
    run("export", "--ledger", path)
    assert path.read_bytes() == before


def test_what_cannot_be_used_is_refused_by_its_code(path, tmp_path):
    (tmp_path / "text").write_text("[]")
    refused("FK330", "show", "--ledger", tmp_path / "none.db")
    refused("FK330", "verify", "--ledger", tmp_path / "text")
    refused("FK340", "show", "--ledger", path, "--dataset", "unknown")
    refused("FK350", "show", "--ledger", path, "--event", "1,2")
    refused("FK350", "show", "--ledger", path, "--plan", tmp_path / "text")
    refused("FK303", "show", "--ledger", path, "--event", "0.1,0,10")
    refused("FK305", "show", "--ledger", path, "--event", "0.1,1,0")
    refused("FK350", "reconcile", "--ledger", path)
    refused("FK350", "reconcile", "--ledger", path, "--export", tmp_path / "text")
    refused("FK350", "export", "--ledger", path, "--out", tmp_path / "no" / "head.json")


@pytest.mark.parametrize("name", ["create", "show", "verify", "export", "reconcile"])
def test_every_help_has_an_example(name):
    assert f"Example: fedkit ledger {name}" in " ".join(run(name, "--help").split())


def test_a_runs_name_is_whole_where_another_command_reads_it(path):
    name = "20260101-120000-" + "a-name-that-no-screen-of-eighty-columns-holds-" * 3
    with Ledger(path) as ledger:
        ledger.admit("icu", name, "sepsis", Job("record", "add_remove", (rounded(ROUND),)), 4e9)
    assert name in run("show", "--ledger", path)
