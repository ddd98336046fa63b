import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.config.experiment import ModelConfig, SourceConfig
from fedkit.config.serialize import to_dict
from fedkit.errors import ConfigError, FederationError, FedkitError
from fedkit.federation import statements
from fedkit.federation.envelope import read, seal, unseal
from fedkit.federation.job import SOURCE, job_config, make_job, open_job
from fedkit.federation.public_codes import COMMON, public_code
from fedkit.governance.statistics import Statistics
from fedkit.storage.keys import fingerprint
from tests.federation.signers import COORDINATOR, FEDERATION, NOW, OPERATOR, OTHER, ROOT, VIEWER, job, job_text, keyring
from tests.federation.signers import config as composed

KEYRING = keyring()
TEXT = job_text()
PAYLOAD = json.loads(read(TEXT).payload)


def opened(text, now=NOW, **named):
    return open_job(text, KEYRING, FEDERATION, now, **named)


def refused(text, **named):
    with pytest.raises(FedkitError) as caught:
        opened(text, **named)
    assert public_code(caught.value) != COMMON
    return caught.value


def signed(**changes):
    """A job that an operator signs, whatever it says."""
    return seal("job", {**{key: value for key, value in PAYLOAD.items() if key != "wire"}, **changes}, OPERATOR).text


def with_config(**changes):
    """The job's config with values at dotted keys."""
    config = json.loads(json.dumps(PAYLOAD["config"]))
    for key, value in changes.items():
        *parents, last = key.split("__")
        section = config
        for part in parents:
            section = section[part]
        section[last] = value
    return signed(config=config)


@pytest.mark.parametrize(
    "overrides",
    [
        (), ("privacy=none", "privacy.noise=seeded"), ("model=mlp", "model.hidden=[8, 4]"), ("strategy=fedyogi",),
        ("privacy.evaluation.share=0.2",), ("data.unit_column=id", "data.max_rows_per_unit=3"), ("runs_dir=elsewhere",),
        ("ledgers_dir=ledgers",), ("purpose=heart-disease-research",), ("federation.policies=policies",),
    ],
)  # fmt: skip
def test_a_job_round_trips_its_config_exactly(overrides):
    config = composed(*overrides)
    found = job(config)
    assert found.config == job_config(config)
    assert found.config.data.source == SOURCE == SourceConfig("site")
    assert (found.config.runs_dir, found.config.ledgers_dir, found.config.data.site_column) == ("runs", None, None)
    assert (found.run, found.study, found.submitter, found.name) == ("run-1", "heart", "bo", "heart_disease")
    assert found.sites == ("cleveland", "hungary", "switzerland", "va")
    assert job_config(found.config) == found.config


def test_a_job_is_the_same_whatever_the_submitters_own_source():
    config = composed()
    own = replace(config, data=replace(config.data, source=SourceConfig("csv", path="/data/secret.csv")))
    assert job_text(own) == TEXT
    assert "secret" not in job_text(own) and "builtin" not in TEXT


def test_only_an_operator_or_admin_submits():
    assert opened(job_text(key=ROOT, submitter="ana")).submitter == "ana"
    for key, name in ((VIEWER, "vi"), (OTHER, "bo"), (COORDINATOR, "bo")):
        assert refused(job_text(key=key, submitter=name)).code == "FK541"
    assert refused(job_text(submitter="ana")).code == "FK541"


def test_a_revoked_submitters_job_is_refused_from_then_on():
    after = statements.revoke(KEYRING, "bo", ROOT, NOW)
    with pytest.raises(FederationError, match="revoked") as caught:
        open_job(TEXT, after, FEDERATION, NOW)
    assert caught.value.code == "FK541"


def test_a_job_is_for_one_federation_and_one_time():
    with pytest.raises(FederationError) as caught:
        open_job(TEXT, KEYRING, fingerprint(b"another"), NOW)
    assert caught.value.code == "FK542"
    assert opened(TEXT, NOW - 299).run == "run-1" == opened(TEXT, NOW + 3599).run
    for now in (NOW - 302, NOW + 3600):
        assert refused(TEXT, now=now).code == "FK543"
    assert refused(signed(expires_at=int(NOW + 400 * 86400))).code == "FK543"


