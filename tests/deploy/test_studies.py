"""A study agreement between a real coordinator and two hospitals: made, signed, held against runs, left.

Hungary's rows come from an installed function that writes down each call: a refused run adds nothing to its trace.
"""

import json
import time

import pytest
import yaml

from tests.deploy.federation import Federation
from tests.deploy.test_policies import SITES, SOURCE, explained, reads, told

STUDY = "heart-2026"
TERMS = {
    "study": STUDY, "version": 1, "purpose": "heart-disease-research", "begin": "2026-01-01", "end": "2099-12-31",
    "parties": list(SITES), "retention_days": 365, "contacts": ["dpo@example.org"],
    "data": {"heart_disease": {
        "unit": "record", "max_epsilon": 4.0, "max_epsilon_per_run": 3.0, "delta": 1.0e-5, "models": ["logistic"],
        "strategies": ["fedavg"], "max_rounds": 2,
    }},
}  # fmt: skip
TWO = "federation.num_rounds=2"
REFUSED = {
    "study.purpose": (TWO, "purpose=marketing"), "study.models": (TWO, "model=mlp"),
    "study.strategies": (TWO, "strategy=fedprox"), "study.max_rounds": ("federation.num_rounds=3",),
    "study.max_epsilon_per_run": (TWO, "privacy.epsilon=3.5"), "study.allow_unprotected": (TWO, "privacy=none"),
}  # fmt: skip

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    found = Federation(tmp_path_factory.mktemp("studies"), SITES, max_epsilon=60.0, unprotected=True)
    try:
        package = found.library("hungary") / "traced_rows"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(SOURCE)
        found.make()
        hashed = found.fedkit("client", "hash", "traced_rows:rows", "--json", library=found.library("hungary"))
        for site in SITES:
            path = found.folder / site / "site.yaml"
            said = yaml.safe_load(path.read_text())
            own = said["data"]["heart_disease"]
            own["policy"] |= {"purposes": ["heart-disease-research", "marketing"], "studies": [STUDY]}
            own["policy"]["release"].append("statistics")
            if site == "hungary":
                said["allow"] = {"sources": {"traced": json.loads(hashed.stdout)}}
                own |= {"source": {"kind": "traced"}, "site_column": None}
            path.write_text(yaml.safe_dump(said))
        (found.folder / "study.yaml").write_text(yaml.safe_dump(TERMS))
        found.start_sites()
        made = found.remote("study", "create", "study.yaml", "--out", "study.json", "--json")
        found.digest = json.loads(made.stdout)["digest"]
        yield found
    finally:
        found.close()


def run(found, *words, check=True):
    names = ("--sites", ",".join(SITES), "--study", STUDY, "--deadline", "120", "--detach", "--json")
    return found.remote("run", "heart_disease", TWO, *names, *words, check=check)


def unchecked(found, *overrides, agreement=None):
    """Submit what the command would refuse beforehand: the site has to refuse it by itself."""
    from fedkit_server.options import connect
    from fedkit_server.submission import circumstances, composed, sign, with_sites

    remote = connect(found.profile)
    asked, sites = circumstances(remote.profile, STUDY, time.time()), remote.get("/sites")["sites"]
    config, _ = with_sites(composed("heart_disease", overrides, None), sites, ["hungary"], 1, 60.0, asked)
    digest = found.digest if agreement is None else agreement
    _, signed = sign(config, remote.profile, study=STUDY, min_sites=1, deadline=60.0, now=time.time(), agreement=digest)
    return str(remote.post("/runs", {"job": signed.text})["run"])


def sign(found, site):
    found.fedkit("client", "study", "sign", f"{site}/site.yaml", "study.json", "--digest", found.digest, "--out",
                 f"{site}.json", at=site)  # fmt: skip
    found.remote("study", "add", f"{site}.json")


def refusing(found, submitted, *keys):
    """A run that hungary refuses under these clauses, and of which no record is read."""
    before, spent = reads(found), found.spent("hungary")
    name = submitted()
    ended = found.finish(name)
    assert ("refused", "FK579") in told(found, name), f"{ended}\n{found.logs()}"
    assert reads(found) == before and found.spent("hungary") == spent
    done = found.fedkit("client", "explain", "hungary/site.yaml", name, "--json", check=False)
    verdicts = {each["key"]: each["verdict"] for each in json.loads(done.stdout)["clauses"] if each["code"] == "FK579"}
    assert {key: verdicts[key] for key in keys} == dict.fromkeys(keys, "refused")
    assert explained(found, name)["FK571"] == "admitted"


def kinds(found, *words):
    lines = found.fedkit(*words, "--json").stdout.splitlines()
    return [json.loads(line)["kind"] for line in lines if "study_" in line]


