import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.config.compose import compose
from fedkit.errors import ConfigError
from fedkit.federation.offer import make_offer, offered, open_offer
from fedkit.governance.declaration import declaration_digest
from fedkit.governance.site_checks import site_file_of
from fedkit.governance.site_file import read_site_file
from fedkit.governance.terms import Hours, Limits
from fedkit.storage.keys import new_signing_key
from tests.governance.conftest import HEART

SPEC = """
site: cleveland
folder: .
data:
  heart_disease:
    declaration: heart_disease
    source: {kind: csv, path: data/cleveland.csv}
    site_column: null
    unit_column: null
    records: 303
    unit: record
    max_epsilon: 3.0
    delta: 1.0e-5
    models: [logistic, mlp, our_model]
    strategies: [fedavg, fedprox]
    allow_unprotected: false
    policy:
      purposes: [heart-disease-research]
      studies: [none]
      submitters: any
      release: [updates, private_metrics]
      approval: automatic
      max_rounds: 100
      max_epsilon_per_run: 2.5
      min_records: 100
      min_other_sites: 1
      hours: {days: [mon, tue, wed, thu, fri], from: "07:00", to: "19:00", timezone: Europe/Berlin}
limits: {cpus: 1, memory: 2GiB, disk: 5GiB, bandwidth: 10MiB/s}
device: cpu
disclose_usage: false
allow:
  models: {our_model: {import: "ourpkg.models:build", sha256: "SHA"}}
  sources: {our_source: {import: "ourpkg.sources:read", sha256: "SHA"}}
""".replace("SHA", "ab" * 32)


def problems(read, *given, **named):
    with pytest.raises(ConfigError) as caught:
        read(*given, **named)
    assert caught.value.code == "FK120"
    return "\n".join(caught.value.problems)


