"""Replies in any order, late, twice, by others, never: the model's bits, the outcome and the notes say the truth."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Error, Message
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.errors import FederationError, RunError
from fedkit.federation import asking, wire
from fedkit.runs.directory import create, reopen
from fedkit.runs.journal import open_journal
from fedkit.strategies.robust import ROBUST
from fedkit.strategies.streaming import fed_avg
from fedkit.types import ClientUpdate
from tests.federation.scripted import SIZE, Recorder, ScriptedGrid, honest, loop_over

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["va", "ch", "hungary", "cleveland"]
LEAST = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
START = np.linspace(-1, 1, SIZE, dtype=np.float32)


def _sites(**changed):
    return {name: changed.get(name) for name in NAMES}


def _run(grid, **changes):
    record = Recorder()
    return loop_over(grid, **changes).run(START.copy(), record), record


def _silent(site, message):
    return None if message.metadata.message_type == "train" else honest(site, message)


@settings(max_examples=15)
@given(shuffle=st.permutations(NAMES), journaled=st.booleans(), kind=st.sampled_from(["streams", "robust", "held"]))
def test_no_order_of_arrival_changes_a_bit(tmp_path_factory, shuffle, journaled, kind):
    strategy = {"streams": lambda: None, "robust": ROBUST["fedmedian"], "held": lambda: FedMedian(**LEAST)}[kind]
    whole, expected = _run(ScriptedGrid(_sites()), strategy=strategy())

    def one_by_one(waiting, waits):
        return [site for site in shuffle if site in waiting][:1] if waits % 2 else []

    changes = {"journal": open_journal(tmp_path_factory.mktemp("run"))} if journaled else {}
    finish, record = _run(ScriptedGrid(_sites(), one_by_one), strategy=strategy(), **changes)
    if journaled:
        changes["journal"].close()
    assert finish.parameters.tobytes() == whole.parameters.tobytes()
    assert record.rounds == expected.rounds and record.updates == expected.updates
    assert [site for site, _ in record.updates[1]] == NAMES
    assert finish.outcome == "complete" and finish.notes == ()


def test_a_missing_site_is_named_with_its_share_and_the_others_train_on():
    finish, record = _run(ScriptedGrid(_sites(va=_silent)), num_rounds=2, timeout=0.02)
    assert (finish.outcome, finish.rounds) == ("degraded", 2)
    assert finish.notes[0] == (
        "round 1: degraded 3/4: va missing (10.0 % of the declared records): va: no reply within 0.02 s"
    )
    assert len(finish.notes) == 2
    assert record.rounds[2][1] == ("ch", "hungary", "cleveland")


def test_the_mean_is_of_those_who_came():
    finish, record = _run(ScriptedGrid(_sites(ch=_silent)), num_rounds=1, timeout=0.02, strategy=FedAvg(**LEAST))
    ours, again = _run(ScriptedGrid(_sites(ch=_silent)), num_rounds=1, timeout=0.02, strategy=fed_avg())
    np.testing.assert_allclose(ours.parameters, finish.parameters, rtol=1e-6, atol=1e-6)
    assert record.updates == again.updates


def test_below_quorum_the_run_fails_with_the_last_good_model():
    finish, record = _run(ScriptedGrid(_sites(va=_silent, ch=_silent)), timeout=0.02, min_sites=3)
    assert (finish.outcome, finish.rounds) == ("failed", 0)
    assert "2 usable updates, at least 3 needed" in finish.notes[-1] and "va: no reply" in finish.notes[-1]
    assert finish.parameters.tobytes() == START.tobytes() and list(record.rounds) == [0]


def test_a_straggler_is_waited_for_until_the_deadline():
    def late(site, message):
        return honest(site, message) if grid.waits > 40 else None

    grid = ScriptedGrid(_sites(va=late))
    finish, record = _run(grid, timeout=30.0)
    assert finish.outcome == "complete" and record.rounds[1][1] == tuple(NAMES)


def test_a_site_that_joins_late_is_asked_when_it_is_there(monkeypatch):
    monkeypatch.setattr(asking, "_RETRY_SECONDS", 0.0)
    grid = ScriptedGrid(_sites())
    grid.offline = {"ch"}
    grid.on_wait = lambda waits: grid.offline.clear() if waits == 5 else None
    finish, _ = _run(grid, timeout=30.0)
    assert finish.outcome == "complete"
    assert len([entry for entry in grid.asked if entry[0] == "ch" and entry[2] == "train"]) == 3


def test_a_site_that_never_joins_is_said_to_be_offline():
    grid = ScriptedGrid(_sites())
    grid.offline = {"ch"}
    finish, record = _run(grid, num_rounds=1, timeout=0.02)
    assert finish.outcome == "degraded"
    assert record.reports[1].failed["ch"] == "was not online within 0.02 s"


def test_a_broken_connection_is_asked_again_and_a_refusal_is_not(monkeypatch):
    monkeypatch.setattr(asking, "_RETRY_SECONDS", 0.0)
    tries = []

    def breaks(site, message):
        tries.append(message.metadata.message_type)
        return Error(5, "node unavailable") if tries.count("train") == 1 else honest(site, message)

    refusals = []

    def refuses(site, message):
        if message.metadata.message_type != "train":
            return honest(site, message)
        refusals.append(site)
        return Error(2, "FK339")

    grid = ScriptedGrid(_sites(va=breaks, ch=refuses))
    _, record = _run(grid, num_rounds=1, timeout=30.0)
    assert record.rounds[1][1] == ("va", "hungary", "cleveland")
    assert record.reports[1].failed == {"ch": "FK339"} and refusals == ["ch"]
    questions = [entry for entry in grid.asked if entry[0] == "va" and entry[2] == "train"]
    assert len(questions) == 2 and len(set(questions)) == 1


@pytest.mark.parametrize("code", ["FK576", "FK577", "FK580"])
def test_a_site_whose_answer_may_change_is_asked_again_and_then_counts(monkeypatch, code):
    monkeypatch.setattr(asking, "_RETRY_SECONDS", 0.0)
    told, answers = [], []

    def paused(site, message):
        if message.metadata.message_type != "train":
            return honest(site, message)
        answers.append(site)
        return Error(2, code) if len(answers) <= 3 else honest(site, message)

    grid = ScriptedGrid(_sites(va=paused))
    finish, record = _run(grid, num_rounds=1, timeout=30.0, on_progress=told.append)
    assert finish.outcome == "complete" and record.rounds[1][1] == tuple(NAMES)
    assert len(answers) == 4
    # Said once, however often it was asked.
    assert [(event.site, event.detail) for event in told if event.kind == "deferred"] == [("va", code)]


def test_a_site_that_stays_paused_is_missing_at_the_deadline_and_not_refused(monkeypatch):
    monkeypatch.setattr(asking, "_RETRY_SECONDS", 0.0)
    grid = ScriptedGrid(_sites(va=lambda site, message: Error(2, "FK580")))
    finish, record = _run(grid, num_rounds=1, timeout=0.05)
    assert finish.outcome == "degraded"
    assert record.reports[1].failed["va"] == "its last answer was FK580; no other within 0.05 s"


def test_a_code_that_may_change_is_asked_for_ever_less_often(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(asking.time, "monotonic", lambda: now[0])
    asked = asking._Asked()
    pauses = []
    for _ in range(6):
        asked.defer("va", "FK580")
        pauses.append(asked.due["va"] - now[0])
    assert pauses == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]


def _twice(grid):
    def answer(site, message):
        good = honest(site, message)
        if message.metadata.message_type != "train":
            return good
        other = wire.pack_update(ClientUpdate(site, np.full(SIZE, 9e5, np.float32), float(len(site))))
        return [grid[0].reply(message, good), grid[0].reply(message, other)]

    return answer


def _instead(grid):
    """Answer in another site's place, before it does."""

    def answer(site, message):
        good = honest(site, message)
        victims = [m for name, m in grid[0].waiting.values() if name == "hungary"]
        if message.metadata.message_type != "train" or not victims:
            return good
        forged = grid[0].reply(victims[0], wire.pack_update(ClientUpdate("hungary", np.ones(SIZE, np.float32), 7.0)))
        forged.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id
        return [forged, grid[0].reply(message, good)]

    return answer


