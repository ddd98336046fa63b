from __future__ import annotations

import pytest

from fedkit.config.compose import compose, expand_sweep
from fedkit.config.overrides import key_problem
from fedkit.errors import ConfigError


@pytest.mark.parametrize(("override", "values"), [
    ("privacy.epsilon=0.5,1,3,8", ["0.5", "1", "3", "8"]),
    ("strategy=fedavg,fedadam", ["fedavg", "fedadam"]),
    ("strategy=choice(fedavg,fedadam)", ["fedavg", "fedadam"]),
    ("seed=range(1,4)", ["1", "2", "3"]),
    ("seed=sort(3,1,2)", ["1", "2", "3"]),
    ("seed=1,1,2", ["1", "2"]),
    ("model.hidden=[8],[8,4]", ["[8]", "[8,4]"]),
])  # fmt: skip
def test_a_sweep_gives_one_cell_a_value_in_order(override, values):
    key = override.partition("=")[0]
    assert expand_sweep([override]) == [[f"{key}={value}"] for value in values]


def test_a_sweep_is_the_product_of_its_axes_and_the_last_varies_fastest():
    cells = expand_sweep(["privacy.epsilon=1,3", "seed=7", "strategy=fedavg,fedadam"])
    assert cells == [[f"privacy.epsilon={e}", "seed=7", f"strategy={s}"] for e in (1, 3) for s in ("fedavg", "fedadam")]
    assert cells == expand_sweep(["privacy.epsilon=1,3", "seed=7", "strategy=fedavg,fedadam"])


def test_every_cell_composes():
    for cell in expand_sweep(["strategy=fedavg,fedadam", "model.hidden=[8],[8,4]", "training.learning_rate=1e-2"]):
        assert compose(overrides=["model=mlp", *cell]).training.learning_rate == 0.01


def test_nothing_to_sweep_is_one_cell():
    assert expand_sweep([]) == [[]]
    assert expand_sweep(["seed=1"]) == [["seed=1"]]


def test_what_has_no_fixed_order_of_values_is_refused_with_all_its_kind():
    with pytest.raises(ConfigError) as caught:
        expand_sweep(["privacy.epsilon=interval(0,1)", "seed=shuffle(1,2)", "data=glob(*)", "x", "seed=1"])
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize("key", ["seed", "data.partition.alpha", "data.features.numeric.age", "strategy.eta", "name"])
def test_the_schema_has_a_place_for_its_keys(key):
    assert key_problem(key) is None


def test_a_key_needs_no_plus_sign_and_bears_one():
    assert compose(overrides=["data=breast_cancer", "data.records.site_0=90"]).data.records == {"site_0": 90}
    assert compose(overrides=["data=breast_cancer", "+data.records.site_0=90"]).data.records == {"site_0": 90}


def test_an_entry_can_be_taken_away():
    records = compose(overrides=["~data.records.va"]).data.records
    assert records and "va" not in records


def test_the_last_of_two_overrides_of_one_key_holds():
    assert compose(overrides=["seed=1", "seed=2"]).seed == 2
    assert compose(overrides=["strategy=fedavg", "strategy=fedprox"]).strategy.name == "fedprox"
