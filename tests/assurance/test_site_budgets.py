import os
import time
from dataclasses import replace

import numpy as np
import pytest

from fedkit.assurance import collect, site_rows
from fedkit.assurance.collect import paid_replies, question
from fedkit.assurance.site_budgets import ask, charges, ledger_paths, opened
from fedkit.assurance.statistics import figures, plan_statistics, read_reply
from fedkit.config.compose import compose
from fedkit.errors import PrivacyError
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.randomness import Secure
from fedkit.storage.atomic import write_json

SITES = ("cleveland", "hungary", "switzerland", "va")


@pytest.fixture(scope="module")
def data():
    return compose("heart_disease", [], None).data


@pytest.fixture(scope="module")
def plan(data):
    return plan_statistics(data, epsilon=1.0, columns=("age", "num"))


@pytest.fixture
def folder(tmp_path):
    """A ledger a site, epsilon 3 each."""
    return budgets(tmp_path / "ledgers")


def budgets(folder, limits=None, **changes):
    folder.mkdir()
    for site in SITES:
        values = {"unit": "record", "limit": (limits or {}).get(site, 3.0), "delta": 1e-5, **changes}
        with Ledger.create(folder / f"{site}.sqlite") as ledger:
            ledger.create_budget("heart_disease", **values)
    return folder


def spent(folder):
    """Site to units spent and held, and how many reservations and runs it knows."""
    found = {}
    for site in SITES:
        with Ledger(folder / f"{site}.sqlite") as ledger:
            account = ledger.account("heart_disease")
            reservations = sum(len(run.reserved) for run in account.runs.values())
            found[site] = account.spent, account.held(), reservations
    return found


def cost(folder, asked):
    with Ledger(folder / "va.sqlite") as ledger:
        return ledger.account("heart_disease").cost(asked.job.charges)


def asked_of(data, plan, run=None, study="sepsis"):
    return question(data, plan, SITES, study=study, run=run)


def answer_all(folder, data, plan, **more):
    asked = asked_of(data, plan, **more)
    with opened(folder, asked) as ledgers:
        found = charges(ledgers, asked)
        return paid_replies(data, plan, ledgers, asked, found), found


def refused(code, call, *arguments, **more):
    with pytest.raises(PrivacyError) as error:
        call(*arguments, **more)
    assert error.value.code == code, error.value
    return str(error.value)


NOTHING = dict.fromkeys(SITES, (0, 0, 0))


def test_every_ledger_is_charged_once_for_what_was_released(folder, data, plan):
    asked = asked_of(data, plan)
    replies, found = answer_all(folder, data, plan)
    price = cost(folder, asked)
    assert spent(folder) == dict.fromkeys(SITES, (price, 0, 1))
    assert {charge.state for charge in found.values()} == {"new"}
    with Ledger(folder / "va.sqlite") as ledger:
        assert found["va"].share == price / ledger.account("heart_disease").capacity
        (entry,) = ledger.account("heart_disease").runs.values()
        assert (entry.study, entry.state) == ("sepsis", "ended")
        assert [charge.event for charge in entry.asked] == list(asked.events)
    count = figures(data, plan, replies)[""].count
    # The noise is the system's, and a 95 % interval misses once in 20 runs; 3.5 of its arms are 6.9 standard errors.
    assert abs(count.value - 920) <= 3.5 * (count.high - count.value)
    assert count.high - count.value < 40


def test_the_same_question_is_answered_from_the_ledger_and_reads_no_record(folder, data, plan, monkeypatch):
    first, _ = answer_all(folder, data, plan)
    before = spent(folder)

    def refuse(_):
        raise AssertionError("a stored reply needs no record")

    monkeypatch.setattr(collect, "read_rows", refuse)
    again, found = answer_all(folder, data, plan)
    assert again == first
    assert {(charge.state, charge.share) for charge in found.values()} == {("answered", 0.0)}
    assert spent(folder) == before


def test_another_run_study_or_question_is_charged_and_draws_fresh_noise(folder, data, plan):
    first, _ = answer_all(folder, data, plan)
    price = cost(folder, asked_of(data, plan))
    for count, more in ((2, {"run": "later"}), (3, {"study": "other"})):
        again, _ = answer_all(folder, data, plan, **more)
        assert spent(folder)["va"] == (count * price, 0, count)
        before, after = (read_reply(data, "va", plan.request, each["va"]) for each in (first, again))
        assert not np.any(before == after)
    other = plan_statistics(data, epsilon=1.0, columns=("age", "num"), bins=11)
    assert {charge.state for charge in answer_all(folder, data, other)[1].values()} == {"new"}


