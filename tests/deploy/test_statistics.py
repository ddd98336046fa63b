"""Statistics of two hospitals over a real coordinator: admitted, refused unread, asked again for nothing, exhausted.

Hungary's rows come from an installed function that writes down each call: its own trace, not ours.
"""

import json

import pytest
import yaml

from tests.deploy.federation import RECORDS, Federation, wait
from tests.deploy.test_policies import SOURCE, reads, site_file, write

SITES = ("cleveland", "hungary")
EPSILON = 2.0

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    found = Federation(tmp_path_factory.mktemp("statistics"), SITES, max_epsilon=4.0)
    try:
        package = found.library("hungary") / "traced_rows"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(SOURCE)
        found.make()
        told = found.fedkit("client", "hash", "traced_rows:rows", "--json", library=found.library("hungary"))
        said = site_file(found)
        said["allow"] = {"sources": {"traced": json.loads(told.stdout)}}
        said["data"]["heart_disease"] |= {"source": {"kind": "traced"}, "site_column": None}
        write(found, said)
        other = found.folder / "cleveland/site.yaml"
        said = yaml.safe_load(other.read_text())
        said["data"]["heart_disease"]["policy"]["release"].append("statistics")
        other.write_text(yaml.safe_dump(said))
        yield found.start_sites()
    finally:
        found.close()


def release(found, *words, **policy):
    """What hungary releases, and the site started again."""
    said = site_file(found)
    said["data"]["heart_disease"]["policy"] |= {"release": list(words), **policy}
    write(found, said)
    restart(found)


def restart(found):
    """The site anew, once the coordinator has its new offer."""
    before = offered_at(found)
    found.kill("hungary")
    found.start_site("hungary")
    wait(lambda: offered_at(found) != before, 60, "hungary offers nothing anew")


def offered_at(found):
    told = json.loads(found.remote("sites", "--json").stdout)["sites"]
    return next(site["offered_at"] for site in told if site["name"] == "hungary")


def spent(found):
    (account,) = found.spent("hungary")["datasets"]
    return account["epsilon_spent"]


def ask(found, *words, epsilon=EPSILON, sites=SITES, ok=True):
    done = found.remote(
        "stats", "heart_disease", "--sites", ",".join(sites), "--epsilon", epsilon, "--columns", "num,age",
        "--yes", "--json", *words, check=False,
    )  # fmt: skip
    assert (done.returncode == 0) == ok, f"{done.stdout}\n{done.stderr}\n{found.logs()}"
    return json.loads(done.stdout)


def log(found, kind, site="hungary"):
    lines = (json.loads(line) for line in (found.folder / site / "audit.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def test_what_the_offer_tells_is_refused_before_anybody_is_asked(federation):
    before = reads(federation), federation.spent("hungary")
    said = ask(federation, ok=False)["error"]
    assert said["code"] == "FK729" and "hungary would refuse it (FK575): policy.release" in said["message"]
    assert before == (reads(federation), federation.spent("hungary")) and not log(federation, "requested")


def test_a_site_that_does_not_release_statistics_refuses_and_reads_no_record(federation):
    # What it does not disclose nobody can foresee: the site itself refuses.
    release(federation, "updates", "private_metrics", disclose=[])
    before = reads(federation), federation.spent("hungary")
    found = ask(federation, ok=False)
    assert found.get("failed") == {"hungary": "FK575"}, found
    assert found["answered"] == ["cleveland"]
    assert before == (reads(federation), federation.spent("hungary"))
    assert [line["code"] for line in log(federation, "refused")] == ["FK575"]


def test_an_answer_is_noisy_charged_once_and_the_same_when_it_is_asked_again(federation):
    release(federation, "updates", "private_metrics", "statistics")
    before = reads(federation), spent(federation)
    first = ask(federation)
    assert first["answered"] == list(SITES) and first["epsilon"] <= EPSILON
    charged = spent(federation)
    assert reads(federation) > before[0] and charged > before[1] == 0
    for site in SITES:
        # Six standard deviations of the noise on every cell of a column, of which there are at most twelve.
        count, sigma = first["sites"][site]["count"]["value"], first["noise_multiplier"]
        assert abs(count - RECORDS[site]) < 6 * 12**0.5 * sigma and count != RECORDS[site]
    target = first["sites"]["hungary"]["columns"][0]
    assert target["role"] == "target" and len(target["cells"]) >= 2 and "value" in target["missing"]
    reserved, released = log(federation, "reserved"), log(federation, "released")
    assert [line["purpose"] for line in reserved] == ["statistics"] == [line["purpose"] for line in released]
    assert released[0]["guarantee"] == "dp" and released[0]["epsilon"] == first["epsilon"]
    received = log(federation, "received", "coordinator")
    assert released[0]["digest"] in [line["digest"] for line in received]
    # By another job, after which the site has been started anew: nothing is read, nothing is charged.
    restart(federation)
    count = reads(federation)
    again = ask(federation)
    assert again["sites"] == first["sites"] and again["run"] != first["run"]
    assert reads(federation) == count and spent(federation) == charged
    assert len(log(federation, "reserved")) == 1 and len(log(federation, "released")) == 2


def test_not_even_a_stored_answer_leaves_a_paused_site(federation):
    federation.fedkit("client", "pause", "hungary/site.yaml")
    before = len(log(federation, "released"))
    found = ask(federation, "--deadline", 8, ok=False)
    assert found["answered"] == ["cleveland"] and "FK580" in found["failed"]["hungary"]
    assert len(log(federation, "released")) == before
    federation.fedkit("client", "resume", "hungary/site.yaml")
    assert ask(federation)["answered"] == list(SITES)


def test_training_and_statistics_spend_one_budget_until_it_is_exhausted(federation):
    run = federation.submit("federation.num_rounds=1", "privacy.epsilon=2", sites=("hungary",))
    assert federation.finish(run)["outcome"] == "complete"
    before = reads(federation), federation.spent("hungary")
    found = ask(federation, "--anew", "second", epsilon=3.9, ok=False)
    assert found["failed"]["hungary"] == "FK372" and "hungary" not in found["sites"]
    assert before == (reads(federation), federation.spent("hungary"))


def test_without_a_word_nothing_is_asked(federation):
    done = federation.remote("stats", "heart_disease", "--sites", "cleveland", "--epsilon", 0.5, check=False)
    assert done.returncode and "--yes" in done.stderr and "sensitivity 1" in done.stdout
