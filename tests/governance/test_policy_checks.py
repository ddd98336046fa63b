import copy

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fedkit.errors import ConfigError, FederationError
from fedkit.governance.admission import admit
from fedkit.governance.site_file import read_site_file
from fedkit.governance.terms import Hours, Submitter
from tests.federation.signers import config as composed
from tests.federation.signers import job
from tests.governance.cases import CASES, KEY, OFFICE
from tests.governance.conftest import HEART
from tests.governance.test_clauses import circumstances

POLICY = HEART["policy"]
REQUIRED = ("purposes", "studies", "submitters", "release", "approval", "max_rounds")


def problems(site_file, changes):
    with pytest.raises(ConfigError) as caught:
        site_file({"policy": changes})
    assert caught.value.code == "FK120"
    return "\n".join(caught.value.problems)


def test_a_policy_is_read_as_it_is_meant(site_file):
    found = site_file({"policy": {**POLICY, "submitters": ["bo", f"ana={KEY}"], "approval": "manual", "hours": OFFICE,
                                  "max_epsilon_per_run": "1e0", "min_records": 9, "min_other_sites": 2}})  # fmt: skip
    policy = found.data["heart_disease"].policy
    assert policy.submitters == (Submitter("bo"), Submitter("ana", KEY))
    assert (policy.purposes, policy.studies, policy.max_rounds) == (("heart-disease-research",), ("none",), 100)
    assert (policy.approval, policy.max_epsilon_per_run, policy.min_records) == ("manual", 1.0, 9)
    assert policy.hours == Hours((0, 1), 480, 1080, "Europe/Berlin") and policy.min_other_sites == 2
    assert site_file().data["heart_disease"].policy.submitters is None


@pytest.mark.parametrize("key", REQUIRED)
@pytest.mark.parametrize("blank", [False, True])
def test_what_has_no_default_is_asked_for_with_an_example(site_file, key, blank):
    changes = {name: value for name, value in POLICY.items() if name != key} | ({key: None} if blank else {})
    text = problems(site_file, changes)
    assert (f"policy.{key} is not set; give " in text and "such as" in text) or key in ("submitters", "approval")
    assert len(text.splitlines()) == 1


def test_all_six_are_asked_for_at_once(site_file):
    assert [key for key in REQUIRED if f"policy.{key} is not set" not in problems(site_file, {})] == []


BAD = [
    ({"purposes": []}, "a list is needed"), ({"purposes": "research"}, "such as [heart-disease-research]"),
    ({"purposes": ["none"]}, "which cannot be"), ({"purposes": [None]}, "a list is needed"),
    ({"purposes": ["*"]}, "which cannot be"), ({"studies": [None]}, "such as [none]"),
    ({"studies": ["a b"]}, "which cannot be"), ({"submitters": "all"}, "a list is needed"),
    ({"submitters": ["any"]}, "write submitters: any, without brackets"), ({"submitters": []}, "a list is needed"),
    ({"submitters": ["ana=sha256:ab"]}, "fingerprint"), ({"submitters": {"ana": KEY}}, "a list is needed"),
    ({"submitters": ["ana", f"ana={KEY}"]}, "with a key and without one"), ({"release": ["metrics"]}, "unknown"),
    ({"release": []}, "a list of names"), ({"release": "updates"}, "a list of names"),
    ({"approval": "auto"}, "approval is 'auto'"), ({"approval": False}, "approval is False"),
    ({"approval": "Manual"}, "did you mean 'manual'?"), ({"max_rounds": 0}, "between 1 and 100,000"),
    ({"max_rounds": "many"}, "a whole number is needed, such as 100"), ({"max_rounds": 1.5}, "a whole number"),
    ({"max_rounds": True}, "a whole number"), ({"max_epsilon_per_run": 3.5}, "between 0.0001 and 3"),
    ({"max_epsilon_per_run": None}, "is blank"), ({"min_records": None}, "blank"), ({"min_records": -1}, "between 1"),
    ({"min_other_sites": None}, "is blank"), ({"min_other_sites": -1}, "between 0"), ({"hours": None}, "is blank"),
    ({"hours": {**OFFICE, "days": ["monday"]}}, "did you mean 'mon'?"), ({"hours": {**OFFICE, "days": []}}, "days"),
    ({"hours": {**OFFICE, "from": 1140}}, "a time in quotes"), ({"hours": {**OFFICE, "to": "25:00"}}, "quotes"),
    ({"hours": {**OFFICE, "to": "08:00"}}, "leave hours out"), ({"hours": {**OFFICE, "from": "24:00"}}, "00:00"),
    ({"hours": {**OFFICE, "timezone": "Berlin"}}, "Europe/Berlin"), ({"hours": "07-19"}, "keys and values"),
    ({"hours": {**OFFICE, "timezone": "../../etc/passwd"}}, "Europe/Berlin"), ({"hours": {}}, "hours.from is not set"),
    ({"hours": {key: OFFICE[key] for key in ("days", "from", "to")}}, "timezone is not set"),
    ({"max_round": 3}, "did you mean 'max_rounds'?"), ({"min_other_site": 3}, "did you mean 'min_other_sites'?"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "why"), BAD)
