"""The terminal: complete, honest, and safe from names that look like markup."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from fedkit.reporting.compare import compare
from fedkit.reporting.reader import read_run
from fedkit.reporting.terminal import closing_table, comparison_table, sweep_table
from tests.reporting.conftest import edited


def printed(renderable, width=140):
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()


def test_every_run_has_a_closing_table(any_run):
    view = read_run(any_run)
    text = printed(closing_table(view, view.path / "report.html"), width=200)
    assert view.outcome in text
    assert ("rivate" in text) and "Report: " in text
    assert all(site in text for site in view.sites[:5])


@pytest.mark.parametrize(("planned", "said"), [(1, ", 1 round in "), (99, " of 99 rounds in ")])
def test_the_headline_counts_rounds(make_run, planned, said):
    view = read_run(make_run("seeded"))
    assert said in printed(closing_table(replace(view, manifest={**view.manifest, "num_rounds": planned})))


def test_closing_table_spells_out_undefined_and_overall(make_run):
    text = printed(closing_table(read_run(make_run("seeded"))))
    row = next(line for line in text.splitlines() if line.strip().startswith("switzerland"))
    assert row.split().count("undefined") == 4
    assert any(line.strip().startswith("overall") for line in text.splitlines())
    assert "NOT private" in text


def test_narrow_terminal_drops_columns_before_it_breaks_words(make_run):
    text = printed(closing_table(read_run(make_run("seeded"))), width=80)
    assert "…" not in text
    assert "switzerland" in text
    assert "local only" in text
    assert "Log loss" not in text


@pytest.mark.parametrize("width", [60, 80, 100])
def test_sizes_stay_whatever_the_width(make_run, width):
    text = printed(closing_table(read_run(make_run("seeded"))), width=width)
    head, first = text.splitlines()[1:3]
    assert head.split()[1:3] == ["train", "test"]
    assert first.split()[:3] == ["cleveland", "199", "104"]


def test_notes_and_data_warnings_stand_in_the_closing_table(make_run):
    view = read_run(make_run("seeded", notes=("switzerland: chol is missing in every row",)))
    assert "! switzerland: chol is missing in every row" in printed(closing_table(view))


def test_the_terminal_says_what_the_ledgers_were_charged(make_run):
    path = make_run("secure")
    assert "No ledger kept count" in printed(closing_table(read_run(path)), width=200)
    shares = {"va": {"took": 0.1234, "left": 0.5, "limit": 3.0}, "hungary": {"took": 0.2, "left": 0.75, "limit": 8.0}}
    text = printed(closing_table(read_run(edited(path, ledger_run="r1", ledger=shares))), width=200)
    assert "Charged to 2 ledgers: 20.00% of a budget at most, 50.00% left at least." in text
    killed = printed(closing_table(read_run(edited(path, ledger={}))), width=200)
    assert "ledger as r1" in killed and "No ledger" not in killed
    assert "ledger" not in printed(closing_table(read_run(make_run("seeded"))), width=200)


def test_of_a_deployed_run_it_speaks_of_the_sites_own_ledgers_and_of_no_exact_metrics(make_run):
    evaluation = {
        "private": True, "histograms": 3, "noise_multiplier": 5.5, "after_round": 15,
        "overall": {"accuracy": {"value": 0.7, "low": 0.6, "high": 0.8}}, "sites": {},
    }  # fmt: skip
    path = make_run("secure")
    result = json.loads((path / "result.json").read_text())
    (path / "result.json").write_text(json.dumps(result | {"evaluation": evaluation}))
    assert "The metrics above are exact" in printed(closing_table(read_run(path)), width=200)
    text = printed(closing_table(read_run(edited(path, federation="deployed"))), width=200)
    assert "Each site charged it to its own ledger" in text and "No ledger" not in text
    assert "What the sites released" in text and "The metrics above" not in text


def test_of_a_deployed_run_in_which_no_round_ended_it_claims_no_charge(make_run):
    path = make_run("secure")
    lines = (path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (path / "metrics.jsonl").write_text(lines[0])
    view = read_run(edited(path, federation="deployed", outcome="failed"))
    text = printed(closing_table(view), width=200)
    assert "charged it to its own ledger" not in text and "No round ended" in text


def test_comparison_shows_what_differs(make_run, tmp_path):
    runs = [make_run("seeded", tmp_path / "a"), make_run("secure", tmp_path / "b")]
    text = printed(comparison_table(compare(runs)))
    assert "privacy.noise" in text
    assert "if noise were real" in text
    assert "training.learning_rate" not in text


def test_sweep_table_shows_failures_in_words():
    result = {"overall": {"accuracy": 0.7, "auroc": None}, "sites": {"a": {"epsilon": 0.5}}, "noise": "seeded"}
    cells = [
        {"overrides": {"privacy.epsilon": "0.5"}, "result": result, "error": None, "status": "ran"},
        {"overrides": {"privacy.epsilon": "[1]"}, "result": None, "error": "FK301: [x] is bad", "status": "failed"},
    ]
    text = printed(sweep_table(cells))
    assert "0.700" in text
    assert "undefined" in text
    assert "FK301: [x] is bad" in text
    assert "not private" in text
