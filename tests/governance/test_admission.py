from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.config.experiment import ModelConfig
from fedkit.data.load import load_dataset, load_site_dataset
from fedkit.errors import FederationError
from fedkit.federation.public_codes import COMMON, public_code
from fedkit.governance.admission import Budget, admit
from fedkit.governance.site_checks import site_file_of
from fedkit.training.plan import local_plans
from tests.federation.signers import config as composed
from tests.federation.signers import job
from tests.governance.conftest import HEART, asked


def opened(*overrides):
    return job(composed(*overrides)).config


JOB = opened()


def refused(config, site):
    with pytest.raises(FederationError) as caught:
        admit(config, site, asked())
    assert public_code(caught.value) != COMMON
    return caught.value


def test_an_admitted_run_has_the_sites_source_and_the_jobs_plan(site_file):
    found = admit(JOB, site_file(), asked())
    assert found.config.data.source.kind == "builtin" and found.config.data.site_column == "site"
    assert (found.site, found.dataset, found.exact) == ("cleveland", "heart_disease", False)
    assert found.budget == Budget("heart_disease", "record", 3.0, 1e-5)
    whole = composed()
    plans = local_plans(whole, load_dataset(whole.data, private=True))
    assert found.plan == plans.sites["cleveland"] and found.specs == plans.specs
    assert replace(found.config, data=JOB.data) == JOB


def test_the_site_reads_what_it_would_in_a_simulation(site_file):
    own = load_site_dataset(admit(JOB, site_file(), asked()).config.data, "cleveland", private=True)
    assert own.fingerprints == {"cleveland": load_dataset(composed().data, private=True).fingerprints["cleveland"]}


@pytest.mark.parametrize(
    ("overrides", "code", "why"),
    [
        (["data.name=other"], "FK560", "heart_disease"),
        (["data.split.seed=1"], "FK561", "the digest of the declaration"),
        (["data.features.numeric.age=[0, 120]"], "FK561", "the digest of the declaration"),
        (["data.records.cleveland=302"], "FK562", "set data.records.cleveland=303"),
        (["strategy=fedadam"], "FK564", "set strategy=fedavg or fedprox"),
        (["data.unit_column=id"], "FK565", "protected is patient, and cleveland allows record"),
        (["privacy.delta=2e-5"], "FK566", "is 2e-05, and cleveland allows at most 1e-05"),
        (["privacy.epsilon=3.1"], "FK567", "set privacy.epsilon=3 at most"),
        (["privacy.epsilon=null", "privacy.noise_multiplier=1.9"], "FK567", "at most 3"),
        (["privacy=none"], "FK568", "set privacy=record_dp"),
    ],
)
def test_what_the_file_does_not_name_is_refused_with_its_code(site_file, overrides, code, why):
    error = refused(opened(*overrides), site_file())
    assert error.code == code and why in str(error)


def test_a_model_that_the_file_does_not_name_is_refused(site_file):
    assert refused(JOB, site_file({"models": ["mlp"]})).code == "FK563"
    assert refused(replace(JOB, model=ModelConfig("ours")), site_file()).code == "FK563"


def test_noise_that_is_not_real_is_refused_even_if_a_job_held_it(site_file):
    seeded = replace(JOB, privacy=replace(JOB.privacy, noise="seeded"))
    for allowed in (False, True):
        assert refused(seeded, site_file({"allow_unprotected": allowed})).code == "FK569"


def test_a_run_for_others_is_not_for_this_site(site_file):
    assert refused(JOB, site_file(site="north")).code == "FK542"


def test_only_a_site_that_says_so_trains_without_privacy(site_file):
    plain = opened("privacy=none")
    found = admit(plain, site_file({"allow_unprotected": True}), asked())
    assert found.exact and found.plan is None
    assert not admit(JOB, site_file({"allow_unprotected": True}), asked()).exact
    assert refused(plain, site_file()).code == "FK568"


def test_all_refusals_come_at_once_under_the_first_code(site_file):
    error = refused(opened("strategy=fedadam", "privacy.delta=1e-4", "data.records.cleveland=304"), site_file())
    assert error.code == "FK562"
    assert [code in str(error) for code in ("FK562", "FK564", "FK566")] == [True] * 3


def test_a_site_too_small_to_train_is_refused_by_its_declared_count(site_file):
    small = opened("data.records.cleveland=6", "training.batch_size=null")
    assert refused(small, site_file({"records": 6})).code == "FK562"


def test_the_sites_own_unit_column_replaces_the_jobs(site_file):
    patients = opened("data.unit_column=id", "data.missing.codes={chol: [0], trestbps: [0], id: ['-']}")
    found = admit(patients, site_file({"unit_column": "pid", "unit": "patient"}), asked())
    assert found.config.data.unit_column == "pid" and "id" not in found.config.data.missing.codes
    assert found.plan.privacy.unit == "patient"


@given(epsilon=st.floats(0.3, 6), limit=st.floats(0.3, 6), share=st.sampled_from([None, 0.2]))
@settings(max_examples=5, deadline=None)
@pytest.mark.slow
def test_no_admitted_plan_costs_more_than_the_sites_epsilon(epsilon, limit, share):
    data = {**HEART, "max_epsilon": limit}
    site, _ = site_file_of({"site": "cleveland", "data": {"heart_disease": data}}, Path("/"))
    evaluation = replace(JOB.privacy.evaluation, share=share)
    run = replace(JOB, privacy=replace(JOB.privacy, epsilon=epsilon, evaluation=evaluation))
    if epsilon > limit:
        assert refused(run, site).code == "FK567"
    else:
        found = admit(run, site, asked()).plan.privacy
        assert found.epsilon <= limit and found.delta <= 1e-5
