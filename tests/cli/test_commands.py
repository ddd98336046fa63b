import json

import pytest

from fedkit.cli.audit_command import _progress

# Six steps a run, as everywhere in these tests: noise is calibrated once a process.
SMALL = ["federation.num_rounds=1", "training.local_steps=6"]


def test_simulate_report_replay_and_compare_follow_on(cli):
    runs = []
    for seed in (1, 2):
        status, out, _ = cli("simulate", "heart_disease", *SMALL, f"seed={seed}", "--json")
        assert status == 0
        runs.append(json.loads(out)["run_dir"])
    status, out, _ = cli("replay", runs[0], "--json")
    assert (status, json.loads(out)["identical"]) == (0, True)
    status, out, _ = cli("report", runs[0])
    assert status == 0
    assert out.strip().endswith("report.html")
    status, out, _ = cli("compare", *runs, "--json")
    assert status == 0
    assert "seed" in json.dumps(json.loads(out))
    assert cli("compare", *runs)[0] == 0


def test_a_replay_that_differs_has_status_1(cli, tmp_path):
    _, out, _ = cli("simulate", "heart_disease", *SMALL, "--json")
    metrics = tmp_path / json.loads(out)["run_dir"] / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    entry = json.loads(lines[1])
    metrics.write_text("\n".join([lines[0], json.dumps(entry | {"digest": "0" * 64})]) + "\n")
    status, out, _ = cli("replay", str(metrics.parent))
    assert status == 1
    assert "first in round 1" in out


def test_the_terminal_names_sites_metrics_privacy_and_report(cli):
    status, out, err = cli("simulate", "heart_disease", *SMALL)
    assert status == 0
    for word in ("cleveland", "hungary", "AUROC", "epsilon", "report.html"):
        assert word in out
    assert "not private" in out.lower()
    assert "round 1/1" in err


def test_config_show_prints_what_compose_resolves(cli):
    status, out, _ = cli("config", "show", "heart_disease", "privacy.epsilon=1.5", "--json")
    assert status == 0
    assert json.loads(out)["privacy"]["epsilon"] == 1.5
    assert "epsilon: 1.5" in cli("config", "show", "heart_disease", "privacy.epsilon=1.5")[1]


def test_config_list_gives_every_option_a_line(cli):
    status, out, _ = cli("config", "list", "--json")
    assert status == 0
    listed = json.loads(out)
    assert {"data", "model", "privacy", "strategy", "training", "federation", "experiments"} <= set(listed)
    assert all(line for group in listed.values() for line in group.values())
    assert "fedadam_uncorrected" in cli("config", "list")[1]


def test_data_check_reports_a_table(cli):
    status, out, _ = cli("data", "check", "heart_disease", "--json")
    assert status == 0
    report = json.loads(out)
    assert report["rows"] == 920
    assert [site["rows"] for site in report["sites"]] == [303, 294, 123, 200]
    status, out, _ = cli("data", "check", "heart_disease")
    assert status == 0
    assert "chol" in out


@pytest.mark.slow
def test_a_sweep_prints_one_object(cli):
    status, out, _ = cli("sweep", "heart_disease", *SMALL, "privacy.epsilon=1,3", "--json")
    assert status == 0
    assert [cell["status"] for cell in json.loads(out)["cells"]] == ["ran", "ran"]
    status, out, _err = cli("sweep", "heart_disease", *SMALL, "privacy.epsilon=1,3")
    assert status == 0
    assert "kept" in out
    assert "sweep.html" in out


def test_version(cli):
    status, out, _ = cli("--version")
    assert status == 0
    assert out.startswith("fedkit ")


def test_an_audit_tells_each_stage_once_where_no_terminal_is(capsys):
    with _progress(enabled=True) as say:
        for what, share in (("own noise", 0.1), ("whole rounds", 0.5), ("whole rounds", 0.6)):
            say(what, share)
    with _progress(enabled=False) as say:
        say("own noise", 0.1)
    assert capsys.readouterr() == ("", "audit: own noise\naudit: whole rounds\n")
