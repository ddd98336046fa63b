"""A run of a study is taken only under the text that the site signed, and only within each of its terms."""

from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.errors import FederationError
from fedkit.federation.public_codes import PUBLIC_CODES
from fedkit.governance.admission import admit, weigh
from fedkit.governance.agreement import Standing
from fedkit.governance.clauses import WAITING
from fedkit.governance.statistics import Statistics
from fedkit.privacy import rdp_filter
from fedkit.privacy.events import RESIDUE, events_of
from fedkit.privacy.rdp_filter import Charge, best_order, capacity, cost, merged, rounded
from tests.governance.cases import STUDY, STUDY_CASES
from tests.governance.conftest import HEART, agreed, standing
from tests.governance.test_clauses import circumstances, opened

NAMED = {"policy": {**HEART["policy"], "studies": ["registry"]}}
STUDY_JOB = {"study": "registry"}


def held(terms=STUDY, **changes):
    """What a job of the study is held against, by a site that has signed the terms."""
    return replace(circumstances(STUDY_JOB, terms), standing=standing(terms, **changes))


def study_keys(weighed):
    return {clause.key: clause for clause in weighed.clauses if clause.code == "FK579"}


@pytest.mark.parametrize("name", STUDY_CASES)
def test_a_term_refuses_with_its_code_value_and_bound(site_file, name):
    case = STUDY_CASES[name]
    file = site_file({**case.heart, "policy": {**HEART["policy"], **case.policy}})
    with pytest.raises(FederationError) as caught:
        admit(opened(*case.overrides), file, circumstances(case.job, case.study))
    assert caught.value.code == "FK579" and "FK579" in PUBLIC_CODES - WAITING
    assert [part for part in case.says if part not in str(caught.value)] == []
    refused = [one for one in weigh(opened(*case.overrides), file, circumstances(case.job, case.study)).clauses
               if not one.holds]  # fmt: skip
    assert {one.code for one in refused} == {"FK579"} and all(one.remedy for one in refused)
    assert case.says[0] in [one.key for one in refused]


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"begin": "2026-01-05", "end": "2026-01-05"}, {"data": {"max_epsilon_per_run": 3.0}},
        {"data": {"strategies": ["fedprox", "fedavg"]}},
        {"parties": ["va", "cleveland", "hungary", "switzerland", "x"]},
    ],
)  # fmt: skip
def test_a_run_within_every_term_is_admitted_and_each_term_is_told(site_file, changes):
    terms = {**STUDY, **changes}
    terms["data"] = {"heart_disease": {**STUDY["data"]["heart_disease"], **changes.get("data", {})}}
    weighed = weigh(opened(), site_file(NAMED), held(terms))
    assert weighed.admitted is not None
    keys = set(study_keys(weighed))
    assert keys >= {"study.signed", "study.days", "study.purpose", "study.parties", "study.data", "study.models",
                    "study.strategies", "study.unit", "study.max_rounds", "study.delta", "study.budget"}  # fmt: skip


def test_the_sites_own_file_still_closes_what_the_agreement_opens(site_file):
    terms = {**STUDY, "data": {"heart_disease": {**STUDY["data"]["heart_disease"], "max_rounds": 1000}}}
    tight = {"policy": {**NAMED["policy"], "max_rounds": 3}}
    with pytest.raises(FederationError, match="rounds is 15") as caught:
        admit(opened(), site_file(tight), held(terms))
    assert caught.value.code == "FK573"
    # The study must be named in the file too, whatever was signed.
    with pytest.raises(FederationError) as caught:
        admit(opened(), site_file(), held())
    assert caught.value.code == "FK571"


@pytest.mark.parametrize("named", ["", "e" * 64, "d" * 63, "D" * 64, "d" * 12])
def test_another_text_than_the_signed_one_is_refused_whatever_it_says(site_file, named):
    found = weigh(opened(), site_file(NAMED), replace(held(), agreement=named))
    assert found.admitted is None and found.refusal().code == "FK579" and list(study_keys(found)) == ["study.signed"]


def test_nothing_signed_is_refused_even_where_digests_are_equally_empty(site_file):
    asked = replace(held(), agreement="", standing=Standing())
    assert weigh(opened(), site_file(NAMED), asked).refusal().code == "FK579"
    asked = replace(asked, standing=Standing(agreed(STUDY), "", ""))
    assert weigh(opened(), site_file(NAMED), asked).refusal().code == "FK579"


def test_an_agreement_of_another_study_covers_nothing(site_file):
    other = Standing(agreed(STUDY, study="other"), "d" * 64, "")
    assert weigh(opened(), site_file(NAMED), replace(held(), standing=other)).refusal().code == "FK579"


def test_a_run_of_no_study_is_held_against_no_agreement(site_file):
    assert study_keys(weigh(opened(), site_file(), circumstances())) == {}


