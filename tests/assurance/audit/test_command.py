import json

import pytest

from fedkit.assurance.audit import measure, verdict
from fedkit.cli.main import main
from fedkit.privacy import dp_sgd, lattice
from fedkit.reporting.audit_table import audit_statement, audit_table
from tests.assurance.audit.builders import RARELY, audited

pytestmark = pytest.mark.slow


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """``fedkit audit`` with fewer releases, in an empty folder; returns (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"RELEASES": 16, "LOT": 512, "QUIET_ROUNDS": 12}.items():
        monkeypatch.setattr(measure, name, value)

    def run(*words):
        status = 0
        try:
            main(["audit", *words])
        except SystemExit as stop:
            status = stop.code or 0
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return run


def test_the_shipped_experiment_is_not_contradicted(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(verdict, "FALSE_ALARM", RARELY)
    status, out, err = cli("heart_disease", "--json")
    assert (status, err) == (0, "")
    assert len(out.splitlines()) == 1
    found = json.loads(out)
    assert (found["verdict"], found["contradictions"]) == ("no contradiction", [])
    assert list(found["claims"]) == ["cleveland", "hungary", "switzerland", "va"]
    assert found["claims"]["va"]["epsilon"] == pytest.approx(3.0, abs=0.01)
    assert found["false_alarm"] == RARELY
    assert "at least" in found["statement"] and "proves none" in found["statement"]
    [bound] = [each for each in found["findings"] if each["check"] == "bound.one_run"]
    # 4,000 canaries see about a third of epsilon 3: .91 with a standard deviation of .12.
    assert 0.2 < bound["estimate"] < 2.0
    assert any("seeded" in note for note in found["notes"])
    assert not list(tmp_path.iterdir())


def test_a_contradiction_is_named_and_leaves_with_one(cli, monkeypatch):
    monkeypatch.setattr(
        dp_sgd, "integer_noise", lambda source, d, sigma, *rest: lattice.integer_noise(source, d, sigma / 2, *rest)
    )
    status, out, _ = cli("heart_disease")
    assert status == 1
    said = " ".join(out.split())
    assert "Contradiction: noise.sigma at cleveland: less noise than planned" in said
    assert "The claim does not stand" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["heart_diseas"], "did you mean"),
        (["heart_disease", "privacy=none"], "FK360: privacy=none promises nothing"),
        (["heart_disease", "privacy.epsilon=-1"], "privacy.epsilon"),
        (["heart_disease", "compare"], "experiment names"),
    ],
)
def test_bad_input_leaves_with_two(cli, words, said):
    status, out, err = cli(*words)
    assert (status, out) == (2, "")
    assert said in err


def test_help_has_an_example(cli):
    status, out, _ = cli("--help")
    assert status == 0
    assert "Example: fedkit audit heart_disease" in " ".join(out.split())


def summary(monkeypatch):
    return {"name": "made", **audited(monkeypatch, false_alarm=RARELY).to_dict()}


def test_the_table_fits_eighty_columns_and_shows_claim_estimate_and_verdict(monkeypatch, capsys):
    from rich.console import Console

    found = summary(monkeypatch)
    found["statement"] = audit_statement(found)
    Console(width=80).print(audit_table(found))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    said = " ".join(out.split())
    for word in ("Claim: epsilon", "one record, add or remove adjacency", "at every site", "sigma of a step",
                 "one-run lower bound", f"once in {1 / RARELY:,.0f} audits", "No contradiction"):  # fmt: skip
        assert word in said


def test_of_several_sites_the_one_that_contradicts_is_shown(monkeypatch, capsys):
    from rich.console import Console

    found = summary(monkeypatch)
    [rate] = [each for each in found["findings"] if each["check"] == "sampling.rate" and each["site"] == "south"]
    rate.update(status="contradiction", verdict="records join more often than planned", estimate=0.3)
    found["contradictions"] = ["sampling.rate at south: records join more often than planned"]
    found["statement"] = audit_statement(found)
    Console(width=120).print(audit_table(found))
    row = next(line for line in capsys.readouterr().out.splitlines() if "q, chance to join a lot" in line)
    assert "(south)" in row and "0.3" in row
    assert "1 contradiction (sampling.rate)" in found["statement"]