def _stray(grid):
    """A reply to a request that this round never made, and one of another run."""

    def answer(site, message):
        good = honest(site, message)
        if message.metadata.message_type != "train":
            return good
        old = grid[0].reply(Message(message.content, message.metadata.dst_node_id, "train"), good)
        old.metadata.__dict__["_reply_to_message_id"] = "0" * 64
        other = grid[0].reply(message, good)
        other.metadata.__dict__["_run_id"] = 77
        return [old, other, grid[0].reply(message, good)]

    return answer


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        (_twice, ["a second reply of va was ignored"]),
        (_instead, ["a reply in this site's place, by another node of hungary was ignored"]),
        (_stray, ["a reply to no request of this round of va was ignored", "a reply of another run of va was ignored"]),
    ],
)
@pytest.mark.parametrize("held", [False, True])
def test_a_reply_that_nobody_waits_for_changes_nothing_and_is_named(lie, says, held):
    strategy = (lambda: FedMedian(**LEAST)) if held else (lambda: None)
    whole, _ = _run(ScriptedGrid(_sites()), strategy=strategy())
    box = []
    box.append(ScriptedGrid(_sites(va=lie(box))))
    finish, _ = _run(box[0], strategy=strategy(), timeout=30.0)
    assert finish.parameters.tobytes() == whole.parameters.tobytes()
    assert finish.outcome == "complete"
    for text in says:
        assert any(text in note for note in finish.notes), finish.notes


