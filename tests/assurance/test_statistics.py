import csv
import statistics
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from fedkit.assurance.cells import declared_cells, statistics_columns
from fedkit.assurance.collect import sites_of, unpaid_replies
from fedkit.assurance.estimates import scope_figures, threshold
from fedkit.assurance.intervals import adjusted, combined_total
from fedkit.assurance.statistics import (
    StatsRequest,
    figures,
    plan_statistics,
    read_reply,
    request_digest,
    request_events,
    request_job,
    site_statistics,
    summary,
)
from fedkit.config.compose import compose
from fedkit.config.experiment import DataConfig, FeaturesConfig, MissingConfig, SourceConfig, TargetConfig
from fedkit.data.load import load_dataset
from fedkit.errors import DataError, PrivacyError
from fedkit.privacy.accounting import epsilon_of
from fedkit.privacy.events import gaussian_delta
from fedkit.privacy.lattice import G
from fedkit.privacy.randomness import Secure, Seeded

HEADER = "region,patient,age,rate,gender,ward,died"
ROWS = (
    "north,a,60,135,Female,icu,1",
    "north,b,30,80,Male,er,0",
    "north,b,31,90,Male,icu,0",
    "north,c,,250,Male,er,1",
    "south,d,90,20,Female,er,0",
)


class Silent:
    """No noise at all: only for looking at what is counted."""

    def gaussian(self, d):
        raise AssertionError("these normals are none to release")

    def poisson_mask(self, n, q):
        raise AssertionError("statistics sample nothing")

    def rounded_gaussian(self, d, scale):
        assert scale > 0
        return np.zeros(d, dtype=np.int64)


@pytest.fixture
def declared(tmp_path):
    """Write rows and declare them; keywords change the declaration."""

    def write(*rows, header=HEADER, content=None, **changes):
        path = tmp_path / "icu.csv"
        path.write_bytes("\n".join((header, *rows, "")).encode() if content is None else content)
        config = DataConfig(
            name="icu",
            description="",
            source=SourceConfig("csv", path=str(path)),
            target=TargetConfig("died", "binary", positive=(1,)),
            features=FeaturesConfig({"age": (0.0, 120.0), "rate": (20.0, 250.0)}, {"gender": ("Female", "Male")}),
            missing=MissingConfig(indicator=False),
            site_column="region",
            unit_column="patient",
            records={"north": 3, "south": 1},
            subgroups={"ward": ("icu", "er")},
        )
        return replace(config, **changes)

    return write


def request(config, bins=4, sigma=5.0, columns=()):
    return StatsRequest(tuple(columns) or statistics_columns(config), bins, sigma)


def counted(config, site, asked):
    """Column to its cells' exact weights, in units."""
    sums = read_reply(config, site, asked, site_statistics(config, site, asked, Silent()))
    cells = asked.cells(config)
    parts = np.split(sums / G, np.cumsum([column.cells for column in cells])[:-1])
    found = zip(cells, parts, strict=True)
    return {column.name: dict(zip(column.labels, part.round(4).tolist(), strict=True)) for column, part in found}


def refused(code, call, *arguments, kind=PrivacyError):
    with pytest.raises(kind) as error:
        call(*arguments)
    assert error.value.code == code
    return str(error.value)


def test_every_declared_column_is_counted_and_each_patient_weighs_one(declared):
    config = declared(*ROWS)
    found = counted(config, "north", request(config))
    assert list(found) == ["died", "age", "rate", "gender", "ward"]
    assert found["died"] == {"negative": 1, "positive": 2, "missing": 0}
    assert found["age"] == {"0 to 30": 0, "30 to 60": 1, "60 to 90": 1, "90 to 120": 0, "missing": 1}
    assert found["rate"] == {"20 to 77.5": 0, "77.5 to 135": 1, "135 to 192.5": 1, "192.5 to 250": 1, "missing": 0}
    assert found["gender"] == {"Female": 1, "Male": 2, "other": 0, "missing": 0}
    assert found["ward"] == {"icu": 1.5, "er": 1.5, "other": 0, "missing": 0}
    assert counted(config, "south", request(config))["age"]["90 to 120"] == 1
    alone = counted(replace(config, unit_column=None), "north", request(config))
    assert alone["died"] == {"negative": 2, "positive": 2, "missing": 0}


