"""A run once more: its signed config to the letter, whatever the coordinator's copy says."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import partial

import pytest
from fedkit_server.profile import Profile
from fedkit_server.retraining import same_again as of
from fedkit_server.submission import sign, with_sites

from fedkit.errors import FedkitError
from fedkit.federation import envelope, statements
from fedkit.federation.job import open_job
from fedkit.storage.keys import create_signing_key, new_signing_key
from tests.server.test_submission import ASKED, HEART, SITES

FEDERATION = "sha256:" + "a" * 64
COORDINATOR = new_signing_key()
same_again = partial(of, asked=ASKED)


@pytest.fixture
def signed(tmp_path):
    """A profile, its keyring, and a run that it has submitted: id and job."""
    create_signing_key(tmp_path / "signing.key")
    profile = Profile(tmp_path, "localhost:1", "anna", "", FEDERATION, "")
    keyring = statements.start(FEDERATION, "anna", profile.key(), COORDINATOR.public, time.time() - 9)
    config, _ = with_sites(HEART, SITES, ["north", "south"], 1, 60, ASKED)
    run, job = sign(config, profile, study="heart", min_sites=1, deadline=60, now=time.time() - 5)
    return profile, keyring, run, job


def test_the_new_run_has_the_old_one_s_config_but_for_its_name(signed):
    profile, keyring, run, job = signed
    again = same_again(job.text, run, keyring, SITES, None)
    before = open_job(job.text, keyring, FEDERATION, time.time())
    assert again.config == replace(before.config, name="heart_disease-without")
    assert (again.study, again.min_sites, again.deadline) == ("heart", 1, 60.0)
    made, new = sign(again.config, profile, study=again.study, min_sites=1, deadline=60, now=time.time())
    opened = open_job(new.text, keyring, FEDERATION, time.time())
    assert opened.config == again.config and opened.run == made != run
    assert same_again(job.text, run, keyring, SITES, "second").config.name == "second"


def test_a_run_whose_signer_has_a_new_key_or_is_gone_and_that_has_expired_can_be_repeated(signed):
    profile, keyring, run, job = signed
    key = new_signing_key()
    rotated = statements.rotate(keyring, key.public, profile.key(), time.time())
    assert same_again(job.text, run, rotated, SITES, None).config.name == "heart_disease-without"


def _altered(signed, change, key=None):
    job = signed[3]
    values = json.loads(job.payload)
    values.pop("wire")
    change(values)
    if key is None:
        return envelope.Signed(json.dumps({"wire": 1, **values}, separators=(",", ":")), job.key, job.signature).text
    return envelope.seal("job", values, key).text


def _epsilon(values):
    values["config"]["privacy"]["epsilon"] = 2.5


@pytest.mark.parametrize(
    ("change", "key", "code"),
    [
        (_epsilon, None, "FK541"),
        (_epsilon, COORDINATOR, "FK594"),
        (_epsilon, new_signing_key(), "FK594"),
        (lambda values: values.update(run="another"), "own", "FK594"),
        (lambda values: values.update(federation="sha256:" + "b" * 64), "own", "FK594"),
    ],
)
def test_a_copy_that_the_coordinator_altered_or_swapped_is_not_signed(signed, change, key, code):
    profile, keyring, run, _ = signed
    text = _altered(signed, change, profile.key() if key == "own" else key)
    with pytest.raises(FedkitError, match=code):
        same_again(text, run, keyring, SITES, None)


@pytest.mark.parametrize("name", ["", "a b", "heart_disease", "x" * 101, "../x"])
def test_a_name_that_cannot_be_or_is_the_old_one_is_refused(signed, name):
    _, keyring, run, job = signed
    with pytest.raises(FedkitError, match="FK594"):
        same_again(job.text, run, keyring, SITES, name)


def test_sites_that_are_gone_or_declare_otherwise_are_named(signed):
    _, keyring, run, job = signed
    with pytest.raises(FedkitError, match=r"FK728.*south"):
        same_again(job.text, run, keyring, [site for site in SITES if site["name"] != "south"], None)
    changed = json.loads(json.dumps(SITES))
    changed[0]["offer"]["datasets"]["heart_disease"]["records"] = 299
    with pytest.raises(FedkitError, match=r"FK594.*299"):
        same_again(job.text, run, keyring, changed, None)
