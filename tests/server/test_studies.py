"""The coordinator keeps what an admin and the sites have signed, and takes a run of a study for its signers alone."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
from fedkit_server.studies import Studies, studies_of
from fedkit_server.submission import composed
from fedkit_server.under_study import agreement_checks, checks_of

from fedkit.config.compose import compose
from fedkit.errors import DeploymentError
from fedkit.federation.job import make_job
from fedkit.federation.study import assented, make_study, open_study
from fedkit.storage.audit_verify import readable_lines
from fedkit.storage.keys import new_signing_key
from tests.governance.cases import STUDY
from tests.governance.conftest import agreed
from tests.server.builders import new_site
from tests.server.test_api import Api

SITES = ("cleveland", "hungary", "switzerland", "va")


class Held(Api):
    """An API with sites that have joined."""

    def __init__(self, coordinator):
        super().__init__(coordinator)
        self.sites = {site: new_site().signing for site in SITES}
        for number, (site, key) in enumerate(self.sites.items(), 1):
            self.state.store.put_site(site, number, site.encode(), key.public, self.state.clock())

    def made(self, key=None, author="anna", **changes):
        parties = {site: key.fingerprint for site, key in self.sites.items()}
        terms = agreed({**STUDY, "parties": parties}, **changes)
        return make_study(terms, self.state.settings.federation, author, key or self.keys["anna"], self.state.clock())

    def by(self, study, site, act="sign", key=None):
        return assented(study, site, key or self.sites[site], act, self.state.clock())

    def post(self, study, user="anna"):
        return self.ask("POST", "/studies", user, json={"study": study.text})

    def code(self, answer):
        assert answer.status_code >= 400, answer.json()
        return answer.json()["error"]["code"]

    def job(self, study="registry", agreement="", **changes):
        records = {"cleveland": 303, "hungary": 294}
        config = compose("heart_disease", ["privacy.noise=secure"])
        config = replace(config, data=replace(config.data, records=records))
        said = {"run": f"run-{time.monotonic_ns()}", "submitter": "anna", "min_sites": 1, "deadline": 60.0,
                "lifetime": 3600.0, **changes}  # fmt: skip
        return make_job(config, federation=self.state.settings.federation, key=self.keys["anna"], study=study,
                        agreement=agreement, now=self.state.clock(), **said).text  # fmt: skip

    def submit(self, study="registry", agreement=""):
        return self.ask("POST", "/runs", json={"job": self.job(study, agreement)})

    def logged(self):
        kinds = ("study_created", "study_signed", "study_left")
        return [(line.kind, line.fields.get("site")) for line in readable_lines(self.state.folder.audit, kinds)]


@pytest.fixture
def held(coordinator):
    return Held(coordinator)


def test_a_run_is_taken_once_all_of_its_sites_have_signed_and_refused_with_names_before(held):
    study = held.made()
    assert held.code(held.submit(agreement=study.digest)) == "FK780"
    assert held.post(study).status_code == 200
    answer = held.submit(agreement=study.digest)
    assert held.code(answer) == "FK780"
    text = answer.json()["error"]["message"]
    assert "cleveland has not signed it" in text and "hungary has not signed it" in text and "va" not in text
    for site in ("cleveland", "hungary"):
        assert held.post(held.by(study, site)).status_code == 200
    assert held.submit(agreement=study.digest).status_code == 200
    assert held.logged() == [("study_created", None), ("study_signed", "cleveland"), ("study_signed", "hungary")]


def test_two_sites_files_become_one(held):
    study = held.made()
    held.post(study)
    held.post(held.by(study, "va"))
    answer = held.post(held.by(study, "hungary")).json()
    assert answer["changed"] == {"hungary": "sign"}
    assert answer["standing"] == {"cleveland": "open", "hungary": "signed", "switzerland": "open", "va": "signed"}
    kept = open_study(held.ask("GET", "/studies/registry").json()["study"], held.state.settings.federation)
    assert set(kept.assents) == {"hungary", "va"}
    # The same again is nothing new, and nothing is logged.
    before = held.logged()
    assert held.post(kept).json()["changed"] == {} and held.logged() == before


@pytest.mark.parametrize("how", ["left", "re-enrolled", "revoked", "other text", "no text", "no party", "newer"])
def test_a_run_that_a_site_would_refuse_is_refused_here(held, how):
    study = held.made() if how != "no party" else _without(held, "hungary")
    held.post(study)
    for site in ("cleveland", "hungary"):
        if site in study.agreement.parties:
            assert held.post(held.by(study, site)).status_code == 200
    digest = study.digest
    if how == "left":
        held.post(held.by(study, "hungary", "leave"))
    if how == "re-enrolled":
        held.state.store.put_site("hungary", 9, b"9", new_signing_key().public, held.state.clock())
    if how == "revoked":
        held.state.store.revoke_site("hungary", held.state.clock())
    if how == "newer":
        assert held.post(held.made(version=2)).status_code == 200
    digest = {"other text": "0" * 64, "no text": ""}.get(how, digest)
    answer = held.submit(agreement=digest)
    assert held.code(answer) == "FK780"
    said = {"left": "hungary has left", "re-enrolled": "another key", "revoked": "not enrolled", "no party": "no party"}
    assert said.get(how, "the job names the text") in answer.json()["error"]["message"]


def _without(held, site):
    parties = {name: key.fingerprint for name, key in held.sites.items() if name != site}
    terms = agreed({**STUDY, "parties": parties})
    return make_study(terms, held.state.settings.federation, "anna", held.keys["anna"], held.state.clock())


def test_an_older_word_of_a_site_does_not_undo_its_newer_one(held):
    study = held.made()
    held.post(study)
    signed = held.by(study, "hungary")
    held.post(signed)
    left = assented(signed, "hungary", held.sites["hungary"], "leave", held.state.clock())
    assert held.post(left).json()["changed"] == {"hungary": "leave"}
    again = held.post(signed).json()
    assert again["changed"] == {} and again["standing"]["hungary"] == "left"


def test_a_run_of_no_study_needs_nobodys_signature(held):
    assert held.submit("none").status_code == 200


def test_only_an_admins_text_is_taken_and_only_from_an_admin(held):
    operator = held.add("bo", "operator")
    for study in (held.made(operator, "bo"), held.made(new_signing_key()), held.made(operator)):
        assert held.code(held.post(study)) == "FK541"
    assert held.code(held.post(held.made(), "bo")) == "FK721"
    study = held.made()
    held.post(study)
    # Whoever runs things may carry what a site has signed; a viewer may only look.
    assert held.post(held.by(study, "va"), "bo").json()["changed"] == {"va": "sign"}
    held.add("vi", "viewer")
    assert held.code(held.post(held.by(study, "hungary"), "vi")) == "FK721"
    assert held.ask("GET", "/studies", "vi").json()["studies"][0]["study"] == "registry"


def test_a_version_has_one_text_and_never_goes_back(held):
    held.post(held.made(version=2))
    for version in (1, 2):
        assert held.code(held.post(held.made(version=version, retention_days=1))) == "FK723"
    assert held.post(held.made(version=3)).status_code == 200
    assert studies_of(held.state).newest("registry").agreement.version == 3


@pytest.mark.parametrize("body", [{}, {"study": 1}, {"study": ""}, {"study": "{}"}, {"study": "[" * 1000}])
def test_what_is_no_study_is_refused(held, body):
    assert held.code(held.ask("POST", "/studies", json=body)) == "FK540"


def test_a_file_that_is_not_what_was_written_takes_no_run(held):
    study = held.made()
    held.post(study)
    (path,) = (held.state.folder.path / "studies/registry").glob("*.json")
    for text in ("", "{}", path.read_text().replace("registry", "registrx")):
        path.write_text(text)
        assert held.code(held.submit(agreement=study.digest)) == "FK705"
        assert held.ask("GET", "/studies").json()["studies"] == [{"study": "registry", "problem": "FK705"}]


def test_names_that_are_paths_are_no_studies(tmp_path):
    for name in ("../x", "a/b", "", "..", "none of these"):
        with pytest.raises(DeploymentError) as caught:
            Studies(tmp_path, "sha256:" + "0" * 64).newest(name)
        assert caught.value.code == "FK780"


def test_the_jobs_digest_travels_under_the_submitters_signature(held):
    from fedkit.federation.job import open_job

    text = held.job(agreement="a" * 64)
    ring = held.state.keyring
    assert open_job(text, ring, ring.federation, held.state.clock()).agreement == "a" * 64
    payload = json.loads(json.loads(text)["payload"])
    assert payload["agreement"] == "a" * 64 and payload["study"] == "registry"
    assert "agreement" not in json.loads(json.loads(held.job("none"))["payload"])


@pytest.mark.parametrize("how", ["signed", "open", "no party", "over", "strategy"])
def test_preflight_tells_of_an_agreement_what_a_run_would_be_refused_for(held, how):
    study = held.made() if how != "no party" else _without(held, "hungary")
    signed = held.by(study, "hungary") if how in ("signed", "over", "strategy") else study
    keys = {name: key.fingerprint for name, key in held.sites.items()}
    overrides = {"over": ["federation.num_rounds=100000"], "strategy": ["strategy=krum"]}.get(how, [])
    found = checks_of(signed, keys)(composed("heart_disease", overrides, None), "hungary")
    assert found.rule == "agreement" and found.asked == study.digest[:12]
    said = {"signed": "", "open": "hungary has not signed it", "no party": "hungary is no party of it",
            "over": "study.max_rounds", "strategy": "study.strategies"}[how]  # fmt: skip
    assert said in found.problem and bool(found.problem) == (how != "signed")
    assert found.code == ("FK780" if found.problem else "")


def test_preflight_of_a_study_that_is_not_there_fits_nowhere():
    class Remote:
        def get(self, path):
            raise DeploymentError("there is no study 'none-such'", code="FK722")

    found = agreement_checks(Remote(), "none-such")(composed("heart_disease", [], None), "north")
    assert found.problem and "none-such" in found.problem
    assert agreement_checks(Remote(), "none")(composed("heart_disease", [], None), "north") is None
