"""The budget of a study holds whatever a run or a question calls itself."""

import contextlib
import json
import time

import pytest
import typer
from fedkit_client.cli import main

from fedkit.errors import PrivacyError
from fedkit.governance.statistics import Statistics
from fedkit.privacy.accounting import ADJACENCY
from fedkit.privacy.ledger.facts import Job
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.ledger.messages import Message
from fedkit.privacy.ledger.reconcile import reconcile
from fedkit.privacy.rdp_filter import Charge, best_order, capacity, cost
from tests.clients.coordinator import DATASET, experiment, model
from tests.clients.test_studies import joined, sign, train  # noqa: F401

RELEASE = {"release": ["updates", "private_metrics", "statistics"]}
LIMIT, DELTA = 10.0, 1e-4


@pytest.fixture
def asking(bench, tmp_path):
    made = bench(policy=RELEASE, data={"max_epsilon": 60.0})
    made.file, made.jobs = tmp_path / "heart.json", {}
    made.study = sign(made, data={"max_epsilon": LIMIT, "delta": DELTA})
    return made


def ask(made, run, label):
    asked = Statistics(("died", "age"), 4, 1.0, 1e-5, label)
    job = made.coordinator.job(run, experiment(), study="heart", agreement=made.study.digest, statistics=asked)
    answer = made.keeper.answer("query", made.coordinator.request(job, "statistics", 0, model(0)))
    return answer if isinstance(answer, str) else "answered"


def accounts(made):
    with Ledger(made.folder.ledger(DATASET), read_only=True) as ledger:
        return dict(ledger.account(DATASET).runs)


def spent(made):
    order = best_order(LIMIT, DELTA)
    steps = [Charge(*key, count) for run in accounts(made).values() for key, count in run.spent.items()]
    return cost(steps, order) / capacity(LIMIT, DELTA, order)


def test_a_question_that_is_named_after_what_was_charged_before_is_charged_beside_it(asking):
    """The job's name says nothing of the name under which the ledger charges a question."""
    answers = [ask(asking, f"question-{number}", f"{number}") for number in range(4)]
    assert answers[0] == "answered" and answers[-1] == "FK579"
    before = spent(asking)
    named = [ask(asking, name, f"evil-{number}") for number, name in enumerate(accounts(asking))]
    assert set(named) == {"FK579"} and spent(asking) == before <= 1


def test_an_answered_question_is_answered_for_nothing_where_the_studys_budget_has_ended(asking):
    """Nothing is left for a new one; the old one is counted once, however often and by whichever job it is asked."""
    answers = [ask(asking, f"question-{number}", f"{number}") for number in range(4)]
    assert answers[-1] == "FK579"
    asked, before = answers.count("answered"), asking.entries()
    (asking.folder.path / "table.csv").unlink()
    assert [ask(asking, f"again-{number}", f"{number}") for number in range(asked)] == ["answered"] * asked
    assert asking.entries() == before and ask(asking, "new", "new") == "FK579"


def test_a_question_that_was_charged_and_not_answered_goes_on_where_the_studys_budget_has_ended(asking):
    table = asking.folder.path / "table.csv"
    content = table.read_bytes()
    table.unlink()
    assert [ask(asking, f"question-{number}", f"{number}") for number in range(4)].count("FK500") == 2
    table.write_bytes(content)
    before = spent(asking)
    assert ask(asking, "later", "0") == "answered" and spent(asking) == before
    assert ask(asking, "new", "new") == "FK579"


def test_what_a_question_held_before_it_was_killed_is_not_counted_beside_it(asking, monkeypatch):
    """Between the hold and the charge a process died: the same question goes on in its own hold."""
    with monkeypatch.context() as patched:
        patched.setattr("fedkit.assurance.site_budgets.Ledger.reserve", lambda *_: 1 / 0)
        assert [ask(asking, f"question-{number}", f"{number}") for number in range(2)] == ["FK500"] * 2
    assert {run.state for run in accounts(asking).values()} == {"held"} and ask(asking, "new", "new") == "FK579"
    assert ask(asking, "again", "1") == "answered"


def test_explain_tells_an_answered_question_from_a_new_one(asking, capsys):
    for number in range(4):
        ask(asking, f"question-{number}", f"{number}")
    ask(asking, "again", "0")
    told = {}
    for run in ("again", "question-3"):
        capsys.readouterr()
        with contextlib.suppress(typer.Exit):
            main(["explain", str(asking.folder.site_yaml), run, "--json"])
        clauses = json.loads(capsys.readouterr().out)["clauses"]
        told[run] = {clause["key"]: clause["verdict"] for clause in clauses}
    assert told["again"]["study.budget"] == "admitted"
    assert told["question-3"]["study.budget"] == "refused"
    assert told["again"]["ledger"] == "admitted"


def test_a_question_that_is_named_after_a_run_is_charged_beside_it(asking):
    """Its memory of rounds gone, a site knows of the run from its ledger alone."""
    train(asking, agreement=asking.study.digest)
    (asking.folder.rounds_file).unlink()
    number = 0
    while number < 6 and ask(asking, "question", f"{number}") == "answered":
        number += 1
        (asking.folder.rounds_file).unlink()
    (asking.folder.rounds_file).unlink(missing_ok=True)
    assert number < 6 and ask(asking, "run-1", "other") == "FK579" and spent(asking) <= 1


def test_what_a_lost_copy_charged_to_a_study_does_not_move_to_another(tmp_path):
    """A ledger that was put back from a backup and reconciled knows the run, whose name another job may take."""
    job = Job("record", ADJACENCY, (Charge(10**9, 5_000_000, 2),))
    with Ledger.create(tmp_path / "a.sqlite") as ledger:
        ledger.create_budget("icu", unit="record", limit=5.0, delta=1e-5)
        backup = (tmp_path / "a.sqlite").read_bytes()
        ledger.admit("icu", "run", "heart", job, time.time() + 1000)
        ledger.reserve(Message("icu", "run", 1, "d", "train"), [charge.event for charge in job.charges])
        export = ledger.export()
    (tmp_path / "b.sqlite").write_bytes(backup)

    with Ledger(tmp_path / "b.sqlite") as ledger:
        reconcile(ledger, export)
        assert ledger.account("icu").runs["run"].state == "lost"
        with pytest.raises(PrivacyError, match="FK346"):
            ledger.admit("icu", "run", "other", job, time.time() + 1000)
        ledger.admit("icu", "run", "heart", job, time.time() + 1000)
        assert ledger.account("icu").runs["run"].study == "heart"
