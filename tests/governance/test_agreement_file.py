"""An agreement's terms are checked whole before anybody signs them, and one set of terms has one text."""

import copy
import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.errors import ConfigError
from fedkit.governance.agreement import Agreement, plain
from fedkit.governance.agreement_file import agreement_of, read_agreement_file
from fedkit.storage.keys import fingerprint
from tests.governance.cases import STUDY
from tests.governance.conftest import agreed

KEYS = {site: fingerprint(site.encode()) for site in ("cleveland", "hungary", "switzerland", "va")}
TERMS = {**STUDY, "parties": KEYS}


def changed(path, value):
    terms = copy.deepcopy(TERMS)
    inner = terms
    *parts, last = path.split(".")
    for part in parts:
        inner = inner[part]
    if value is KEYS:
        del inner[last]
    else:
        inner[last] = value
    return terms


ABSENT = KEYS
BAD = [
    ("study", "none", "not 'none'"), ("study", "a/b", "letters, digits"), ("study", ABSENT, "is not set"),
    ("study", "", "is not set|is empty"), ("study", ["a"], "text is needed"), ("version", 0, "between 1"),
    ("version", True, "whole number"), ("version", "1", "whole number"), ("purpose", "none", "is 'none'"),
    ("purpose", "two words", "'two words'"), ("begin", "2026-13-01", "a day is needed"), ("begin", 20260101, "a day"),
    ("begin", "2027-01-01", "before begin"), ("end", ABSENT, "the last day"), ("parties", {}, "names 0 sites"),
    ("parties", {"north": "sha256:1"}, "sha256:..., is needed"),
    ("parties", {".north": KEYS["va"]}, "begins with a dot"),
    ("parties", {"north ": KEYS["va"]}, "is written 'north' elsewhere"),
    ("parties", {"a": KEYS["va"], "b": KEYS["va"]}, "twice"), ("parties", {1: KEYS["va"]}, "is no text"),
    ("parties", ["a"], "keys and values"), ("data", {}, "names 0 data sets"), ("data", {"a b": {}}, "cannot be named"),
    ("data.heart_disease", None, "its bounds are needed"), ("data.heart_disease.max_epsilon", 0, "between"),
    ("data.heart_disease.max_epsilon", float("nan"), "between"), ("data.heart_disease.max_epsilon", 1e9, "between"),
    ("data.heart_disease.max_epsilon", 0.0001, "cannot be enforced"), ("data.heart_disease.delta", 1.0, "between"),
    ("data.heart_disease.delta", 1e-12, "between"), ("data.heart_disease.unit", "person", "known are"),
    ("data.heart_disease.models", [], "a list is needed"), ("data.heart_disease.models", ["a b"], "cannot be"),
    ("data.heart_disease.strategies", ["fedavgg"], "did you mean 'fedavg'"), ("data.heart_disease.max_rounds", 0, "1"),
    ("data.heart_disease.max_epsilon_per_run", 4.1, "between 0.0001 and 4"),
    ("data.heart_disease.allow_unprotected", "yes", "true or false"), ("data.heart_disease.budget", 1, "is unknown"),
    ("retention_days", -1, "between 0"), ("retention_days", ABSENT, "keeps its copies"), ("contacts", [], "a list"),
    ("contacts", ["a\nb"], "cannot be"), ("contacts", ["${HOME}"], "cannot be"), ("description", "\x1b[2J", "readable"),
    ("description", 7, "readable"), ("more", 1, "is unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "why"), BAD)
def test_whatever_is_wrong_is_told_with_its_key_and_nothing_is_made(tmp_path, path, value, why):
    found, problems = agreement_of(changed(path, value))
    assert found is None and any(any(word in each for word in why.split("|")) for each in problems), problems
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(changed(path, value)))
    with pytest.raises(ConfigError) as caught:
        read_agreement_file(file)
    assert caught.value.code == "FK122" and "study.yaml" in str(caught.value)


def test_all_problems_come_at_once(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("study: none\nversion: 0\n")
    with pytest.raises(ConfigError) as caught:
        read_agreement_file(file)
    assert len(caught.value.problems) >= 8


@pytest.mark.parametrize("text", ["[1]", "a: [", "study: x\nstudy: y\n", "\xff\xfe", ""])
def test_a_file_that_is_none_is_refused(tmp_path, text):
    file = tmp_path / "study.yaml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        read_agreement_file(file)
    assert caught.value.code == "FK122"
    with pytest.raises(ConfigError, match="there is no file"):
        read_agreement_file(tmp_path / "absent.yaml")


def test_days_are_the_same_with_and_without_quotes(tmp_path):
    file = tmp_path / "study.yaml"
    for quote in ("", "'"):
        text = yaml.safe_dump({key: value for key, value in TERMS.items() if key not in ("begin", "end")})
        file.write_text(text + f"begin: {quote}2026-01-01{quote}\nend: {quote}2026-12-31{quote}\n")
        assert read_agreement_file(file) == agreed(TERMS)


def test_a_list_of_parties_takes_the_enrolled_keys_and_a_mapping_may_not_contradict_them(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**TERMS, "parties": ["cleveland", "va"]}))
    assert read_agreement_file(file, KEYS).parties == {"cleveland": KEYS["cleveland"], "va": KEYS["va"]}
    for parties, why in ((["nowhere"], "is not enrolled"), ({"va": KEYS["hungary"]}, "is enrolled with")):
        file.write_text(yaml.safe_dump({**TERMS, "parties": parties}))
        with pytest.raises(ConfigError, match=why):
            read_agreement_file(file, KEYS)
    # Without keys to take, names alone are no parties.
    file.write_text(yaml.safe_dump({**TERMS, "parties": ["cleveland"]}))
    with pytest.raises(ConfigError, match="keys and values"):
        read_agreement_file(file)


def test_the_text_that_is_signed_reads_back_to_the_same_terms():
    found = agreed(TERMS, description="Two\nlines")
    again, problems = agreement_of(json.loads(json.dumps(plain(found))))
    assert problems == [] and again == found and plain(again) == plain(found)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PATHS = [*TERMS, *(f"data.heart_disease.{key}" for key in TERMS["data"]["heart_disease"]), "parties.va", "x"]


@settings(max_examples=400)
@given(path=st.sampled_from(PATHS), value=VALUES)
def test_a_term_of_any_value_is_read_or_refused_and_never_means_another(path, value):
    """What is taken has the one text that says it; nothing raises but by its problems."""
    found, problems = agreement_of(changed(path, value))
    assert (found is None) == bool(problems)
    if isinstance(found, Agreement):
        again, _ = agreement_of(plain(found))
        assert again == found
