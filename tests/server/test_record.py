"""The run directory of a deployed run: opened again after a crash, within its limits, and what its report says."""

from __future__ import annotations

import json
import re
import time

import numpy as np
import pytest
from fedkit_server import record
from fedkit_server.progress import progress_of
from fedkit_server.record import declared_run, open_record
from fedkit_server.usage import USAGE, read_usage
from torch import nn

from fedkit.errors import RunError, TrainingError
from fedkit.federation.job import open_job
from fedkit.federation.outcome import Finish
from fedkit.models.flat import pack
from fedkit.simulation.replay import replay
from fedkit.types import ClientUpdate, RoundReport
from tests.server.sites import FEDERATION, RECORDS, job_text, keyring


def opened(tmp_path, *overrides, models=None, **changes):
    names = tuple(models or ())
    job = open_job(job_text("r", *overrides, models=names, **changes), keyring(), FEDERATION, time.time(), models=names)
    return open_record(tmp_path / "r", job, models)


def report(number, **more):
    sites = more.pop("sites", {name: {"accuracy": 0.5} for name in RECORDS})
    more = {"histograms": {}} | more
    return RoundReport(number, tuple(RECORDS) if number else (), {}, sites, {}, "0" * 64, 0.1, **more)


def updates(size):
    return [ClientUpdate(name, np.zeros(size, np.float32), 10.0) for name in RECORDS]


def manifest(tmp_path):
    return json.loads((tmp_path / "r" / "manifest.json").read_text())


def page(tmp_path):
    text = (tmp_path / "r" / "report.html").read_text()
    return " ".join(re.sub(r"<style.*?</style>|<[^>]+>", " ", text, flags=re.S).replace("&#39;", "'").split())


def test_the_folder_says_whose_run_it_is(tmp_path):
    made = opened(tmp_path)
    said = manifest(tmp_path)
    assert (said["federation"], said["run"], said["study"], said["submitter"]) == ("deployed", "r", "heart", "anna")
    assert (said["federation_id"], said["job"], said["outcome"]) == (FEDERATION, made.job.digest, "running")
    assert said["data"]["sites"]["north"]["train_rows"] is None
    assert (tmp_path / "r" / "job.json").read_text() == made.job.signed.text + "\n"


def test_updates_are_recorded_up_to_a_limit_and_not_above_it(tmp_path, monkeypatch):
    made = opened(tmp_path / "below")
    made.on_round(report(1), pack(made.prepared.model), updates(14))
    assert made.keeps_updates and len(made.directory.read_updates(1)) == 2
    # 14 parameters, 2 sites, 2 rounds: 224 bytes.
    monkeypatch.setattr(record, "MOST_RECORDED", 223)
    made = opened(tmp_path / "above")
    made.on_round(report(1), pack(made.prepared.model), updates(14))
    assert not made.keeps_updates and not list((tmp_path / "above" / "r").glob("updates/*"))
    (note,) = [note for note in manifest(tmp_path / "above")["notes"] if "not recorded" in note]
    assert "fedkit replay" in note


