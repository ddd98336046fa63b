import dataclasses
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from fedkit.errors import PrivacyError
from fedkit.privacy import accounting, rdp_filter
from fedkit.privacy.accounting import GaussianEvent, epsilon_of
from fedkit.privacy.events import round_events
from fedkit.privacy.ledger.book import Book
from fedkit.privacy.ledger.export import check_against, read_export
from fedkit.privacy.ledger.facts import Committed, Held, Job, Renewed, Reserved, decode, encode, job_of
from fedkit.privacy.ledger.figures import pld_epsilon, summary
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.ledger.messages import Message
from fedkit.privacy.rdp_filter import Charge, merged, rounded
from fedkit.types import EvaluationPlan, PrivacyPlan
from tests.work import calls

ROUND = GaussianEvent(1.0, 10.0, 1)
"""Costs order / 200: 44 of these fit into epsilon 3 at order 7.5."""
FIT = 44


def plan(**changes):
    values = PrivacyPlan(
        site="north",
        unit="record",
        adjacency="add_remove",
        sample_rate=1.0,
        max_grad_norm=1.0,
        noise_multiplier=10.0,
        lot_size=16.0,
        steps=1,
        rounds=10,
        epsilon=1.2,
        delta=1e-5,
        accountant="pld",
        records=300,
        records_declared=True,
        noise="secure",
        max_lot=300,
    )
    return dataclasses.replace(values, **changes)


def job(rounds=10, **changes):
    return job_of(plan(rounds=rounds, **changes))


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(tmp_path, clock):
    with Ledger.create(tmp_path / "ledger.db", clock=clock) as made:
        # No power fails in most of these tests: waiting for the disk would be most of what they do.
        made.file._sql.execute("PRAGMA synchronous = OFF")
        made.create_budget("icu", unit="record", limit=3.0, delta=1e-5)
        yield made


def admit(ledger, run="r1", rounds=10, *, study="sepsis", expires=2_000_000.0, **changes):
    ledger.admit("icu", run, study, job(rounds, **changes), expires)


def message(run="r1", round_=1, digest="d1", **more):
    return Message("icu", run, round_, digest, **more)


def refused(code, call, *arguments, **named):
    with pytest.raises(PrivacyError) as caught:
        call(*arguments, **named)
    assert caught.value.code == code, caught.value
    return str(caught.value)


def units(ledger):
    account = ledger.account("icu")
    one = account.cost([rounded(ROUND)])
    assert account.spent % one == account.held() % one == 0
    return account.spent // one, account.held() // one, account.left() // one


# What holds and reservations do


def test_admission_holds_reserve_spends_commit_changes_nothing(ledger):
    assert units(ledger) == (0, 0, FIT)
    admit(ledger)
    assert units(ledger) == (0, 10, FIT - 10)
    assert ledger.reserve(message(), [ROUND]).fresh
    assert units(ledger) == (1, 9, FIT - 10)
    ledger.commit(message(), b"reply")
    assert units(ledger) == (1, 9, FIT - 10)


def test_a_run_that_does_not_fit_is_refused_and_holds_nothing(ledger):
    admit(ledger, "r1", 30)
    text = refused("FK339", admit, ledger, "r2", FIT - 30 + 1)
    assert "is left" in text
    assert units(ledger) == (0, 30, FIT - 30)
    admit(ledger, "r2", FIT - 30)
    assert units(ledger) == (0, FIT, 0)


@pytest.mark.parametrize("reason", ["ended", "stopped"])
def test_what_remains_of_a_hold_is_free_when_the_run_is_over_and_nothing_that_was_reserved(ledger, reason):
    admit(ledger, "r1", FIT)
    ledger.reserve(message(), [ROUND])
    refused("FK339", admit, ledger, "r2", 1)
    ledger.end("icu", "r1", reason)
    ledger.end("icu", "r1", reason)
    assert units(ledger) == (1, 0, FIT - 1)
    refused("FK345", ledger.reserve, message(round_=2, digest="d2"), [ROUND])
    refused("FK345", admit, ledger, "r1", 1)
    admit(ledger, "r2", FIT - 1)


def test_an_expired_hold_is_free_and_a_clock_set_back_cannot_revive_it(ledger, clock):
    admit(ledger, "r1", FIT, expires=clock.now + 60)
    ledger.reserve(message(), [ROUND])
    clock.now += 60
    assert ledger.jobs_left("icu", job(1)) == FIT - 1
    admit(ledger, "r2", FIT - 1)
    clock.now -= 60
    refused("FK345", ledger.reserve, message(round_=2, digest="d2"), [ROUND])
    refused("FK345", admit, ledger, "r1", FIT, expires=clock.now + 60)
    assert units(ledger) == (1, FIT - 1, 0)


