"""How many numbers lie outside their declared range is told by the histogram of their column, in the same charge."""

import numpy as np

from fedkit.assurance.cells import declared_cells
from fedkit.assurance.estimates import scope_figures
from fedkit.assurance.statistics import StatsRequest, plan_statistics, request_digest, request_events
from fedkit.config.experiment import DataConfig, FeaturesConfig, SourceConfig, TargetConfig
from fedkit.privacy.randomness import Seeded
from tests.assurance.test_statistics import ROWS, counted, declared  # noqa: F401

MADE = DataConfig(
    "made", "", SourceConfig("csv"), TargetConfig("y", "binary", positive=(1,)), FeaturesConfig({"a": (10.0, 60.0)}, {})
)


def test_each_number_is_counted_in_one_cell_and_the_bounds_are_within(declared):  # noqa: F811
    values = ("-1e300", "-0.0001", "0", "120", "120.0001", "1e300", "inf", "x", "")
    rows = [f"north,p{n},{value},100,Male,icu,1" for n, value in enumerate(values)]
    found = counted(declared(*rows), "north", StatsRequest(("age",), 4, 5.0, outside=True))["age"]
    assert list(found) == ["below 0", "0 to 30", "30 to 60", "60 to 90", "90 to 120", "above 120", "missing"]
    assert list(found.values()) == [2, 1, 0, 0, 1, 2, 3]


def test_a_patient_adds_one_whatever_lies_outside(declared):  # noqa: F811
    rows = [f"north,a,{value},100,Male,icu,1" for value in (-5, 300, 20, "")]
    found = counted(declared(*rows), "north", StatsRequest(("age",), 4, 5.0, outside=True))["age"]
    assert sum(found.values()) == 1 and found["below 0"] == found["above 120"] == 0.25


def test_a_question_of_before_has_the_cells_and_the_digest_that_it_had(declared):  # noqa: F811
    config = declared(*ROWS)
    old = StatsRequest(("age", "gender"), 4, 5.0)
    assert next(iter(counted(config, "north", old)["age"])) == "0 to 30"
    # As ledgers have it for answers that were given before.
    assert request_digest(config, "north", old) == OLD
    assert request_digest(config, "north", StatsRequest(("age", "gender"), 4, 5.0, outside=True)) != OLD


OLD = "1b7caf8bb75f7c56a853b95039086502d1f845b2ea6cd299cb68139e7f455fad"


def test_it_is_asked_by_every_plan_and_costs_nothing_more(declared):  # noqa: F811
    plan = plan_statistics(declared(*ROWS), epsilon=1.0, columns=("age", "rate"), bins=4)
    assert plan.request.outside and all(cells.outside for cells in plan.cells)
    assert request_events(plan.request) == request_events(
        StatsRequest(("age", "rate"), 4, plan.request.noise_multiplier)
    )


def test_figures_are_those_of_the_clipped_values_and_intervals_hold_what_they_promise():
    rng = np.random.default_rng(7)
    raw = rng.normal(35, 20, 800)
    (cells,) = declared_cells(MADE, ["a"], 10, outside=True)
    codes = np.where(raw < 10, 0, np.where(raw > 60, 11, 1 + np.minimum((raw - 10) // 5, 9))).astype(int)
    exact = np.append(np.bincount(codes, minlength=12), 0).astype(float)
    clipped = np.clip(raw, 10, 60)
    truth = {"mean": clipped.mean(), "variance": clipped.var(), "outside": float(((raw < 10) | (raw > 60)).sum())}
    truth |= {
        q: float(np.sort(clipped)[int(np.ceil(float(q) * 800)) - 1]) for q in ("0.05", "0.25", "0.5", "0.75", "0.95")
    }
    truth["share"] = truth["outside"] / 800
    held, seeds = dict.fromkeys(truth, 0), 200
    for seed in range(seeds):
        noise = Seeded("outside", str(seed), 1).rounded_gaussian(len(exact), 4 * 2.0**30) / 2**30
        (column,) = scope_figures([cells], exact + noise, 4.0).columns
        found = {"mean": column.mean, "variance": column.variance, "outside": column.outside, **column.quantiles}
        found["share"] = column.outside_share
        for name, figure in found.items():
            held[name] += figure.low - 1e-9 <= truth[name] <= figure.high + 1e-9
    # 95 % but for chance; bins make most of them wider.
    assert min(held.values()) > 0.9 * seeds, held
    assert 0.9 * seeds < held["outside"] < 0.99 * seeds


def test_without_noise_the_figures_are_exact():
    (cells,) = declared_cells(MADE, ["a"], 5, outside=True)
    counts = np.array([30.0, 20, 20, 20, 20, 20, 70, 0])
    (column,) = scope_figures([cells], counts, 1e-6).columns
    assert round(column.outside.value, 3) == 100 and round(column.outside_share.value, 3) == 0.5
    assert column.quantiles["0.05"].low == 10 and column.quantiles["0.95"].high == 60
    assert [(cell.low, cell.high) for cell in column.cells][:2] == [(None, 10.0), (10.0, 20.0)]
    assert (column.cells[-1].low, column.cells[-1].high) == (60.0, None)
    mean = (30 * 10 + 20 * (15 + 25 + 35 + 45 + 55) + 70 * 60) / 200
    assert round(column.mean.value, 3) == round(mean, 3)


def test_a_category_has_nothing_outside(declared):  # noqa: F811
    (cells,) = declared_cells(declared(*ROWS), ["gender"], 4, outside=True)
    assert not cells.outside and cells.labels == ("Female", "Male", "other", "missing")
