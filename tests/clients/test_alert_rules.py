"""Each rule fires at its bound and not before it: logs by the real writer, ledgers' figures, the test's own clock."""

import re
from pathlib import Path

import pytest
from fedkit_client.alert_facts import Budget, ChannelState, Facts, History
from fedkit_client.alert_rules import DAY, HOUR, RULES, WEEK, alerts_at

from fedkit.governance.alert_terms import AlertTerms
from fedkit.storage.audit import Log
from fedkit.storage.audit_line import Event, Line
from fedkit.storage.audit_verify import readable_lines
from fedkit.storage.keys import new_signing_key

NOW = 1_700_000_000.0
TERMS = AlertTerms()


@pytest.fixture
def stands(tmp_path):
    """What stands at a time, by events (at, kind, fields) in a real log."""
    key, number = new_signing_key(), iter(range(1000))

    def stand(events=(), facts=None, now=NOW, rule=None, terms=TERMS):
        path, history = tmp_path / f"{next(number)}.jsonl", History()
        for at, kind, fields in events:
            Log(path, key, lambda at=at: at).append(Event(kind, fields))
        for line in readable_lines(path) if events else ():
            history.take(line)
        found = alerts_at(history, facts or Facts(), terms, now)
        return [each for each in found if rule is None or each.rule == rule]

    return stand


def refused(code, at=NOW - 60, run="r"):
    return at, "refused", {"run": run, "purpose": "train", "round": 1, "code": code}


def admitted(config, at=NOW - 60, run="r"):
    return at, "admitted", {"run": run, "job": "j", "dataset": "icu", "submitter": "ana", "config": config}


def reserved(epsilon, at):
    return at, "reserved", {"run": "r", "dataset": "icu", "epsilon_spent": epsilon, "delta": 1e-5}


def released(norm, at=NOW - 60, run="r", number=1, **more):
    return at, "released", {"run": run, "purpose": "train", "round": number, "norm": norm, **more}


def test_a_site_at_which_nothing_happens_has_no_alert(stands):
    calm = Facts({"icu": Budget(limit=3.0)}, True, NOW - 10, "", {"CA": NOW + 900 * DAY})
    assert stands([(NOW - 9 * DAY, "configured", {"digest": "a"}), admitted("c", NOW - 2 * DAY)], calm) == []


@pytest.mark.parametrize(
    ("code", "severity"),
    [("FK541", "critical"), ("FK542", "critical"), ("FK544", "critical"), ("FK545", "critical"), ("FK567", "warning")],
)
def test_a_refused_request_is_told_for_an_hour(stands, code, severity):
    (alert,) = stands([refused(code), refused(code, NOW - 50, "newer")])
    assert (alert.rule, alert.severity, alert.count, alert.about["run"]) == ("refused", severity, 2, "newer")
    assert alert.key == f"refused:{code}" and alert.since == NOW - 60
    assert stands([refused(code)], now=NOW + HOUR) == []


def test_a_pause_and_the_hours_are_no_refusal_and_an_approval_that_is_due_is_told(stands):
    assert stands([refused("FK580"), refused("FK576")]) == []
    (alert,) = stands([refused("FK577", run="due")])
    assert (alert.rule, alert.severity, alert.about["run"]) == ("waiting", "info", "due")


def test_failures_count_from_their_bound_on(stands):
    events = [refused("FK500", NOW - 60 + i) for i in range(3)]
    assert stands(events[:2]) == []
    (alert,) = stands(events)
    assert (alert.rule, alert.count) == ("failures", 3)
    assert stands(events[:2], terms=AlertTerms(failures=2)) != []


def test_a_site_that_is_started_again_and_again_is_told(stands):
    events = [(NOW - 600 + i, "started", {"version": "0"}) for i in range(5)]
    assert stands(events[:4]) == [] and stands(events)[0].rule == "restarts"


def test_a_config_is_told_once_however_many_runs_have_it(stands):
    seen = admitted("known", NOW - 3 * DAY, "old")
    assert stands([seen, admitted("known", run="again")]) == []
    (alert,) = stands([seen, admitted("fresh", NOW - 60, "new"), admitted("fresh", NOW - 50, "newer")])
    assert (alert.rule, alert.severity, alert.about["config"], alert.about["run"]) == (
        "config",
        "warning",
        "fresh",
        "new",
    )
    # A log of before tells no digest.
    assert stands([(NOW - 60, "admitted", {"run": "r", "dataset": "icu", "submitter": "ana"})]) == []


