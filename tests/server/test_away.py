from __future__ import annotations

from fedkit_server.away import away_of, away_text
from fedkit_server.watch_commands import _one

from fedkit.federation.code_texts import CODE_TEXTS


def _event(kind, site, number, detail=""):
    return {"n": 1, "at": 0.0, "kind": kind, "round": number, "site": site, "detail": detail, "purpose": "train"}


EVENTS = [
    _event("refused", "north", 1, "FK570"),
    _event("refused", "west", 1, "FK570"),
    _event("deferred", "south", 1, "FK577"),
    _event("missing", "south", 1, "its last answer was FK577; no other within 60 s"),
    _event("refused", "east", 1, "FK570"),
    _event("received", "east", 2),
    _event("asked", "north", 2),
    _event("finished", "", 2, "failed"),
]


def test_the_sites_whose_last_answer_is_not_there_are_told_with_what_it_means():
    away = away_of(EVENTS)
    assert list(away) == ["north", "south", "west"]
    assert away["north"] == {
        "kind": "refused", "round": 1, "detail": "FK570", "means": {"FK570": CODE_TEXTS["FK570"]},
    }  # fmt: skip
    lines = away_text(away)
    assert lines[0] == "  north: refused in round 1: FK570"
    assert [line for line in lines if CODE_TEXTS["FK570"] in line] == [f"  FK570: {CODE_TEXTS['FK570']}"]
    assert f"  FK577: {CODE_TEXTS['FK577']}" in lines
    assert away_of([]) == {} and away_text({}) == []


def test_the_status_of_a_run_says_why_sites_are_away_and_what_it_waits_for():
    run = {"run": "r", "state": "queued", "submitter": "anna", "submitted_at": 0.0, "before": ["q"]}
    text = _one({**run, "away": away_of(EVENTS[:1])})
    assert "queued behind 1 run: q" in text and CODE_TEXTS["FK570"] in text
