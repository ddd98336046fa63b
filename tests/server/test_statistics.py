"""A question where its user is: priced before, checked and pooled afterwards."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import numpy as np
import pytest
from fedkit_server.profile import Profile
from fedkit_server.statistics import answered, described, planned
from fedkit_server.submission import composed, with_sites

from fedkit.assurance.statistics import plan_statistics, request_digest
from fedkit.errors import DeploymentError, PrivacyError
from fedkit.federation import statements
from fedkit.federation.job import open_job
from fedkit.governance.statistics import cost_of
from fedkit.privacy.lattice import G
from fedkit.storage.keys import create_signing_key, new_signing_key
from tests.server.test_submission import ASKED, HEART, _site

POLICY = {"release": ["statistics"], "approval": "automatic"}
SITES = [_site("north", records=300, policy=POLICY), _site("south", records=200, delta=1e-6, policy=POLICY)]
NAMES = ["north", "south"]


def question(epsilon=1.0, sites=SITES, columns=("num", "age"), **more):
    return planned(HEART, sites, NAMES, epsilon, columns, more.get("bins", 4), more.get("anew", ""))


def reply(asked, site, counts):
    digest = bytes.fromhex(request_digest(asked.config.data, site, asked.plan.request))
    return base64.b64encode(digest + (np.asarray(counts) * G).astype("<i8").tobytes()).decode()


COUNTS = [120.0, 80.0, 0.0, 20.0, 10.0, 60.0, 80.0, 25.0, 0.0, 5.0]


def test_a_question_costs_each_site_at_most_what_was_said_at_the_least_delta_of_all():
    asked = question(0.5)
    assert asked.asked.delta == 1e-6 == asked.plan.delta
    assert cost_of(asked.asked) == asked.plan.epsilon <= 0.5
    assert dict(asked.config.data.records) == {"north": 300, "south": 200}
    plan = plan_statistics(asked.config.data, epsilon=0.5, delta=1e-6, columns=("num", "age"), bins=4)
    assert plan.request.noise_multiplier == asked.asked.noise_multiplier
    told = described(asked, NAMES, "heart")
    assert told["private"] and told["sensitivity"] == 1.0 and set(told["charges"]) == set(NAMES)
    assert "for one record" in told["statement"] and json.dumps(told)


def test_a_column_that_is_not_declared_is_not_asked():
    with pytest.raises(PrivacyError, match="FK370"):
        question(columns=("salary",))


def test_who_does_not_release_statistics_or_admits_less_is_refused_before_anything_is_sent():
    asked = question(1.0)
    circumstances = replace(ASKED, statistics=asked.asked)
    for policy, said in (
        ({"release": ["updates"]}, "FK575"),
        ({**POLICY, "max_epsilon_per_run": 0.5}, "FK567"),
    ):
        sites = [_site("north", records=300, policy=policy), SITES[1]]
        with pytest.raises(DeploymentError, match=f"FK729: north would refuse it .{said}"):
            with_sites(asked.config, sites, NAMES, 1, 60, circumstances)
    waiting = [_site("north", records=300, policy={**POLICY, "approval": "manual"}), SITES[1]]
    _, waits = with_sites(asked.config, waiting, NAMES, 1, 60, circumstances)
    assert len(waits) == 1 and "north would let it wait (FK577)" in waits[0]


def test_answers_are_pooled_and_what_is_none_counts_for_nobody():
    asked = question(8.0)
    told = {"answers": {"north": reply(asked, "north", COUNTS), "south": reply(asked, "south", COUNTS)}, "failed": {}}
    found = answered(asked, told)
    assert found["answered"] == NAMES and abs(found["sites"]["north"]["count"]["value"] - 200) < 2
    assert abs(found["pooled"]["count"]["value"] - 400) < 4
    target = found["sites"]["north"]["columns"][0]
    assert [round(cell["count"]["value"]) for cell in target["cells"]] == pytest.approx([120, 80], abs=3)
    good = {"answers": {"north": told["answers"]["north"]}}
    for bad in ("", "!", base64.b64encode(b"x" * 96).decode(), reply(asked, "north", COUNTS)):
        half = answered(asked, {"answers": {**good["answers"], "south": bad}, "failed": {}})
        assert half["failed"] == {"south": "FK374"} and half["sites"] == answered(asked, good)["sites"]
    none = answered(asked, {"answers": {}, "failed": {"north": "FK575", "south": "<b>\n"}})
    assert none["pooled"] is None and none["failed"]["south"] == "an error without a readable code"


def test_the_command_shows_the_plan_asks_only_with_a_word_and_prints_what_came(monkeypatch, capsys, tmp_path):
    from fedkit.cli.main import main

    create_signing_key(tmp_path / "signing.key")
    mine = Profile(tmp_path, "localhost:1", "anna", "", "sha256:" + "a" * 64, "")
    ring = statements.start(mine.federation, "anna", mine.key(), new_signing_key().public, 0)
    posted = []

    class Remote:
        profile = mine

        def get(self, path, **_):
            if path.endswith("/events"):
                return {"events": [], "state": "finished", "outcome": "degraded"}
            if path.endswith("/statistics"):
                asked = question(2.0)
                return {"answers": {"north": reply(asked, "north", COUNTS)}, "failed": {"south": "FK372"}}
            return {"/sites": {"sites": SITES}}[path]

        def post(self, path, body):
            posted.append((path, body["job"]))
            return {"run": "run-1"}

        def keyring(self):
            return ring

    monkeypatch.setattr("fedkit_server.stats_command.connect", lambda profile: Remote())
    monkeypatch.setenv("COLUMNS", "160")
    words = ["heart_disease", "--sites", "north,south", "--epsilon", "2", "--columns", "num,age", "--bins", "4"]

    def run(*more):
        with pytest.raises(SystemExit) as left:
            main(["server", "stats", *words, *more])
        printed = capsys.readouterr()
        return left.value.code or 0, printed.out, printed.err

    status, out, err = run()
    assert status == 2 and "give --yes" in err and "sensitivity 1" in out and posted == []
    status, out, _ = run("--yes")
    assert status == 1 and "south has not answered: FK372" in out and "num" in out and "missing" in out
    ((path, text),) = posted
    import time

    job = open_job(text, ring, mine.federation, time.time())
    assert path == "/runs" and job.statistics is not None and job.statistics.columns == ("num", "age")
    status, out, _ = run("--yes", "--json")
    assert status == 1 and json.loads(out)["answered"] == ["north"]
    assert composed("heart_disease", [], None).data.name == job.config.data.name