def test_a_folder_that_is_opened_again_holds_each_round_once(tmp_path):
    made = opened(tmp_path)
    for number in (0, 1):
        made.on_round(report(number), pack(made.prepared.model), ())
    again = opened(tmp_path)
    assert (again.rounds, again.last, again.exact["north"]) == (1, 1, {"accuracy": 0.5})
    # A crash between a round's line and its entry in the journal lets the loop end the round a second time.
    for number in (1, 2):
        again.on_round(report(number), pack(again.prepared.model), ())
    lines = (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [0, 1, 2]


def test_progress_is_read_from_the_folder_whatever_is_torn_or_missing(tmp_path):
    text = job_text("r")
    assert progress_of(text, tmp_path / "r") == {"round": 0, "rounds": 2, "bytes": 0}
    assert progress_of("{}", tmp_path / "r")["rounds"] is None
    made = opened(tmp_path)
    for number in (0, 1):
        made.on_round(report(number), pack(made.prepared.model), ())
    with (tmp_path / "r" / "metrics.jsonl").open("a") as file:
        file.write('{"round": 2, "si')
    (tmp_path / "r" / USAGE).write_text('{"bytes_received": {"north": 5, "south": 6}, "disclosed": {}}')
    assert progress_of(text, tmp_path / "r") == {"round": 1, "rounds": 2, "bytes": 11}
    (tmp_path / "r" / USAGE).write_text("{")
    assert progress_of(text, tmp_path / "r")["bytes"] == 0
    assert read_usage(tmp_path / "r") == {"bytes_received": {}, "disclosed": {}}


def finished(made, outcome="complete", rounds=2, **more):
    for number in range(rounds + 1):
        made.on_round(report(number, **more), pack(made.prepared.model), ())
    usage = {"bytes_received": {"north": 2048, "south": 100}, "disclosed": {}}
    return made.finish(Finish(pack(made.prepared.model), outcome, rounds, ()), usage)


def test_the_report_of_a_private_run_speaks_of_no_exact_metric_and_of_no_simulation(tmp_path):
    overrides = ("privacy=record_dp", "privacy.epsilon=2", "privacy.delta=1e-5", "privacy.noise=secure")
    result = finished(opened(tmp_path, *overrides), sites={})
    assert result["exact_metrics"] == "none"
    assert "No exact metrics are released." in result["statement"]
    text = page(tmp_path)
    for wrong in (
        "simulation",
        "exact and not protected",
        "did not reach its end",
        "as you treat the data",
        "No ledger",
    ):
        assert wrong not in text, wrong
    assert "A private run releases no exact metrics" in text and "deployed federation" in text
    assert "Each site charged it to its own ledger before a record was read" in text
    for fact in ("heart", "anna", FEDERATION, "2 sites, within 1 min 0 s", "north 2.0 KiB, south 100 bytes"):
        assert fact in text, fact


def test_the_report_of_an_unprotected_run_says_that_its_metrics_are_exact(tmp_path):
    assert finished(opened(tmp_path))["exact_metrics"] == "not protected"
    text = page(tmp_path)
    assert "Exact metrics as each site told them, after round 2: not protected." in text
    assert "Each site's own file let them out" in text and "simulation" not in text


def test_the_report_of_a_run_that_failed_says_how_far_it_came(tmp_path):
    finished(opened(tmp_path), "failed", 1)
    assert "1 of 2" in page(tmp_path) and "failed" in page(tmp_path)


def narrow(input_shape, num_outputs, hidden=3):
    return nn.Sequential(nn.Linear(input_shape[0], hidden), nn.Linear(hidden, num_outputs))


@pytest.fixture
def own_config(monkeypatch):
    """Jobs of this test train the model ``ours``."""
    from dataclasses import replace

    from fedkit.config.experiment import ModelConfig
    from tests.server import sites

    made = sites.config()
    monkeypatch.setattr(sites, "config", lambda: replace(made, model=ModelConfig("ours", {"hidden": 2})))


def test_a_model_that_the_coordinator_has_installed_is_built_and_replayed(tmp_path, own_config):
    made = opened(tmp_path, models={"ours": narrow})
    said = manifest(tmp_path)
    assert said["model"] == {"name": "ours", "arguments": {"hidden": 2}, "parameters": 31, "source": "installed"}
    start = pack(made.prepared.model)
    from fedkit.federation.rounds import digest

    made.on_round(RoundReport(0, (), {}, {}, {}, digest(start), 0.1, {}), start, ())
    made.on_round(RoundReport(1, tuple(RECORDS), {}, {}, {}, digest(start), 0.1, {}), start, updates(31))
    made.finish(Finish(start, "complete", 1, ()), {})
    found = replay(tmp_path / "r", models={"ours": narrow})
    assert found.identical and found.how == "refolded"
    with pytest.raises(RunError, match=r"FK607.*ours was installed at its coordinator.*--allow"):
        replay(tmp_path / "r")
    assert "installed at the coordinator and at each site" in page(tmp_path)


def test_a_model_that_is_not_installed_is_refused(own_config):
    job = open_job(job_text("r", models=("ours",)), keyring(), FEDERATION, time.time(), models=("ours",))
    with pytest.raises(TrainingError, match="FK402"):
        declared_run(job.config)


def test_a_run_that_was_resumed_holds_each_note_once_and_says_what_a_sites_code_means(tmp_path):
    note = "round 1: degraded 1/2: north missing: north: FK339"
    for _ in range(3):
        made = opened(tmp_path)
        made.finish(Finish(pack(made.prepared.model), "failed", 1, (note,)), {})
    notes = manifest(tmp_path)["notes"]
    assert notes.count(note) == 1 and len(notes) == len(set(notes))
    assert sum(text.startswith("FK339: the site's privacy budget") for text in notes) == 1
    assert "privacy budget for this data set" in page(tmp_path)
