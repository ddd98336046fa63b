import dataclasses
import json

import pytest

from fedkit.errors import FederationError
from fedkit.federation.enrolled import LONGEST_LIFE, make_enrolments, other_sites
from fedkit.federation.envelope import read, seal
from fedkit.storage.keys import fingerprint, new_signing_key
from tests.federation.signers import COORDINATOR, FEDERATION, NOW, OPERATOR, OTHER, job

JOB = job()
KEYS = {site: new_signing_key().public for site in (*JOB.sites, "stranger")}


def made(sites=(*JOB.sites, "stranger"), keys=KEYS, key=COORDINATOR, now=NOW, federation=FEDERATION):
    return make_enrolments(federation, sites, keys, key, now)


def others(texts, now=NOW, site="cleveland"):
    return other_sites(texts, COORDINATOR.public, JOB, site, now)


def refused(texts, **more):
    with pytest.raises(FederationError) as caught:
        others(texts, **more)
    return caught.value.code


def changed(text, **changes):
    values = {**json.loads(read(text).payload), **changes}
    values.pop("wire")
    return seal("enrolment", values, COORDINATOR).text


def test_the_jobs_other_sites_count_and_nobody_else():
    assert others(made()) == ("hungary", "switzerland", "va")
    assert others(made(), site="va") == ("cleveland", "hungary", "switzerland")
    assert others(made(("hungary", "cleveland"))) == ("hungary",)
    assert others(()) == () and others(made(("stranger",))) == ()


def test_one_site_in_two_spellings_is_one_other_site():
    records = {"cleveland": 1, "hungary": 1, "hungary ": 1, " hungary": 1}
    config = dataclasses.replace(JOB.config, data=dataclasses.replace(JOB.config.data, records=records))
    spelt = dataclasses.replace(JOB, config=config)
    assert other_sites(made(("hungary",)), COORDINATOR.public, spelt, "cleveland", NOW) == ("hungary",)


def test_a_site_that_is_not_enrolled_has_no_statement():
    assert others(made(keys={site: key for site, key in KEYS.items() if site != "va"})) == ("hungary", "switzerland")


@pytest.mark.parametrize("key", [OPERATOR, OTHER])
def test_only_the_coordinators_key_vouches(key):
    assert refused((*made(("hungary",)), *made(("va",), key=key))) == "FK541"


def test_a_name_or_a_key_that_comes_twice_spoils_the_list():
    assert refused(made(("va", "va"))) == "FK542"
    assert refused(made(("hungary", "va"), keys={**KEYS, "va": KEYS["hungary"]})) == "FK542"
    again = {**KEYS, "hungary": KEYS["cleveland"]}
    assert refused(made(("hungary", "cleveland"), keys=again)) == "FK542"


def test_statements_of_another_federation_or_day_are_refused():
    assert refused(made(federation=fingerprint(b"another"))) == "FK542"
    assert refused(made(now=NOW - LONGEST_LIFE - 1)) == "FK543" and refused(made(now=NOW + 400)) == "FK543"
    assert others(made(now=NOW - LONGEST_LIFE + 5)) == ("hungary", "switzerland", "va")


@pytest.mark.parametrize("changes", [{"site": "a/b"}, {"site": 3}, {"key": "x"}, {"more": 1}, {"issued_at": "now"}])
def test_what_is_no_statement_is_refused(changes):
    assert refused((changed(made(("va",))[0], **changes),)) == "FK540"


def test_a_signature_for_another_kind_is_none():
    text = made(("va",))[0]
    values = {key: value for key, value in json.loads(read(text).payload).items() if key != "wire"}
    assert refused((seal("order", values, COORDINATOR).text,)) == "FK541"
    assert refused((dataclasses.replace(read(text), payload=read(text).payload.replace("va", "vb")).text,)) == "FK541"
