from __future__ import annotations

import inspect

import pytest
import yaml

from fedkit.config.arguments import MODEL_ARGUMENTS, STRATEGY_ARGUMENTS, Argument
from fedkit.config.locate import option_files

FLOWER = {
    "fedavg": "FedAvg", "fedavgm": "FedAvgM", "fedprox": "FedProx", "fedadagrad": "FedAdagrad", "fedadam": "FedAdam",
    "fedyogi": "FedYogi", "fedmedian": "FedMedian", "fedtrimmedavg": "FedTrimmedAvg", "krum": "Krum",
    "multikrum": "MultiKrum", "bulyan": "Bulyan", "qfedavg": "QFedAvg",
}  # fmt: skip
NOT_OFFERED = ("fraction_", "min_")


@pytest.mark.parametrize(("group", "table"), [("model", MODEL_ARGUMENTS), ("strategy", STRATEGY_ARGUMENTS)])
def test_the_yaml_of_each_name_lists_its_arguments_with_their_defaults(group, table):
    files = option_files(group, None)
    assert files.keys() == table.keys()
    for name, path in files.items():
        listed = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert listed.pop("name") == name
        assert listed.keys() == table[name].keys()
        for key, value in listed.items():
            assert table[name][key].settled(value) == table[name][key].default
            assert table[name][key].problem(value) is None


@pytest.mark.parametrize("name", FLOWER)
def test_the_arguments_are_flowers_own_with_flowers_own_defaults(name):
    strategy = pytest.importorskip("flwr.serverapp.strategy")
    parameters = inspect.signature(getattr(strategy, FLOWER[name])).parameters.values()
    own = {
        parameter.name: parameter.default
        for parameter in parameters
        if not parameter.name.startswith(NOT_OFFERED) and not parameter.name.endswith(("_key", "_fn", "selection_rule"))
    }
    if name == "qfedavg":
        assert own.pop("client_learning_rate") is inspect.Parameter.empty
        own["client_learning_rate"] = None  # stands for training.learning_rate
    if name == "fedadagrad":
        own["beta_1"] = 0.0  # ours; 0 is what Flower does
    if name == "fedprox":
        own["proximal_mu"] = 0.01  # Flower's 0 would be FedAvg under another name
    assert own == {key: argument.default for key, argument in STRATEGY_ARGUMENTS[name].items()}


@pytest.mark.parametrize(("argument", "value"), [
    (Argument(1.0), "1"), (Argument(1.0), True), (Argument(1.0), None), (Argument(1.0), float("inf")),
    (Argument(1.0), [1.0]), (Argument(1.0, above=0), 0), (Argument(1.0, at_least=0), -1), (Argument(0.5, below=1), 1),
    (Argument(1, "count"), 1.0), (Argument(1, "count"), True), (Argument((1,), "counts"), 1),
    (Argument((1,), "counts"), []), (Argument((1,), "counts"), [1.5]), (Argument((1,), "counts", at_least=1), [2, 0]),
])  # fmt: skip
def test_a_value_outside_its_bounds_is_refused(argument, value):
    assert argument.problem(value)
