from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.errors import FederationError
from fedkit.federation.public_codes import PUBLIC_CODES
from fedkit.governance.admission import admit, weigh
from fedkit.governance.agreement import Standing
from fedkit.governance.clauses import WAITING, Circumstances, clauses, releases
from fedkit.governance.rules import rules_of
from fedkit.governance.terms import Hours
from tests.federation.signers import config as composed
from tests.federation.signers import job
from tests.governance.cases import CASES, GOOD, JOB
from tests.governance.conftest import HEART, asked, standing

SITES = ("hungary", "switzerland", "va")


def circumstances(changes=(), study=None):
    said = {**JOB, **dict(changes)}
    approval = "approved" if "cleveland" in (said["approved"] or ()) else "not asked for before"
    at = datetime.fromisoformat(said["at"]).timestamp()
    signed = standing(study) if study else Standing()
    return Circumstances(
        at, said["study"], said["submitter"] or "", said["key"] or "", SITES, approval, signed.digest, signed
    )


def opened(*overrides):
    return job(composed(*overrides)).config


@pytest.mark.parametrize("name", CASES)
def test_a_clause_refuses_with_its_code_value_and_bound(site_file, name):
    case = CASES[name]
    file = site_file({**case.heart, "policy": {**HEART["policy"], **case.policy}})
    with pytest.raises(FederationError) as caught:
        admit(opened(*case.overrides), file, circumstances(case.job, case.study))
    assert caught.value.code == case.code and caught.value.code in PUBLIC_CODES
    assert [part for part in case.says if part not in str(caught.value)] == []
    assert caught.value.remedy
    weighed = weigh(opened(*case.overrides), file, circumstances(case.job, case.study))
    assert [clause.code for clause in weighed.clauses if not clause.holds] == [case.code]


@pytest.mark.parametrize("name", GOOD)
def test_a_clause_that_holds_admits(site_file, name):
    file = site_file({"policy": {**HEART["policy"], **GOOD[name]}})
    assert admit(opened(), file, circumstances()).dataset == "heart_disease"


def test_every_clause_is_told_whether_it_refuses_or_not(site_file):
    codes = [clause.code for clause in weigh(opened(), site_file(), circumstances()).clauses]
    assert codes == ["FK560", "FK561", "FK562", "FK563", "FK564", "FK565", "FK566", "FK567", "FK568", "FK569", "FK570",
                     "FK571", "FK572", "FK573", "FK574", "FK575", "FK578", "FK576", "FK577"]  # fmt: skip


def test_all_refusals_come_at_once_and_one_that_waits_never_stands_first(site_file):
    file = site_file({"policy": {**HEART["policy"], "approval": "manual", "max_rounds": 3, "min_other_sites": 9}})
    with pytest.raises(FederationError) as caught:
        admit(opened("purpose=marketing"), file, circumstances({"approved": None}))
    assert caught.value.code == "FK570" and caught.value.code not in WAITING
    assert [code for code in ("FK573", "FK578", "FK577") if code not in str(caught.value)] == []


def test_what_noise_alone_tells_of_the_cost_is_computed_and_bound(site_file):
    run = opened("privacy.epsilon=null", "privacy.noise_multiplier=3", "privacy.evaluation.share=null")
    cost = admit(run, site_file(), circumstances()).plan.privacy.epsilon
    bound = {"max_epsilon_per_run": cost - 0.001}
    with pytest.raises(FederationError) as caught:
        admit(run, site_file({"policy": {**HEART["policy"], **bound}}), circumstances())
    assert caught.value.code == "FK567" and f"{cost:.6g}" in str(caught.value)


def test_the_cost_is_computed_for_an_explanation_even_where_another_clause_refuses(site_file):
    run = opened("privacy.epsilon=null", "privacy.noise_multiplier=3", "privacy.evaluation.share=null", "purpose=x")
    told = {whole: {each.code: each for each in weigh(run, site_file(), circumstances(), whole=whole).clauses}["FK567"]
            for whole in (False, True)}  # fmt: skip
    assert told[False].value == "not computed" and float(told[True].value) > 0.1


@pytest.mark.parametrize(
    ("overrides", "leaves"),
    [
        ((), ("updates", "private_metrics")), (("privacy=none",), ("updates", "exact_metrics")),
        (("privacy.evaluation.share=null",), ("updates",)),
        (("privacy.evaluation.share=null", "privacy.evaluation.noise_multiplier=9"), ("updates", "private_metrics")),
    ],
)  # fmt: skip
def test_what_a_run_takes_out_follows_from_its_config(overrides, leaves):
    assert releases(composed(*overrides)) == leaves


def _holds(site_file, hours, local):
    own = site_file().data["heart_disease"]
    own = replace(own, policy=replace(own.policy, hours=hours))
    now = Circumstances(local.timestamp())
    return next(c.holds for c in clauses(composed(), "cleveland", 303, rules_of(own), now, None) if c.code == "FK576")


@given(minute=st.integers(0, 7 * 1440 - 1), begin=st.integers(0, 1439), end=st.integers(0, 1440),
       days=st.frozensets(st.integers(0, 6), min_size=1))  # fmt: skip
def test_hours_are_those_of_the_wall_clock_over_midnight_too(minute, begin, end, days):
    from fedkit.governance.clauses import _open

    if begin == end:
        return
    # 5 January 2026 is a Monday.
    local = datetime(2026, 1, 5 + minute // 1440, minute % 1440 // 60, minute % 60, tzinfo=ZoneInfo("Europe/Berlin"))
    length = end - begin if begin < end else end - begin + 1440
    inside = any((minute - (1440 * day + begin)) % (7 * 1440) < length for day in days)
    assert _open(Hours(tuple(days), begin, end, "Europe/Berlin"), local) == inside


def test_a_change_of_the_clock_is_followed(site_file):
    hours = Hours(tuple(range(7)), 7 * 60, 19 * 60, "Europe/Berlin")
    for day, utc, inside in ((5, 6, True), (5, 5, False), (1, 5, False), (1, 6, True)):
        month = 1 if day == 5 else 7
        at = datetime(2026, month, day, utc, 30, tzinfo=ZoneInfo("UTC"))
        # 06:30 UTC is 07:30 in winter, 05:30 UTC is 07:30 in summer.
        expected = inside if month == 1 else utc >= 5
        assert _holds(site_file, hours, at) == expected, at


def test_nobody_asking_is_admitted_by_nothing_but_any(site_file):
    named = site_file({"policy": {**HEART["policy"], "submitters": ["ana"]}})
    with pytest.raises(FederationError, match="FK572"):
        admit(opened(), named, asked(submitter=""))
