"""What two hospitals decide, against a real coordinator: each clause refuses by its code, and reads no record.

Hungary's rows come from an installed function that writes down each call: its own trace, not ours.
"""

import json
from datetime import UTC, datetime

import pytest
import yaml

from tests.deploy.federation import Federation, wait

SITES = ("cleveland", "hungary")
SOURCE = """
import csv
from pathlib import Path

import fedkit


def rows(columns):
    with Path("hungary/trace").open("a") as file:
        file.write("read\\n")
    table = Path(fedkit.__file__).parent / "data/builtin/heart_disease.csv"
    with table.open(newline="") as file:
        found = [row for row in csv.DictReader(file) if row["site"] == "hungary"]
    return {column: [row[column] for row in found] for column in columns}
"""

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    found = Federation(tmp_path_factory.mktemp("policies"), SITES, max_epsilon=60.0)
    try:
        package = found.library("hungary") / "traced_rows"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(SOURCE)
        found.make()
        told = found.fedkit("client", "hash", "traced_rows:rows", "--json", library=found.library("hungary"))
        said = site_file(found)
        said["allow"] = {"sources": {"traced": json.loads(told.stdout)}}
        said["data"]["heart_disease"] |= {"source": {"kind": "traced"}, "site_column": None, "models": ["logistic"]}
        write(found, said)
        # Neither tells its policy: what an offer tells is refused before a site hears of it.
        for site in SITES:
            path = found.folder / site / "site.yaml"
            said = yaml.safe_load(path.read_text())
            said["data"]["heart_disease"]["policy"]["disclose"] = []
            path.write_text(yaml.safe_dump(said))
        yield found.start_sites()
    finally:
        found.close()


def site_file(found):
    return yaml.safe_load((found.folder / "hungary/site.yaml").read_text())


def write(found, said):
    (found.folder / "hungary/site.yaml").write_text(yaml.safe_dump(said))


def policy(found, **changes):
    """Hungary's policy with some clauses changed, and the site started again."""
    said = site_file(found)
    own = said["data"]["heart_disease"]
    own["policy"] = {
        "purposes": ["heart-disease-research"], "studies": ["none"], "submitters": "any",
        "release": ["updates", "private_metrics"], "approval": "automatic", "max_rounds": 1000, "disclose": [],
        **changes,
    }  # fmt: skip
    write(found, said)
    if found.alive("hungary"):
        found.kill("hungary")
    found.start_site("hungary")


def reads(found):
    trace = found.folder / "hungary/trace"
    return len(trace.read_text().splitlines()) if trace.exists() else 0


def told(found, run, site="hungary"):
    return [(event["kind"], event["detail"]) for event in found.events(run) if event.get("site") == site]


def submit(found, *overrides, **more):
    return found.submit("federation.num_rounds=2", *overrides, min_sites=1, **more)


def explained(found, run):
    done = found.fedkit("client", "explain", "hungary/site.yaml", run, "--json", check=False)
    return {each["code"]: each["verdict"] for each in json.loads(done.stdout)["clauses"]}


CLAUSES = {
    "FK570": ({}, ("purpose=marketing",)), "FK571": ({"studies": ["registry"]}, ()),
    "FK572": ({"submitters": ["somebody"]}, ()), "FK573": ({"max_rounds": 1}, ()),
    "FK574": ({"min_records": 295}, ()), "FK575": ({"release": ["updates"]}, ()),
    "FK567": ({"max_epsilon_per_run": 2.0}, ()), "FK578": ({"min_other_sites": 2}, ()),
}  # fmt: skip


OFFERED = {
    "declaration": ("data.split.test_fraction=0.3",), "model": ("model=mlp",), "strategy": ("strategy=fedmedian",),
    "unit": ("data.unit_column=patient",), "delta": ("privacy.delta=1e-4",), "epsilon": ("privacy.epsilon=70",),
    "unprotected": ("privacy=none",),
}  # fmt: skip


@pytest.mark.parametrize("rule", OFFERED)
def test_what_a_site_has_offered_refuses_at_the_coordinator_already(federation, rule):
    before, spent = reads(federation), federation.spent("hungary")
    done = federation.remote(
        "run", "heart_disease", "federation.num_rounds=2", *OFFERED[rule], "--sites", "cleveland,hungary",
        "--min-sites", 2, "--detach", "--json", check=False,
    )  # fmt: skip
    error = json.loads(done.stdout or done.stderr)["error"]
    assert done.returncode and "hungary" in error["message"] and rule in error["message"], error
    assert reads(federation) == before and federation.spent("hungary") == spent


@pytest.mark.parametrize("code", CLAUSES)
def test_a_clause_refuses_before_a_record_is_read(federation, code):
    changes, overrides = CLAUSES[code]
    policy(federation, **changes)
    before, spent = reads(federation), federation.spent("hungary")
    run = submit(federation, *overrides)
    found = federation.finish(run)
    assert ("refused", code) in told(federation, run), f"{found}\n{federation.logs()}"
    assert reads(federation) == before and federation.spent("hungary") == spent
    assert explained(federation, run)[code] == "refused"


def test_a_round_waits_for_a_person_and_goes_on_once_the_run_is_approved(federation):
    policy(federation, approval="manual", min_other_sites=1)
    before = reads(federation)
    run = submit(federation, deadline=200)
    wait(lambda: ("deferred", "FK577") in told(federation, run), 90, "nobody waits")
    asked = federation.json("client", "requests", "hungary/site.yaml")["requests"]
    assert [each["run"] for each in asked] == [run] and reads(federation) == before
    federation.fedkit("client", "approve", "hungary/site.yaml", run, "--days", "1")
    found = federation.finish(run)
    assert found["outcome"] == "complete", f"{found}\n{federation.logs()}"
    assert reads(federation) > before
    # Another job is another decision, and a denial holds until the deadline.
    second, before = submit(federation, "seed=2", deadline=25), reads(federation)
    wait(lambda: ("deferred", "FK577") in told(federation, second), 90, "nobody waits")
    federation.fedkit("client", "deny", "hungary/site.yaml", second, "--reason", "no vote")
    found = federation.finish(second)
    assert found["outcome"] == "degraded" and reads(federation) == before
    assert any(kind == "missing" and "FK577" in why for kind, why in told(federation, second))


def test_outside_its_hours_a_site_is_waited_for_and_then_missing(federation):
    day = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")[(datetime.now(UTC).weekday() + 3) % 7]
    policy(federation, hours={"days": [day], "from": "00:00", "to": "24:00", "timezone": "UTC"})
    before = reads(federation)
    run = submit(federation, deadline=12)
    found = federation.finish(run)
    assert found["outcome"] == "degraded" and ("deferred", "FK576") in told(federation, run)
    assert reads(federation) == before and explained(federation, run)["FK576"] == "waits"