def test_the_last_day_is_a_day_and_the_one_after_is_not(site_file):
    end = datetime(2026, 12, 31, 23, 59, 59).astimezone().timestamp()
    for now, fits in ((end, True), (end + 1, False)):
        asked = replace(held(), now=now)
        assert study_keys(weigh(opened(), site_file(NAMED), asked))["study.days"].holds is fits


# Statistics


QUESTION = Statistics(("age", "chol"), 10, 8.0, 1e-5)
ASKING = {"policy": {**NAMED["policy"], "release": ["updates", "statistics"]}}


def asking(question=QUESTION, **changes):
    return replace(held(**changes), statistics=question)


def test_a_question_of_a_study_is_held_against_its_terms_but_those_of_models(site_file):
    found = weigh(opened("model=mlp"), site_file(ASKING), asking())
    assert found.admitted is not None
    keys = set(study_keys(found))
    assert keys >= {"study.signed", "study.days", "study.purpose", "study.parties", "study.data", "study.unit",
                    "study.delta", "study.budget"}  # fmt: skip
    assert not keys & {"study.models", "study.strategies", "study.max_rounds", "study.allow_unprotected"}


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        (replace(asking(), agreement=""), "study.signed"),
        (replace(asking(), agreement="e" * 64), "study.signed"),
        (asking(replace(QUESTION, delta=2e-5)), "study.delta"),
        (asking(replace(QUESTION, noise_multiplier=0.5)), "study.max_epsilon"),
        (asking(spent=None), "study.budget"),
        (asking(spent=(Charge(10**9, 10**6, 100),), runs=1), "study.budget"),
    ],
)
def test_a_question_beyond_a_term_of_the_study_is_refused(site_file, asked, key):
    found = weigh(opened(), site_file(ASKING), asked)
    assert found.admitted is None and not study_keys(found)[key].holds


def test_a_question_without_protection_in_its_config_is_held_against_the_studys_budget_all_the_same(site_file):
    found = weigh(opened("privacy=none"), site_file(ASKING), asking(spent=None))
    assert found.admitted is None and not study_keys(found)["study.budget"].holds


# The budget


def charges_of(site_file):
    plan = admit(opened(), site_file(NAMED), held()).plan
    return merged(rounded(event) for event in events_of(plan.privacy))


def test_the_budget_counts_what_the_studys_other_runs_cost(site_file):
    mine = charges_of(site_file)
    order = best_order(4.0, 1e-5)
    left = capacity(4.0, 1e-5, order) - cost(mine, order)
    one = Charge(10**9, 5_000_000, 1)
    most = left // cost([one], order)
    assert most > 1
    for steps, fits in ((most, True), (most + 1, False)):
        spent = (Charge(10**9, 5_000_000, steps),)
        clause = study_keys(weigh(opened(), site_file(NAMED), held(spent=spent, runs=1)))["study.budget"]
        assert clause.holds is fits and "of 2 runs" in clause.value


def test_a_ledger_that_cannot_be_read_leaves_no_budget(site_file):
    found = weigh(opened(), site_file(NAMED), held(spent=None))
    assert found.refusal().code == "FK579" and "not readable" in study_keys(found)["study.budget"].value


def test_more_runs_than_delta_pays_for_are_refused(site_file):
    most = int(1e-5 * rdp_filter.RESIDUE_SHARE / RESIDUE)
    assert study_keys(weigh(opened(), site_file(NAMED), held(runs=most - 1)))["study.budget"].holds
    assert not study_keys(weigh(opened(), site_file(NAMED), held(runs=most)))["study.budget"].holds


CHARGE = st.tuples(st.integers(1, 10**9), st.integers(400_000, 9_000_000), st.integers(1, 50))


@settings(max_examples=60, deadline=None)
@given(limit=st.floats(0.5, 50), delta=st.sampled_from([1e-9, 1e-6, 1e-3]), asked=st.lists(CHARGE, max_size=8))
def test_runs_that_the_budget_admits_one_after_another_never_cost_more_than_it(limit, delta, asked):
    """Whatever the runs, and whoever chooses them: the sum of what was admitted stays within the filter's bound."""
    from fedkit.errors import PrivacyError
    from fedkit.governance.agreement import StudyData
    from fedkit.governance.agreement_clauses import _budget

    own = StudyData("record", limit, delta, (), (), 1)
    try:
        order = best_order(limit, delta)
    except PrivacyError:
        return
    spent, runs = (), 0
    for each in asked:
        mine = (Charge(*each),)
        if _budget(own, Standing(spent=spent, runs=runs), mine).holds:
            spent, runs = merged((*spent, *mine)), runs + 1
    units = cost(spent, order)
    assert units <= capacity(limit, delta, order)
    assert rdp_filter.epsilon_of(units, order, delta) <= limit
