from dataclasses import replace

import pytest

from fedkit.config.build import Findings, build_data
from fedkit.config.check_data import check_data
from fedkit.config.compose import compose
from fedkit.config.experiment import ModelConfig, SourceConfig
from fedkit.config.serialize import from_dict, to_dict
from fedkit.data.check import check_table
from fedkit.data.load import load_dataset
from fedkit.errors import ConfigError, DataError

EACH = ["data.source.kind=site", "data.source.path=null", "data.site_column=null"]
CONFIG = compose("heart_disease", EACH)


def test_each_sites_own_source_is_composed_and_round_trips():
    assert CONFIG.data.source == SourceConfig("site") and CONFIG.data.site_column is None
    assert from_dict(to_dict(CONFIG)) == CONFIG


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"site_column": "site"}, "each site has its own table; set data.site_column=null"),
        ({"records": {}}, "only records name the sites"),
        ({"source": SourceConfig("site", path="x.csv")}, "kind site does not use it"),
        ({"source": SourceConfig("site", url_env="X")}, "kind site does not use it"),
    ],
)
def test_what_only_a_site_may_say_is_refused(changes, why):
    assert why in "\n".join(check_data(replace(CONFIG.data, **changes)))
    assert check_data(CONFIG.data) == []


@pytest.mark.parametrize("read", [lambda data: load_dataset(data, private=True), check_table])
def test_nobody_else_can_read_it(read):
    with pytest.raises(DataError, match="submit the run to a federation") as caught:
        read(CONFIG.data)
    assert caught.value.code == "FK201"


def test_an_installed_models_name_is_known_only_where_it_is_said():
    values = to_dict(replace(CONFIG, model=ModelConfig("ours", {"width": 3, "widths": (1, 2)})))
    assert from_dict(values, models=["ours"]).model == ModelConfig("ours", {"width": 3, "widths": (1, 2)})
    with pytest.raises(ConfigError, match=r"model.name 'ours' is unknown"):
        from_dict(values)
    for value in ({"a": 1}, [[1]], [float("nan")], float("inf")):
        values["model"]["width"] = value
        with pytest.raises(ConfigError, match=r"model.width is"):
            from_dict(values, models=["ours"])


@pytest.mark.parametrize("section", ["model", "strategy"])
def test_what_was_given_in_python_is_in_a_recorded_run_only(section):
    values = to_dict(CONFIG)
    values[section] = {"name": "python"}
    assert getattr(from_dict(values), section).name == "python"
    with pytest.raises(ConfigError, match="'python' is unknown"):
        from_dict(values, python=False)
    values = to_dict(replace(CONFIG, data=replace(CONFIG.data, source=SourceConfig("arrays"))))
    with pytest.raises(ConfigError, match="'arrays'"):
        from_dict(values, python=False)


@pytest.mark.parametrize("name", [["mlp"], {"a": 1}, None, 3, 1.5])
def test_a_name_of_any_type_is_refused(name):
    values = to_dict(CONFIG)
    values["model"]["name"] = name
    with pytest.raises(ConfigError, match=r"model\.name"):
        from_dict(values, models=["ours"])


def test_a_declaration_alone_is_built_with_the_same_messages():
    found = Findings()
    values = to_dict(CONFIG)["data"]
    assert build_data(values, found) == CONFIG.data and not found.problems
    build_data({**values, "targett": 1, "features": 3}, found)
    assert [problem.split(" ")[0] for problem in found.problems] == ["data.targett", "data.features"]


def test_a_list_with_a_value_of_no_type_is_a_problem_and_no_crash():
    values = to_dict(CONFIG)
    values["data"]["subgroups"]["sex"] = [None, [], 1]
    with pytest.raises(ConfigError, match=r"data\.subgroups\.sex holds None; text or a number is needed"):
        from_dict(values)