def test_if_one_site_cannot_pay_none_does(tmp_path, data, plan):
    folder = budgets(tmp_path / "ledgers", {"va": 0.5})
    said = refused("FK372", answer_all, folder, data, plan)
    assert "va would pay" in said and "epsilon 0.5" in said and "nothing was spent at any site" in said
    assert "cleveland" not in said
    assert spent(folder) == NOTHING
    # The remedy's figure is one that the site can pay.
    affordable = float(said.split("--epsilon ")[1].split()[0])
    assert 0.05 < affordable < 1.0
    answer_all(folder, data, plan_statistics(data, epsilon=affordable, columns=("age", "num")))
    assert spent(folder)["va"][2] == 1


def test_a_ledger_never_pays_more_than_its_limit(folder, data, plan):
    run = 0

    def ask_again():
        nonlocal run
        answer_all(folder, data, plan, run=f"run{run}")
        run += 1
        ask_again()

    refused("FK372", ask_again)
    found = spent(folder)
    with Ledger(folder / "va.sqlite") as ledger:
        capacity = ledger.account("heart_disease").capacity
    assert run >= 4
    assert set(found.values()) == {(run * cost(folder, asked_of(data, plan)), 0, run)}
    assert found["va"][0] <= capacity < found["va"][0] + cost(folder, asked_of(data, plan))


def test_a_site_that_was_overtaken_frees_the_others(folder, data, plan):
    asked = asked_of(data, plan)
    with opened(folder, asked) as ledgers:
        found = charges(ledgers, asked)
        with Ledger(folder / "va.sqlite") as other:
            big = plan_statistics(data, epsilon=2.6, columns=("age", "num"))
            other.admit("heart_disease", "rival", "other", asked_of(data, big).job, time.time() + 60)
        refused("FK339", paid_replies, data, plan, ledgers, asked, found)
    after = spent(folder)
    assert all(each == (0, 0, 0) for site, each in after.items() if site != "va")
    with Ledger(folder / "va.sqlite") as other:
        other.end("heart_disease", "rival")
    # Where the run was stopped before it reserved, a new run's name takes its place.
    _, found = answer_all(folder, data, plan)
    assert {site: charge.run.removeprefix(asked.run) for site, charge in found.items()} == {
        "cleveland": "-2",
        "hungary": "-2",
        "switzerland": "-2",
        "va": "",
    }


def test_records_are_read_only_after_every_site_has_reserved(folder, data, plan, monkeypatch):
    seen = []
    real = site_rows.read_table
    monkeypatch.setattr(site_rows, "read_table", lambda config: [seen.append(spent(folder)), real(config)][1])
    answer_all(folder, data, plan)
    assert seen == [dict.fromkeys(SITES, (cost(folder, asked_of(data, plan)), 0, 1))]


def test_what_broke_off_goes_on_from_its_reservations(folder, data, plan, monkeypatch):
    asked, real, calls = asked_of(data, plan), collect.site_reply, []

    def breaks(config, site, *arguments):
        calls.append(site)
        if site == "switzerland" and len(calls) == 3:
            raise KeyboardInterrupt
        return real(config, site, *arguments)

    monkeypatch.setattr(collect, "site_reply", breaks)
    with pytest.raises(KeyboardInterrupt):
        answer_all(folder, data, plan)
    price = cost(folder, asked)
    assert spent(folder) == dict.fromkeys(SITES, (price, 0, 1))
    replies, found = answer_all(folder, data, plan)
    assert {site: charge.state for site, charge in found.items()} == {
        "cleveland": "answered",
        "hungary": "answered",
        "switzerland": "paid",
        "va": "paid",
    }
    assert spent(folder) == dict.fromkeys(SITES, (price, 0, 1))
    assert calls == ["cleveland", "hungary", "switzerland", "switzerland", "va"]
    assert set(replies) == set(SITES)


