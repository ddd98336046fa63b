from __future__ import annotations

import time
from dataclasses import replace

import pytest
from fedkit_server.profile import Profile
from fedkit_server.submission import composed, require_purpose, sign, with_sites

from fedkit.errors import ConfigError, DeploymentError
from fedkit.federation import statements
from fedkit.federation.job import job_config, open_job
from fedkit.governance.clauses import Circumstances
from fedkit.governance.declaration import declaration_digest
from fedkit.storage.keys import create_signing_key, new_signing_key

HEART = composed("heart_disease", [], None)
KEY = "sha256:" + "c" * 64
ASKED = Circumstances(time.time(), "none", "anna", KEY)


def _site(name, state="online", **data):
    offered = {
        "records": 303, "unit": "record", "delta": 1e-5, "max_epsilon": 3.0, "models": ["logistic"],
        "strategies": ["fedavg"], "unprotected": False, "declaration": declaration_digest(job_config(HEART).data),
    } | data  # fmt: skip
    return {"name": name, "state": state, "offer": {"datasets": {"heart_disease": offered}}}


SITES = [_site("north", records=300), _site("south", records=200), _site("west", "offline"), _site("east", "revoked")]


def test_a_run_without_a_purpose_is_refused_where_it_is_submitted():
    require_purpose(HEART)
    with pytest.raises(DeploymentError, match="FK729") as refused:
        require_purpose(replace(HEART, purpose=None))
    assert "set purpose=NAME" in str(refused.value)


def test_counts_come_from_the_offers_and_noise_is_secure():
    config, _ = with_sites(HEART, SITES, ["north", "south"], 1, 60, ASKED)
    assert config.data.records == {"north": 300, "south": 200}
    assert config.privacy.noise == "secure"
    assert (config.federation.min_sites, config.federation.timeout) == (1, 60.0)


@pytest.mark.parametrize(
    ("names", "quorum", "said"),
    [
        (["north", "mars"], 1, "'mars' is not enrolled; known are east, north, south, west"),
        (["north", "east"], 1, "east was revoked"),
        (["north", "west"], 1, "west is not connected"),
        (["north", "south"], 3, "--min-sites is 3; 2 sites are named"),
        (["north", "south"], 0, "--min-sites is 0"),
        (["north", "north"], 1, "twice"),
        ([], 1, "0 sites are named"),
    ],
)
def test_sites_that_cannot_take_part_are_named(names, quorum, said):
    with pytest.raises(DeploymentError, match="FK728") as refused:
        with_sites(HEART, SITES, names, quorum, 60, ASKED)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("names", "quorum", "remedy"),
    [
        (["north", "mars"], 1, "`fedkit server sites` lists them: mend the name, or leave it out"),
        (["north", "west"], 1, "start the sites that are not connected, or leave them out"),
        (["north", "south"], 3, "set --min-sites to 1 to 2, or name more sites"),
        (["north"], 3, "set --min-sites to 1, or name more sites"),
        (["north", "north"], 1, "name each site once"),
        ([], 1, "name sites: --sites A,B"),
    ],
)
def test_the_remedy_is_that_of_what_is_wrong_and_of_nothing_else(names, quorum, remedy):
    with pytest.raises(DeploymentError) as refused:
        with_sites(HEART, SITES, names, quorum, 60, ASKED)
    assert refused.value.remedy == remedy
    with pytest.raises(DeploymentError) as refused:
        with_sites(HEART, SITES, [*names, "west"], 9, 60, ASKED)
    assert refused.value.remedy.startswith(("set --min-sites", "name each site once; set --min-sites"))


@pytest.mark.parametrize(
    ("overrides", "data", "said"),
    [
        (["model=mlp"], {}, "north would refuse it (FK563): models: the model is 'mlp', and north allows logistic"),
        (["strategy=fedprox"], {}, "(FK564): strategies: the strategy is 'fedprox', and north allows fedavg"),
        (["privacy.epsilon=5"], {}, "(FK567): max_epsilon: epsilon of the whole run is 5, and north allows at most 3"),
        (["privacy.delta=1e-4"], {}, "(FK566): delta: privacy.delta is 0.0001, and north allows at most 1e-05"),
        (
            ["privacy.epsilon=null", "privacy.noise_multiplier=1.9"],
            {},
            "and north allows at most 3; set privacy.epsilon=3 at most, or lower federation.num_rounds",
        ),
        (["privacy=none"], {}, "(FK568): allow_unprotected: privacy.mode is none, and north allows record_dp"),
        ([], {"unit": "patient"}, "(FK565): unit: the unit that is protected is record, and north allows patient"),
        ([], {"declaration": "f" * 64}, "(FK561): declaration: the digest of the declaration is"),
        (["data=diabetes"], {}, "north does not offer the data set diabetes; it offers heart_disease"),
    ],
)
def test_what_a_site_does_not_offer_is_said_with_its_bound(overrides, data, said):
    config = composed("heart_disease", overrides, None)
    with pytest.raises(DeploymentError, match="FK729") as refused:
        with_sites(config, [_site("north", **data), _site("south")], ["north", "south"], 1, 60, ASKED)
    assert said in str(refused.value)


def test_every_problem_of_every_site_is_said_at_once():
    config = composed("heart_disease", ["model=mlp", "privacy.epsilon=5"], None)
    with pytest.raises(DeploymentError) as refused:
        with_sites(config, SITES, ["north", "south"], 1, 60, ASKED)
    assert str(refused.value).count("north would refuse") == str(refused.value).count("south would refuse") == 2


def test_noise_that_protects_nobody_is_refused():
    with pytest.raises(DeploymentError, match=r"FK729.*privacy.noise=seeded"):
        composed("heart_disease", ["privacy.noise=seeded"], None)
    with pytest.raises(ConfigError):
        composed("heart_diseas", [], None)


def test_a_signed_run_is_one_that_a_site_opens_and_no_two_have_one_id(tmp_path):
    create_signing_key(tmp_path / "signing.key")
    federation = "sha256:" + "a" * 64
    profile = Profile(tmp_path, "localhost:1", "anna", "", federation, "")
    keyring = statements.start(federation, "anna", profile.key(), new_signing_key().public, time.time())
    config, _ = with_sites(HEART, SITES, ["north", "south"], 2, 60, ASKED)
    made = [sign(config, profile, study="s", min_sites=2, deadline=60, now=time.time()) for _ in range(2)]
    job = open_job(made[0][1].text, keyring, federation, time.time())
    assert job.run == made[0][0] != made[1][0]
    assert (job.sites, job.min_sites, job.study, job.submitter) == (("north", "south"), 2, "s", "anna")
    assert job.config.data.source.kind == "site"


@pytest.mark.parametrize(
    ("override", "option"),
    [("federation.min_sites=1", "--min-sites"), ("+federation.timeout=3", "--deadline")],
)
def test_what_an_option_says_is_not_taken_as_an_override_and_forgotten(override, option):
    with pytest.raises(DeploymentError, match=f"FK729.*{option}"):
        composed("heart_disease", [override], None)


@pytest.mark.parametrize(
    "override", ["training.engine=closed_form", "training.engine=taps", "+training.memory_gb=1", "training.workers=2"]
)
def test_what_only_a_simulation_has_is_refused(override):
    with pytest.raises(DeploymentError, match=r"FK729.*no effect on a deployed run"):
        composed("heart_disease", [override], None)
