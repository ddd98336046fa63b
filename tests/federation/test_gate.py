"""Whatever leaves a site was charged first, stored second, sent third."""

import ast
import dataclasses
import os
import sqlite3
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.errors import FederationError, PrivacyError
from fedkit.federation import gate as module
from fedkit.federation import reply
from fedkit.federation.gate import Gate, Recall, request_digest
from fedkit.federation.public_codes import COMMON, public_code
from fedkit.privacy.accounting import GaussianEvent
from fedkit.privacy.events import events_of, round_events
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.ledger.messages import FAILED, Message
from fedkit.privacy.rdp_filter import rounded
from fedkit.types import ClientUpdate, EvaluationPlan, PrivacyPlan

PLAN = PrivacyPlan(
    site="north",
    unit="record",
    adjacency="add_remove",
    sample_rate=0.1,
    max_grad_norm=1.0,
    noise_multiplier=4.0,
    lot_size=20.0,
    steps=10,
    rounds=3,
    epsilon=0.6,
    delta=1e-5,
    accountant="pld",
    records=300,
    records_declared=True,
    noise="secure",
    max_lot=80,
    evaluation=EvaluationPlan(8.0, (2, 3), 2, 10),
)
MODEL = np.arange(4, dtype=np.float32)


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
    with Ledger.create(tmp_path / "north.sqlite", clock=clock) as made:
        made.file._sql.execute("PRAGMA synchronous = OFF")
        made.create_budget("icu", unit="record", limit=3.0, delta=1e-5)
        yield made


@pytest.fixture
def gate(ledger):
    made = Gate(ledger, "icu", "r1", PLAN)
    made.admit("sepsis")
    return made


class Site:
    """Counts how often its records are read; every answer is another one, as with real noise."""

    def __init__(self, path=None):
        self.reads, self.states, self.path = 0, [], path

    def train(self, state):
        self.reads += 1
        self.states.append({name: array.copy() for name, array in state.items()})
        after = {"control": np.array([[self.reads, 0.5]], np.float32)}
        return ClientUpdate("north", np.full(4, self.reads, np.float32), 200.0), after

    def measure(self):
        self.reads += 1
        return {"histograms": np.array([1.5, -0.25, self.reads])}


def refused(code, call, *arguments, **named):
    with pytest.raises(PrivacyError) as caught:
        call(*arguments, **named)
    assert caught.value.code == code, caught.value
    return str(caught.value)


def spent(ledger):
    return ledger.account("icu").spent


def cost(ledger, events):
    return ledger.account("icu").cost(rounded(event) for event in events)


def answer(gate, compute, number=1, digest="d1", purpose="train", events=None):
    return gate.answer(purpose, number, digest, events or round_events(gate.plan, purpose), compute)


# Reserve, compute, commit


def test_no_record_is_read_before_the_charge_is_on_disk_and_nothing_is_sent_before_the_reply_is(gate, ledger, clock):
    seen = []

    def compute():
        with Ledger(ledger.file.path, clock=clock) as other:
            seen.append((spent(other), len(other.account("icu").runs["r1"].newest)))
        return b"reply", b"state"

    assert answer(gate, compute) == b"reply"
    assert seen == [(cost(ledger, round_events(PLAN, "train")), 0)]
    with Ledger(ledger.file.path, clock=clock) as other:
        assert other.verify() == 1
        assert other.reserve(Message("icu", "r1", 1, "d1"), round_events(PLAN, "train")).reply == b"reply"


def test_an_answered_request_computes_nothing_and_gets_the_first_answer_for_ever(gate, ledger):
    site = Site()
    first = gate.update(1, MODEL, 0.5, site.train)
    for _ in range(2):
        again = gate.update(1, MODEL, 0.5, site.train)
        assert again.delta.tobytes() == first.delta.tobytes()
        assert (again.site, again.weight, dict(again.metrics)) == ("north", 200.0, {})
    gate.end()
    assert gate.update(1, MODEL, 0.5, site.train).delta.tobytes() == first.delta.tobytes()
    assert site.reads == 1
    assert spent(ledger) == cost(ledger, round_events(PLAN, "train"))