def test_an_interrupted_hold_is_used_and_not_counted_against_its_own_question(tmp_path, data, plan):
    folder = budgets(tmp_path / "ledgers", dict.fromkeys(SITES, 1.4))
    asked = asked_of(data, plan)
    with Ledger(folder / "va.sqlite") as ledger:
        ledger.admit("heart_disease", asked.run, "sepsis", asked.job, time.time() + 60)
    _, found = answer_all(folder, data, plan)
    assert {charge.run for charge in found.values()} == {asked.run}
    assert 0.5 < found["va"].share <= 1.0 == found["va"].left
    assert spent(folder)["va"] == (cost(folder, asked), 0, 1)


def test_a_runs_name_belongs_to_one_question(folder, data, plan):
    answer_all(folder, data, plan, run="mine")
    before = spent(folder)
    other = plan_statistics(data, epsilon=1.0, columns=("age", "sex"))
    refused("FK300", answer_all, folder, data, other, run="mine")
    assert spent(folder) == before
    only = [path for site, path in ledger_paths(folder, SITES).items() if site != "va"]
    for path in only:
        path.unlink()
    assert "site cleveland" in refused("FK300", answer_all, folder, data, plan)


def test_a_stored_reply_is_what_a_racing_process_committed(folder, data, plan):
    asked = asked_of(data, plan)
    with opened(folder, asked) as ledgers, opened(folder, asked) as rivals:
        found = charges(ledgers, asked)
        first = {}

        def overtaken(site):
            if not first:
                first.update(ask(rivals, asked, charges(rivals, asked), lambda site: site.encode()))
            return b"late"

        assert ask(ledgers, asked, found, overtaken) == first
    assert spent(folder) == dict.fromkeys(SITES, (cost(folder, asked), 0, 1))


@pytest.mark.parametrize(
    ("changes", "code"), [({"unit": "patient"}, "FK341"), ({"delta": 1e-6}, "FK353")], ids=["unit", "delta"]
)
def test_another_unit_or_delta_is_refused_before_anything_is_spent(tmp_path, data, plan, changes, code):
    folder = budgets(tmp_path / "ledgers", **changes)
    assert code in refused("FK300", answer_all, folder, data, plan)
    assert spent(folder) == NOTHING


def test_a_budget_for_another_data_set_or_no_ledger_names_the_site(folder, data, plan):
    other = replace(data, name="another")
    said = refused("FK300", answer_all, folder, other, plan)
    assert "site va" in said and "FK340" in said and "--dataset another --unit record" in said
    (folder / "va.sqlite").unlink()
    said = refused("FK330", answer_all, folder, data, plan)
    assert "site va" in said and "`fedkit ledger create" in said


def test_a_ledger_older_than_the_export_beside_it_is_refused(folder, data, plan):
    backup = (folder / "va.sqlite").read_bytes()
    answer_all(folder, data, plan)
    with Ledger(folder / "va.sqlite") as ledger:
        write_json(folder / "va.head.json", ledger.export().to_dict())
    answer_all(folder, data, plan)
    for suffix in ("", "-wal", "-shm"):
        (folder / f"va.sqlite{suffix}").unlink(missing_ok=True)
    (folder / "va.sqlite").write_bytes(backup)
    assert "site va" in refused("FK334", answer_all, folder, data, plan)


@pytest.mark.parametrize("site", ["../va", "a/b", "", ".va", "a\\b", "a\nb", "a\0b", "x" * 101])
def test_a_site_whose_name_is_no_file_name_is_refused(tmp_path, site):
    refused("FK373", ledger_paths, tmp_path, ["north", site])


def test_two_sites_never_share_a_ledger(folder, data, plan):
    refused("FK373", ledger_paths, folder, ["North", "north"])
    os.link(folder / "va.sqlite", folder / "west.sqlite")
    (folder / "north.sqlite").symlink_to(folder / "va.sqlite")
    for other in ("west", "north"):
        asked = question(data, plan, ("va", other), study="sepsis", run=None)
        with pytest.raises(PrivacyError, match="one ledger for two sites"), opened(folder, asked):
            pass


def test_paid_noise_is_the_systems(folder, data, plan, monkeypatch):
    drawn = []
    monkeypatch.setattr(collect, "Secure", lambda: drawn.append(Secure()) or drawn[-1])
    answer_all(folder, data, plan)
    assert len(drawn) == len(SITES)