def test_a_hold_cannot_expire_in_the_past_or_never(ledger, clock):
    for expires in (clock.now, clock.now - 1, float("nan"), float("inf")):
        refused("FK345", admit, ledger, expires=expires)
    assert units(ledger) == (0, 0, FIT)


def test_a_renewed_hold_lasts_longer_and_covers_what_it_covered(ledger, clock):
    admit(ledger, "r1", 10, expires=clock.now + 60)
    ledger.reserve(message(), [ROUND])
    clock.now += 59
    ledger.renew("icu", "r1", clock.now + 60)
    assert units(ledger) == (1, 9, FIT - 10)
    clock.now += 59
    assert ledger.reserve(message(round_=2, digest="d2"), [ROUND]).fresh
    refused("FK346", ledger.reserve, message(round_=3, digest="d3"), [dataclasses.replace(ROUND, steps=9)])
    with Ledger(ledger.file.path, clock=clock) as again:
        assert units(again) == (2, 8, FIT - 10)
        assert again.account("icu").runs["r1"].expires_ms == int((clock.now + 1) * 1000)
    clock.now += 1
    refused("FK345", ledger.reserve, message(round_=3, digest="d3"), [ROUND])
    assert units(ledger) == (2, 0, FIT - 2)


def test_an_expired_or_released_hold_is_never_revived_by_a_renewal(ledger, clock):
    admit(ledger, "r1", 5, expires=clock.now + 60)
    admit(ledger, "r2", 5)
    ledger.end("icu", "r2")
    refused("FK345", ledger.renew, "icu", "r2", clock.now + 60)
    refused("FK345", ledger.renew, "icu", "never admitted", clock.now + 60)
    refused("FK340", ledger.renew, "unknown", "r1", clock.now + 60)
    clock.now += 60
    refused("FK345", ledger.renew, "icu", "r1", clock.now + 60)
    clock.now -= 60
    refused("FK345", ledger.renew, "icu", "r1", clock.now + 60)
    assert units(ledger) == (0, 0, FIT)


def test_a_hold_that_expires_between_the_look_and_the_lock_is_not_revived(ledger, clock, monkeypatch):
    admit(ledger, "r1", 5, expires=clock.now + 60)
    monkeypatch.setattr(ledger, "sweep", lambda: setattr(clock, "now", clock.now + 60))
    refused("FK345", ledger.renew, "icu", "r1", clock.now + 120)


def test_a_renewal_that_changes_nothing_records_nothing(ledger, clock):
    admit(ledger, "r1", 1, expires=clock.now + 60)
    before = len(ledger.file.entries())
    ledger.renew("icu", "r1", clock.now + 60)
    ledger.renew("icu", "r1", clock.now + 30)
    for expires in (clock.now, float("nan"), float("inf")):
        refused("FK345", ledger.renew, "icu", "r1", expires)
    ledger.reserve(message(), [ROUND])
    ledger.renew("icu", "r1", clock.now + 600)
    assert len(ledger.file.entries()) == before + 1
    assert ledger.account("icu").runs["r1"].expires_ms == int((clock.now + 60) * 1000)


def test_a_written_renewal_that_revives_a_hold_is_no_history(ledger, clock):
    admit(ledger, "r1", 1, expires=clock.now + 60)
    ledger.end("icu", "r1")
    for expires in (0, 10**15):
        with ledger.file.writing(), pytest.raises(PrivacyError) as caught:
            ledger.file.append(Renewed("icu", "r1", expires), clock.now)
        assert caught.value.code == "FK330"


def test_admitting_the_same_job_again_changes_nothing_and_another_job_needs_another_run(ledger):
    admit(ledger)
    admit(ledger)
    assert units(ledger) == (0, 10, FIT - 10)
    refused("FK346", admit, ledger, rounds=11)
    refused("FK346", admit, ledger, study="another")


def test_a_run_never_gets_more_than_it_holds(ledger):
    admit(ledger, rounds=2)
    ledger.reserve(message(), [ROUND])
    refused("FK346", ledger.reserve, message(round_=2, digest="d2"), [dataclasses.replace(ROUND, steps=2)])
    refused("FK346", ledger.reserve, message(round_=2, digest="d2"), [dataclasses.replace(ROUND, noise_multiplier=20)])
    ledger.reserve(message(round_=2, digest="d2"), [ROUND])
    refused("FK346", ledger.reserve, message(round_=3, digest="d3"), [ROUND])
    assert units(ledger) == (2, 0, FIT - 2)


