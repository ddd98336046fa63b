import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.errors import FederationError
from fedkit.governance.offered import offered_policy, read_offered
from fedkit.governance.policy_checks import DISCLOSABLE, DISCLOSED
from tests.governance.conftest import HEART

KEY = "sha256:" + "a" * 64
FULL = {
    **HEART["policy"], "submitters": ["ana", f"bo={KEY}"], "max_epsilon_per_run": 2.5, "min_records": 100,
    "min_other_sites": 2, "disclose": list(DISCLOSABLE),
    "hours": {"days": ["mon", "sun"], "from": "22:15", "to": "24:00", "timezone": "Europe/Berlin"},
}  # fmt: skip


def own(site_file, policy):
    return site_file({"policy": policy}).data["heart_disease"].policy


@pytest.mark.parametrize("policy", [FULL, {**HEART["policy"], "disclose": list(DISCLOSABLE)}])
def test_a_policy_is_read_as_it_was_told_but_for_the_bound_of_records(site_file, policy):
    said = own(site_file, policy)
    found = read_offered(offered_policy(said, 303), 3.0, 303)
    assert {**vars(found), "min_records": 0} == {**vars(said), "min_records": 0}
    assert found.min_records <= 303


def test_by_default_all_is_told_but_whom_the_site_trusts(site_file):
    told = offered_policy(own(site_file, HEART["policy"]), 303)
    assert set(told) == set(DISCLOSED) == set(DISCLOSABLE) - {"submitters"}
    told = offered_policy(own(site_file, {**FULL, "disclose": []}), 303)
    assert told == {}


@given(st.sets(st.sampled_from(DISCLOSABLE)))
def test_what_is_not_disclosed_is_in_no_offer(keys):
    from fedkit.governance.terms import Policy, Submitter

    policy = Policy(("a",), ("none",), (Submitter("ana"),), ("updates",), "manual", 3, disclose=tuple(keys))
    told = offered_policy(policy, 10)
    assert set(told) == keys and set(read_offered(told, 3.0, 10).disclose) == keys


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "/data"}, {"disclose": ["purposes"]}, {"purposes": []}, {"purposes": None}, {"purposes": ["<b>"]},
        {"approval": "maybe"}, {"max_rounds": "7"}, {"max_rounds": True}, {"min_records": 100}, {"hours": "always"},
        {"max_epsilon_per_run": 3.5}, {"submitters": "some"}, {"release": ["everything"]},
    ],
)  # fmt: skip
def test_an_offer_with_anything_else_is_refused(site_file, changes):
    told = offered_policy(own(site_file, FULL), 303) | changes
    with pytest.raises(FederationError, match="FK540"):
        read_offered(told, 3.0, 303)
