"""A patient leaves: the hospital withdraws them, a user repeats the run, and they are not in it."""

import csv
import json

import pytest
import yaml

from fedkit.data.builtin import verified_path
from tests.deploy.federation import Federation

SITES = ("cleveland", "hungary")
GONE = 3

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    found = Federation(tmp_path_factory.mktemp("without"), SITES)
    try:
        found.make()
        for site in SITES:
            _with_patients(found.folder / site / "site.yaml", site)
        yield found.start_sites()
    finally:
        found.close()


def _with_patients(path, site):
    with verified_path("heart_disease.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["site"] == site]
    with (path.parent / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["pid", *rows[0]])
        writer.writeheader()
        writer.writerows({"pid": f"{site}-{n}", **row} for n, row in enumerate(rows))
    said = yaml.safe_load(path.read_text())
    said["data"]["heart_disease"] |= {
        "source": {"kind": "csv", "path": "table.csv"}, "site_column": None, "unit": "patient", "unit_column": "pid",
    }  # fmt: skip
    path.write_text(yaml.safe_dump(said))


def _units(federation, site, run):
    told = federation.json("client", "lineage", f"{site}/site.yaml", "--run", run)
    return {(each["kind"], each["round"]): each["units"] for each in told["rounds"]}


def test_a_run_is_repeated_without_who_has_withdrawn(federation):
    words = ("heart_disease", "data.unit_column=pid", "federation.num_rounds=2", "privacy.epsilon=1")
    done = federation.remote("run", *words, "--sites", ",".join(SITES), "--detach", "--json")
    run = json.loads(done.stdout)["run"]
    assert federation.finish(run)["outcome"] == "complete", federation.logs()
    before = {site: _units(federation, site, run) for site in SITES}
    assert set(before["cleveland"].values()) == {303}

    ids = federation.folder / "ids"
    ids.write_text("".join(f"cleveland-{n}\n" for n in range(GONE)))
    federation.fedkit("client", "withdraw", "cleveland/site.yaml", "--data", "heart_disease", "--file", ids)

    shown = json.loads(federation.remote("retrain-without", run, "--dry-run", "--json").stdout)
    assert shown["name"] == "heart_disease-without" and shown["sites"] == list(SITES)
    assert len(json.loads(federation.remote("status", "--json").stdout)["runs"]) == 1
    again = json.loads(federation.remote("retrain-without", run, "--json").stdout)["run"]
    assert again != run and federation.finish(again)["outcome"] == "complete", federation.logs()

    assert set(_units(federation, "cleveland", again).values()) == {303 - GONE}
    assert _units(federation, "hungary", again) == before["hungary"]
    told = federation.json(
        "client", "lineage", "cleveland/site.yaml", "--data", "heart_disease", "--unit", "cleveland-1"
    )
    (unit,) = told["units"]
    assert unit["withdrawn"] and [each["run"] for each in unit["runs"]] == [run]
    first, second = (yaml.safe_load((federation.pull(name) / "config.yaml").read_text()) for name in (run, again))
    assert first | {"name": second["name"]} == second != first