def test_another_request_for_the_same_round_reads_nothing(gate, ledger):
    site = Site()
    gate.update(1, MODEL, 0.5, site.train)
    before = spent(ledger)
    for model, mu in ((MODEL + 1, 0.5), (MODEL, 0.25), (MODEL[:3], 0.5)):
        refused("FK347", gate.update, 1, model, mu, site.train)
    assert (site.reads, spent(ledger)) == (1, before)


def test_a_whole_run_spends_exactly_what_was_held(gate, ledger):
    site = Site()
    assert ledger.account("icu").held() == cost(ledger, events_of(PLAN))
    for number in (1, 2, 3):
        gate.update(number, MODEL, 0.0, site.train)
        if number > 1:
            assert gate.measurement(number, MODEL, site.measure)["histograms"].tolist() == [1.5, -0.25, site.reads]
    assert spent(ledger) == cost(ledger, events_of(PLAN))
    assert ledger.account("icu").held() == 0


def test_an_evaluation_is_answered_once_too_and_leaves_the_state_alone(gate):
    site = Site()
    gate.update(1, MODEL, 0.0, site.train)
    gate.update(2, MODEL, 0.0, site.train)
    first = gate.measurement(2, MODEL, site.measure)
    assert gate.measurement(2, MODEL, site.measure)["histograms"].tobytes() == first["histograms"].tobytes()
    assert site.reads == 3
    assert gate.state()["control"].tolist() == [[2.0, 0.5]]
    refused("FK347", gate.measurement, 2, MODEL + 1, site.measure)


def test_the_state_goes_from_answer_to_answer_and_outlives_the_process(gate, ledger, clock):
    site = Site()
    gate.update(1, MODEL, 0.0, site.train)
    with Ledger(ledger.file.path, clock=clock) as other:
        Gate(other, "icu", "r1", PLAN).update(2, MODEL, 0.0, site.train)
    gate.update(2, MODEL, 0.0, site.train)
    gate.update(3, MODEL, 0.0, site.train)
    seen = [state["control"].tolist() if state else None for state in site.states]
    assert seen == [None, [[1.0, 0.5]], [[2.0, 0.5]]]
    assert gate.state()["control"].tolist() == [[3.0, 0.5]]


# What it refuses


def test_what_the_plan_does_not_have_is_refused_and_reads_nothing(gate, ledger):
    def compute():
        pytest.fail("a record was read")

    for purpose, number in (
        *(("train", number) for number in (0, -1, 4)),
        *(("evaluate", number) for number in (0, 1, 4)),
        ("stats", 1),
    ):
        assert "nothing to" in refused("FK351", answer, gate, compute, number, purpose=purpose, events=events_of(PLAN))
    refused("FK343", answer, gate, compute, number=1.0)
    refused("FK343", answer, gate, compute, number=True)
    refused("FK305", gate.answer, "train", 1, "d", [], compute)
    refused("FK346", gate.answer, "train", 1, "d", [GaussianEvent(0.1, 3.9, 1)], compute)
    silent = dataclasses.replace(gate, plan=dataclasses.replace(PLAN, evaluation=None))
    refused("FK351", silent.measurement, 3, MODEL, compute)
    assert spent(ledger) == 0


def test_seeded_noise_and_a_run_that_was_not_admitted_get_no_answer(ledger, gate):
    def compute():
        pytest.fail("a record was read")

    seeded = dataclasses.replace(gate, plan=dataclasses.replace(PLAN, noise="seeded"))
    refused("FK342", answer, seeded, compute)
    refused("FK342", dataclasses.replace(seeded, run="r2").admit, "sepsis")
    refused("FK345", answer, dataclasses.replace(gate, run="r2"), compute)
    refused("FK340", answer, dataclasses.replace(gate, dataset="ward"), compute)
    gate.end("stopped")
    refused("FK345", answer, gate, compute)
    assert spent(ledger) == 0