def test_before_a_site_has_signed_no_run_is_submitted_and_its_name_is_told(federation):
    sign(federation, "cleveland")
    done = run(federation, check=False)
    assert done.returncode == 2 and "FK780" in done.stderr and "hungary has not signed it" in done.stderr
    assert "cleveland" not in done.stderr.partition("Remedy")[0].partition("version 1:")[2]


def test_a_run_of_the_study_is_trained_at_the_sites_that_have_signed(federation):
    sign(federation, "hungary")
    before = reads(federation)
    found = json.loads(run(federation).stdout)["run"]
    ended = federation.finish(found)
    assert ended["outcome"] == "complete", f"{ended}\n{federation.logs()}"
    assert reads(federation) > before
    done = federation.json("client", "explain", "hungary/site.yaml", found, check=False)
    assert {each["verdict"] for each in done["clauses"] if each["key"] != "study.budget"} == {"admitted"}
    made = ["study_created", "study_signed", "study_signed"]
    assert kinds(federation, "client", "log", "show", "hungary/site.yaml") == ["study_signed"]
    assert kinds(federation, "server", "log", "show", "coordinator") == made


def test_statistics_of_the_study_are_asked_under_its_agreement_and_within_its_budget(federation):
    ask = ("stats", "heart_disease", "--sites", "hungary", "--study", STUDY, "--columns", "age", "--yes", "--json")
    done = json.loads(federation.remote(*ask, "--epsilon", "0.2").stdout)
    assert done["answered"] == ["hungary"], done
    before = reads(federation)
    refused = federation.remote(*ask, "--epsilon", "3.5", check=False)
    assert refused.returncode == 2 and "study.max_epsilon_per_run" in refused.stderr
    assert reads(federation) == before


@pytest.mark.parametrize("key", REFUSED)
def test_a_term_refuses_at_the_site_before_a_record_is_read(federation, key):
    refusing(federation, lambda: unchecked(federation, *REFUSED[key]), key)
    done = federation.remote("run", "heart_disease", *REFUSED[key], "--sites", "hungary", "--study", STUDY, check=False)
    assert done.returncode == 2 and ("FK780" in done.stderr or "FK729" in done.stderr)


def test_the_studys_budget_refuses_what_the_ledger_would_still_pay(federation):
    refusing(federation, lambda: unchecked(federation, TWO, "seed=7"), "study.budget")


def test_after_leaving_the_site_refuses_although_the_coordinator_does_not_know(federation):
    done = federation.json("client", "study", "leave", "hungary/site.yaml", STUDY, "--out", "left.json")
    assert done["signed"] and done["logged"]
    refusing(federation, lambda: unchecked(federation, TWO, "privacy.epsilon=0.5"), "study.signed")
    federation.remote("study", "add", "left.json")
    done = run(federation, "privacy.epsilon=0.5", check=False)
    assert done.returncode == 2 and "hungary has left it" in done.stderr
    # The older file does not bring it back.
    federation.remote("study", "add", "hungary.json")
    assert run(federation, "privacy.epsilon=0.5", check=False).returncode == 2
    listed = federation.json("server", "study", "list", "--profile", federation.profile)["studies"]
    assert listed[0]["standing"] == {"cleveland": "signed", "hungary": "left"}


def later(found, version, **changes):
    """A later text, which each of its parties signs."""
    own = {**TERMS["data"]["heart_disease"], **changes.pop("own", {})}
    terms = {**TERMS, "version": version, "data": {"heart_disease": own}, **changes}
    (found.folder / "study.yaml").write_text(yaml.safe_dump(terms))
    (found.folder / "study.json").unlink()
    made = found.remote("study", "create", "study.yaml", "--out", "study.json", "--json")
    found.digest = json.loads(made.stdout)["digest"]
    assert "has not signed it" in run(found, check=False).stderr
    for site in terms["parties"]:
        sign(found, site)


def test_a_later_text_counts_once_it_is_signed_anew(federation):
    # Signed by all, and over: the days are the site's to hold against its own clock.
    later(federation, 2, end="2026-01-02", own={"delta": 1e-6, "unit": "patient", "max_epsilon": 9.0})
    cheap = (TWO, "privacy.epsilon=0.5")
    refusing(federation, lambda: unchecked(federation, *cheap), "study.days", "study.delta", "study.unit")
    later(federation, 3, parties=["hungary"], data={"icu": TERMS["data"]["heart_disease"]})
    refusing(federation, lambda: unchecked(federation, *cheap), "study.data")
    assert "cleveland is no party of it" in run(federation, check=False).stderr
    # What a run of the newest text may do, one of an older text may not.
    later(federation, 4, own={"max_epsilon": 9.0})
    found = json.loads(run(federation, "privacy.epsilon=0.5").stdout)["run"]
    ended = federation.finish(found)
    assert ended["outcome"] == "complete", f"{ended}\n{federation.logs()}"