@given(st.sampled_from(sorted(PAYLOAD)), st.data())
@settings(max_examples=60)
def test_any_changed_field_breaks_the_signature(field, data):
    changed = {**PAYLOAD, field: data.draw(st.none() | st.integers() | st.text(max_size=5))}
    if changed == PAYLOAD:
        return
    payload = json.dumps(changed, separators=(",", ":"), ensure_ascii=False)
    assert refused(replace(read(TEXT), payload=payload).text).code in ("FK540", "FK541")


@given(st.integers(0, len(TEXT) - 1), st.characters(max_codepoint=127))
@settings(max_examples=60)
def test_any_changed_letter_is_refused(position, letter):
    if TEXT[position] != letter:
        assert refused(TEXT[:position] + letter + TEXT[position + 1 :]).code in ("FK540", "FK541")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"wire": 2}, "FK547"), ({"run": "../../etc"}, "FK540"), ({"run": ""}, "FK540"), ({"study": "a b"}, "FK540"),
        ({"name": "other"}, "FK540"), ({"min_sites": 0}, "FK540"), ({"min_sites": 5}, "FK540"),
        ({"min_sites": True}, "FK540"), ({"deadline": 0}, "FK540"), ({"deadline": 1e9}, "FK540"),
        ({"deadline": "60"}, "FK540"), ({"config": []}, "FK540"), ({"config": {}}, "FK101"), ({"more": 1}, "FK540"),
        ({"issued_at": 1.0}, "FK540"), ({"submitter": "vi"}, "FK541"), ({"federation": "x"}, "FK542"),
    ],
)  # fmt: skip
def test_what_an_operator_signs_must_still_be_a_job(changes, code):
    assert refused(signed(**changes)).code == code


@pytest.mark.parametrize(
    "source",
    [
        {"kind": "csv", "path": "/etc/passwd"}, {"kind": "builtin", "path": "heart_disease.csv"},
        {"kind": "sql", "query": "SELECT 1", "url": "sqlite:///x"}, {"kind": "site", "path": "/etc/passwd"},
        {"kind": "site", "query": "SELECT 1"}, {"kind": "site", "url_env": "HOME"}, {"kind": "site", "url_file": "/x"},
        {"kind": "site", "delimiter": ";"}, {"kind": "arrays"}, {"kind": "our_source"}, "site", None, [], {},
    ],
)  # fmt: skip
def test_a_source_of_its_own_is_refused(source):
    assert refused(with_config(data__source=source)).code == "FK546"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data__site_column", "site"),
        ("runs_dir", "/tmp/x"),
        ("ledgers_dir", "/tmp/x"),
        ("federation__policies", "/tmp/x"),
        ("federation__kind", "ray"),
        ("federation__address", "10.0.0.1:6379"),
        ("privacy__noise", "seeded"),
    ],
)
def test_folders_columns_of_sites_and_seeded_noise_are_refused(key, value):
    assert refused(with_config(**{key: value})).code == "FK546"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "${oc.env:HOME}"), ("data__description", "${oc.env:HOME}"), ("data__name", "${x}"),
        ("model__name", "${x}"),
    ],
)  # fmt: skip
def test_an_interpolation_is_refused_before_anything_reads_it(key, value):
    with pytest.raises(FederationError) as caught:
        with_config(**{key: value})
    assert caught.value.code == "FK540"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_target_", "os.system"), ("data___target_", "os.system"), ("model___target_", "os.system"),
        ("strategy___target_", "os.system"), ("hydra", {}), ("defaults", []), ("model__name", "python"),
        ("strategy__name", "python"), ("model__name", "os:system"), ("model__name", ["mlp"]), ("model__name", {}),
        ("model", None), ("data", None), ("data__partition", {"kind": "iid", "sites": 2}), ("data__records", {}),
        ("data__target", []), ("seed", -1), ("privacy__delta", 1.0), ("federation__num_rounds", 10**9),
    ],
)  # fmt: skip
def test_what_the_schema_does_not_know_is_refused(key, value):
    error = refused(with_config(**{key: value}))
    assert isinstance(error, ConfigError) and error.code == "FK101"