def test_values_out_of_range_are_clipped_and_unusable_ones_are_missing(declared):
    config = declared(
        "north,a,-5,1e9,female,x,2",
        "north,b,120,nan,Other,,1",
        "north,c,old,inf,,icu,",
        ",d,1,1,Male,er,1",
        "north,,1,1,Male,er,1",
        "elsewhere,e,1,1,Male,er,1",
    )
    found = counted(config, "north", request(config))
    assert found["age"] == {"0 to 30": 1, "30 to 60": 0, "60 to 90": 0, "90 to 120": 1, "missing": 1}
    assert found["rate"]["192.5 to 250"] == 1 and found["rate"]["missing"] == 2
    assert found["gender"] == {"Female": 0, "Male": 0, "other": 2, "missing": 1}
    assert found["ward"] == {"icu": 1, "er": 0, "other": 1, "missing": 1}
    assert found["died"] == {"negative": 1, "positive": 1, "missing": 1}
    asked = request(config)
    assert all(sum(cells.values()) == 0 for cells in counted(config, "nowhere", asked).values())


@pytest.mark.parametrize(
    ("target", "cells"),
    [
        (TargetConfig("died", "multiclass", classes=(0, 1)), {"0": 1, "1": 0, "other": 1, "missing": 1}),
        (TargetConfig("died", "regression", range=(0.0, 2.0)), {"0 to 1": 1, "1 to 2": 1, "missing": 1}),
    ],
)
def test_a_target_of_any_kind_is_counted_without_a_refusal(declared, target, cells):
    config = declared("north,a,1,1,Male,er,0", "north,b,1,1,Male,er,7", "north,c,1,1,Male,er,", target=target)
    assert counted(config, "north", request(config, bins=2))["died"] == cells


NEIGHBOURS = {
    "same": ROWS,
    "one less": ROWS[1:],
    "one class": ROWS[1:3],
    "no number": (*ROWS, "north,z,old,inf,Other,x,9"),
    "no unit": (*ROWS, "north,,1,1,Male,er,1"),
    "no site": (*ROWS, ",z,1,1,Male,er,1"),
    "another site": (*ROWS, "west,z,1,1,Male,er,1"),
    "no target": ("north,a,60,135,Female,icu,",),
    "missing everywhere": ("north,a,,,,,",),
    "only another site": ROWS[4:],
    "no record": (),
}


@pytest.mark.parametrize(
    "changes", [{}, {"unit_column": None}, {"site_column": None}], ids=["patient", "record", "own"]
)
def test_replies_have_one_shape_whatever_the_records(declared, changes):
    replies = {}
    for name, rows in NEIGHBOURS.items():
        config = declared(*rows, **changes)
        asked = request(config)
        replies[name] = site_statistics(config, "north", asked, Secure())
        assert request_digest(config, "north", asked) == request_digest(declared(*ROWS, **changes), "north", asked)
    cells = declared_cells(config, asked.columns, asked.bins)
    assert {len(reply) for reply in replies.values()} == {32 + 8 * sum(column.cells for column in cells)}
    assert {reply[:32] for reply in replies.values()} == {bytes.fromhex(request_digest(config, "north", asked))}
    assert len(set(replies.values())) == len(replies)


@pytest.mark.parametrize("rows", [rows for name, rows in NEIGHBOURS.items() if name != "same"])
def test_a_neighbouring_table_changes_the_counts_by_one_unit_at_most(declared, rows):
    # Each of these tables differs from the first by some patients of north.
    apart = len({row.split(",")[1] for row in set(ROWS) ^ set(rows) if row.startswith("north") and row[6] != ","})
    asked = request(declared())
    vectors = []
    for each in (ROWS, rows):
        config = declared(*each)
        vectors.append(read_reply(config, "north", asked, site_statistics(config, "north", asked, Silent())))
    for part in np.split(
        vectors[0] - vectors[1], np.cumsum([c.cells for c in declared_cells(config, asked.columns, 4)])
    ):
        assert np.abs(part).sum() <= 2 * apart * G
        assert apart > 0 or not part.any()