def test_evaluation_is_a_charge_of_its_own_beside_training_in_the_same_round(ledger):
    evaluation = GaussianEvent(1.0, 20.0, 1)
    ledger.admit("icu", "r1", "s", job_of(plan(rounds=1), [evaluation]), 2e6)
    assert ledger.reserve(message(), [ROUND]).fresh
    assert ledger.reserve(message(purpose="evaluate"), [evaluation]).fresh
    account = ledger.account("icu")
    assert account.spent == account.cost([rounded(ROUND), rounded(evaluation)])
    assert account.held() == 0


# The same message, and any other


def test_after_commit_only_the_committed_bytes_are_ever_sent(ledger):
    admit(ledger)
    ledger.reserve(message(), [ROUND])
    first = ledger.commit(message(), b"first", b"state")
    assert first.reply == b"first"
    assert ledger.commit(message(), b"second", b"other").reply == b"first"
    ticket = ledger.reserve(message(), [ROUND])
    assert (ticket.reply, ticket.fresh) == (b"first", False)
    ledger.end("icu", "r1")
    assert ledger.reserve(message(), [ROUND]).reply == b"first"
    assert ledger.state("icu", "r1") == b"state"
    assert units(ledger)[0] == 1


def test_a_reservation_that_a_crash_left_serves_the_same_message_and_no_other(ledger, clock):
    admit(ledger)
    ledger.reserve(message(), [ROUND])
    with Ledger(ledger.file.path, clock=clock) as again:
        ticket = again.reserve(message(), [ROUND])
        assert (ticket.reply, ticket.fresh) == (None, False)
        refused("FK347", again.reserve, message(digest="other"), [ROUND])
        refused("FK347", again.reserve, message(), [dataclasses.replace(ROUND, steps=2)])
        refused("FK347", again.commit, message(digest="other"), b"x")
        assert units(again) == (1, 9, FIT - 10)
        assert again.commit(message(), b"reply").reply == b"reply"
    assert ledger.reserve(message(), [ROUND]).reply == b"reply"


def test_what_was_paid_for_stays_usable_after_the_hold_expired_and_not_after_a_stop(ledger, clock):
    admit(ledger, "r1", 1, expires=clock.now + 60)
    admit(ledger, "r2", 1)
    ledger.reserve(message(), [ROUND])
    ledger.reserve(message("r2"), [ROUND])
    clock.now += 60
    ledger.end("icu", "r2", "stopped")
    assert ledger.reserve(message(), [ROUND]).reply is None
    refused("FK345", ledger.reserve, message("r2"), [ROUND])
    # What was being computed when the run was stopped is paid for; committing it releases nothing more.
    assert ledger.commit(message("r2"), b"late").reply == b"late"


def test_nothing_is_committed_without_its_reservation(ledger):
    refused("FK345", ledger.commit, message(), b"x")
    admit(ledger)
    refused("FK348", ledger.commit, message(), b"x")
    refused("FK345", ledger.reserve, message("unknown"), [ROUND])
    refused("FK345", ledger.state, "icu", "unknown")
    assert ledger.state("icu", "r1") is None


def test_state_is_that_of_the_newest_commit(ledger):
    admit(ledger)
    for number in (1, 2):
        ledger.reserve(message(round_=number, digest=f"d{number}"), [ROUND])
        ledger.commit(message(round_=number, digest=f"d{number}"), b"r", b"state %d" % number)
    ledger.reserve(message(round_=2, digest="e2", purpose="evaluate"), [ROUND])
    ledger.commit(message(round_=2, digest="e2", purpose="evaluate"), b"histogram")
    assert ledger.state("icu", "r1") == b"state 2"
    assert ledger.state("icu", "r1", "evaluate") == b""
    assert ledger.state("icu", "r1", "another") is None


def test_a_receipt_can_be_given_again_to_the_same_message_only(ledger):
    admit(ledger)
    refused("FK348", ledger.receipt, message())
    ledger.reserve(message(), [ROUND])
    given = ledger.commit(message(), b"reply").receipt
    assert ledger.receipt(message()) == given
    refused("FK347", ledger.receipt, message(digest="other"))


def test_pruning_deletes_replies_and_keeps_every_charge(ledger):
    admit(ledger)
    ledger.reserve(message(), [ROUND])
    ledger.commit(message(), b"reply" * 1000, b"state")
    refused("FK345", ledger.prune, "icu", "r1")
    ledger.end("icu", "r1")
    ledger.prune("icu", "r1")
    ledger.prune("icu", "r1")
    assert ledger.verify() == 0
    assert units(ledger)[0] == 1
    refused("FK349", ledger.reserve, message(), [ROUND])
    refused("FK349", ledger.state, "icu", "r1")


# Budgets and jobs