def test_a_site_name_that_is_a_path_is_refused():
    assert refused(with_config(data__records={"../north": 300, "south": 300})).code == "FK546"


@pytest.mark.parametrize(
    "changes", [{"run": "a b"}, {"min_sites": 9}, {"deadline": 0}, {"lifetime": 0}, {"lifetime": 1e9}, {"study": ""}]
)
def test_a_job_that_would_be_refused_is_not_signed(changes):
    given = {
        "federation": FEDERATION, "run": "r", "study": "s", "submitter": "bo", "min_sites": 1, "deadline": 60,
        "lifetime": 60, "key": OPERATOR, "now": NOW,
    }  # fmt: skip
    assert make_job(composed(), **given).key == OPERATOR.fingerprint
    with pytest.raises(FederationError):
        make_job(composed(), **{**given, **changes})


def test_seeded_noise_is_not_signed():
    with pytest.raises(FederationError, match="protects nobody") as caught:
        job_text(composed("privacy.noise=seeded"))
    assert caught.value.code == "FK546"


def test_an_installed_model_is_admitted_by_whoever_has_it():
    config = replace(composed(), model=ModelConfig("ours", {"width": 3, "widths": (1, 2), "bias": True}))
    text = job_text(config, models=["ours"])
    assert opened(text, models=["ours"]).config.model == config.model
    assert refused(text).code == "FK101"
    bad = json.loads(read(text).payload)["config"]
    for value in ({"a": 1}, [[1]], [{"a": 1}]):
        bad["model"]["width"] = value
        assert refused(signed(config=bad), models=["ours"]).code == "FK101"


def test_what_was_signed_is_what_is_parsed():
    values = unseal(read(TEXT), "job", OPERATOR.public)
    assert values["config"] == json.loads(json.dumps(to_dict(job_config(composed()))))
    assert opened(TEXT).digest == read(TEXT).digest


def paths(value, here=()):
    yield here
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from paths(inner, (*here, key))


PATHS = [path for path in paths(PAYLOAD["config"]) if path]
odd = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "???", "python", "site", "none", "a" * 300, "\x00", "🏥"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "a", "kind", ""]), inner),
    max_leaves=5,
)  # fmt: skip


@given(st.sampled_from(PATHS), odd)
@settings(max_examples=200, deadline=None)
def test_no_signed_config_is_a_crash(path, value):
    try:
        text = with_config(**{"__".join(path): value})
    except FederationError:
        return
    try:
        found = opened(text)
    except FedkitError as error:
        code = public_code(error)
    else:
        code = "" if found.config.data.source == SOURCE else "another source"
    assert code not in (COMMON, "another source")


@pytest.mark.parametrize("agreement", ["a" * 63, "A" * 64, "a" * 65, "g" * 64, "a" * 64 + "\n", "none", " "])
def test_an_agreement_that_is_no_digest_is_in_no_job(agreement):
    with pytest.raises(FederationError) as caught:
        job(agreement=agreement)
    assert caught.value.code == "FK540"


def test_a_job_of_a_study_names_its_agreement_and_one_of_none_names_none():
    assert job(agreement="a" * 64).agreement == "a" * 64
    assert job(study="none").agreement == "" and job().agreement == ""
    with pytest.raises(FederationError) as caught:
        job(study="none", agreement="a" * 64)
    assert caught.value.code == "FK540"


STATISTICS = Statistics(("age", "num"), 10, 8.0, 1e-5)


def test_a_question_is_opened_as_it_was_signed_and_a_run_has_none():
    assert job().statistics is None and '"statistics"' not in job().signed.payload
    assert job(statistics=STATISTICS).statistics == STATISTICS


@pytest.mark.parametrize("changes", [{"bins": 0}, {"columns": []}, {"noise_multiplier": 0.01}, {"path": "/data"}])
def test_a_question_that_cannot_be_is_refused(changes):
    text = job_text(statistics=STATISTICS)
    values = {key: value for key, value in json.loads(json.loads(text)["payload"]).items() if key != "wire"}
    values["statistics"] |= changes
    with pytest.raises(FederationError, match="FK540"):
        open_job(seal("job", values, OPERATOR).text, keyring(), FEDERATION, NOW)