@pytest.mark.parametrize(
    "content",
    [
        HEADER.encode() + b"\nnorth,a,60\n",
        HEADER.encode() + b'\nnorth,"a,60,1,Male,er,1\n',
        HEADER.encode() + b"\nnorth,a,60,1,M\xfcnch,er,1\n",
    ],
    ids=["cells", "quote", "encoding"],
)
def test_a_table_that_cannot_be_read_is_refused_in_one_sentence(declared, content):
    config = declared(content=content)
    said = refused("FK376", site_statistics, config, "north", request(config), Silent())
    assert said == "FK376: the table cannot be used for statistics. Remedy: `fedkit data check`, at the site, says why."


def test_the_sites_own_settings_are_named(declared):
    config = declared(*ROWS)
    absent = replace(config, source=SourceConfig("csv", path="nowhere.csv"))
    refused("FK201", site_statistics, absent, "north", request(config), Silent(), kind=DataError)
    renamed = declared(header=HEADER.replace("rate", "pulse"))
    refused("FK205", site_statistics, renamed, "north", request(config), Silent(), kind=DataError)


def test_columns_and_bins_are_judged_before_a_record_is_read(declared):
    config = replace(declared(*ROWS), source=SourceConfig("csv", path="nowhere.csv"))
    said = refused("FK370", site_statistics, config, "north", request(config, columns=["agee"]), Silent())
    assert "did you mean 'age'?" in said
    for bins in (1, 1001, -3):
        assert str(bins) in refused("FK371", site_statistics, config, "north", request(config, bins=bins), Silent())
    narrow = replace(config, features=FeaturesConfig({"age": (1e15, 1e15 + 1)}))
    refused("FK371", declared_cells, narrow, ["age"], 100)


def test_a_reply_to_another_question_is_refused(declared):
    config = declared(*ROWS)
    asked = request(config)
    reply = site_statistics(config, "north", asked, Secure())
    wider = replace(config, features=replace(config.features, numeric={"age": (0.0, 100.0), "rate": (20.0, 250.0)}))
    for other in (
        (config, "south", asked, reply),
        (config, "north", replace(asked, noise_multiplier=6.0), reply),
        (wider, "north", asked, reply),
        (replace(config, unit_column=None), "north", asked, reply),
        (config, "north", asked, reply[:-1]),
        (config, "north", asked, b""),
    ):
        refused("FK374", read_reply, *other)


@pytest.mark.parametrize("columns", [("age",), ()])
def test_a_plan_costs_what_the_accountant_says_of_its_events(declared, columns):
    config = declared(*ROWS)
    plan = plan_statistics(config, epsilon=2.0, columns=columns)
    assert epsilon_of(request_events(plan.request), 1e-5) <= plan.epsilon <= 2.0
    assert plan.epsilon == epsilon_of(request_events(plan.request), gaussian_delta(1e-5))
    (charge,) = request_job(config, plan.request).charges
    assert charge.steps == len(columns or statistics_columns(config)) == len(plan.cells)
    assert charge.event.sample_rate == 1.0
    assert charge.event.noise_multiplier == pytest.approx(plan.request.noise_multiplier, abs=1e-6)
    assert request_job(config, plan.request).unit == "patient"
    assert request_job(replace(config, unit_column=None), plan.request).unit == "record"


def test_impossible_plans_are_refused(declared):
    config = declared(*ROWS)
    for epsilon in (0.0, -1.0, float("nan"), float("inf")):
        refused("FK301", lambda epsilon=epsilon: plan_statistics(config, epsilon=epsilon))
    for delta in (0.0, 1.0, float("nan")):
        refused("FK302", lambda delta=delta: plan_statistics(config, epsilon=1.0, delta=delta))
    said = refused("FK302", lambda: plan_statistics(config, epsilon=1.0, delta=0.34))
    assert "1/3" in said and "north" in said
    assert "fewer columns" in refused("FK309", lambda: plan_statistics(config, epsilon=1e-4))


