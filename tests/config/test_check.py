from __future__ import annotations

import copy
from typing import Any

import pytest

from fedkit.config.compose import compose
from fedkit.config.serialize import from_dict, to_dict
from fedkit.errors import ConfigError

PARTITION = {"kind": "iid", "sites": 3, "alpha": 0.5, "seed": 0}
SQL = {"data.source.kind": "sql", "data.source.path": None, "data.source.query": "SELECT 1"}
REGRESSION = {"data.target.kind": "regression", "data.target.positive": [], "data.target.range": [0, 60]}


@pytest.fixture(scope="module")
def base(tmp_path_factory, icu) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("my")
    (folder / "data").mkdir()
    (folder / "data/icu.yaml").write_text(icu)
    return to_dict(compose(overrides=["data=icu"], config_dir=folder))


def changed(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    values = copy.deepcopy(base)
    for key, value in changes.items():
        section = values
        *parents, last = key.split(".")
        for part in parents:
            section = section[part]
        section[last] = value
    return values


def problems(base: dict[str, Any], changes: dict[str, Any]) -> list[str]:
    try:
        from_dict(changed(base, changes))
    except ConfigError as error:
        return list(error.problems)
    return []


BAD: list[tuple[dict[str, Any], str]] = [
    # the pairs
    ({"training.batch_size": 32}, "privacy.sample_rate and training.batch_size are both set; one is needed: "
                                  "add privacy.sample_rate=null or training.batch_size=null"),
    ({"privacy.sample_rate": None}, "privacy.sample_rate and training.batch_size are both unset"),
    ({"training.local_epochs": 1.0}, "training.local_steps and training.local_epochs are both set"),
    ({"training.local_steps": None}, "training.local_steps and training.local_epochs are both unset"),
    ({"privacy.noise_multiplier": 1.0}, "privacy.epsilon and privacy.noise_multiplier are both set"),
    ({"privacy.epsilon": None}, "privacy.epsilon and privacy.noise_multiplier are both unset"),
    # privacy
    ({"privacy.mode": "dp"}, "privacy.mode is 'dp'; known are none, record_dp"),
    ({"privacy.noise": "safe"}, "privacy.noise is 'safe'"),
    ({"privacy.epsilon": 0}, "privacy.epsilon is 0.0; it must be above 0: set privacy.epsilon=3"),
    ({"privacy.epsilon": -1}, "privacy.epsilon is -1.0; it must be above 0"),
    ({"privacy.epsilon": None, "privacy.noise_multiplier": 0}, "privacy.noise_multiplier is 0.0; it must be above 0"),
    ({"privacy.delta": 0}, "privacy.delta is 0.0; it must be above 0"),
    ({"privacy.delta": 1}, "privacy.delta is 1.0; it must be below 1"),
    ({"privacy.delta": 0.005}, "privacy.delta is 0.005; it must be below 1 / 300, the declared records of north: "
                               "set privacy.delta=3e-04"),
    ({"privacy.delta": 1 / 300}, "it must be below 1 / 300"),
    ({"privacy.delta": None}, "privacy.delta is not set, and a private run needs it"),
    ({"privacy.max_grad_norm": None}, "privacy.max_grad_norm is not set"),
    ({"privacy.max_grad_norm": 0}, "privacy.max_grad_norm is 0.0; it must be above 0"),
    ({"privacy.sample_rate": 0}, "privacy.sample_rate is 0.0; it must be above 0 and at most 1"),
    ({"privacy.sample_rate": 1.01}, "privacy.sample_rate is 1.01"),
    (
        {"privacy.mode": "none"},
        "privacy.epsilon, privacy.max_grad_norm, privacy.delta, privacy.evaluation.share are set but privacy.mode",
    ),
    ({"strategy": {"name": "qfedavg", "client_learning_rate": 0.1, "q": 0.1}}, "strategy.name is qfedavg, which needs"),
    ({"data.split.kind": "stratified"}, "a private run needs data.split.kind=keyed_hash"),
    ({"data.split.kind": "permuted"}, "a private run needs data.split.kind=keyed_hash"),
    ({"data.scaling": "site_zscore"}, "a private run needs data.scaling=declared"),
    ({"data.scaling": "pooled_zscore"}, "a private run needs data.scaling=declared"),
    ({"privacy.epsilon": 1000}, "privacy.epsilon is 1000.0; it must be at most 100: set privacy.epsilon=3"),
    ({"privacy.epsilon": 1e-5}, "privacy.epsilon is 1e-05; it must be at least 0.0001"),
    ({"privacy.epsilon": None, "privacy.noise_multiplier": 1e-3}, "is 0.001; it must be at least 0.1"),
    ({"privacy.epsilon": None, "privacy.noise_multiplier": 1e7}, "it must be at most 10000"),
    (
        {"privacy.evaluation.noise_multiplier": 0.01, "privacy.evaluation.share": None},
        "privacy.evaluation.noise_multiplier is 0.01; it must be between",
    ),
    ({"privacy.evaluation.noise_multiplier": 5.0}, "privacy.evaluation.share are both set; one is enough"),
    ({"privacy.evaluation.share": 0.95}, "privacy.evaluation.share is 0.95; it must be between 0.01 and 0.9"),
    ({"privacy.evaluation.every": -1}, "privacy.evaluation.every is -1; it must be at least 1, or 0"),
    ({"privacy.evaluation.bins": 9}, "privacy.evaluation.bins is 9; it must be an even number from 2 to 100"),
    ({"ledgers_dir": " ", "privacy.noise": "secure"}, "ledgers_dir is empty"),
    ({"ledgers_dir": "ledgers"}, "ledgers_dir is set but privacy.noise is seeded"),
    ({"privacy.delta": 1e-16}, "privacy.delta is 1e-16; it must be at least 1e-11"),
    ({"privacy.max_grad_norm": 1e10}, "privacy.max_grad_norm is 10000000000.0; it must be at most 1e+09"),
    ({"privacy.sample_rate": 1e-9}, "privacy.sample_rate is 1e-09; it must be at least 1e-06"),
    ({"federation.num_rounds": 10**29}, "; it must be at most 100000"),
    ({"training.local_steps": 999999999999}, "training.local_steps is 999999999999; it must be at most 1000000"),
    ({"training.local_steps": None, "training.local_epochs": 1e6}, "is 1000000.0; it must be at most 100000.0"),
    ({"model": {"name": "mlp", "hidden": [10**11]}}, "100001"),
    # training, federation, the run
    ({"training.learning_rate": 0}, "training.learning_rate is 0.0; it must be above 0"),
    ({"training.learning_rate": float("nan")}, "training.learning_rate is nan; a finite number is needed"),
    ({"training.local_steps": 0}, "training.local_steps is 0; it must be at least 1"),
    ({"training.local_steps": None, "training.local_epochs": 0}, "training.local_epochs is 0.0; it must be above 0"),
    ({"training.batch_size": 0, "privacy.sample_rate": None}, "training.batch_size is 0; it must be at least 1"),
    ({"training.batch_size": 151, "privacy.sample_rate": None}, "training.batch_size is 151; south declares only 150"),
    ({"training.optimizer": "sdg"}, "training.optimizer is 'sdg'; did you mean 'sgd'?"),
    ({"training.engine": "closed"}, "training.engine is 'closed'"),
    ({"training.workers": "many"}, "training.workers is many; it must be auto, or a whole number from 1 to 999"),
    ({"training.workers": "0"}, "training.workers is 0; it must be auto"),
    ({"training.memory_gb": 0.0}, "training.memory_gb is 0.0; it must be above 0"),
    ({"training.max_clients_at_once": 0}, "training.max_clients_at_once is 0; it must be at least 1"),
    ({"federation.kind": "rya"}, "federation.kind is 'rya'"),
    ({"federation.address": "auto"}, "federation.address is set, and federation=local has none"),
    ({"federation.kind": "ray", "federation.address": "ray://head:10001"}, "it must be auto, local or HOST:PORT"),
    ({"federation.kind": "ray", "federation.address": "head"}, "federation.address is head; it must be auto"),
    ({"federation.kind": "ray", "federation.address": "me:secret@head:1"}, "federation.address is not what it"),
    ({"federation.kind": "ray", "training.device": "cuda"}, "federation=ray trains on the CPU"),
    ({"federation.kind": "ray", "training.engine": "vmap"}, "training.engine is vmap, for one process"),
    ({"federation.num_rounds": 0}, "federation.num_rounds is 0; it must be at least 1"),
    ({"federation.min_sites": 0}, "federation.min_sites is 0; it must be at least 1"),
    ({"federation.evaluate_every": 0}, "federation.evaluate_every is 0; it must be at least 1"),
    ({"federation.fraction_train": 0}, "federation.fraction_train is 0.0; it must be above 0 and at most 1"),
    ({"federation.fraction_train": 1.5}, "federation.fraction_train is 1.5"),
    ({"federation.timeout": 0}, "federation.timeout is 0.0; it must be above 0 seconds"),
    ({"federation.timeout": float("inf")}, "federation.timeout is inf; a finite number is needed"),
    ({"data.site_column": None, "data.partition": PARTITION, "federation.min_sites": 4}, "there are only 3 sites"),
    ({"seed": -1}, "seed is -1; it must be at least 0"),
    ({"data.split.seed": 2**63}, "data.split.seed is 9223372036854775808; it must be at least 0 and below 2**63"),
    ({"name": "../up"}, "name is '../up'; use letters"),
    ({"data.name": ""}, "data.name is ''; use letters"),
    ({"runs_dir": " "}, "runs_dir is empty"),
    ({"purpose": ""}, "purpose is ''"), ({"purpose": "none"}, "purpose is 'none'"),
    ({"purpose": "two words"}, "such as purpose=heart-disease-research, or purpose=null"),
    ({"purpose": "a" * 101}, "use 1 to 100 letters"), ({"purpose": "../x"}, "purpose is '../x'"),
    ({"federation.policies": " "}, "federation.policies is empty"),
    # source
    ({"data.source.kind": "cvs"}, "data.source.kind is 'cvs'; did you mean 'csv'?"),
    ({"data.source.kind": "arrays"}, ""),
    ({"data.source.path": None}, "data.source.path is not set, and kind csv needs it"),
    ({"data.source.kind": "builtin", "data.source.path": "../x.csv"}, "a built-in table is a bare file name"),
    ({"data.source.query": "SELECT 1"}, "data.source.query is set, but kind csv does not use it"),
    ({"data.source.delimiter": ""}, "data.source.delimiter is ''; one character is needed"),
    ({"data.source.encoding": "latin-99"}, "data.source.encoding is 'latin-99', which is unknown"),
    (SQL, "data.source.url, url_env and url_file: none set; exactly one is needed"),
    ({**SQL, "data.source.url": "sqlite:///a.db", "data.source.url_env": "U"}, "url, url_env set; exactly one"),
    ({**SQL, "data.source.url_env": "a b"}, "data.source.url_env must be the name of an environment variable"),
    ({**SQL, "data.source.url": "clinic.db"}, "data.source.url is no URL"),
    ({**SQL, "data.source.url_file": "sqlite://x"}, "data.source.url_file must be the path of a file"),
    ({**SQL, "data.source.url_env": "U", "data.source.query": None}, "data.source.query is not set"),
    # target
    ({"data.target.kind": "ordinal"}, "data.target.kind is 'ordinal'"),
    ({"data.target.positive": []}, "data.target.positive is empty"),
    ({"data.target.range": [0, 1]}, "data.target.range is set, but a binary target does not use it"),
    ({"data.target.classes": ["a"]}, "data.target.classes has 1 values; a binary target has two"),
    ({"data.target.positive": [1, "1"]}, "data.target.positive lists a value twice"),
    ({"data.target.kind": "multiclass", "data.target.classes": ["a", "b"]}, "data.target.positive is set, but a mult"),
    ({"data.target.kind": "multiclass", "data.target.positive": []}, "data.target.classes has 0 values; a multiclass"),
    ({**REGRESSION, "data.target.range": None}, "data.target.range is not set; a regression target needs"),
    ({**REGRESSION, "data.target.range": [60, 0]}, "data.target.range is [60, 0]; the lower bound must be below"),
    ({**REGRESSION, "data.target.classes": [1, 2]}, "data.target.classes is set, but a regression target"),
    # columns
    ({"data.features.numeric.age": [120, 0]}, "data.features.numeric.age is [120, 0]; the lower bound must be below"),
    ({"data.features.numeric.age": [5, 5]}, "data.features.numeric.age is [5, 5]"),
    ({"data.features.numeric": {}, "data.features.categorical": {}}, "data.features is empty"),
    ({"data.features.shape": [1, 2, 2]}, "data.features.shape [1, 2, 2] holds 4 values and the features make"),
    ({"data.features.shape": []}, "data.features.shape is []; 1 to 4 axes of at least 1 are needed"),
    ({"data.features.shape": [1, 0, 4]}, "data.features.shape is [1, 0, 4]"),
    ({"data.features.shape": [1.5]}, "data.features.shape is 1.5; a whole number is needed"),
    ({"data.features.categorical.gender": []}, "data.features.categorical.gender has 0 levels; at least 1 is needed"),
    ({"data.features.categorical.gender": ["F"], "data.features.drop_first": True}, "has 1 levels; at least 2 are"),
    ({"data.features.categorical.gender": ["F", "F"]}, "data.features.categorical.gender lists a value twice"),
    ({"data.features.categorical.smoker": [True, False]}, "holds true or false; write the text of the table in quotes"),
    ({"data.features.numeric.died": [0, 1]}, "data.features.numeric names column 'died', which is data.target.column"),
    ({"data.features.categorical.age": ["a"]}, "names column 'age', which is data.features.numeric already"),
    ({"data.unit_column": "region"}, "data.unit_column names column 'region', which is data.site_column already"),
    ({"data.target.column": " "}, "data.target.column names a column without a name"),
    ({"data.missing.numeric": "mean"}, "data.missing.numeric is 'mean'"),
    ({"data.missing.codes": {"agee": [-1]}}, "data.missing.codes names 'agee', which is no declared column; did you"),
    ({"data.subgroups": {"died": [0, 1]}}, "data.subgroups.died is the target, site or unit column"),
    ({"data.subgroups": {"age": []}}, "data.subgroups.age is empty"),
    ({"data.subgroups": {"age": [65, 50]}}, "data.subgroups.age has cut points out of order"),
    ({"data.subgroups": {"age": ["old"]}}, "data.subgroups.age holds 'old'; age is a number"),
    # split and sites
    ({"data.split.test_fraction": 0}, "data.split.test_fraction is 0.0; it must be above 0 and below 1"),
    ({"data.split.test_fraction": 1}, "data.split.test_fraction is 1.0"),
    ({"data.split.kind": "hash"}, "data.split.kind is 'hash'"),
    ({"data.scaling": "zscore"}, "data.scaling is 'zscore'; did you mean"),
    ({"data.partition": PARTITION}, "data.site_column and data.partition are both set; one is needed"),
    ({"data.site_column": None}, "data.site_column and data.partition are both unset"),
    ({"data.site_column": None, "data.partition": {**PARTITION, "sites": 1}}, "data.partition.sites is 1; at least 2"),
    ({"data.site_column": None, "data.partition": {**PARTITION, "kind": "x"}}, "data.partition.kind is 'x'"),
    ({"data.site_column": None, "data.partition": {**PARTITION, "alpha": 0}}, "data.partition.alpha is 0.0; it must"),
    ({"data.site_column": None, "data.partition": {"kind": "iid"}}, "data.partition.sites is not set"),
    ({"data.records": {"north": 0}}, "data.records.north is 0; it must be at least 1"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), [pair for pair in BAD if pair[1]], ids=lambda value: str(value)[:60])
def test_each_bad_value_gives_exactly_one_problem_with_its_key(base, changes, expected):
    (problem,) = problems(base, changes)
    assert expected in problem


@pytest.mark.parametrize("changes", [
    {},
    {"privacy.sample_rate": 1.0},
    {"privacy.sample_rate": None, "training.batch_size": 150},
    {"privacy.delta": 0.0033},
    {"data.records": {}, "privacy.delta": 0.5},
    {"data.target.classes": ["alive", "died"]},
    {**REGRESSION},
    {"data.target.kind": "multiclass", "data.target.positive": [], "data.target.classes": [0, "b", 2]},
    {"data.site_column": None, "data.partition": PARTITION},
    {"data.subgroups": {"age": [50, 65], "gender": ["Female", "Male"], "ward": ["a"]}},
    {"data.missing.codes": {"age": [-1, "n/a"]}},
    {"data.missing.numeric": "drop_row"},
    {**SQL, "data.source.url": "postgresql://db:5432/clinic"},
    {**SQL, "data.source.url_env": "CLINIC_URL"},
    {"data.source.delimiter": ";", "data.source.encoding": "latin-1"},
])  # fmt: skip
def test_what_makes_sense_is_let_through(base, changes):
    assert problems(base, changes) == []


def test_what_a_private_run_refuses_is_open_without_privacy(base):
    none = {"mode": "none", "noise": "seeded", "sample_rate": 0.1}
    loose = {"data.split.kind": "stratified", "data.scaling": "site_zscore", "strategy": {"name": "qfedavg"}}
    assert problems(base, {"privacy": none, **loose}) == []


def test_delta_is_held_to_the_largest_site(base):
    assert problems(base, {"data.records": {"a": 100, "b": 1000}, "privacy.delta": 0.002})
    assert not problems(base, {"data.records": {"a": 100, "b": 400}, "privacy.delta": 0.002})


@pytest.mark.parametrize("key", ["url", "path", "query", "encoding"])
def test_a_password_is_refused_wherever_it_stands_and_never_repeated(base, key):
    found = problems(base, {**SQL, f"data.source.{key}": "postgresql://reader:hunter2@db/clinic"})
    assert any(f"data.source.{key} holds a password" in problem for problem in found)
    assert "hunter2" not in " ".join(found)


def test_a_url_pasted_for_a_variables_name_is_not_repeated(base):
    assert "db.clinic" not in " ".join(problems(base, {**SQL, "data.source.url_env": "postgresql://db.clinic/x"}))
