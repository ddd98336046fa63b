"""``simulate`` with ledgers: what it trains, the sites have paid for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fedkit
from fedkit.errors import PrivacyError
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.rdp_filter import cost
from fedkit.runs.directory import read_json
from fedkit.training.cohort import Cohort

WORDS = ["privacy.noise=secure", "federation.num_rounds=3", "training.local_steps=4", "training.local_epochs=null"]
WORDS += ["privacy.epsilon=1", "ledgers_dir=ledgers"]
SITES = ("cleveland", "hungary", "switzerland", "va")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("ledgers").mkdir()


def budgets(limit):
    for site in SITES:
        with Ledger.create(f"ledgers/{site}.sqlite") as ledger:
            ledger.create_budget("heart_disease", unit="record", limit=limit, delta=1e-5)


def account(site):
    with Ledger(f"ledgers/{site}.sqlite") as ledger:
        return ledger.account("heart_disease")


def test_a_run_spends_its_whole_plan_at_every_site_and_holds_nothing_afterwards():
    budgets(4.0)
    run = fedkit.simulate("heart_disease", overrides=WORDS)
    for site in SITES:
        ((_, there),) = account(site).runs.items()
        assert account(site).spent == cost(there.asked, account(site).budget.order) > 0
        assert account(site).held() == 0
        assert (there.state, len(there.reserved)) == ("ended", 4)
    assert fedkit.replay(run.path).identical


def test_workers_are_not_asked_where_sites_keep_ledgers_and_each_round_is_charged_once():
    budgets(4.0)
    run = fedkit.simulate("heart_disease", overrides=[*WORDS, "training.workers=2"])
    assert read_json(run.path / "manifest.json")["engine"]["workers"] == 1
    for site in SITES:
        ((_, there),) = account(site).runs.items()
        assert len(there.reserved) == 4 and account(site).spent == cost(there.asked, account(site).budget.order)


@pytest.mark.parametrize("more", [["privacy.epsilon=8"], ["baselines"], ["federation=flower"]])
def test_a_run_that_is_refused_trains_nothing_and_leaves_no_folder(more, monkeypatch):
    budgets(2.0)
    monkeypatch.setattr(Cohort, "train", lambda *_, **__: pytest.fail("a site has trained"))
    words = WORDS if more == ["baselines"] else [word for word in WORDS if "epsilon" not in word] + more
    with pytest.raises(PrivacyError) as caught:
        fedkit.simulate("heart_disease", overrides=words, baselines=more == ["baselines"])
    assert caught.value.code == ("FK339" if "epsilon" in more[0] else "FK356")
    assert not Path("runs").exists() or not list(Path("runs").iterdir())
    assert all((account(site).spent, account(site).held()) == (0, 0) for site in SITES)


def test_a_ledger_that_fails_in_the_middle_stops_the_run_and_keeps_what_was_done(monkeypatch):
    budgets(4.0)
    train = Cohort.train

    def tampered(cohort, model, task, sites, plan, state):
        if plan.round == 2 and sites[0].name == "va":
            with Ledger("ledgers/va.sqlite") as other:
                for statement in ("DROP TRIGGER chain_is_kept", "DELETE FROM chain WHERE seq > 5"):
                    other.file._sql.execute(statement)
        return train(cohort, model, task, sites, plan, state)

    monkeypatch.setattr(Cohort, "train", tampered)
    with pytest.raises(PrivacyError) as caught:
        fedkit.simulate("heart_disease", overrides=WORDS)
    assert caught.value.code in ("FK332", "FK331")
    (folder,) = Path("runs").iterdir()
    manifest = read_json(folder / "manifest.json")
    assert (manifest["outcome"], manifest["rounds_done"]) == ("failed", 1)
    for site in SITES[:3]:
        ((_, there),) = account(site).runs.items()
        assert there.state == "stopped" and account(site).held() == 0 < account(site).spent


KILLED = """
import os, sys
import fedkit
def progress(report):
    if report.round == 1:
        os.kill(os.getpid(), 9)
fedkit.simulate("heart_disease", overrides=sys.argv[1:], progress=progress)
"""


def test_a_killed_simulation_has_spent_its_round_and_another_run_goes_on_beside_its_hold():
    budgets(8.0)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", KILLED, *WORDS], env=environment, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    fedkit.simulate("heart_disease", overrides=WORDS)
    for site in SITES:
        killed, finished = account(site).runs.values()
        order = account(site).budget.order
        assert (killed.state, finished.state) == ("held", "ended")
        assert account(site).spent + account(site).held() == 2 * cost(finished.asked, order)
        assert account(site).spent > cost(finished.asked, order)


# Seconds of accounting or of real processes: make test runs these, the two-minute loop of make check does not.
pytestmark = pytest.mark.slow