def test_an_update_with_metrics_is_charged_and_never_sent(gate):
    def train(_):
        return ClientUpdate("north", MODEL, 1.0, {"train_loss": 0.3}), {}

    assert "train_loss" in refused("FK352", gate.update, 1, MODEL, 0.0, train)
    refused("FK354", gate.update, 1, MODEL, 0.0, Site().train)


def test_a_model_that_the_ledger_cannot_keep_is_refused_before_anything_is_spent(gate, ledger):
    huge = np.broadcast_to(np.float32(0), 250_000_000)
    assert "250,000,000" in refused("FK357", gate.update, 1, huge, 0.0, Site().train)
    assert spent(ledger) == 0


# Crashes


def fail(*_):
    raise RuntimeError("an odd record")


def test_what_fails_while_it_is_computed_stays_charged_and_is_never_computed_again(gate, ledger, clock):
    with pytest.raises(RuntimeError, match="an odd record"):
        gate.update(1, MODEL, 0.0, fail)
    once, site = spent(ledger), Site()
    assert once == cost(ledger, round_events(PLAN, "train"))
    with Ledger(ledger.file.path, clock=clock) as other:
        for each in (gate, dataclasses.replace(gate, ledger=other)):
            refused("FK354", each.update, 1, MODEL, 0.0, site.train)
            refused("FK347", each.update, 1, MODEL + 1, 0.0, site.train)
    gate.end()
    ledger.prune("icu", "r1")
    refused("FK354", gate.update, 1, MODEL, 0.0, site.train)
    assert (site.reads, spent(ledger)) == (0, once)


def test_a_failed_evaluation_is_not_measured_again_and_leaves_training_alone(gate):
    site = Site()
    gate.update(1, MODEL, 0.0, site.train)
    gate.update(2, MODEL, 0.0, site.train)
    with pytest.raises(RuntimeError):
        gate.measurement(2, MODEL, fail)
    refused("FK354", gate.measurement, 2, MODEL, site.measure)
    assert site.reads == 2
    assert gate.measurement(3, MODEL, site.measure)["histograms"].tolist() == [1.5, -0.25, 3.0]


@pytest.mark.parametrize(
    "error",
    [RuntimeError("an odd record"), MemoryError(), *(PrivacyError("", code=code) for code in ("FK331", "FK404"))],
    ids=lambda error: getattr(error, "code", type(error).__name__),
)
def test_the_first_and_every_later_answer_to_a_failed_request_have_the_common_code(gate, error):
    def break_(_):
        raise error

    told = []
    for train in (break_, Site().train):
        with pytest.raises((RuntimeError, MemoryError, PrivacyError)) as caught:
            gate.update(1, MODEL, 0.0, train)
        told.append(public_code(caught.value))
    assert told == [COMMON, COMMON]


def test_a_failed_round_leaves_the_state_of_the_round_before(gate, ledger):
    site = Site()
    assert gate.state() == {}
    with pytest.raises(RuntimeError):
        gate.update(1, MODEL, 0.0, fail)
    assert gate.state() == {} and ledger.state("icu", "r1") is None
    gate.update(2, MODEL, 0.0, site.train)
    kept = ledger.state("icu", "r1")
    with pytest.raises(RuntimeError):
        gate.update(3, MODEL, 0.0, fail)
    assert ledger.state("icu", "r1") == kept
    assert gate.state()["control"].tolist() == [[1.0, 0.5]]


def test_a_failed_round_survives_the_files_checks_its_export_and_its_receipt(gate, ledger, clock):
    with pytest.raises(RuntimeError):
        gate.update(1, MODEL, 0.0, fail)
    digest = request_digest("r1", 1, "train", MODEL, 0.0)
    assert ledger.verify() == 1
    receipt = ledger.receipt(Message("icu", "r1", 1, digest))
    with Ledger(ledger.file.path, clock=clock, head=ledger.export()) as other:
        assert other.receipt(Message("icu", "r1", 1, digest)) == receipt
        assert other.account("icu").runs["r1"].reserved["train", 1].failed
        assert spent(other) == spent(ledger)


def test_an_interruption_leaves_the_round_to_be_computed(gate, ledger):
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gate.update(1, MODEL, 0.0, interrupt)
    once, site = spent(ledger), Site()
    gate.update(1, MODEL, 0.0, site.train)
    assert (site.reads, spent(ledger)) == (1, once)