def test_data_sets_have_budgets_of_their_own(ledger):
    ledger.create_budget("ward", unit="patient", limit=8.0, delta=1e-6, order=4.0)
    admit(ledger, rounds=FIT)
    account = ledger.account("ward")
    assert (account.spent, account.held()) == (0, 0)
    assert (account.budget.unit, account.budget.order, account.budget.delta) == ("patient", 4.0, 1e-6)
    ledger.admit("ward", "r1", "s", job(40, unit="patient"), 2e6)
    assert ledger.jobs_left("icu", job(1)) == 0


def test_a_budget_is_fixed_for_good(ledger):
    made = ledger.create_budget("icu", unit="record", limit=3.0, delta=1e-5)
    assert made.order == 7.5
    same = {"unit": "record", "limit": 3.0, "delta": 1e-5}
    for change in ({"unit": "patient"}, {"limit": 4.0}, {"limit": 2.9}, {"delta": 1e-6}, {"order": 6.0}):
        refused("FK340", ledger.create_budget, "icu", **{**same, **change})
    assert ledger.account("icu").budget == made
    refused("FK340", ledger.account, "unknown")
    refused("FK340", ledger.admit, "unknown", "r", "s", job(), 2e6)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"unit": "person"}, "FK343"),
        ({"adjacency": "replace_one"}, "FK343"),
        ({"limit": 0.0}, "FK301"),
        ({"limit": float("nan")}, "FK301"),
        ({"delta": 0.0}, "FK302"),
        ({"delta": 1.0}, "FK302"),
        ({"limit": 0.05}, "FK343"),
        ({"order": 1.05}, "FK343"),
        ({"dataset": ""}, "FK343"),
        ({"dataset": "a\nb"}, "FK343"),
    ],
)
def test_an_impossible_budget_is_refused_and_not_made(ledger, changes, code):
    values = {"dataset": "new", "unit": "record", "limit": 3.0, "delta": 1e-5, **changes}
    refused(code, lambda dataset, **rest: ledger.create_budget(dataset, **rest), **values)
    assert list(ledger.book().accounts) == ["icu"]


def test_a_job_of_another_unit_or_adjacency_is_refused(ledger):
    refused("FK341", admit, ledger, unit="patient")
    refused("FK341", admit, ledger, adjacency="replace_one")
    refused("FK341", ledger.jobs_left, "icu", job(unit="patient"))
    refused("FK305", ledger.admit, "icu", "r1", "s", Job("record", "add_remove", ()), 2e6)


def test_the_way_out_of_another_unit_is_never_the_weaker_one(ledger):
    ledger.create_budget("ward", unit="patient", limit=3.0, delta=1e-5)
    for dataset, asked, said in (("icu", "patient", "create one with --unit patient"), ("ward", "record", "set data.")):
        with pytest.raises(PrivacyError) as caught:
            ledger.jobs_left(dataset, job(unit=asked))
        assert caught.value.code == "FK341" and said in caught.value.remedy
        assert "unit: record" not in caught.value.remedy and "--unit record" not in caught.value.remedy


def test_seeded_noise_never_touches_a_ledger():
    assert "protects nobody" in refused("FK342", job_of, plan(noise="seeded"))


def test_a_plan_is_held_in_full_and_its_rounds_add_up_to_it():
    whole = plan(sample_rate=1 / 19, noise_multiplier=3.3, steps=19, rounds=100)
    assert job_of(whole).charges == (Charge(52631579, 3300000, 1900),)
    assert merged(rounded(event) for event in round_events(whole, "train") * 100) == job_of(whole).charges
    evaluated = plan(steps=19, rounds=100, evaluation=EvaluationPlan(5.0, (50, 100), 2, 10))
    parts = round_events(evaluated, "train") * 100 + round_events(evaluated, "evaluate") * 2
    assert merged(rounded(event) for event in parts) == job_of(evaluated).charges


@pytest.mark.parametrize(
    ("change", "code"),
    [({"round": -1}, "FK343"), ({"round": 1.5}, "FK343"), ({"digest": ""}, "FK343"), ({"run": "x" * 201}, "FK343")],
)
def test_a_message_is_named_in_full(ledger, change, code):
    admit(ledger)
    refused(code, ledger.reserve, dataclasses.replace(message(), **change), [ROUND])
    refused("FK305", ledger.reserve, message(), [dataclasses.replace(ROUND, steps=0)])
    refused("FK305", ledger.reserve, message(), [])
    assert units(ledger)[0] == 0


# What is recorded


def test_raw_events_are_recorded_with_the_accountants_version_and_a_nonce(ledger):
    admit(ledger)
    ledger.reserve(message(), [ROUND])
    ledger.commit(message(), b"reply")
    facts = [decode(entry.body)[0] for entry in ledger.file.entries()]
    held, reserved, committed = facts[2:]
    assert isinstance(held, Held) and isinstance(reserved, Reserved) and isinstance(committed, Committed)
    assert held.charges == (Charge(10**9, 10**7, 10),) and reserved.charges == (Charge(10**9, 10**7, 1),)
    assert "dp-accounting 0.6" in held.accountant == reserved.accountant
    nonces = {entry.body.split('"nonce":"')[1][:32] for entry in ledger.file.entries()}
    assert len(nonces) == 5


