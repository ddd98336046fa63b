"""What privacy costs, as recorded: the bounds hold, the READMEs show it, and the code still gives it."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import math
import sys
from collections import Counter
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from fedkit.config.compose import compose
from fedkit.data.builtin import CHECKSUMS
from fedkit.data.builtin.make_diabetes import main as make_diabetes
from fedkit.data.load import load_dataset

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
FOLDER = EXPERIMENTS / "privacy_utility"
FLAMBY = EXPERIMENTS / "flamby_heart"


def _module(path):
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def table():
    yield from _module(FOLDER / "table.py")


@pytest.fixture(scope="module")
def curve():
    yield from _module(FOLDER / "curve.py")


@pytest.fixture(scope="module")
def dp():
    yield from _module(FLAMBY / "dp.py")


@pytest.fixture(scope="module")
def flamby():
    yield from _module(FLAMBY / "table.py")


@pytest.fixture(scope="module")
def recorded():
    return json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def recorded_dp():
    return json.loads((FLAMBY / "results.json").read_text(encoding="utf-8"))["dp"]


def test_diabetes_is_what_its_script_makes(tmp_path):
    make_diabetes(tmp_path / "made.csv")
    made = (tmp_path / "made.csv").read_bytes()
    assert hashlib.sha256(made).hexdigest() == CHECKSUMS["diabetes.csv"]
    rows = list(csv.DictReader(made.decode().splitlines()))
    assert Counter(row["progressed"] for row in rows) == {"no": 242, "yes": 200}
    assert all((float(row["progression"]) > 150) == (row["progressed"] == "yes") for row in rows)


def test_no_site_of_diabetes_holds_more_than_it_declares():
    dataset = load_dataset(compose(None, ["data=diabetes"]).data, private=True)
    assert [len(site.train) + len(site.test) for site in dataset.sites] == [104, 101, 119, 118]
    assert all(site.records_declared and site.records == 120 for site in dataset.sites)


def test_the_declared_ranges_of_diabetes_hold_every_value():
    ranges = compose(None, ["data=diabetes"]).data.features.numeric
    with (FOLDER.parents[1] / "fedkit/data/builtin/diabetes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert set(ranges) == set(rows[0]) - {"progression", "progressed"}
    for name, (low, high) in ranges.items():
        assert all(low <= float(row[name]) <= high for row in rows)


def test_every_table_and_level_is_recorded_over_ten_seeds(table, recorded):
    assert recorded["seeds"] == list(range(42, 52))
    assert set(recorded["tables"]) == set(table.TABLES) == {"heart_disease", "breast_cancer", "diabetes"}
    for levels in recorded["tables"].values():
        assert list(levels) == list(table.LEVELS)
        for level, found in levels.items():
            assert len(found["auroc"]) == 10
            if level != "none":
                assert 0.98 * float(level) <= max(found["epsilon"].values()) <= float(level)


def test_the_bound_at_epsilon_3_is_met_or_shown_as_missed(table, recorded):
    shown = table.markdown(recorded)["verdict"].splitlines()[2:]
    for line, levels in zip(shown, recorded["tables"].values(), strict=True):
        mean = fmean(levels["none"]["auroc"]) - fmean(levels["3"]["auroc"])
        assert ("**missed**" in line) == (mean > 0.05)


def test_recorded_losses_at_epsilon_3_are_within_the_bound(recorded):
    for levels in recorded["tables"].values():
        assert fmean(levels["none"]["auroc"]) - fmean(levels["3"]["auroc"]) <= 0.05


def test_more_privacy_costs_more_beyond_chance(recorded):
    for levels in recorded["tables"].values():
        means = [fmean(levels[level]["auroc"]) for level in ("none", "10", "3", "1", "0.3")]
        assert means[0] > means[2] > means[3] > means[4]


def test_an_interval_is_students(table):
    values = [0.81, 0.84, 0.79, 0.83]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    found = table.Interval.of(values)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_readmes_show_the_recorded_tables(table, recorded):
    blocks = table.markdown(recorded)
    for path, names in table.READMES.items():
        text = path.read_text(encoding="utf-8")
        assert table.with_blocks(text, {name: blocks[name] for name in names}) == text
    for name, block in blocks.items():
        assert f"<!-- utility-{name}:begin -->\n\n{block}" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_curve_is_drawn_from_the_recorded_results(table, curve, recorded):
    assert table.CURVE.read_text(encoding="utf-8") == curve.draw(table.curve_data(recorded))


def _luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("theme", ["LIGHT", "DARK"])
def test_the_curve_brings_a_ground_on_which_its_text_and_lines_are_read(curve, theme):
    colours = getattr(curve, theme)
    ground = _luminance(colours["surface"])
    for name in ("ink", "muted", "s0", "s1", "s2"):
        lighter, darker = sorted((_luminance(colours[name]), ground), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5


@pytest.mark.parametrize("arguments", [["--seeds", "1"], ["--seeds", "5", "--write"]])
def test_the_command_refuses_too_few_seeds(table, arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        table.main(arguments)
    assert stopped.value.code == 2
    assert "--seeds" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["heart_disease", "breast_cancer", "diabetes"])
def test_a_fresh_seed_gives_the_recorded_auroc(table, recorded, name):
    for level in ("none", "3"):
        fresh, was = table.cell(name, level, [42]), recorded["tables"][name][level]
        assert fresh["sigma"] == was["sigma"]
        assert fresh["auroc"][0] == pytest.approx(was["auroc"][0], abs=1e-6)


def test_the_dp_table_is_shown_and_has_the_published_points(dp, flamby, recorded_dp):
    text = (FLAMBY / "README.md").read_text(encoding="utf-8")
    assert f"{flamby.DP_BEGIN}\n\n{dp.markdown(recorded_dp)}\n\n{flamby.DP_END}" in text
    assert recorded_dp["seeds"] == [42, 43, 44, 45, 46]
    for epsilon in ("10", "1", "0.1"):
        for series in dp.SERIES:
            assert len(recorded_dp[epsilon][series]["accuracy"]) == 5


def test_calibrated_points_cost_what_they_say_and_the_published_noise_costs_more(recorded_dp):
    for epsilon in ("10", "1", "0.1"):
        whole, published = recorded_dp[epsilon]["whole_run"], recorded_dp[epsilon]["published_noise"]
        assert 0.98 * float(epsilon) <= max(whole["epsilon"].values()) <= float(epsilon)
        assert all(cost > float(epsilon) for cost in published["epsilon"].values())
        assert published["epsilon"]["switzerland"] > 3 * float(epsilon)
        assert all(published["sigma"][site] < whole["sigma"][site] for site in whole["sigma"])


def test_flambys_noise_is_what_opacus_gives_for_the_steps_that_it_accounts_for(recorded_dp):
    from opacus.accountants import RDPAccountant

    steps = {"cleveland": 750, "hungary": 645, "switzerland": 120, "va": 330}
    for site, count in steps.items():
        accountant = RDPAccountant()
        accountant.history = [(recorded_dp["1"]["published_noise"]["sigma"][site], 15 / count, count)]
        assert 0.98 <= accountant.get_epsilon(delta=1e-4) <= 1.0 + 1e-3


def test_points_with_the_published_noise_are_near_the_published_ones(dp, recorded_dp):
    for epsilon in ("10", "1", "0.1"):
        here, (mean, spread) = recorded_dp[epsilon]["published_noise"]["accuracy"], dp.PUBLISHED[epsilon]
        # Both are means of five: their distance has the standard error of two such means.
        assert abs(fmean(here) - mean) <= 2.5 * math.sqrt((spread**2 + np.var(here, ddof=1)) / 5)


@pytest.mark.slow
def test_a_fresh_dp_point_gives_the_recorded_accuracy(dp, recorded_dp):
    fresh, was = dp.point("whole_run", "1", [42]), recorded_dp["1"]["whole_run"]
    assert fresh["sigma"] == was["sigma"]
    assert fresh["accuracy"] == pytest.approx(was["accuracy"][:1], abs=1e-6)
