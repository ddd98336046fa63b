from __future__ import annotations

import csv as csv_module
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.config.compose import compose
from fedkit.config.experiment import DataConfig, PartitionConfig, SplitConfig
from fedkit.data.builtin import verified_path
from fedkit.data.load import dataset_of, load_dataset, load_site
from fedkit.errors import DataError
from tests.work import calls


def built_in(name: str, *overrides: str) -> DataConfig:
    return compose(overrides=[f"data={name}", "privacy=none", *overrides]).data


@pytest.fixture(scope="module")
def heart() -> DataConfig:
    return built_in("heart_disease")


@pytest.fixture(scope="module")
def flamby() -> DataConfig:
    return built_in("flamby_heart")


def same_site(one, other):
    assert (one.name, one.records, one.records_declared) == (other.name, other.records, other.records_declared)
    for a, b in ((one.train, other.train), (one.test, other.test)):
        for name in ("x", "y", "unit"):
            assert np.array_equal(getattr(a, name), getattr(b, name))
        assert {k: v.tolist() for k, v in a.subgroups.items()} == {k: v.tolist() for k, v in b.subgroups.items()}


def test_heart_disease_has_four_hospitals_and_thirteen_features(heart):
    dataset = load_dataset(heart, private=True)
    assert dataset.input_shape == (13,)
    assert (dataset.split, dataset.scaling, dataset.unit) == ("keyed_hash", "declared", "record")
    sizes = {site.name: len(site.train) + len(site.test) for site in dataset.sites}
    assert sizes == {"cleveland": 303, "hungary": 294, "switzerland": 123, "va": 200}
    assert all(site.records == sizes[site.name] and site.records_declared for site in dataset.sites)
    assert dataset.warnings == ("switzerland: chol is missing in every row",)
    for site in dataset.sites:
        for part in (site.train, site.test):
            assert part.x.dtype == np.float32
            assert part.y.dtype == part.unit.dtype == np.int64
            assert np.abs(part.x).max() <= 1
            assert part.unit.tolist() == list(range(len(part)))
            assert set(part.subgroups) == {"sex", "age"}


def test_heart_disease_loads_with_a_dozen_calls_a_row(heart):
    load_dataset(heart, private=True)
    # Columns are read by their distinct texts; 14 cells a row, each by itself, would be ten times as many.
    assert calls(load_dataset, heart, private=True) < 20 * 920


def test_loading_twice_gives_the_same_bits(heart):
    one, two = load_dataset(heart, private=True), load_dataset(heart, private=True)
    assert one.fingerprints == two.fingerprints
    assert len(set(one.fingerprints.values())) == 4


def flamby_oracle():
    """FLamby's preprocessing written anew: x and test mask by site."""
    import torch
    from sklearn.model_selection import train_test_split

    with verified_path("heart_disease.csv").open(encoding="utf-8", newline="") as file:
        records = list(csv_module.DictReader(file))
    numbers = ["age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak"]
    used = [r for r in records if all(r[name] for name in (*numbers, "cp", "restecg"))]
    for site in ("cleveland", "hungary", "switzerland", "va"):
        mine = [r for r in used if r["site"] == site]
        x = torch.tensor(
            [
                [float(r[name]) for name in numbers]
                + [float(r["cp"] == level) for level in "234"]
                + [float(r["restecg"] == level) for level in "12"]
                for r in mine
            ]
        )
        y = np.array([int(r["num"]) > 0 for r in mine])
        counts = np.unique(y, return_counts=True)[1]
        stratify = y if len(counts) > 1 and (counts > 2).all() else None
        sizes = {"train_size": 0.66, "test_size": 1 - 0.66, "random_state": 43, "shuffle": True}
        train, _ = train_test_split(np.arange(len(y)), stratify=stratify, **sizes)
        trained = np.isin(np.arange(len(y)), train)
        x = (x - x[trained].mean(0)) / (x[trained].std(0) + 1e-9)
        yield site, x.numpy(), y, trained


