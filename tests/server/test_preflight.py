from __future__ import annotations

from functools import partial

import pytest
from fedkit_server.preflight import preflight as look
from fedkit_server.profile import Profile
from fedkit_server.submission import composed, with_sites

from fedkit.assurance.statistics import plan_statistics
from fedkit.errors import DeploymentError
from fedkit.federation.job import job_config
from fedkit.storage.keys import create_signing_key
from tests.server.test_submission import ASKED, HEART, SITES, _site

preflight = partial(look, asked=ASKED)


def _problems(told, name):
    return [check["problem"] for check in told["sites"][name]["checks"] if check["problem"]]


def test_what_fits_costs_what_the_plan_says_and_nothing_is_asked():
    told = preflight(HEART, SITES, ["north", "south"], 1.0)
    assert told["fits"] and all(each["fits"] for each in told["sites"].values())
    north = told["sites"]["north"]
    assert north["records"] == 300 and 2.9 < north["epsilon"] <= 3.0 and north["delta"] == 1e-5
    assert {check["rule"] for check in north["checks"]} == {
        "online", "data set", "declaration", "model", "strategy", "unit", "delta", "epsilon", "unprotected", "purpose",
        "study", "submitter", "rounds", "epsilon of a run", "records", "release", "other sites", "hours", "approval",
    }  # fmt: skip
    assert any("fedkit server stats" in note for note in told["notes"])


def test_statistics_are_priced_as_fedkit_stats_prices_them():
    told = preflight(HEART, SITES, ["south"], 0.5)["sites"]["south"]["statistics"]
    plan = plan_statistics(job_config(HEART).data, epsilon=0.5, delta=1e-5)
    assert told["columns"] == list(plan.request.columns) and told["noise_multiplier"] == plan.request.noise_multiplier
    assert told["epsilon"] == plan.epsilon <= 0.5 and told["of_max_epsilon"] == 3.0
    # One that a site's delta does not admit is told, not raised.
    tiny = _site("tiny", records=3, delta=0.4)
    assert "FK302" in preflight(HEART, [tiny], ["tiny"], 0.5)["sites"]["tiny"]["statistics"].get("problem", "FK302")


@pytest.mark.parametrize(
    ("overrides", "data"),
    [
        (["model=mlp"], {}),
        (["strategy=fedprox"], {}),
        (["privacy.epsilon=5"], {}),
        (["privacy.delta=1e-4"], {}),
        (["privacy.epsilon=null", "privacy.noise_multiplier=1.9"], {}),
        (["privacy=none"], {}),
        ([], {"unit": "patient"}),
        ([], {"declaration": "f" * 64}),
        (["data=diabetes"], {}),
    ],
)
def test_preflight_says_of_each_site_exactly_what_run_refuses(overrides, data):
    config = composed("heart_disease", overrides, None)
    sites = [_site("north", **data), _site("south")]
    told = preflight(config, sites, ["north"], 1.0)
    with pytest.raises(DeploymentError) as refused:
        with_sites(config, sites, ["north"], 1, 60, ASKED)
    said = _problems(told, "north")
    assert not told["fits"] and said
    assert all(problem in str(refused.value) for problem in said)


def test_a_site_that_is_away_revoked_or_unknown_does_not_fit_and_its_offer_is_still_held_against_the_run():
    told = preflight(HEART, [*SITES, {"name": "new", "state": "online", "offer": None}],
                     ["west", "east", "mars", "new"], 1.0)  # fmt: skip
    assert not told["fits"]
    assert _problems(told, "west") == ["west is not connected; there: `fedkit client start`"]
    assert _problems(told, "east") == ["east was revoked"]
    assert "'mars' is not enrolled" in _problems(told, "mars")[0]
    assert "offered nothing yet" in _problems(told, "new")[0]
    assert told["sites"]["west"]["epsilon"] is not None and told["sites"]["mars"]["records"] is None


def test_a_plan_that_cannot_be_made_is_told_with_its_code():
    told = preflight(HEART, [_site("few", records=2)], ["few"], 1.0)
    assert not told["fits"] and "makes no plan (FK" in _problems(told, "few")[0]


def test_the_command_prints_one_table_and_json_and_leaves_with_1_where_it_does_not_fit(monkeypatch, capsys, tmp_path):
    import json

    from fedkit.cli.main import main

    class Remote:
        profile = Profile(tmp_path, "localhost:1", "anna", "", "sha256:" + "a" * 64, "")

        def get(self, path):
            return {"/status": {"models": []}, "/sites": {"sites": SITES}}[path]

    create_signing_key(tmp_path / "signing.key")
    monkeypatch.setattr("fedkit_server.preflight_command.connect", lambda profile: Remote())
    monkeypatch.setenv("COLUMNS", "160")

    def run(*words):
        with pytest.raises(SystemExit) as left:
            main(["server", "preflight", *words])
        printed = capsys.readouterr()
        return left.value.code or 0, printed.out, printed.err

    status, out, _ = run("heart_disease", "--sites", "north,south,north", "--json")
    assert status == 0 and list(json.loads(out)["sites"]) == ["north", "south"]
    status, out, _ = run("heart_disease")
    assert status == 1 and "fits 2 of 4 sites" in out and "NO: revoked" in out
    assert out.count("west is not connected") == 1
    status, _, err = run("heart_disease", "--sites", " , ")
    assert status == 2 and "FK728" in err
    status, _, err = run("heart_disease", "--stats-epsilon", "0")
    assert status == 2 and "--stats-epsilon" in err
    status, _, err = run("heart_diseas")
    assert status == 2