def test_a_ledger_that_an_older_version_wrote_reads_as_it_did():
    """ledger_format_1.json was written before holds could be renewed; it holds every kind of fact of that time."""
    found = read_export(Path(__file__).with_name("ledger_format_1.json"))
    book = Book()
    for entry in found.entries:
        fact, at_ms = decode(entry.body)
        assert encode(fact, at_ms / 1000, json.loads(entry.body)["nonce"]) == entry.body
        book.apply(entry)
    icu, one = book.accounts["icu"], rdp_filter.cost([rounded(ROUND)], 7.5)
    assert (icu.spent, icu.held(), icu.left() // one) == (3 * one, 4 * one, FIT - 7)
    assert {name: run.state for name, run in icu.runs.items()} == {"r1": "ended", "r2": "expired", "r3": "held"}
    assert icu.runs["r1"].pruned and icu.runs["r1"].reserved["train", 2].lost


def test_a_renewal_has_one_canonical_text():
    body = encode(Renewed("icu", "r1", 90_000), 1.5, "n")
    assert body == '{"at_ms":1500,"dataset":"icu","expires_ms":90000,"kind":"renew","nonce":"n","run":"r1"}'
    assert decode(body) == (Renewed("icu", "r1", 90_000), 1500)


def test_costs_are_recomputed_on_opening_and_never_read_from_the_file(ledger, monkeypatch, clock):
    admit(ledger)
    ledger.reserve(message(), [ROUND])
    spent = ledger.account("icu").spent
    dearer = rdp_filter.step_cost
    monkeypatch.setattr(rdp_filter, "step_cost", lambda *event: 3 * dearer(*event))
    with Ledger(ledger.file.path, clock=clock) as again:
        assert again.account("icu").spent == 3 * spent


def test_200_distinct_events_cost_one_evaluation_each_however_often_the_ledger_is_read(ledger, clock):
    events = [GaussianEvent(0.001 + k * 1e-6, 12.0, 1) for k in range(200)]
    ledger.admit("icu", "r1", "s", Job("record", "add_remove", tuple(rounded(event) for event in events)), 2e6)
    rdp_filter.step_cost.cache_clear()
    for number, event in enumerate(events):
        ledger.reserve(message(round_=number, digest=f"d{number}"), [event])
    with Ledger(ledger.file.path, clock=clock) as again:
        for _ in range(5):
            again.jobs_left("icu", job(1))
    assert rdp_filter.step_cost.cache_info().misses == 201


def varied(count):
    """Distinct events of ordinary runs."""
    return [GaussianEvent(0.005 + 0.001 * (k % 170), 2.0 + 0.03 * k, 5 + 7 * k % 150) for k in range(count)]


@pytest.fixture
def long(ledger, clock):
    ledger.create_budget("long", unit="record", limit=90.0, delta=1e-5)
    for number, event in enumerate(varied(200)):
        ledger.admit("long", f"r{number}", "s", Job("record", "add_remove", (rounded(event),)), 2e6)
        ledger.reserve(Message("long", f"r{number}", 1, "d"), [event])
    return ledger.file.path


def test_the_filter_s_state_of_200_distinct_events_costs_one_evaluation_each_and_no_pld(long, clock, monkeypatch):
    rdp_filter.step_cost.cache_clear()
    monkeypatch.setattr(accounting, "epsilon_of", lambda *_: pytest.fail("a distribution was computed"))
    with Ledger(long, clock=clock) as opened:
        assert opened.account("long").spent > 0
        assert summary(opened, "long", pld=False)["left"] >= 0
        assert calls(summary, opened, "long", pld=False) < 50_000
    assert rdp_filter.step_cost.cache_info().misses == 200


@pytest.mark.slow
def test_the_pld_figure_of_200_distinct_events_is_computed_once_and_kept(long, clock):
    said = []

    @contextmanager
    def computing(sentence):
        said.append(sentence)
        yield

    with Ledger(long, clock=clock) as opened:
        found = pld_epsilon(opened, "long", computing=computing)
        assert said == ["computing the PLD figure of long (200 kinds of events)"]
        assert pld_epsilon(opened, "long", computing=computing) == found
        shown = summary(opened, "long", computing=computing)
    assert len(said) == 1
    assert 0 < shown["epsilon_pld"] == found < shown["epsilon_spent"]


def test_another_process_s_entries_are_read_without_folding_the_chain_anew(ledger, monkeypatch, clock):
    admit(ledger)
    with Ledger(ledger.file.path, clock=clock) as other:
        other.reserve(message(), [ROUND])
    read = []
    rows = ledger.file._rows
    monkeypatch.setattr(ledger.file, "_rows", lambda after: read.extend(found := rows(after)) or found)
    assert units(ledger) == (1, 9, FIT - 10)
    assert len(read) == 1


def test_the_summary_adds_up_per_study_and_run(ledger, clock):
    admit(ledger, "r1", 10, study="a")
    admit(ledger, "r2", 4, study="a", expires=clock.now + 60)
    admit(ledger, "r3", 6, study="b")
    ledger.reserve(message("r1"), [ROUND])
    ledger.commit(message("r1"), b"x")
    ledger.reserve(message("r3"), [ROUND])
    clock.now += 60
    shown = summary(ledger, "icu", job=job(7))
    one = 1 / FIT
    assert shown["spent"] == pytest.approx(2 * one, rel=0.03)
    assert shown["held"] == pytest.approx(14 * one, rel=0.03)
    assert shown["spent"] + shown["held"] + shown["left"] == pytest.approx(1)
    assert shown["studies"]["a"]["held"] == pytest.approx(9 * one, rel=0.03)
    assert [(run["run"], run["state"], run["replies"], run["unanswered"]) for run in shown["runs"]] == [
        ("r1", "held", 1, 0),
        ("r2", "expired", 0, 0),
        ("r3", "held", 0, 1),
    ]
    assert shown["jobs_left"] == (FIT - 16) // 7
    assert 0 < shown["epsilon_pld"] < shown["epsilon_spent"] < 3


def test_the_pld_figure_is_stored_by_the_events_and_computing_meanwhile(ledger, monkeypatch, clock):
    admit(ledger)
    ledger.reserve(message(), [ROUND])
    assert pld_epsilon(ledger, "icu", compute=False) is None
    found = pld_epsilon(ledger, "icu")
    assert epsilon_of([ROUND], 1e-5) <= found <= epsilon_of([ROUND], 1e-5) + 1e-4
    monkeypatch.setattr("fedkit.privacy.accounting.epsilon_of", lambda *_: pytest.fail("computed again"))
    with Ledger(ledger.file.path, clock=clock) as again:
        assert pld_epsilon(again, "icu") == found
        again.reserve(message(round_=2, digest="d2"), [ROUND])
        assert pld_epsilon(again, "icu", compute=False) is None


# Files that cannot be trusted or used


def tamper(ledger, *statements):
    ledger.close()
    sql = sqlite3.connect(ledger.file.path)
    sql.isolation_level = None
    for trigger in ("chain_is_kept", "chain_is_fixed"):
        sql.execute(f"DROP TRIGGER {trigger}")
    for statement in statements:
        sql.execute(statement)
    sql.close()
    return ledger.file.path


@pytest.fixture
def used(ledger):
    admit(ledger)
    for number in (1, 2, 3):
        ledger.reserve(message(round_=number, digest=f"d{number}"), [ROUND])
        ledger.commit(message(round_=number, digest=f"d{number}"), b"reply %d" % number)
    return ledger


@pytest.mark.parametrize(
    ("code", "statements"),
    [
        ("FK331", ["UPDATE chain SET body = replace(body, '10000000,1]', '90000000,1]') WHERE seq = 4"]),
        ("FK331", ["UPDATE chain SET digest = 'x' WHERE seq = 9"]),
        ("FK331", ["UPDATE head SET digest = 'x'"]),
        ("FK332", ["DELETE FROM chain WHERE seq > 5"]),
        ("FK332", ["DELETE FROM chain WHERE seq = 4"]),
        ("FK332", ["DELETE FROM chain"]),
        ("FK332", ["DELETE FROM chain", "DELETE FROM head"]),
        (
            "FK333",
            [
                "UPDATE chain SET position = 99 WHERE position = 4",
                "UPDATE chain SET position = 4 WHERE position = 6",
                "UPDATE chain SET position = 6 WHERE position = 99",
            ],
        ),
        ("FK330", ["PRAGMA user_version = 2"]),
        ("FK330", ["DROP TABLE chain"]),
    ],
)
def test_a_tampered_truncated_or_reordered_ledger_is_refused(used, code, statements):
    path = tamper(used, *statements)
    refused(code, Ledger, path)


def test_tampering_under_an_open_ledger_is_refused_at_the_next_reservation(used, clock):
    with Ledger(used.file.path, clock=clock) as opened:
        tamper(used, "DELETE FROM chain WHERE seq > 5")
        refused("FK332", opened.reserve, message(round_=4, digest="d4"), [ROUND])


def test_another_history_under_an_open_ledger_is_refused_however_sound(used, tmp_path, clock):
    other = tmp_path / "other.db"
    with Ledger.create(other, clock=clock) as made:
        made.create_budget("icu", unit="record", limit=3.0, delta=1e-5)
    with Ledger(used.file.path, clock=clock) as opened:
        tamper(
            used,
            f"ATTACH '{other}' AS other",
            "DELETE FROM chain",
            "INSERT INTO chain SELECT * FROM other.chain",
            "INSERT OR REPLACE INTO head SELECT * FROM other.head",
        )
        refused("FK335", opened.reserve, message(round_=4, digest="d4"), [ROUND])


def test_an_altered_or_missing_reply_is_found(used, clock):
    assert used.verify() == 3
    path = used.file.path
    copy = path.with_name("copy.db")
    used.close()
    shutil.copy(path, copy)
    for file, statement in ((path, "UPDATE replies SET reply = CAST('x' AS BLOB)"), (copy, "DELETE FROM replies")):
        sql = sqlite3.connect(file)
        with sql:
            sql.execute(statement)
        sql.close()
        with Ledger(file, clock=clock) as opened:
            refused("FK331" if file == path else "FK349", opened.verify)
    with Ledger(path, clock=clock) as opened:
        refused("FK331", opened.reserve, message(digest="d1"), [ROUND])
        refused("FK331", opened.commit, message(digest="d1"), b"reply 1")
    with Ledger(copy, clock=clock) as opened:
        refused("FK349", opened.reserve, message(digest="d1"), [ROUND])


def test_entries_cannot_be_changed_by_accident(used):
    with pytest.raises(sqlite3.IntegrityError, match="append only"):
        used.file._sql.execute("DELETE FROM chain")
    with pytest.raises(sqlite3.IntegrityError, match="append only"):
        used.file._sql.execute("UPDATE chain SET body = ''")


def test_an_unknown_entry_is_refused_rather_than_skipped(used):
    from fedkit.storage.chain import link

    last = used.file.entries()[-1]
    body = '{"kind":"spend","at_ms":1,"nonce":"x"}'
    entry = link(last, body)
    path = tamper(
        used,
        f"INSERT INTO chain VALUES ({entry.seq}, {entry.seq}, '{entry.prev}', '{body}', '{entry.digest}')",
        f"UPDATE head SET seq = {entry.seq}, digest = '{entry.digest}'",
    )
    assert "cannot read" in refused("FK330", Ledger, path)


def test_a_file_that_is_no_ledger_is_refused(tmp_path):
    assert "no ledger at" in refused("FK330", Ledger, tmp_path / "none.db")
    (tmp_path / "text.db").write_text("not a database " * 100)
    refused("FK330", Ledger, tmp_path / "text.db")
    (tmp_path / "empty.db").touch()
    refused("FK330", Ledger, tmp_path / "empty.db")
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE a (b)").connection.close()
    refused("FK330", Ledger, tmp_path / "other.db")


def test_a_ledger_cut_in_the_middle_is_refused(used):
    path = used.file.path
    used.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    refused("FK330", Ledger, path)


def test_a_new_ledger_never_replaces_one(used, tmp_path):
    refused("FK330", Ledger.create, used.file.path)
    assert units(used)[0] == 3
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_restored_backup_is_refused_by_its_exported_head(used, tmp_path, clock):
    backup = tmp_path / "backup.db"
    used.file._sql.execute("VACUUM INTO ?", (str(backup),))
    older = used.export()
    used.reserve(message(round_=4, digest="d4"), [ROUND])
    newer = used.export()
    for head in (newer, newer.head):
        refused("FK334", Ledger, backup, clock=clock, head=head)
    Ledger(backup, clock=clock, head=older).close()
    with Ledger(backup, clock=clock) as restored:
        restored.reserve(message(round_=5, digest="d5"), [ROUND])
        refused("FK335", check_against, restored.file.entries(), restored.book(), newer)
    with Ledger.create(tmp_path / "another.db", clock=clock) as another:
        refused("FK350", Ledger, another.file.path, head=newer)


def test_a_read_only_ledger_can_be_read_and_spends_nothing(used, clock):
    with Ledger(used.file.path, clock=clock, read_only=True) as opened:
        assert units(opened) == (3, 7, FIT - 10)
        assert opened.verify() == 3
        refused("FK336", opened.reserve, message(round_=4, digest="d4"), [ROUND])
        assert units(opened) == (3, 7, FIT - 10)


READ_ONLY_DISK = """
import os, sys
from fedkit.errors import PrivacyError
from fedkit.privacy.ledger.ledger import Ledger
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    Ledger(sys.argv[1]).create_budget("new", unit="record", limit=3.0, delta=1e-5)
except PrivacyError as error:
    print(error.code)
try:
    Ledger.create(sys.argv[1] + "2")
except PrivacyError as error:
    print(error.code)
with Ledger(sys.argv[1], read_only=True) as ledger:
    print(ledger.verify())
"""


def test_a_read_only_disk_is_refused_for_writing_and_can_be_read(used):
    import tempfile

    # Away from the test's own folder, which another user may not enter.
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "ledger.db")
        used.close()
        shutil.copy(used.file.path, path)
        os.chmod(path, 0o444)
        os.chmod(folder, 0o555)
        done = subprocess.run([sys.executable, "-c", READ_ONLY_DISK, path], capture_output=True, text=True)
        os.chmod(folder, 0o755)
    assert done.stdout.split() == ["FK336", "FK336", "3"], done.stderr