def test_flamby_heart_is_split_and_scaled_as_flamby_does(flamby):
    dataset = load_dataset(flamby, private=False)
    sizes = [(len(site.train), len(site.test)) for site in dataset.sites]
    assert sizes == [(199, 104), (172, 89), (30, 16), (85, 45)]
    for site, (name, x, y, trained) in zip(dataset.sites, flamby_oracle(), strict=True):
        assert site.name == name
        assert np.array_equal(site.train.y, y[trained])
        assert np.array_equal(site.test.y, y[~trained])
        np.testing.assert_allclose(site.train.x, x[trained], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(site.test.x, x[~trained], rtol=1e-4, atol=1e-5)


def test_pooled_z_scores_are_those_of_all_training_rows(flamby):
    dataset = load_dataset(replace(flamby, scaling="pooled_zscore"), private=False)
    train = np.concatenate([site.train.x for site in dataset.sites])
    assert np.allclose(train.mean(0), 0, atol=1e-4)
    assert np.allclose(train.std(0, ddof=1), 1, atol=1e-4)


def test_private_run_refuses_flambys_preprocessing(flamby):
    with pytest.raises(DataError, match="stratified"):
        load_dataset(flamby, private=True)
    with pytest.raises(DataError, match="site_zscore"):
        load_site(replace(flamby, split=SplitConfig()), "va", private=True)


def test_breast_cancer_is_parted_into_four_sites():
    dataset = load_dataset(built_in("breast_cancer"), private=True)
    assert [site.name for site in dataset.sites] == ["site_1", "site_2", "site_3", "site_4"]
    assert sum(site.records for site in dataset.sites) == 569
    assert not any(site.records_declared for site in dataset.sites)


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "quantity_skew"])
def test_every_partition_uses_every_row(kind):
    dataset = load_dataset(built_in("breast_cancer", f"data.partition.kind={kind}"), private=True)
    assert sum(len(site.train) + len(site.test) for site in dataset.sites) == 569


@pytest.mark.parametrize("name", ["heart_disease", "flamby_heart", "breast_cancer"])
def test_site_alone_is_the_site_in_the_data_set(name):
    config = built_in(name)
    for site in load_dataset(config, private=False).sites:
        same_site(load_site(config, site.name, private=False), site)
    with pytest.raises(DataError, match="nowhere"):
        load_site(config, "nowhere", private=False)


def test_pooled_z_scores_of_a_site_alone(flamby):
    config = replace(flamby, scaling="pooled_zscore")
    same_site(load_site(config, "va", private=False), load_dataset(config, private=False).sites[3])


def test_hospitals_own_table_is_split_as_in_the_simulation(rows, csv):
    lines = [f"{region},{age},80,Male,{age % 2}" for region in ("north", "south") for age in (1, 1, 2, 3, 5, 8)]
    simulated = load_dataset(rows(*lines), private=True).sites[1]
    own = csv("age,rate,gender,died\n" + "\n".join(line.split(",", 1)[1] for line in lines[6:]), site_column=None)
    same_site(load_site(own, "south", private=True), simulated)


def test_site_alone_is_not_stopped_by_another_sites_rows(rows):
    config = rows("north,old,80,Male,1", "south,30,80,Male,0", "south,31,80,Male,1")
    assert load_site(config, "south", private=True).records == 2
    with pytest.raises(DataError, match="line 2"):
        load_dataset(config, private=True)


ROW = st.tuples(st.sampled_from("ns"), st.integers(0, 120), st.sampled_from(["20", None, "90"]), st.sampled_from("01"))
BASE = [("n", 10, "20", "0"), ("s", 20, "20", "1")]


@settings(max_examples=50, deadline=None)
@given(st.lists(ROW, max_size=10), ROW, st.sampled_from([None, "iid", "dirichlet", "quantity_skew"]))
def test_adding_a_record_changes_no_other_records_site_part_or_encoding(icu, table, rows, added, kind):
    def placed(given):
        region, age, rate, died = zip(*given, strict=True)
        columns = {"region": region, "age": age, "rate": rate, "gender": ["Male"] * len(given), "died": died}
        config = icu if kind is None else replace(icu, site_column=None, partition=PartitionConfig(kind, 2))
        found = []
        for site in dataset_of(config, table(columns)).sites:
            for part in ("train", "test"):
                examples = getattr(site, part)
                found += [(site.name, part, x.tobytes(), int(y)) for x, y in zip(examples.x, examples.y, strict=True)]
        return sorted(found)

    before, after = placed([*BASE, *rows]), placed([added, *BASE, *rows])
    assert len(after) == len(before) + 1
    for record in before:
        after.remove(record)