def test_with_hardly_any_noise_the_figures_are_those_of_the_table():
    """Against Python's own statistics module over the file's own rows."""
    config = compose("heart_disease", [], None).data
    plan = plan_statistics(config, epsilon=1.0, bins=700)
    plan = replace(plan, request=replace(plan.request, noise_multiplier=1e-9))
    sites = sites_of(config, ledgers=True)
    found = figures(config, plan, unpaid_replies(config, plan, sites, seed=1))
    from fedkit.data.builtin import verified_path

    with verified_path("heart_disease.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for site in ("", "cleveland", "switzerland"):
        mine = [row for row in rows if site in ("", row["site"])]
        scope = found[site]
        columns = {column.name: column for column in scope.columns}
        assert scope.count.value == pytest.approx(len(mine))
        for name, (low, high) in config.features.numeric.items():
            codes = {"", "?", "NA"} | ({"0", "0.0"} if name in config.missing.codes else set())
            kept = [min(max(float(row[name]), low), high) for row in mine if row[name] not in codes]
            column, absent = columns[name], len(mine) - len(kept)
            assert column.missing.suppressed == (absent < 10)
            if absent >= 10:
                assert column.missing.value == pytest.approx(absent)
                assert column.missing_share.value == pytest.approx(absent / len(mine))
            if len(kept) < 10:
                assert column.mean.suppressed and column.quantiles["0.5"].suppressed
                continue
            width = (high - low) / 700
            assert column.mean.value == pytest.approx(statistics.fmean(kept), abs=width * 0.5001)
            assert column.mean.low - 1e-6 <= statistics.fmean(kept) <= column.mean.high + 1e-6
            assert column.mean.high - column.mean.low == pytest.approx(width, rel=1e-3)
            assert column.variance.low <= statistics.pvariance(kept) <= column.variance.high
            assert column.variance.value == pytest.approx(statistics.pvariance(kept), rel=0.05)
            for q, figure in column.quantiles.items():
                exact = sorted(kept)[max(0, int(np.ceil(float(q) * len(kept) - 1e-9)) - 1)]
                assert figure.low - 1e-9 <= exact <= figure.high + 1e-9
        kinds = Counter("positive" if row["num"] in "1234" else "negative" for row in mine)
        for cell in columns["num"].cells:
            assert cell.count.suppressed == (kinds[cell.label] < 10)
            if not cell.count.suppressed:
                assert cell.count.value == pytest.approx(kinds[cell.label])
                assert cell.share.value == pytest.approx(kinds[cell.label] / len(mine))


def repeated(sigma, seeds):
    """Figures of a made table under fresh noise each time, and the truth of each figure."""
    rng = np.random.default_rng(5)
    config = DataConfig(
        "made",
        "",
        SourceConfig("csv"),
        TargetConfig("y", "binary", positive=(1,)),
        FeaturesConfig({"a": (0.0, 100.0), "b": (-1.0, 1.0)}, {"c": ("u", "v", "w")}),
    )
    cells = declared_cells(config, statistics_columns(config), 8)
    a, b = np.clip(rng.gamma(4, 12, 500), 0, 100), np.clip(rng.normal(0.2, 0.3, 500), -1, 1)
    gone = rng.random(500) < 0.15
    exact = {
        "y": np.array([300.0, 190.0, 10.0]),
        "a": np.append(np.histogram(a[~gone], cells[1].edges)[0], gone.sum()),
        "b": np.append(np.histogram(b, cells[2].edges)[0], 0),
        "c": np.array([400.0, 70.0, 20.0, 10.0, 0.0]),
    }
    counts = np.concatenate(list(exact.values())).astype(float)
    truth = {"count": 500.0, "a missing": float(gone.sum()), "a missing share": float(gone.mean())}
    for name, values in (("a", a[~gone]), ("b", b)):
        truth[f"{name} mean"], truth[f"{name} variance"] = float(values.mean()), float(values.var())
        for q in (0.05, 0.25, 0.5, 0.75, 0.95):
            truth[f"{name} {q:g}"] = float(np.sort(values)[int(np.ceil(q * len(values))) - 1])
    for name, shown in (("y", "positive"), ("c", "u"), ("a", "25 to 37.5")):
        column = next(each for each in cells if each.name == name)
        at = column.labels.index(shown)
        truth[f"{name}={shown}"] = float(exact[name][at])
        truth[f"{name}={shown} share"] = float(exact[name][at] / exact[name][:-1].sum())
    runs = []
    for seed in range(seeds):
        noisy = counts + sigma * Seeded("coverage", str(sigma), seed).rounded_gaussian(len(counts), 2.0**30) / 2**30
        scope = scope_figures(cells, noisy, sigma)
        found = {"count": scope.count}
        for column in scope.columns:
            found[f"{column.name} missing"], found[f"{column.name} missing share"] = (
                column.missing,
                column.missing_share,
            )
            found |= {f"{column.name}={cell.label}": cell.count for cell in column.cells}
            found |= {f"{column.name}={cell.label} share": cell.share for cell in column.cells}
            if column.mean is not None:
                found |= {f"{column.name} mean": column.mean, f"{column.name} variance": column.variance}
                found |= {f"{column.name} {q}": figure for q, figure in column.quantiles.items()}
        runs.append(found)
    return runs, truth


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.5, 5.0, 25.0])
def test_intervals_cover_the_truth(sigma):
    runs, truth = repeated(sigma, 300)
    assert len(truth) > 20
    for name, exact in truth.items():
        shown = [run[name] for run in runs if not run[name].suppressed]
        assert len(shown) > 290 or (sigma > 20 and "missing" in name), name
        covered = sum(figure.low <= exact <= figure.high for figure in shown)
        assert all(figure.low <= figure.value <= figure.high for figure in shown)
        # Exact 95 % intervals cover less than 91 % of 300 once in a thousand figures; the noise is seeded.
        assert covered >= 0.91 * len(shown), (name, covered)


