"""What an offer foresees is what the site decides: the same clauses, held against what it has told of its file."""

import dataclasses
import json

import pytest
from fedkit_server.fit import NOT_OFFERED, checks, others

from fedkit.federation.offer import make_offer, offered, open_offer
from fedkit.governance.admission import weigh
from fedkit.governance.policy_checks import DISCLOSABLE
from fedkit.governance.statistics import Statistics
from fedkit.storage.keys import new_signing_key
from tests.governance.cases import CASES, GOOD
from tests.governance.conftest import HEART, site_file  # noqa: F401  # a fixture
from tests.governance.test_clauses import circumstances, opened

ALL = {"disclose": list(DISCLOSABLE)}
SITE = "cleveland"
KEY = new_signing_key()


def told(file):
    """An offer as it comes over the API, through the coordinator's own check."""
    now = 1_800_000_000.0
    text = make_offer(SITE, "0.1.0", offered(file), KEY, now).text
    found = {name: dataclasses.asdict(data) for name, data in open_offer(text, KEY.public, SITE, now).datasets.items()}
    return json.loads(json.dumps(found))


def foreseen(file, config, asked):
    known = told(file)
    return list(checks(config, SITE, known[config.data.name], known, asked))


@pytest.mark.parametrize("name", CASES)
def test_whatever_the_site_refuses_is_foreseen_by_its_code_and_what_waits_waits(site_file, name):  # noqa: F811
    case = CASES[name]
    file = site_file({**case.heart, "policy": {**HEART["policy"], **case.policy, **ALL}})
    config, asked = opened(*case.overrides), circumstances(case.job)
    # A study's agreement is the coordinator's to compare by its own copy: `fedkit_server.under_study`.
    held = [one for one in weigh(config, file, asked).clauses if one.code != "FK579"]
    decided = {(one.code, one.verdict) for one in held if not one.holds}
    found = foreseen(file, config, asked)
    assert (
        {(one.code, "refused") for one in found if one.problem} | {(one.code, "waits") for one in found if one.waits}
        == decided
        != set()
    )
    assert all(SITE in (one.problem or one.waits) for one in found if one.problem or one.waits)


@pytest.mark.parametrize("name", GOOD)
def test_what_the_site_admits_is_foreseen_too(site_file, name):  # noqa: F811
    found = foreseen(site_file({"policy": {**HEART["policy"], **GOOD[name], **ALL}}), opened(), circumstances())
    assert [one for one in found if one.problem or one.waits or one.admitted == NOT_OFFERED] == []


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].code != "FK567"])
def test_what_a_site_keeps_to_itself_is_shown_as_not_offered_and_refuses_nothing(site_file, name):  # noqa: F811
    case = CASES[name]
    file = site_file({**case.heart, "policy": {**HEART["policy"], **case.policy, "disclose": []}})
    found = foreseen(file, opened(*case.overrides), circumstances(case.job))
    assert [one.code for one in found if one.problem or one.waits] == []
    assert sum(one.admitted == NOT_OFFERED for one in found) == len(DISCLOSABLE)


def test_a_site_of_before_tells_no_policy_and_its_offer_is_taken(site_file):  # noqa: F811
    file, now = site_file(), 1_800_000_000.0
    old = {name: dataclasses.replace(data, policy=None) for name, data in offered(file).items()}
    signed = make_offer(SITE, "0.0.9", old, KEY, now)
    assert "policy" not in signed.payload
    data = dataclasses.asdict(open_offer(signed.text, KEY.public, SITE, now).datasets["heart_disease"])
    found = list(checks(opened(), SITE, data, {"heart_disease": data}, circumstances()))
    assert not any(one.problem or one.waits for one in found)
    assert sum(one.admitted == NOT_OFFERED for one in found) == len(DISCLOSABLE)


def test_of_too_few_records_the_verdict_alone_is_told(site_file):  # noqa: F811
    file = site_file({"policy": {**HEART["policy"], "min_records": 98_765}})
    assert told(file)["heart_disease"]["policy"]["min_records"] is False
    assert "98765" not in json.dumps(told(file)) and "98,765" not in json.dumps(told(file))
    (problem,) = [one.problem for one in foreseen(file, opened(), circumstances()) if one.problem]
    assert "FK574" in problem and "allows more" in problem


def test_a_question_is_held_against_what_a_site_releases_and_not_against_models(site_file):  # noqa: F811
    asked = dataclasses.replace(circumstances(), statistics=Statistics(("age",), 10, 8.0, 1e-5))
    for release, codes in ((["updates"], ["FK575"]), (["statistics"], [])):
        file = site_file({"models": ["mlp"], "policy": {**HEART["policy"], "release": release}})
        found = foreseen(file, opened("model=logistic"), asked)
        assert [one.code for one in found if one.problem] == codes
        assert [c.code for c in weigh(opened(), file, asked).clauses if not c.holds] == codes


def test_each_of_the_sites_counts_the_others():
    names = ("a", "b", "c")
    assert [others(circumstances(), name, names).others for name in names] == [("b", "c"), ("a", "c"), ("a", "b")]