def test_on_a_full_disk_nothing_is_spent_nothing_lost_and_space_makes_it_go_on(used):
    pages = used.file._sql.execute("PRAGMA page_count").fetchone()[0]
    used.reserve(message(round_=4, digest="d4"), [ROUND])
    used.file._sql.execute(f"PRAGMA max_page_count = {pages}")
    refused("FK337", used.commit, message(round_=4, digest="d4"), b"x" * 10**6)
    assert units(used) == (4, 6, FIT - 10)
    before = used.export()
    for number in range(5, 9):
        with suppress(PrivacyError):
            used.reserve(message(round_=number, digest=f"d{number}"), [ROUND])
    refused("FK337", used.reserve, message(round_=9, digest="d9" * 90), [ROUND] * 1)
    assert used.export().entries[: len(before.entries)] == before.entries
    used.file._sql.execute("PRAGMA max_page_count = 1000000")
    assert used.reserve(message(round_=4, digest="d4"), [ROUND]).reply is None
    used.commit(message(round_=4, digest="d4"), b"x" * 10**6)
    assert used.verify() == 4


def test_a_ledger_in_use_says_so(used, clock):
    with Ledger(used.file.path, clock=clock, busy_seconds=0.01) as other, used.file.writing():
        refused("FK338", other.reserve, message(round_=4, digest="d4"), [ROUND])
    assert units(used)[0] == 3