def test_counts_are_unbiased_and_their_intervals_no_wider_than_they_must_be():
    runs, truth = repeated(5.0, 300)
    for name in ("count", "y=positive", "c=u"):
        values = np.array([run[name].value for run in runs])
        half = np.mean([run[name].high - run[name].value for run in runs])
        assert values.mean() == pytest.approx(truth[name], abs=4 * values.std() / 300**0.5)
        assert half == pytest.approx(1.96 * values.std(), rel=0.12)


def test_the_total_of_all_columns_beats_every_single_one():
    runs, _ = repeated(5.0, 1)
    half = runs[0]["count"].high - runs[0]["count"].value
    # 3, 9, 9 and 5 cells: alone, the best of them has a deviation of 5 * sqrt(3).
    assert half == pytest.approx(1.96 * 5 / (1 / 3 + 2 / 9 + 1 / 5) ** 0.5, rel=1e-4)
    assert half < 1.96 * 5 * 3**0.5


def test_what_lies_below_an_edge_varies_as_any_linear_figure_does():
    counts = np.arange(8.0) * 10
    noisy = adjusted(counts, 4.0, combined_total([counts, np.ones(3) * 90], 4.0))
    for q in (0.05, 0.5):
        excess, deviation = noisy.below_edges(q)
        for edge in range(8):
            a = np.append((np.arange(7) < edge) - q, 0.0)
            assert excess[edge] == pytest.approx(noisy.value(a))
            assert deviation[edge] == pytest.approx(noisy.deviation(a))


def test_adjusted_cells_vary_as_they_say():
    rng = np.random.default_rng(2)
    a, b = np.array([1.0, -2.0, 0.5]), np.array([0.0, 1.0, 1.0])
    drawn = []
    for _ in range(4000):
        columns = [rng.normal(0, 3, 3), rng.normal(0, 3, 5)]
        noisy = adjusted(columns[0], 9.0, combined_total(columns, 9.0))
        drawn.append((noisy.value(a), noisy.value(b)))
    assert np.cov(np.array(drawn).T)[[0, 0, 1], [0, 1, 1]] == pytest.approx(
        [noisy.covariance(a, a), noisy.covariance(a, b), noisy.covariance(b, b)], rel=0.08, abs=0.8
    )