def test_a_wrong_value_is_named_with_key_and_remedy(site_file, changes, why):
    text = problems(site_file, {**POLICY, **changes})
    assert why in text and "data.heart_disease.policy." in text


RUN = job(composed()).config
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.text(max_size=8)
    | st.floats()
    | st.sampled_from(["any", "*", "all", "manual ", "~"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5,
)
_REFUSING = [name for name, case in CASES.items() if case.policy and not case.overrides]


def _values(case):
    policy = {**POLICY, **case.policy}
    heart = {**HEART, **case.heart, "policy": policy}
    return {"site": "cleveland", "data": {"heart_disease": copy.deepcopy(heart)}}


def _never_admits(path, case):
    try:
        found = read_site_file(path)
    except ConfigError:
        return
    with pytest.raises(FederationError):
        admit(RUN, found, circumstances(case.job))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(_REFUSING), key=st.sampled_from([*REQUIRED, "hours", "min_records"]), value=VALUES)
def test_another_clause_that_is_garbled_never_admits_what_this_one_refuses(tmp_path, name, key, value):
    case = CASES[name]
    values = _values(case)
    if key in case.policy:
        return
    values["data"]["heart_disease"]["policy"][key] = value
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(values))
    _never_admits(path, case)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(_REFUSING), value=VALUES)
@example(name="approval", value="Manual")
@example(name="hours" if "hours" in CASES else "day", value=None)
def test_a_clause_that_is_garbled_is_unreadable_or_refuses_still(tmp_path, name, value):
    case = CASES[name]
    values = _values(case)
    (key,) = case.policy
    # A larger number, or any for everybody, is another will and not a garbled one.
    if isinstance(value, float) or (key, value) == ("submitters", "any"):
        return
    values["data"]["heart_disease"]["policy"][key] = value
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(values))
    _never_admits(path, case)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(_REFUSING), where=st.floats(0, 1, exclude_max=True), junk=st.text(max_size=3),
       cut=st.integers(0, 40))  # fmt: skip
def test_a_file_whose_keys_were_damaged_never_admits_what_the_whole_one_refuses(tmp_path, name, where, junk, cut):
    """Damage up to the end of the clause's key: its value, which would be another will, stays."""
    case = CASES[name]
    text = yaml.safe_dump(_values(case), sort_keys=False)
    (key,) = case.policy
    at = int(where * (text.index(f"{key}:") + len(key)))
    end = min(at + cut, text.index(f"{key}:") + len(key))
    path = tmp_path / "site.yaml"
    path.write_bytes((text[:at] + junk + text[end:]).encode("utf-8", "surrogatepass"))
    _never_admits(path, case)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(_REFUSING), share=st.floats(0, 1, exclude_max=True))
def test_a_file_that_was_cut_off_never_admits_what_the_whole_one_refuses(tmp_path, name, share):
    case = CASES[name]
    values = _values(case)
    policy = values["data"]["heart_disease"]["policy"]
    # The clause comes first, as a cut that takes an optional one away takes its bound away.
    values["data"]["heart_disease"]["policy"] = {key: policy[key] for key in (*case.policy, *POLICY)}
    text = yaml.safe_dump(values, sort_keys=False)
    path = tmp_path / "site.yaml"
    path.write_text(text[: int(share * len(text))])
    _never_admits(path, case)