def test_another_site_file_is_told_and_the_first_is_not(stands):
    first = (NOW - 120, "configured", {"digest": "a" * 64})
    assert stands([first]) == []
    (alert,) = stands([first, (NOW - 60, "configured", {"digest": "b" * 64})])
    assert alert.rule == "site-file" and alert.about["digest"] == "b" * 64


@pytest.mark.parametrize(
    ("spent", "keys"),
    [
        (0.4999, []),
        (0.5, ["budget:icu:0.5"]),
        (0.8, ["budget:icu:0.5", "budget:icu:0.8"]),
        (0.96, ["budget:icu:0.5", "budget:icu:0.8", "budget:icu:0.95"]),
    ],
)
def test_a_budget_is_told_at_each_share(stands, spent, keys):
    found = stands(facts=Facts({"icu": Budget(spent=spent, limit=3.0)}), rule="budget")
    assert sorted(each.key for each in found) == keys
    assert [each.severity for each in found] == ["critical", "warning", "info"][-len(found) :] if found else True


def test_a_share_is_told_since_the_charge_that_reached_it(stands):
    # Nothing is spent at epsilon 1: what turning the cost into epsilon adds.
    facts = Facts({"icu": Budget(spent=0.75, limit=3.0, free=1.0)})
    events = [reserved(1.2, NOW - 500), reserved(2.1, NOW - 400), reserved(2.5, NOW - 300)]
    assert stands(events, facts, rule="budget")[0].since == NOW - 400


def test_a_budget_that_would_end_soon_is_told_by_the_rate_of_a_day_and_of_a_week(stands):
    def burning(spent, *events):
        facts = Facts({"icu": Budget(spent=spent, limit=2.0, free=1.0)})
        return {each.key: each.severity for each in stands(events, facts, rule="burn")}

    # A tenth a week: nine weeks are left.
    assert burning(0.1, reserved(1.1, NOW - 6 * DAY)) == {}
    # A fifth within the week: four more weeks.
    assert burning(0.2, reserved(1.2, NOW - 6 * DAY)) == {"burn:icu:week": "warning"}
    # A third within the day: two more days.
    assert burning(0.35, reserved(1.35, NOW - HOUR)) == {"burn:icu:day": "critical", "burn:icu:week": "warning"}
    # What was spent before the window is no rate.
    assert burning(0.5, reserved(1.5, NOW - 7.5 * DAY)) == {}
    assert burning(0.52, reserved(1.5, NOW - 7.5 * DAY), reserved(1.52, NOW - DAY)) == {}


def test_a_norm_beyond_what_its_plan_allows_is_critical(stands):
    bounds = {"norm_least": 1.0, "norm_most": 5.0}
    assert stands([released(1.0, **bounds), released(5.0, number=2, **bounds)]) == []
    (alert,) = stands([released(5.001, **bounds)])
    assert (alert.rule, alert.severity) == ("norm", "critical") and "at most 5" in alert.text
    (alert,) = stands([released(0.999, **bounds)])
    assert alert.severity == "critical" and "noise of its plan alone" in alert.text


def test_a_norm_unlike_those_before_it_of_the_same_config_is_told(stands):
    usual = [admitted("c"), *(released(1.0 + i / 100, NOW - 1000 + i, number=i + 1) for i in range(5))]
    assert stands([*usual, released(3.9, number=6)], rule="norm") == []
    (alert,) = stands([*usual, released(4.2, number=6)], rule="norm")
    assert alert.severity == "warning" and alert.about["config"] == "c"
    assert stands([*usual, released(0.2, number=6)], rule="norm")
    # Too few are known, and those of another config say nothing.
    assert stands([*usual[:5], released(9.0, number=6)], rule="norm") == []
    assert stands([*usual, admitted("other", run="s"), released(9.0, run="s")], rule="norm") == []


