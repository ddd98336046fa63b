from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.config.compose import compose
from fedkit.config.experiment import (
    DataConfig,
    ExperimentConfig,
    FeaturesConfig,
    ModelConfig,
    SourceConfig,
    StrategyConfig,
    TargetConfig,
)
from fedkit.config.serialize import digest, from_dict, from_yaml, to_dict, to_yaml
from fedkit.errors import ConfigError

DEMO = compose("heart_disease")
NAMES = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True)
NUMBERS = st.floats(1e-6, 1e6)
LEVELS = st.lists(st.one_of(st.integers(0, 9), st.text("éaYES", min_size=1, max_size=4)), min_size=1, max_size=4,
                  unique_by=str).map(tuple)  # fmt: skip


@st.composite
def configs(draw: st.DrawFn) -> ExperimentConfig:
    columns = draw(st.lists(NAMES, min_size=4, max_size=6, unique=True))
    data = DataConfig(
        name=draw(NAMES),
        description=draw(st.text(st.characters(codec="utf-8", exclude_characters=":="), max_size=12)),
        source=SourceConfig("csv", "/tables/é x.csv", delimiter=draw(st.sampled_from(",;\t|"))),
        target=TargetConfig(columns[0], "binary", positive=draw(LEVELS)),
        features=FeaturesConfig(
            numeric={columns[1]: (draw(st.floats(-1e3, 0)), draw(st.floats(1, 1e3)))},
            categorical={columns[2]: draw(LEVELS)},
        ),
        site_column=columns[3],
    )
    return replace(
        DEMO,
        seed=draw(st.integers(0, 2**63 - 1)),
        data=data,
        model=ModelConfig("mlp", {"hidden": tuple(draw(st.lists(st.integers(1, 99), min_size=1, max_size=3)))}),
        strategy=StrategyConfig("fedprox", {"proximal_mu": draw(st.floats(1e-6, 9e3))}),
        privacy=replace(DEMO.privacy, epsilon=draw(st.floats(1e-4, 100)), delta=draw(st.floats(1e-11, 0.9))),
        training=replace(DEMO.training, learning_rate=draw(NUMBERS)),
    )


@settings(max_examples=40, deadline=None)
@given(configs())
def test_every_form_reads_back_as_the_same_config(config):
    assert from_dict(to_dict(config)) == config
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    assert from_yaml(to_yaml(config)) == config
    assert digest(from_yaml(to_yaml(config))) == digest(config)


def test_a_models_arguments_stand_beside_its_name():
    config = compose(overrides=["model=mlp", "strategy=fedprox", "strategy.proximal_mu=0.5"])
    assert to_dict(config)["model"] == {"name": "mlp", "hidden": [32]}
    assert to_dict(config)["strategy"] == {"name": "fedprox", "proximal_mu": 0.5}


def test_the_digest_changes_with_what_changes_the_result_and_with_nothing_else():
    assert digest(replace(DEMO, runs_dir="elsewhere", purpose="teaching")) == digest(DEMO)
    assert digest(replace(DEMO, federation=replace(DEMO.federation, policies="p"))) == digest(DEMO)
    assert digest(replace(DEMO, federation=replace(DEMO.federation, address="auto"))) == digest(DEMO)
    assert digest(replace(DEMO, seed=DEMO.seed + 1)) != digest(DEMO)
    assert len(digest(DEMO)) == 64


def test_reading_is_strict_and_checks_again():
    values = to_dict(DEMO)
    values["privacy"]["epsilom"] = 3
    values["federation"]["num_rounds"] = 0
    del values["training"]["learning_rate"]
    with pytest.raises(ConfigError) as caught:
        from_dict(values)
    assert [text.split(" ")[0] for text in caught.value.problems] == [
        "privacy.epsilom", "training.learning_rate", "federation.num_rounds",
    ]  # fmt: skip


@pytest.mark.parametrize("values", [{}, [], 3, None, {"data": None}, {1: 2}])
def test_what_is_no_config_is_refused_without_a_traceback(values):
    with pytest.raises(ConfigError):
        from_dict(values)


def test_yaml_that_is_none_is_named_by_its_line():
    with pytest.raises(ConfigError, match="no valid YAML, line 2"):
        from_yaml("a: 1\nb: ]\n")


def test_what_was_given_in_python_is_recorded_and_read_back_but_not_composed():
    config = replace(DEMO, model=ModelConfig("python"), strategy=StrategyConfig("python"),
                     data=replace(DEMO.data, source=SourceConfig("arrays"), site_column=None,
                                  features=FeaturesConfig(), records={}))  # fmt: skip
    assert from_dict(to_dict(config)) == config
    with pytest.raises(ConfigError, match="'python' is unknown"):
        compose(overrides=["model.name=python"])
    with pytest.raises(ConfigError, match=r"data\.source\.kind is 'arrays'"):
        compose(overrides=["data.source.kind=arrays"])


def test_a_config_put_together_by_hand_shows_no_password():
    source = SourceConfig("sql", query="SELECT 1", url="postgresql://reader:hunter2@db/clinic")
    config = replace(DEMO, data=replace(DEMO.data, source=source))
    assert "hunter2" not in to_yaml(config)
