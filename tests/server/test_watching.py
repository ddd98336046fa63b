from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from fedkit_server import watching
from fedkit_server.watch_commands import _show_results
from fedkit_server.watching import View, follow

from fedkit.errors import DeploymentError
from fedkit.federation.code_texts import CODE_TEXTS
from tests.reporting.conftest import Fabricated, write

EVENTS = [
    {"n": 1, "at": 10.0, "kind": "round_started", "round": 1, "purpose": None, "site": "", "detail": ""},
    {"n": 2, "at": 10.0, "kind": "asked", "round": 1, "purpose": "train", "site": "north", "detail": ""},
    {"n": 3, "at": 10.0, "kind": "asked", "round": 1, "purpose": "train", "site": "south", "detail": ""},
    {"n": 4, "at": 12.0, "kind": "received", "round": 1, "purpose": "train", "site": "north", "detail": "",
     "seconds": 2.0},
    {"n": 5, "at": 20.0, "kind": "missing", "round": 1, "purpose": "train", "site": "south", "detail": "no reply"},
    {"n": 6, "at": 21.0, "kind": "finished", "round": 1, "purpose": None, "site": "", "detail": "degraded"},
]  # fmt: skip


class Scripted:
    profile = SimpleNamespace(option=" --profile heart")

    """Answers in turn; an exception is raised."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def get(self, path, **query):
        self.asked.append((path, query["after"]))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def _answer(events, state="running", outcome=None):
    return {"events": events, "state": state, "outcome": outcome}


def _remote(*between, state="finished"):
    end = _answer([], state, "degraded")
    return Scripted(_answer(EVENTS[:3]), *between, _answer(EVENTS[3:], state, "degraded"), end)


def test_a_view_says_who_was_asked_has_answered_and_is_missing():
    view = View("r")
    for event in EVENTS[:4]:
        view.take(event)
    assert list(view.rows(15.0)) == [
        ("north", "1", "train", "answered", "2.0", "1", "0"),
        ("south", "1", "train", "asked", "5.0", "0", "0"),
    ]
    view.take(EVENTS[4])
    assert list(view.rows(30.0))[1][3:] == ("missing: no reply", "", "0", "1")


def test_without_a_terminal_there_is_a_line_an_event_and_an_end(capsys):
    remote = _remote()
    assert follow(remote, "r", json_=False) == "finished"
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(EVENTS) + 2
    assert lines[3].endswith("round 1 north received train 2.0 s")
    assert lines[-2:] == ["r: degraded", "next: `fedkit server pull r --profile heart`"]
    assert [after for _, after in remote.asked] == [0, 3, 6]


def test_json_is_an_object_a_line(capsys):
    follow(_remote(state="failed"), "r", json_=True)
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found[:-1] == EVENTS
    assert found[-1] == {"state": "failed", "outcome": "degraded", "run": "r"}


def test_json_says_what_a_sites_code_means_and_that_a_run_is_queued(capsys):
    refused = {**EVENTS[4], "kind": "refused", "detail": "FK570"}
    queued = {"events": [], "state": "queued", "outcome": None, "before": ["q"]}
    follow(Scripted(queued, _answer([refused]), _answer([], "finished", "failed")), "r", json_=True)
    first, second, _ = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert first == {"kind": "queued", "run": "r", "detail": "queued behind 1 run: q"}
    assert second == {**refused, "means": {"FK570": CODE_TEXTS["FK570"]}}


def test_a_coordinator_that_starts_again_is_waited_for(monkeypatch, capsys):
    monkeypatch.setattr(watching.time, "sleep", lambda _: None)
    away = DeploymentError("away", code="FK712")
    assert follow(_remote(away, away), "r", json_=True) == "finished"


def test_a_run_that_is_not_there_ends_the_watch():
    with pytest.raises(DeploymentError, match="FK722"):
        follow(Scripted(DeploymentError("no run", code="FK722")), "r", json_=True)


def test_a_pulled_run_shows_its_results_and_one_that_has_only_begun_shows_none(tmp_path, capsys):
    (tmp_path / "begun").mkdir()
    _show_results(tmp_path / "begun")
    assert capsys.readouterr().out == ""
    _show_results(write(tmp_path, Fabricated(noise="secure")))
    told = capsys.readouterr().out
    assert "heart_disease: complete, 15 rounds" in told and "cleveland" in told and "epsilon" in told


def test_a_run_that_waits_for_its_turn_says_behind_whom_once_a_change_and_a_refusal_what_it_means(capsys):
    refused = EVENTS[4] | {"kind": "refused", "detail": "FK577"}
    queued = {"events": [], "state": "queued", "outcome": None}
    remote = Scripted(
        queued | {"before": ["a", "b"]}, queued | {"before": ["a", "b"]}, queued | {"before": []},
        _answer([refused], "finished", "degraded"), _answer([], "finished", "degraded"),
    )  # fmt: skip
    follow(remote, "r", json_=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["r: queued behind 2 runs: a, b", "r: queued, and next to have its turn"]
    assert "south refused train FK577 (a person at the site has yet to approve the run" in lines[2]
    assert len(lines) == 5