def test_stop_ends_the_run_with_the_rounds_that_it_has(tmp_path):
    events = []
    with open_journal(tmp_path) as journal:
        finish, record = _run(
            ScriptedGrid(_sites()),
            num_rounds=50,
            journal=journal,
            on_progress=events.append,
            stop=lambda: any(event.kind == "round_finished" and event.round == 2 for event in events),
        )
    assert (finish.outcome, finish.rounds) == ("stopped", 2) and max(record.rounds) == 2
    with open_journal(tmp_path) as journal:
        grid = ScriptedGrid(_sites())
        again, _ = _run(grid, num_rounds=50, journal=journal)
    assert again.outcome == "stopped" and again.parameters.tobytes() == finish.parameters.tobytes() and not grid.asked


def test_stop_is_heard_while_waiting():
    grid = ScriptedGrid(_sites(va=_silent))
    finish, _ = _run(grid, timeout=600.0, stop=lambda: grid.waits > 3)
    assert (finish.outcome, finish.rounds) == ("stopped", 0)


def test_a_stop_during_evaluation_keeps_the_round_that_was_paid_for():
    def unmeasured(site, message):
        late = message.metadata.message_type == "evaluate" and wire.unpack_model(message.content)[1] == 1
        return None if late else honest(site, message)

    grid = ScriptedGrid(_sites(va=unmeasured))
    finish, record = _run(grid, timeout=600.0, stop=lambda: grid.waits > 3)
    assert (finish.outcome, finish.rounds) == ("stopped", 1)
    assert record.rounds[1][1] == tuple(NAMES)


def test_a_watch_is_told_every_step():
    events = []
    _run(ScriptedGrid(_sites(va=_silent, ch=lambda *_: Error(2, "FK339"))), num_rounds=1, timeout=0.02,
         on_progress=events.append)  # fmt: skip
    told = [(event.kind, event.site) for event in events if event.round == 1 and event.purpose in (None, "train")]
    assert told[0] == ("round_started", "") and told[1:5] == [("asked", name) for name in NAMES]
    assert set(told[5:9]) == {("missing", "va"), ("refused", "ch"), ("received", "hungary"), ("received", "cleveland")}
    assert told[9:] == [("round_finished", ""), ("finished", "")] and events[-1].detail == "degraded"


def test_requests_of_the_callers_own_are_sent_as_they_are():
    made = []

    def make(site, purpose, number, parameters, mu):
        made.append((site, purpose, number, mu))
        if purpose == "train":
            return wire.pack_model(parameters, number, mu)
        return wire.pack_evaluation(parameters, number, histograms=purpose == "histograms")

    whole, _ = _run(ScriptedGrid(_sites()), num_rounds=1)
    finish, _ = _run(ScriptedGrid(_sites()), num_rounds=1, make_request=make)
    assert finish.parameters.tobytes() == whole.parameters.tobytes()
    assert {entry[1:] for entry in made} == {("exact", 0, 0.0), ("train", 1, 0.0), ("exact", 1, 0.0),
                                             ("histograms", 1, 0.0)}  # fmt: skip


def test_a_failed_run_that_is_reopened_asks_only_who_was_missing(tmp_path):
    whole, _ = _run(ScriptedGrid(_sites()), timeout=30.0, min_sites=4)
    with open_journal(tmp_path) as journal:
        failed, _ = _run(ScriptedGrid(_sites(va=_silent)), timeout=0.02, min_sites=4, journal=journal)
        assert failed.outcome == "failed"
        journal.reopen()
    grid = ScriptedGrid(_sites())
    with open_journal(tmp_path) as journal:
        finish, record = _run(grid, timeout=30.0, min_sites=4, journal=journal)
    assert finish.outcome == "complete" and finish.parameters.tobytes() == whole.parameters.tobytes()
    assert [entry[0] for entry in grid.asked if entry[1:3] == (1, "train")] == ["va"]
    assert [site for site, _ in record.updates[1]] == NAMES