def test_small_counts_and_what_rests_on_them_are_suppressed():
    config = DataConfig(
        "made", "", SourceConfig("csv"), TargetConfig("y", "binary", (1,)), FeaturesConfig({"a": (0.0, 10.0)})
    )
    cells = declared_cells(config, ["y", "a"], 2)
    scope = scope_figures(cells, np.array([9.0, 91.0, 0.0, 5.0, 3.0, 92.0]), 1e-6)
    y, a = scope.columns
    assert (y.cells[0].count.suppressed, y.cells[0].count.value, y.cells[0].share.value) == (True, None, None)
    assert y.cells[1].count.value == pytest.approx(91)
    assert a.missing.value == pytest.approx(92) and a.missing_share.value == pytest.approx(0.92)
    assert a.mean.suppressed and a.variance.suppressed and all(q.suppressed for q in a.quantiles.values())
    assert (threshold(1.0), threshold(7.5), y.cells[0].count.below) == (10.0, 15.0, 10.0)
    empty = scope_figures(cells, Seeded(0).rounded_gaussian(6, 2.0**30) / 2**30 * 20, 20.0)
    assert empty.count.suppressed or empty.count.value > threshold(20.0)


def test_pooled_is_the_sum_of_sites_with_the_noise_of_all(declared):
    config = declared(*ROWS)
    plan = plan_statistics(config, epsilon=5.0)
    replies = unpaid_replies(config, plan, ("north", "south"), seed=3)
    found = figures(config, plan, replies)
    assert found[""].noise == pytest.approx(2**0.5 * found["north"].noise)
    assert found["north"].noise == plan.request.noise_multiplier
    shown = summary(found)
    assert list(shown["sites"]) == ["north", "south"]
    assert set(shown["pooled"]) == {"count", "noise", "columns"}


def test_seeded_noise_repeats_and_differs_by_site_and_question(declared):
    config = declared()
    plan, other = (plan_statistics(config, epsilon=1.0, bins=bins) for bins in (10, 11))
    first = unpaid_replies(config, plan, ("north", "south"), seed=3)
    assert first == unpaid_replies(config, plan, ("north", "south"), seed=3)
    assert first != unpaid_replies(config, plan, ("north", "south"), seed=4)
    north, south = (read_reply(config, site, plan.request, first[site]) for site in ("north", "south"))
    asked_otherwise = unpaid_replies(config, other, ("north",), seed=3)["north"]
    assert not np.any(north == south)
    assert not np.any(north[:20] == read_reply(config, "north", other.request, asked_otherwise)[:20])


@pytest.mark.parametrize("name", ["heart_disease", "data=breast_cancer"])
def test_sites_count_the_units_that_training_would_give_them(name):
    config = compose(*((name, []) if "=" not in name else (None, [name])), None).data
    sites = sites_of(config, ledgers=True)
    dataset = load_dataset(config, private=True)
    assert list(sites) == [site.name for site in dataset.sites]
    for site in dataset.sites:
        asked = request(config, columns=[config.target.column])
        found = counted(config, site.name, asked)[config.target.column]
        y = np.concatenate([site.train.y, site.test.y])
        assert [found["negative"], found["positive"]] == [(y == 0).sum(), (y == 1).sum()]


def test_sites_that_are_not_declared_are_looked_up_in_a_simulation_only(declared):
    config = declared(*ROWS, records={})
    assert sites_of(config, ledgers=False) == ("north", "south")
    assert "data.records" in refused("FK373", lambda: sites_of(config, ledgers=True))
    assert sites_of(declared(*ROWS), ledgers=True) == ("north", "south")
    refused("FK376", lambda: sites_of(declared(records={}), ledgers=False))
