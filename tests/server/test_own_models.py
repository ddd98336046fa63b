"""Models that are installed at the coordinator and at sites: named by the submitter, listed by those who run them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import httpx
import pytest
from fedkit_server.access import Access
from fedkit_server.api import PREFIX, make_api
from fedkit_server.profile import Profile
from fedkit_server.service import run
from fedkit_server.submission import composed, own_models, require_model, sign, with_sites

from fedkit.errors import ConfigError, DeploymentError, FederationError
from fedkit.federation import statements
from fedkit.federation.job import job_config, make_job, open_job
from fedkit.governance.allow import package_hash
from fedkit.governance.declaration import declaration_digest
from fedkit.governance.site_file import read_allow_file
from fedkit.governance.terms import Allowed
from fedkit.storage.keys import create_signing_key, new_signing_key
from tests.server.builders import FakeRuns, make_server_folder
from tests.server.test_submission import ASKED

ENTRY = Allowed("colorsys:rgb_to_hls", "0" * 64)


@pytest.fixture
def mine(tmp_path):
    group = tmp_path / "mine" / "model"
    group.mkdir(parents=True)
    (group / "ours.yaml").write_text("name: ours\nhidden: 8\nnames: [a, b]\n")
    return tmp_path / "mine"


def write(path, text):
    path.write_text(text)
    return path


def test_a_model_file_of_the_users_makes_its_name_known(mine):
    assert own_models(mine) == ("ours",) and own_models(None) == ()
    config = composed("heart_disease", ["model=ours", "model.hidden=5"], mine)
    assert (config.model.name, config.model.arguments) == ("ours", {"hidden": 5, "names": ("a", "b")})


@pytest.mark.parametrize(
    ("overrides", "folder", "said"),
    [
        (["model=ours"], False, "model=ours is unknown"),
        (["model=our"], True, "model=our is unknown; did you mean 'ours'"),
        (["model=ours", "model.hidden={a: 1}"], True, "model.hidden is"),
        (["model.name=other"], True, "model.name 'other' is unknown"),
    ],
)
def test_what_no_file_names_and_arguments_of_other_types_are_refused(mine, overrides, folder, said):
    with pytest.raises(ConfigError) as refused:
        composed("heart_disease", overrides, mine if folder else None)
    assert said in str(refused.value)


def test_a_file_named_like_one_of_ours_or_with_another_name_inside_is_refused(mine):
    write(mine / "model" / "ours.yaml", "name: theirs\n")
    with pytest.raises(ConfigError, match="'theirs' is unknown"):
        composed("heart_disease", ["model=ours"], mine)
    write(mine / "model" / "mlp.yaml", "name: mlp\n")
    with pytest.raises(ConfigError, match="rename it"):
        own_models(mine)


def test_arguments_that_an_experiment_set_for_another_model_do_not_reach_it(mine):
    folder = mine / "experiments" / "wide"
    folder.mkdir(parents=True)
    write(
        folder / "experiment.yaml",
        "# @package _global_\ndefaults:\n  - override /data: heart_disease\n  - override /model: mlp\n"
        "  - override /privacy: record_dp\nmodel:\n  hidden: [64]\n"
        "privacy: {epsilon: 1.0, delta: 1.0e-5, max_grad_norm: 1.0, sample_rate: 0.1}\ntraining: {local_steps: 1}\n",
    )
    assert composed("wide", [], mine).model.arguments == {"hidden": (64,)}
    assert composed("wide", ["model=ours"], mine).model.arguments["hidden"] == 8


def test_the_coordinator_must_list_it(mine):
    config = composed("heart_disease", ["model=ours"], mine)
    require_model(config, ["ours"])
    require_model(composed("heart_disease", [], None), [])
    with pytest.raises(DeploymentError, match=r"FK729.*does not know the model ours; .* lists none.*allow.yaml"):
        require_model(config, [])


def test_every_site_must_offer_it_and_the_signed_job_is_opened_by_those_who_know_it(mine, tmp_path):
    config = composed("heart_disease", ["model=ours"], mine)

    def site(name, models):
        offered = {
            "records": 303, "unit": "record", "delta": 1e-5, "max_epsilon": 3.0, "models": models,
            "strategies": ["fedavg"], "unprotected": False, "declaration": declaration_digest(job_config(config).data),
        }  # fmt: skip
        return {"name": name, "state": "online", "offer": {"datasets": {"heart_disease": offered}}}

    sites = [site("north", ["logistic", "ours"]), site("south", ["logistic"])]
    with pytest.raises(DeploymentError, match=r"FK729: south would refuse it .FK563.*south allows logistic"):
        with_sites(config, sites, ["north", "south"], 1, 60, ASKED)
    ready, _ = with_sites(config, sites, ["north"], 1, 60, ASKED)
    create_signing_key(tmp_path / "signing.key")
    federation = "sha256:" + "a" * 64
    profile = Profile(tmp_path, "localhost:1", "anna", "", federation, "")
    ring = statements.start(federation, "anna", profile.key(), new_signing_key().public, time.time())
    _, signed = sign(ready, profile, study="s", min_sites=1, deadline=60, now=time.time())
    assert open_job(signed.text, ring, federation, time.time(), models=("ours",)).config.model.name == "ours"
    with pytest.raises(ConfigError, match="'ours' is unknown"):
        open_job(signed.text, ring, federation, time.time())


def test_the_api_tells_what_is_listed_and_takes_no_job_of_another_model(coordinator, mine):
    config = composed("heart_disease", ["model=ours"], mine)
    config = replace(config, data=replace(config.data, records={"north": 300}))
    state, token = coordinator.state, {"authorization": f"Bearer {coordinator.token}"}
    text = make_job(
        config, federation=state.settings.federation, run="r", study="s", submitter="anna", min_sites=1, deadline=60.0,
        lifetime=3600.0, key=coordinator.root, now=state.clock(), models=("ours",),
    ).text  # fmt: skip

    def ask(method, path, **more):
        async def one():
            app = make_api(state, FakeRuns(state), Access(state))
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://c") as client:
                return await client.request(method, PREFIX + path, headers=token, **more)

        return asyncio.run(one())

    assert ask("GET", "/status").json()["models"] == []
    refused = ask("POST", "/runs", json={"job": text})
    assert refused.status_code == 400 and "'ours' is unknown" in refused.json()["error"]["message"]
    assert state.store.runs() == []
    state.models = {"ours": ENTRY}
    assert ask("GET", "/status").json()["models"] == ["ours"]


def test_the_table_is_read_whole_and_runs_nothing(tmp_path):
    path = write(
        tmp_path / "allow.yaml",
        f'models:\n  ours: {{import: "colorsys:rgb_to_hls", sha256: "{package_hash("colorsys:rgb_to_hls")}"}}\n',
    )
    assert read_allow_file(path)["ours"].path == "colorsys:rgb_to_hls"
    write(path, "models:\n  mlp: {import: colorsys, sha256: x}\n  ours: {import: 'a.b:c', path: d}\nsources: {}\n")
    with pytest.raises(ConfigError, match="FK120") as refused:
        read_allow_file(path)
    said = str(refused.value)
    parts = ["models.mlp cannot be named so", "models.mlp.import", "models.mlp.sha256", "models.ours.path is unknown"]
    for part in (*parts, "models.ours.sha256", "sources is unknown"):
        assert part in said, part
    for text in ("", "- a\n", "models: 3\n", "models: {a: {import: 'b:c'}, a: {}}\n", "{"):
        with pytest.raises(ConfigError, match="FK120"):
            read_allow_file(write(path, text))


def test_a_coordinator_whose_package_is_another_one_does_not_start(tmp_path):
    folder = make_server_folder(tmp_path / "coordinator", new_signing_key())
    assert folder.models() == {}
    write(folder.allow_file, 'models: {ours: {import: "colorsys:rgb_to_hls", sha256: "' + "0" * 64 + '"}}\n')
    with pytest.raises(FederationError, match=r"FK563: allow: the package of ours has the hash"):
        run(folder, up=lambda: None)
    write(folder.allow_file, "models: {ours: {}}\n")
    with pytest.raises(ConfigError, match="FK120"):
        run(folder, up=lambda: None)