def test_of_an_answer_and_a_failure_in_two_processes_the_first_on_disk_is_everybodys(gate, ledger, clock):
    with Ledger(ledger.file.path, clock=clock) as own:
        other, site = dataclasses.replace(gate, ledger=own), Site()

        def slow_and_failing(_):
            other.update(1, MODEL, 0.0, site.train)
            fail()

        def slow(state):
            with pytest.raises(RuntimeError):
                other.update(2, MODEL, 0.0, fail)
            return site.train(state)

        assert gate.update(1, MODEL, 0.0, slow_and_failing).delta.tolist() == [1.0] * 4
        refused("FK354", gate.update, 2, MODEL, 0.0, slow)
        refused("FK354", other.update, 2, MODEL, 0.0, site.train)
    assert site.reads == 2


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text("_delta", max_size=9), st.just(np.zeros(2, np.float32))))
def test_no_reply_of_arrays_is_the_mark_of_a_failure(arrays):
    assert not reply.arrays_to_bytes(arrays).startswith(FAILED[:8])
    refused("FK352", reply.arrays_from_bytes, FAILED)


def die(work):
    """The exit status of a process that did ``work``; a death in it is part of the work."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("when", ["computing", "sending"])
def test_a_process_that_dies_is_followed_by_one_that_goes_on(gate, ledger, clock, when):
    path = ledger.file.path

    def site():
        with Ledger(path, clock=clock) as own:
            doomed, there = Gate(own, "icu", "r1", PLAN), Site()

            def train(state):
                if when == "computing":
                    os._exit(7)
                return there.train(state)

            doomed.update(1, MODEL, 0.0, train)
            os._exit(7)

    assert die(site) == 7
    after = Site()
    update = gate.update(1, MODEL, 0.0, after.train)
    # What died while sending has its answer kept, what died before the commit released nothing and trains again.
    assert after.reads == (when == "computing")
    assert update.delta.tolist() == [1.0] * 4
    assert spent(ledger) == cost(ledger, round_events(PLAN, "train"))
    gate.update(2, MODEL, 0.0, after.train)
    assert after.states[-1]["control"].tolist() == [[1.0, 0.5]]


def test_processes_that_race_for_one_request_send_the_same_bytes(gate, ledger, clock, tmp_path):
    path = ledger.file.path
    read, write = os.pipe()

    def site(number):
        with Ledger(path, clock=clock) as own:

            def train(_):
                # All have reserved before any commits.
                os.write(write, b"x")
                while len(list(tmp_path.glob("ready*"))) < 1:
                    pass
                return ClientUpdate("north", np.full(4, number, np.float32), 1.0), {}

            update = Gate(own, "icu", "r1", PLAN).update(1, MODEL, 0.0, train)
            (tmp_path / f"sent{number}").write_bytes(update.delta.tobytes())

    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                site(number)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    for _ in children:
        assert os.read(read, 1) == b"x"
    (tmp_path / "ready").touch()
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert len({file.read_bytes() for file in tmp_path.glob("sent*")}) == 1
    assert spent(ledger) == cost(ledger, round_events(PLAN, "train"))
    for end in (read, write):
        os.close(end)


# Files that cannot be used


def test_a_reply_that_the_disk_does_not_take_closes_its_round_as_a_failure_does(gate, ledger):
    site, big = Site(), np.zeros(10**6, np.float32)

    def train(state):
        update, _ = site.train(state)
        return dataclasses.replace(update, delta=big), {}

    pages = ledger.file._sql.execute("PRAGMA page_count").fetchone()[0]
    ledger.file._sql.execute(f"PRAGMA max_page_count = {pages + 4}")
    assert "full" in refused("FK354", gate.update, 1, MODEL, 0.0, train)
    once = spent(ledger)
    ledger.file._sql.execute("PRAGMA max_page_count = 1000000")
    refused("FK354", gate.update, 1, MODEL, 0.0, train)
    assert (site.reads, spent(ledger)) == (1, once)
    assert gate.update(2, MODEL, 0.0, train).delta.tobytes() == big.tobytes()


@pytest.mark.parametrize("fails", [False, True])
def test_on_a_disk_that_takes_nothing_a_reply_and_a_failure_look_alike(gate, ledger, monkeypatch, fails):
    site, room = Site(), True
    append = ledger.file.append

    def full(fact, at):
        if room:
            return append(fact, at)
        raise sqlite3.OperationalError("database or disk is full")

    def train(state):
        nonlocal room
        room = False
        update = site.train(state)
        return fail() if fails else update

    monkeypatch.setattr(ledger.file, "append", full)
    monkeypatch.setattr(sqlite3.OperationalError, "sqlite_errorname", "SQLITE_FULL", raising=False)
    refused("FK337", gate.update, 1, MODEL, 0.0, train)
    once, room = spent(ledger), True
    gate.update(1, MODEL, 0.0, site.train)
    assert (site.reads, spent(ledger)) == (2, once)


def test_a_ledger_in_use_or_altered_under_the_gate_reads_no_record(gate, ledger, clock):
    site = Site()
    with Ledger(ledger.file.path, clock=clock, busy_seconds=0.01) as other:
        with ledger.file.writing():
            refused("FK338", Gate(other, "icu", "r1", PLAN).update, 1, MODEL, 0.0, site.train)
        ledger.file._sql.execute("DROP TRIGGER chain_is_kept")
        ledger.file._sql.execute("DELETE FROM chain WHERE seq = 3")
        refused("FK332", Gate(other, "icu", "r1", PLAN).update, 1, MODEL, 0.0, site.train)
    assert site.reads == 0


def test_a_restored_backup_is_refused_by_its_head_and_by_the_reply_that_it_lacks(gate, ledger, clock, tmp_path):
    backup, site = tmp_path / "backup.sqlite", Site()
    ledger.file._sql.execute("VACUUM INTO ?", (str(backup),))
    gate.update(1, MODEL, 0.0, site.train)
    refused("FK334", Ledger, backup, clock=clock, head=ledger.export().head)
    ledger.file._sql.execute("DELETE FROM replies")
    refused("FK349", gate.update, 1, MODEL, 0.0, site.train)
    assert site.reads == 1


# Holds


def test_work_renews_the_hold_and_repeated_requests_do_not(gate, ledger, clock):
    def expires():
        return ledger.account("icu").runs["r1"].expires_ms / 1000

    site, first = Site(), clock.now + gate.hold_seconds
    assert expires() == first
    clock.now += 0.4 * gate.hold_seconds
    gate.update(1, MODEL, 0.0, site.train)
    assert expires() == first
    clock.now += 0.5 * gate.hold_seconds
    gate.update(1, MODEL, 0.0, site.train)
    assert expires() == first
    gate.update(2, MODEL, 0.0, site.train)
    assert expires() == clock.now + gate.hold_seconds
    clock.now += gate.hold_seconds
    refused("FK345", gate.update, 3, MODEL, 0.0, site.train)
    refused("FK345", gate.admit, "sepsis")
    assert gate.update(2, MODEL, 0.0, site.train).delta.tolist() == [2.0] * 4
    assert site.reads == 2


# Bytes


def test_a_request_is_named_by_all_that_it_says():
    model = np.array([0.0, 1.0], np.float32)
    digests = {
        request_digest("r1", 1, "train", model, 0.0),
        request_digest("r2", 1, "train", model, 0.0),
        request_digest("r1", 2, "train", model, 0.0),
        request_digest("r1", 1, "evaluate", model, 0.0),
        request_digest("r1", 1, "train", np.array([0.0, np.nextafter(1, 2, dtype=np.float32)], np.float32), 0.0),
        request_digest("r1", 1, "train", np.array([-0.0, 1.0], np.float32), 0.0),
        request_digest("r1", 1, "train", model[:1], 0.0),
        request_digest("r1", 1, "train", model, 1e-300),
        request_digest("r1t", 1, "rain", model, 0.0),
    }
    assert len(digests) == 9
    assert request_digest("r1", 1, "train", model[::-1][::-1], 0.0) in digests


FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=6)


@settings(max_examples=50, deadline=None)
@given(FLOATS, st.floats(1e-300, 1e300), st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), FLOATS))
def test_replies_and_states_come_back_bit_for_bit_and_are_the_same_bytes_each_time(delta, weight, state):
    update = ClientUpdate("north", np.array(delta, np.float32), weight)
    data = reply.update_to_bytes(update)
    assert data == reply.update_to_bytes(ClientUpdate("elsewhere", update.delta[::-1][::-1], weight))
    back = reply.update_from_bytes(data, "north")
    assert back.delta.tobytes() == update.delta.tobytes() and back.weight == weight
    assert back.delta.flags.writeable
    kept = {name: np.array(values, np.float32).reshape(1, -1) for name, values in state.items()}
    found = reply.state_from_bytes(reply.state_to_bytes(kept))
    assert {name: (a.shape, a.tobytes()) for name, a in found.items()} == {
        name: (a.shape, a.tobytes()) for name, a in kept.items()
    }


def test_bytes_that_are_no_reply_are_refused():
    update = reply.update_to_bytes(ClientUpdate("north", MODEL, 2.0))
    state = reply.state_to_bytes({"head": MODEL})
    for data in (b"", b"\x80\x04N.", state, update[:-1], update + b"x", update[:7], b"\xff" * 64):
        refused("FK352", reply.update_from_bytes, data, "north")
    for data in (b"\x80\x04N.", update, state[:-1]):
        refused("FK352", reply.state_from_bytes, data)
    assert reply.state_from_bytes(b"") == {}
    for arrays in (
        {"delta": MODEL.astype(np.float64), "weight": np.ones(1)},
        {"delta": MODEL.reshape(2, 2), "weight": np.ones(1)},
        {"delta": MODEL, "weight": np.zeros(1)},
        {"delta": MODEL, "weight": np.array([np.nan])},
        {"delta": MODEL, "weight": np.ones(2)},
        {"delta": np.array([np.inf], np.float32), "weight": np.ones(1)},
        {"delta": MODEL, "weight": np.ones(1), "loss": np.ones(1)},
    ):
        refused("FK352", reply.update_from_bytes, reply.arrays_to_bytes(arrays), "north")
    refused("FK352", reply.arrays_to_bytes, {"names": np.array(["a"])})
    refused("FK352", reply.arrays_to_bytes, {"__metadata__": MODEL})
    refused("FK352", reply.state_to_bytes, {"head": np.ones(2)})


def test_the_gate_knows_no_network_and_no_pickle():
    for file in (module.__file__, reply.__file__):
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
        names = {
            name
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [str(node.module)]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert not [name for name in names if name.split(".")[0] in ("flwr", "pickle", "torch", "dill")]


def test_a_recall_answers_the_newest_round_alone_and_holds_no_reply_of_those_before():
    recall = Recall()
    replies = {site: object() for site in ("north", "south", "east")}
    for site, kept in replies.items():
        recall.keep(site, "train", 1, "d1", kept)
        assert recall.reply(site, "train", 1, "d1") is kept
    recall.keep("east", "train", 1, "d1", None)
    measured = _Reply()
    held = weakref.WeakSet([measured])
    recall.keep("north", "evaluate", 1, "e1", measured)
    del measured
    recall.keep("north", "train", 2, "d2", second := object())
    assert recall.reply("north", "train", 2, "d2") is second
    # Another purpose has rounds of its own; what was answered in round 1 is answered by nobody again.
    assert len(held) == 1 and recall.reply("north", "evaluate", 1, "e1") in held
    for site in replies:
        with pytest.raises(FederationError, match="is past") as caught:
            recall.reply(site, "train", 1, "d1")
        assert caught.value.code == "FK535"
    assert recall.reply("south", "train", 2, "d2") is None
    recall.keep("north", "evaluate", 2, "e2", None)
    assert len(held) == 0
    with pytest.raises(PrivacyError) as failed:
        recall.reply("north", "evaluate", 2, "e2")
    assert failed.value.code == "FK354"


class _Reply:
    pass