@pytest.mark.parametrize(("changed", "word"), [({"seed": 6}, "seed"), ({"num_rounds": 9}, "rounds"),
                                               ({"strategy": FedMedian(**LEAST)}, "strategy")])  # fmt: skip
def test_another_runs_journal_is_refused(tmp_path, changed, word):
    with open_journal(tmp_path) as journal:
        _run(ScriptedGrid(_sites()), journal=journal)
    with open_journal(tmp_path) as journal, pytest.raises(RunError, match=f"with other .*{word}") as caught:
        _run(ScriptedGrid(_sites()), journal=journal, **changed)
    assert caught.value.code == "FK633"


def test_a_strategy_that_keeps_its_own_state_cannot_be_journaled(tmp_path):
    with open_journal(tmp_path) as journal, pytest.raises(FederationError, match="FedAdam may keep a state") as caught:
        _run(ScriptedGrid(_sites()), journal=journal, strategy=FedAdam(**LEAST))
    assert caught.value.code == "FK537"
    assert _run(ScriptedGrid(_sites()), strategy=FedAdam(**LEAST))[0].outcome == "complete"


def test_a_run_directory_records_each_round_once_across_a_crash(tmp_path):
    directory = create(tmp_path, "x")
    updates = [ClientUpdate("a", START, 1.0), ClientUpdate("b/é", START * 2, 2.0)]
    directory.write_updates(1, updates)
    assert {u.site: u.delta.tobytes() for u in directory.read_updates(1)} == {
        u.site: u.delta.tobytes() for u in updates
    }
    assert reopen(directory.path)[1] == -1
    _, record = _run(ScriptedGrid(_sites()), num_rounds=1)
    for report in record.reports:
        directory.append_round(report)
    with (directory.path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 2, "dig')
    again, last = reopen(directory.path)
    assert last == 1
    again.append_round(record.reports[1])
    assert reopen(directory.path)[1] == 1


def _script(name, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).parent / name), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedadam", "fedmedian", "multikrum"])
def test_a_coordinator_that_is_killed_again_and_again_makes_the_same_model(tmp_path, strategy):
    found = _script("killed.py", tmp_path, strategy, 20)
    assert found["kills"] >= 20
    assert found["killed"] == found["whole"]
    assert found["digests_a_question"] == 1
    assert found["outcome"] == "complete" and found["recorded"] == list(range(found["rounds"] + 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "journaled", "bound"),
    [("fedavg", True, 3.0), ("fedadam", True, 5.0), ("fedmedian", True, 2.0), ("krum", True, 2.0)],
)
def test_memory_is_that_of_the_model_when_the_first_site_comes_last(tmp_path, strategy, journaled, bound):
    found = _script("measured_memory.py", tmp_path, strategy, 5_000_000, 20)
    assert found["models"] < bound, found
    assert found["outcome"] == "complete"


@pytest.mark.parametrize("journaled", [True, False])
def test_robust_strategies_see_every_update_and_median_is_flowers(tmp_path, journaled):
    theirs, expected = _run(ScriptedGrid(_sites()), strategy=FedMedian(**LEAST))
    changes = {"journal": open_journal(tmp_path)} if journaled else {}
    ours, record = _run(ScriptedGrid(_sites()), strategy=ROBUST["fedmedian"](), **changes)
    if journaled:
        changes["journal"].close()
    np.testing.assert_allclose(ours.parameters, theirs.parameters, rtol=0, atol=1e-5)
    assert ours.outcome == "complete" and record.updates.keys() == expected.updates.keys()


def test_a_simulation_that_records_no_updates_still_has_them_for_a_median():
    kept, _ = _run(ScriptedGrid(_sites()), strategy=ROBUST["fedmedian"]())
    finish, record = _run(ScriptedGrid(_sites()), strategy=ROBUST["fedmedian"](), keep_updates=False)
    assert finish.parameters.tobytes() == kept.parameters.tobytes()
    assert not any(record.updates[number] for number in record.updates)


def test_krum_makes_no_model_of_fewer_updates_than_bear_its_liars():
    whole, _ = _run(ScriptedGrid({**_sites(), "fifth": None}), strategy=ROBUST["krum"](num_malicious_nodes=1))
    assert whole.outcome == "complete"
    grid = ScriptedGrid({**_sites(), "fifth": _silent})
    finish, _ = _run(grid, strategy=ROBUST["krum"](num_malicious_nodes=1), timeout=0.5)
    assert (finish.outcome, finish.rounds) == ("failed", 0)
    assert any("4 usable updates, at least 5 needed" in note for note in finish.notes), finish.notes