def test_sites_stand_in_the_declared_order(rows):
    lines = ("a,1,80,Male,1", "b,2,80,Male,0", "c,3,80,Male,0")
    assert [site.name for site in load_dataset(rows(*lines), private=True).sites] == ["a", "b", "c"]
    config = rows(*lines, records={"c": 1, "a": 1, "b": 1})
    assert [site.name for site in load_dataset(config, private=True).sites] == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        ({"records": {"north": 2}}, "FK213", "the table has the site south"),
        ({"records": {"north": 2, "south": 2, "west": 9}}, "FK213", "records declares west"),
        ({"partition": PartitionConfig("iid", 2)}, "FK213", "both site_column and partition"),
        ({"partition": PartitionConfig("iid", 9), "site_column": None}, "FK216", "9 and the table has 4 units"),
        ({"partition": PartitionConfig("iid", 2), "site_column": None, "records": {"x": 1}}, "FK213", "site_1, site_2"),
        ({"scaling": "minmax"}, "FK218", "minmax"),
    ],
)
def test_declaration_that_does_not_fit_is_refused(csv, changes, code, told):
    with pytest.raises(DataError, match=told) as caught:
        load_dataset(csv(**changes), private=False)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("lines", "code", "told"),
    [
        (("north,1,80,Male,1", "south,2,80,Male,1"), "FK211", "one class everywhere: all 2 rows are positive"),
        (("north,1,80,Male,7", "south,2,80,Male,0"), "FK211", "all 2 rows are negative"),
        (("north,,80,Male,1", "south,?,80,Male,0"), "FK212", "age: every value"),
        (("north,1,80,male,1", "south,2,80,,0"), "FK212", "gender: every value"),
        (("north,1,80,Male,", "south,2,80,Male,NA"), "FK202", "no row is left"),
        ((",1,80,Male,1", "south,2,80,Male,0"), "FK213", r"site_column region is empty in 1 rows, first in line 2"),
    ],
)
def test_table_that_cannot_be_learnt_from_is_refused(rows, lines, code, told):
    with pytest.raises(DataError, match=told) as caught:
        load_dataset(rows(*lines), private=True)
    assert caught.value.code == code


def test_warnings_say_what_was_left_out_and_where(rows):
    lines = [f"north,{age},80,Male,{age % 2}" for age in range(10)]
    config = rows(*lines, "south,,80,x,1", "south,,80,Male,", records={"north": 20, "south": 1})
    warnings = load_dataset(config, private=True).warnings
    assert "1 of 12 rows have no died and are left out" in warnings
    assert "gender: 1 values outside the declared levels count as missing" in warnings
    assert "south: age is missing in every row" in warnings
    assert any("north has 10 units; records declares 20" in text for text in warnings)
    assert not any("south has 1 units" in text for text in warnings)


def test_site_left_without_rows_is_kept_and_named(rows):
    config = rows("north,1,80,Male,1", "north,2,80,Male,0", "south,,80,Male,1")
    dataset = load_dataset(replace(config, missing=replace(config.missing, numeric="drop_row")), private=True)
    assert [site.records for site in dataset.sites] == [2, 0]
    assert dataset.sites[1].train.x.shape == (0, 4)
    assert "south has no rows" in dataset.warnings


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("quantity_skew", "got no unit; lower data.partition.sites or raise data.partition.alpha"),
        ("iid", "got no unit; lower data.partition.sites"),
    ],
)
def test_site_that_a_partition_leaves_empty_is_told_with_its_remedy(rows, kind, told):
    lines = [f"north,{age},80,Male,{age % 2}" for age in range(6)]
    config = rows(*lines, site_column=None, partition=PartitionConfig(kind, 6, 0.05))
    dataset = load_dataset(config, private=True)
    empty = [site.name for site in dataset.sites if site.records == 0]
    assert empty
    assert [text for text in dataset.warnings if "no unit" in text] == [f"{name} {told}" for name in empty]


def test_patient_of_several_sites_is_told_and_a_partition_keeps_each_in_one(rows):
    lines = [f"{'ns'[age % 2]},{age % 7},{20 + age},Male,{age % 2}" for age in range(20)]
    config = rows(*lines, unit_column="age")
    config = replace(config, features=replace(config.features, numeric={"rate": (20, 250)}))
    assert any(
        text.startswith("7 patients have records at more than one site; epsilon holds at each site")
        for text in load_dataset(config, private=True).warnings
    )
    parted = replace(config, site_column=None, partition=PartitionConfig("iid", 3))
    assert not any("more than one site" in text for text in load_dataset(parted, private=True).warnings)


def test_names_of_sites_are_refused_wherever_they_come_from(rows, csv):
    with pytest.raises(DataError, match=r"site name '\.n' begins with a dot") as caught:
        load_dataset(rows(".n,1,80,Male,1", "s,2,80,Male,0"), private=True)
    assert caught.value.code == "FK213"
    with pytest.raises(DataError, match="'a/b' holds a slash"):
        load_dataset(csv(site_column=None, records={"a/b": 4}), private=True)
    with pytest.raises(DataError, match="'a/b' holds a slash"):
        load_site(csv(site_column=None), "a/b", private=True)


def test_rows_of_one_patient_are_one_unit(rows):
    lines = [f"north,{age // 3},{20 + age},Male,{age % 2}" for age in range(30)]
    config = rows(*lines, unit_column="age")
    config = replace(config, features=replace(config.features, numeric={"rate": (20, 250)}))
    dataset = load_dataset(config, private=True)
    (site,) = dataset.sites
    assert dataset.unit == "patient"
    assert site.records == site.train.num_units + site.test.num_units == 10
    assert np.bincount(site.train.unit).tolist() == [3] * site.train.num_units