@pytest.mark.parametrize(("days", "severity"), [(31, None), (29, "warning"), (6.9, "critical"), (-1, "critical")])
def test_a_certificate_is_told_before_its_end(stands, days, severity):
    found = stands(facts=Facts(ends={"federation's CA": NOW + days * DAY}))
    assert [each.severity for each in found] == ([severity] if severity else [])


@pytest.mark.parametrize("code", ["FK736", "FK755"])
def test_a_site_that_the_coordinator_does_not_know_is_told(stands, code):
    (alert,) = stands(facts=Facts(running=True, heard=NOW, problem=code))
    assert (alert.rule, alert.severity) == ("enrolment", "critical")


def test_a_silent_coordinator_is_told_from_the_bound_on(stands):
    quiet = TERMS.silent
    assert stands(facts=Facts(running=True, heard=NOW - quiet + 1)) == []
    (alert,) = stands(facts=Facts(running=True, heard=NOW - quiet, problem="FK747"))
    assert (alert.rule, alert.severity, alert.since) == ("silent", "critical", NOW - quiet)
    # A site that is stopped, or quarantined, does not ask.
    assert stands(facts=Facts(running=False, heard=NOW - quiet)) == []
    assert [a.rule for a in stands(facts=Facts(running=True, heard=NOW - quiet, quarantined=NOW))] == ["quarantined"]


def test_a_broken_chain_and_a_contradiction_are_critical(stands):
    (alert,) = stands(facts=Facts(chains={"ledgers/icu.sqlite": "FK331"}))
    assert (alert.rule, alert.severity, alert.key) == ("chain", "critical", "chain:ledgers/icu.sqlite")
    (alert,) = stands([(NOW - DAY, "contradicted", {"peer": "coordinator"})])
    assert (alert.rule, alert.severity) == ("contradicted", "critical")
    assert stands([(NOW - WEEK, "contradicted", {"peer": "coordinator"})]) == []


def test_a_channel_that_fails_is_told_and_one_that_lost_alerts(stands):
    (alert,) = stands(facts=Facts(channels={"webhook": ChannelState(3, 2, NOW - 60, "HTTP 500")}))
    assert alert.rule == "channel" and "HTTP 500" in alert.text and alert.since == NOW - 60
    (alert,) = stands(facts=Facts(channels={"webhook": ChannelState(dropped=4)}))
    assert alert.key == "dropped:webhook" and alert.count == 4


def test_the_documentation_has_every_rule_and_no_other():
    page = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()
    table = page[page.index("| rule |") : page.index("**What an alert says.**")]
    assert re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE) == list(RULES)


def test_a_flood_of_refusals_hides_no_charge_and_no_contradiction():
    history = History()
    for seq, (at, kind, fields) in enumerate(
        [(NOW - DAY, *reserved(1.9, NOW)[1:]), (NOW - DAY, "contradicted", {}), *[refused("FK541")] * 6000], 1
    ):
        history.take(Line(seq, at, kind, fields, "", b"", "", b""))
    facts = Facts({"icu": Budget(spent=0.9, limit=2.0, free=1.0)})
    found = {each.key: each for each in alerts_at(history, facts, TERMS, NOW)}
    assert {"contradicted", "burn:icu:week", "refused:FK541"} <= set(found)
    assert found["budget:icu:0.5"].since == NOW - DAY and found["refused:FK541"].count == 5000


def test_equal_arguments_give_equal_alerts_and_the_worst_come_first(stands):
    facts = Facts({"icu": Budget(spent=0.97, limit=3.0)}, True, NOW - 3 * HOUR, chains={"audit.jsonl": "line 1"})
    events = [refused("FK567"), refused("FK541"), admitted("x")]
    one, two = stands(events, facts), stands(events, facts)
    assert one == two
    order = ["critical", "warning", "info"]
    assert [each.severity for each in one] == sorted((each.severity for each in one), key=order.index)


def test_a_coordinator_that_makes_up_names_makes_few_alerts(stands):
    events = [admitted(f"c{i}", NOW - 600 + i, f"run-{i}") for i in range(60)]
    events += [refused("FK577", NOW - 100 + i, f"run-{i}") for i in range(60)]
    found = stands(events)
    assert sum(each.rule == "config" for each in found) == 20 and sum(each.rule == "waiting" for each in found) == 20