def test_the_documented_file_is_read_as_it_is_meant(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(SPEC)
    found = read_site_file(path)
    heart = found.data["heart_disease"]
    assert (found.site, found.folder, found.device, found.disclose_usage) == ("cleveland", tmp_path, "cpu", False)
    assert found.limits == Limits(1.0, 2 * 2**30, 5 * 2**30, 10 * 2**20)
    assert heart.declaration.source.path == str(tmp_path / "data/cleveland.csv")
    assert (heart.records, heart.unit, heart.max_epsilon, heart.delta) == (303, "record", 3.0, 1e-5)
    assert heart.models == ("logistic", "mlp", "our_model") and not heart.allow_unprotected
    policy = heart.policy
    assert (policy.purposes, policy.studies, policy.submitters) == (("heart-disease-research",), ("none",), None)
    assert (policy.max_epsilon_per_run, policy.min_records, policy.min_other_sites) == (2.5, 100, 1)
    assert policy.hours == Hours(tuple(range(5)), 420, 1140, "Europe/Berlin")
    assert found.models["our_model"].path == "ourpkg.models:build"
    assert declaration_digest(heart.declaration) == declaration_digest(compose("heart_disease").data)
    assert dict(heart.declaration.records) == {"cleveland": 303}


def test_a_shipped_declaration_and_the_same_written_out_are_one(site_file):
    import yaml

    from fedkit.config.locate import configs_root

    written = yaml.safe_load((configs_root() / "data/heart_disease.yaml").read_text())
    shipped = site_file().data["heart_disease"]
    own = site_file({"declaration": written}).data["heart_disease"]
    assert declaration_digest(own.declaration) == declaration_digest(shipped.declaration)


@pytest.mark.parametrize(
    "key", ["declaration", "source", "records", "unit", "max_epsilon", "delta", "models", "strategies", "policy"]
)
def test_what_has_no_default_is_asked_for_with_an_example(site_file, key):
    text = problems(site_file, {key: "(absent)"})
    assert f"data.heart_disease.{key} is not set; give " in text
    assert len(text.splitlines()) == 1


BAD = [
    ({"records": 0}, "records is 0; it must be between 1"), ({"records": 1.5}, "a whole number"),
    ({"records": True}, "a number is needed, such as 303"), ({"records": "many"}, "a number is needed"),
    ({"max_epsilon": 0}, "max_epsilon is 0; it must be between 0.0001 and 100"), ({"max_epsilon": 1e6}, "between"),
    ({"max_epsilon": float("nan")}, "between"), ({"max_epsilon": float("inf")}, "between"),
    ({"delta": 0.01}, "it must be below 1 / 303, such as 3e-04"), ({"delta": 0}, "between 1e-11"),
    ({"unit": "row"}, "known are record, patient"), ({"unit": "patient"}, "set unit_column"),
    ({"unit_column": "id"}, "leave unit_column out"), ({"models": []}, "a list of names"),
    ({"models": "mlp"}, "a list of names"), ({"models": ["mpl"]}, "did you mean 'mlp'?"),
    ({"strategies": ["fedavgg"]}, "did you mean 'fedavg'?"), ({"modles": []}, "did you mean 'models'?"),
    ({"declaration": "hart_disease"}, "did you mean 'heart_disease'?"), ({"declaration": 3}, "is needed"),
    ({"declaration": {"target": {}}}, "declaration.target.column is not set"),
    ({"source": {"kind": "csv"}}, "source.path is not set"), ({"source": {"kind": "site"}}, "source.kind is 'site'"),
    ({"source": {"kind": "csv", "path": 3}}, "text is needed"), ({"source": "x.csv"}, "keys and values"),
    ({"source": {"kind": "csv", "path": "x", "query": "y"}}, "source.query is set"),
    ({"source": {"kind": "sql", "query": "q", "url": "postgresql://u:hunter2@h/d"}}, "url_env=VARIABLE"),
    ({"source": {"kind": "sql", "query": "q", "url_env": "postgresql://u:hunter2@h/d"}}, "name of an environment"),
    ({"site_column": "age"}, "another role"), ({"site_column": ""}, "name of a column"),
    ({"allow_unprotected": "no"}, "true or false"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "why"), BAD)
def test_a_wrong_value_is_named_with_key_and_remedy(site_file, changes, why):
    text = problems(site_file, changes)
    assert why in text and "data.heart_disease." in text
    assert "hunter2" not in text


TOP = [
    ({"site": None}, "site is not set"), ({"site": "a/b"}, "slash"), ({"device": "gpu"}, "auto, cpu, cuda"),
    ({"data": {}}, "names no data set"), ({"folder": 3}, "a folder is needed"), ({"sites": 1}, "did you mean 'site'?"),
    ({"limits": {"memory": "much"}}, "such as 2GiB"), ({"limits": {"cpu": 1}}, "did you mean 'cpus'?"),
    ({"limits": {"cpus": 0}}, "between"), ({"disclose_usage": "yes"}, "true or false"),
    ({"allow": {"models": {"mlp": {"import": "a:b", "sha256": "0" * 64}}}}, "no name of fedkit's own"),
    ({"allow": {"sources": {"csv": {"import": "a:b", "sha256": "0" * 64}}}}, "no name of fedkit's own"),
    ({"allow": {"models": {"m": {"import": "os.system", "sha256": "0" * 64}}}}, "package.module:function"),
    ({"allow": {"models": {"m": {"import": "a:b", "sha256": "x"}}}}, "64 hex digits"),
    ({"allow": {"commands": {}}}, "unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "why"), TOP)
def test_a_wrong_value_at_the_top_is_named(site_file, changes, why):
    assert why in problems(site_file, **changes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("site: a\ndata:\n\tb: 1\n", r":3 is no valid YAML: found character '\\t' .*; indent with spaces"),
        ("site: a\ndata: {b: c\nlimits: {}\n", r":3 is no valid YAML: expected ',' or '}'.*\(line 2\)"),
        ("site: [a", r":1 is no valid YAML: expected ',' or '\]'"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_line_and_the_reason(tmp_path, text, said):
    (tmp_path / "site.yaml").write_text(text)
    assert re.search(said, problems(read_site_file, tmp_path / "site.yaml"))


def test_a_folder_in_the_place_of_a_file_is_told_with_the_file_in_it(tmp_path):
    (tmp_path / "site").mkdir()
    assert "site is a folder; name a file" in problems(read_site_file, tmp_path / "site")
    (tmp_path / "site" / "site.yaml").write_text("site: a\n")
    assert f"is a folder; name the file in it: {tmp_path}/site/site.yaml" in problems(read_site_file, tmp_path / "site")


def test_all_problems_come_at_once(site_file):
    text = problems(site_file, {"records": 0, "models": [], "unit": "x"}, device="gpu", limits={"disk": "?"})
    assert [part in text for part in ("records", "models", "unit", "device", "limits.disk")] == [True] * 5


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("site: a\nsite: b\n", ":2 has the key 'site' twice"), ("a: [", "is no valid YAML"), ("- a\n", "no keys"),
        ("", "no keys"), ("a: &x [1]\nb: *x\n", "alias"), ("a: " + "[" * 50, "nested"), ("a: \xff", "cannot be read"),
        ("!!python/object/apply:os.system [ls]", "no valid YAML"), ("a: 2020-99-99", ""), ("? [1]\n: 2", ""),
    ],
)  # fmt: skip
def test_a_file_that_is_no_such_yaml_is_refused(tmp_path, text, why):
    path = tmp_path / "site.yaml"
    path.write_bytes(text.encode("latin-1"))
    assert why in problems(read_site_file, path)
    assert "there is no file" in problems(read_site_file, tmp_path / "absent.yaml")


def test_nothing_of_the_environment_is_put_in(site_file, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    found = site_file({"source": {"kind": "csv", "path": "${oc.env:SECRET}/$SECRET.csv"}})
    path = found.data["heart_disease"].declaration.source.path
    assert Path(path).name == "$SECRET.csv" and "hunter2" not in path
    assert os.environ["SECRET"] == "hunter2"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=2),
    max_leaves=6,
)


@given(key=st.sampled_from(["records", "unit", "max_epsilon", "delta", "models", "strategies", "source", "declaration",
                            "site_column", "unit_column", "allow_unprotected", "policy"]), value=values)  # fmt: skip
@settings(max_examples=60)
def test_no_value_is_a_crash(key, value):
    target, features = {"column": "y", "kind": "binary", "positive": [1]}, {"numeric": {"a": [0, 1]}}
    heart = {
        "declaration": {"target": target, "features": features},
        "source": {"kind": "csv", "path": "x"}, "records": 300, "unit": "record", "max_epsilon": 3.0, "delta": 1e-5,
        "models": ["mlp"], "strategies": ["fedavg"], "policy": HEART["policy"],
    }  # fmt: skip
    found, wrong = site_file_of({"site": "a", "data": {"d": {**heart, key: value}}}, Path("/"))
    assert (found is None) == bool(wrong)


@given(st.dictionaries(st.text(max_size=6) | st.sampled_from(["site", "data", "limits", "allow"]), values, max_size=4))
def test_no_top_is_a_crash(top):
    found, wrong = site_file_of(top, Path("/"))
    assert found is None and wrong


def test_an_offer_tells_declared_constants_only(site_file):
    found = site_file(
        {"source": {"kind": "sql", "query": "SELECT secret", "url_env": "SECRET_URL"}, "site_column": "ward"}
    )
    key = new_signing_key()
    text = make_offer(found.site, "0.1.0", offered(found), key, 1e9).text
    assert dict(open_offer(text, key.public, found.site, 1e9).datasets) == offered(found)
    assert not any(word in text for word in ("secret", "SECRET", "ward", "sql"))
