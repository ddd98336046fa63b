"""`explain` asks the ledger what a message would ask it, and writes nothing."""

import json

import pytest
from fedkit_client.afforded import ledger_clause
from fedkit_client.asked import Asked
from fedkit_client.explain import Told, explain

from fedkit.errors import FedkitError
from fedkit.governance.site_file import read_site_file
from fedkit.privacy.ledger.ledger import Ledger
from tests.clients import coordinator
from tests.clients.coordinator import DATASET, SETTINGS, experiment, model

SIZE = 5


def clause(made, name=None, *overrides):
    what = ("data=icu", *SETTINGS, *overrides) if name is None else ()
    _, weighed = explain(made.folder.site_yaml, name, what, Told(submitter="ana"), coordinator._DATA)
    (found,) = [each for each in weighed.clauses if each.key == "ledger"]
    return found, weighed.admitted is not None


def train(made, run, number=1):
    job = made.coordinator.job(run, experiment())
    return made.keeper.answer("train", made.coordinator.request(job, "train", number, model(SIZE)))


def spend_all(made):
    """Runs until the ledger refuses one."""
    for number in range(100):
        if train(made, f"fill-{number}") == "FK339":
            return f"fill-{number}"
    raise AssertionError("the budget never ends")


def test_it_is_admitted_exactly_while_the_gate_admits_it(bench):
    made = bench(data={"max_epsilon": 9.0})
    verdicts, answers = [], []
    while "FK339" not in answers:
        found, admitted = clause(made)
        assert found.holds is admitted
        verdicts.append(admitted)
        answer = train(made, f"run-{len(answers)}")
        answers.append(answer if isinstance(answer, str) else "answered")
    assert verdicts == [answer == "answered" for answer in answers] and verdicts[0]
    found, _ = clause(made)
    assert found.code == "FK339" and "at most 9 at delta" in found.bound and found.remedy
    assert float(found.value.split()[0]) > 9


def test_a_run_that_holds_its_budget_is_asked_for_nothing_more(bench):
    made = bench(data={"max_epsilon": 9.0})
    refused = spend_all(made)
    held, admitted = clause(made, "fill-0")
    assert held.holds and admitted and "holds" in held.value
    assert not clause(made, refused)[0].holds
    with Ledger(made.folder.ledger(DATASET), read_only=True) as ledger:
        expires = ledger.account(DATASET).runs["fill-0"].expires_ms / 1000
    run = Asked(made.folder.asked_file).find("fill-0")
    own = read_site_file(made.folder.site_yaml).data[DATASET]
    weighed = explain(made.folder.site_yaml, "fill-0", (), Told())[1]
    late = ledger_clause(made.folder, DATASET, own, weighed.charges, run.run, run.study, expires + 1)
    assert (late.holds, late.code) == (False, "FK345")


@pytest.mark.parametrize("trouble", ["gone", "unreadable", "another budget"])
def test_what_cannot_be_asked_affords_nothing(bench, trouble):
    made = bench()
    train(made, "run-1")
    path = made.folder.ledger(DATASET)
    if trouble == "gone":
        # As the log of a site whose ledger was lost.
        from fedkit_client.audit import record

        record(made.folder, "reserved", run="run-1", purpose="train", round=1, dataset=DATASET)
        path.unlink()
    elif trouble == "unreadable":
        path.write_bytes(b"no ledger")
    else:
        values = json.loads(made.folder.site_yaml.read_text())
        values["data"][DATASET]["max_epsilon"] += 1
        made.folder.site_yaml.write_text(json.dumps(values))
    found, admitted = clause(made)
    assert not found.holds and not admitted
    assert found.code == {"gone": "FK332", "unreadable": "FK330", "another budget": "FK340"}[trouble]


def test_a_ledger_that_the_first_start_will_make_affords_what_its_budget_does(bench):
    made = bench()
    made.folder.ledger(DATASET).unlink()
    found, admitted = clause(made)
    assert found.holds and admitted and not made.folder.ledger(DATASET).exists()


def test_a_run_without_privacy_asks_no_ledger(bench):
    made = bench(data={"allow_unprotected": True}, policy={"release": ["updates", "exact_metrics"]})
    words = ("data=icu", "model=logistic", "purpose=testing", "privacy=none")
    _, weighed = explain(made.folder.site_yaml, None, words, Told(submitter="ana"), coordinator._DATA)
    assert "ledger" not in {each.key for each in weighed.clauses}


@pytest.mark.parametrize("name", ["heart-disease", "heart-diseas"])
def test_an_experiment_that_is_spelled_nearly_so_is_suggested_and_taken_for_no_run(bench, name):
    with pytest.raises(FedkitError, match="did you mean"):
        explain(bench().folder.site_yaml, name, (), Told())