def test_a_failed_transaction_leaves_neither_file_nor_memory_changed(used, monkeypatch):
    monkeypatch.setattr(used.file, "store_reply", lambda *_: (_ for _ in ()).throw(RuntimeError("power")))
    used.reserve(message(round_=4, digest="d4"), [ROUND])
    with pytest.raises(RuntimeError, match="power"):
        used.commit(message(round_=4, digest="d4"), b"x")
    monkeypatch.undo()
    assert used.reserve(message(round_=4, digest="d4"), [ROUND]).reply is None
    assert used.commit(message(round_=4, digest="d4"), b"y").reply == b"y"
    assert used.verify() == 4


def test_the_file_is_durable_by_its_settings(used, clock):
    with Ledger(used.file.path, clock=clock) as again:
        _is_durable(again)
    with Ledger.create(used.file.path.with_name("new.db"), clock=clock) as new:
        _is_durable(new)


def _is_durable(ledger):
    ask = ledger.file._sql.execute
    # No write-ahead log: what a killed process had committed would be lost with it.
    assert ask("PRAGMA journal_mode").fetchone()[0] == "delete"
    assert ask("PRAGMA synchronous").fetchone()[0] == 3
    assert ledger.file.path.stat().st_mode & 0o777 == 0o600


def test_a_ledger_is_not_carried_over_a_fork(used, monkeypatch):
    monkeypatch.setattr("os.getpid", lambda: -1)
    assert "after a fork" in refused("FK330", used.book)
    refused("FK330", used.reserve, message(round_=4, digest="d4"), [ROUND])


def test_a_ledger_belongs_to_one_thread(used):
    seen = []

    def use():
        try:
            used.book()
        except PrivacyError as error:
            seen.append(error.code)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == ["FK330"]


def test_a_budget_admits_no_more_runs_than_its_delta_pays_residues_for(tmp_path):
    with Ledger.create(tmp_path / "ledger.sqlite", clock=lambda: 1000.0) as ledger:
        ledger.create_budget("ward", unit="record", limit=50.0, delta=5e-12)
        job = Job("record", "add_remove", (rounded(GaussianEvent(0.01, 50.0, 1)),))
        for number in range(2):
            ledger.admit("ward", f"run-{number}", "study", job, 2000.0)
        with pytest.raises(PrivacyError, match="pays for the residues of 2") as caught:
            ledger.admit("ward", "run-2", "study", job, 2000.0)
        assert caught.value.code == "FK339"
