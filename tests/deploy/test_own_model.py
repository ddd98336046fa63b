"""A model that coordinator and hospitals have installed themselves, from the hash to the replayed run."""

import json
import shutil

import pytest
import yaml

from tests.deploy.federation import ROOT, Federation

PACKAGE = ROOT / "clients" / "derived" / "our_package"
PATH = "our_package.models:two_layers"
SITES = ("cleveland", "hungary")
RUN = ("heart_disease", "model=two_layers", "model.hidden=5", "federation.num_rounds=2", "--config-dir", "mine")

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    found = Federation(tmp_path_factory.mktemp("own"), SITES)
    try:
        yield with_own_model(found)
    finally:
        found.close()


def with_own_model(found):
    """Every party has a copy of the package of its own; the submitter has none, only the model's name."""
    for name in ("coordinator", *SITES):
        shutil.copytree(PACKAGE, found.library(name) / "our_package", ignore=shutil.ignore_patterns("__pycache__"))
    found.make()
    group = found.folder / "mine" / "model"
    group.mkdir(parents=True)
    (group / "two_layers.yaml").write_text("name: two_layers\nhidden: 8\n")
    for site in SITES:
        path = found.folder / site / "site.yaml"
        said = yaml.safe_load(path.read_text())
        said["data"]["heart_disease"]["models"].append("two_layers")
        said["allow"] = {"models": {"two_layers": entry(found, "client", site)}}
        path.write_text(yaml.safe_dump(said))
    return found.start_sites()


def entry(found, whose, name):
    told = found.fedkit(whose, "hash", PATH, "--json", library=found.library(name))
    return json.loads(told.stdout)


def submit(found, *words, check=True):
    done = found.remote("run", *RUN, *words, "--sites", ",".join(SITES), "--detach", "--json", check=check)
    return json.loads(done.stdout)["run"] if check else done


def test_a_model_is_listed_trained_privately_replayed_and_refused_where_its_package_has_changed(federation):
    # Nobody has told the coordinator yet.
    refused = submit(federation, check=False)
    assert refused.returncode and "FK729" in refused.stderr
    assert "the coordinator does not know the model two_layers" in refused.stderr and "allow.yaml" in refused.stderr

    table = {"models": {"two_layers": entry(federation, "server", "coordinator")}}
    (federation.folder / "coordinator" / "allow.yaml").write_text(yaml.safe_dump(table))
    federation.kill("coordinator")
    federation.start_coordinator()
    for site in SITES:
        federation.wait_online(site)
    run = submit(federation)
    assert federation.finish(run)["outcome"] == "complete", federation.logs()
    pulled = federation.pull(run)
    manifest = json.loads((pulled / "manifest.json").read_text())
    assert manifest["model"] == {
        "name": "two_layers", "arguments": {"hidden": 5}, "parameters": 13 * 5 + 5 + 5 + 1, "source": "installed",
    }  # fmt: skip
    assert manifest["private"] and manifest["epsilon"].keys() == set(SITES)
    for site in SITES:
        assert run in json.dumps(federation.spent(site))

    done = federation.fedkit("replay", pulled, check=False)
    assert done.returncode and "FK607" in done.stderr and "--allow" in done.stderr
    found = federation.json(
        "replay", pulled, "--allow", "coordinator/allow.yaml", library=federation.library("coordinator")
    )
    assert found["identical"] and found["rounds"] == 2

    # One hospital's package changes while the site runs.
    changed = federation.library("hungary") / "our_package" / "models.py"
    changed.write_text(changed.read_text() + "\n# One more line.\n")
    before = federation.spent("hungary")
    second = submit(federation, "seed=2")
    found = federation.finish(second)
    assert found["outcome"] == "failed"
    told = federation.remote("watch", second, "--json", check=False).stdout
    refusal = next(line for line in told.splitlines() if "FK563" in line)
    assert "hungary" in refusal and "cleveland" not in refusal
    assert federation.spent("hungary") == before
    said = federation.fedkit("client", "log", "text", "hungary/site.yaml").stdout
    assert "the package of our_package.models has the hash" in said
