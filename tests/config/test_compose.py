from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from fedkit.config.compose import compose
from fedkit.config.experiment import ExperimentConfig
from fedkit.config.locate import GROUPS, experiment_files, option_files
from fedkit.errors import ConfigError
from tests.work import calls

NEEDS = {"flamby_heart": ["privacy=none"], "qfedavg": ["privacy=none"]}


def problems(*overrides: str, name: str | None = None, my: Path | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        compose(name, overrides, my)
    return caught.value.problems


@pytest.mark.parametrize(
    ("group", "option"), [(group, option) for group in GROUPS for option in option_files(group, None)]
)
def test_every_option_of_every_group_composes_over_the_typed_schema(group, option, monkeypatch):
    monkeypatch.setattr("fedkit.config.compose._hydra_or_refuse", None)  # the loose way is for what is refused
    config = compose(overrides=[f"{group}={option}", *NEEDS.get(option, [])])
    chosen = getattr(config, group)
    assert option in {getattr(chosen, key, None) for key in ("name", "mode", "kind", "optimizer")}


@pytest.mark.parametrize("name", experiment_files(None))
def test_every_experiment_composes_under_its_own_name(name):
    assert compose(name).name == name


@pytest.mark.parametrize(
    "path",
    [*(p for g in GROUPS for p in option_files(g, None).values()), *experiment_files(None).values()],
    ids=lambda p: f"{p.parent.name}/{p.stem}",
)
def test_every_yaml_begins_with_the_command_that_uses_it(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# fedkit ")
    assert lines[1].startswith("# ")


def test_heart_disease_is_the_private_demo():
    config = compose("heart_disease")
    assert (config.data.name, config.model.name, config.strategy.name) == ("heart_disease", "logistic", "fedavg")
    assert (config.privacy.mode, config.privacy.epsilon, config.privacy.delta) == ("record_dp", 3.0, 1e-5)
    assert config.federation.num_rounds == 15


def test_the_default_is_private_and_named_after_its_data(my):
    config = compose(overrides=["data=icu"], config_dir=my)
    assert config.name == "icu"
    assert config.privacy.mode == "record_dp"


def test_a_composed_config_is_frozen_and_typed(my):
    config = compose("ward", config_dir=my)
    assert isinstance(config, ExperimentConfig)
    assert config.data.features.numeric == {"age": (0.0, 120.0), "heart_rate": (20.0, 250.0)}
    assert config.data.target.positive == (1, "yes")
    assert isinstance(config.privacy.epsilon, float)
    with pytest.raises(AttributeError):
        config.seed = 1  # type: ignore[misc]


def test_the_experiment_goes_over_the_groups_and_the_command_line_over_both(my):
    assert compose("ward", config_dir=my).training.learning_rate == 0.1
    assert compose("ward", ["training.learning_rate=0.2"], my).training.learning_rate == 0.2
    assert compose("ward", ["strategy=fedavg"], my).strategy.name == "fedavg"


def test_a_user_folder_adds_options_and_experiments(my):
    config = compose("ward", config_dir=my)
    assert config.strategy.name == "fedadam"
    assert dict(config.strategy.arguments) == {"eta": 0.001, "eta_l": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 0.001}


def test_an_experiment_needs_no_package_line(my):
    path = my / "experiments/ward/experiment.yaml"
    path.write_text(path.read_text().replace("# @package _global_\n", ""))
    assert compose("ward", config_dir=my) == compose("ward", config_dir=str(my))


def test_an_override_in_the_place_of_the_name_is_an_override():
    assert compose("seed=5", ["runs_dir=r"]).seed == 5


def test_model_and_strategy_arguments_stand_beside_the_name():
    config = compose(overrides=["model=mlp", "model.hidden=[64,32]", "strategy=fedadam", "strategy.eta=1e-2"])
    assert config.model.arguments == {"hidden": (64, 32)}
    assert config.strategy.arguments["eta"] == 0.01


def test_qfedavg_takes_the_sites_learning_rate_where_it_has_none_of_its_own():
    lines = ["privacy=none", "strategy=qfedavg"]
    assert compose(overrides=[*lines, "training.learning_rate=0.25"]).strategy.arguments["client_learning_rate"] == 0.25
    own = compose(overrides=[*lines, "strategy.client_learning_rate=0.5"])
    assert own.strategy.arguments["client_learning_rate"] == 0.5


# --- relative paths -------------------------------------------------------------------------------------------------


def test_a_relative_path_is_relative_to_the_yaml_that_declares_it(my, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert compose(overrides=["data=icu"], config_dir="my").data.source.path == str(my / "data" / "icu.csv")
    path = my / "experiments/ward/experiment.yaml"
    path.write_text(path.read_text() + "data: {source: {path: ../ward.csv}}\n")
    assert compose("ward", config_dir="my").data.source.path == str(path.parent / "../ward.csv")


def test_a_path_on_the_command_line_is_relative_to_the_working_directory(my, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert compose("ward", ["data.source.path=x.csv"], my).data.source.path == str(tmp_path / "x.csv")
    assert compose("ward", ["data.source={path: y.csv}"], my).data.source.path == str(tmp_path / "y.csv")


def test_an_absolute_path_and_a_built_in_name_stay(my):
    assert compose("ward", ["data.source.path=/a/b.csv"], my).data.source.path == "/a/b.csv"
    assert compose("heart_disease").data.source.path == "heart_disease.csv"


def test_the_file_with_a_url_is_found_like_a_table(my):
    text = (my / "data/icu.yaml").read_text()
    source = "{kind: sql, query: SELECT 1, url_file: ../url.txt}"
    (my / "data/clinic.yaml").write_text(text.replace("{kind: csv, path: icu.csv}", source))
    assert compose(overrides=["data=clinic"], config_dir=my).data.source.url_file == str(my / "data/../url.txt")


# --- privacy=none ---------------------------------------------------------------------------------------------------


def test_privacy_none_on_the_command_line_sets_aside_what_the_experiment_says_of_privacy(my):
    for name, folder in (("heart_disease", None), ("ward", my)):
        privacy = compose(name, ["privacy=none"], folder).privacy
        assert (privacy.epsilon, privacy.delta, privacy.noise_multiplier, privacy.max_grad_norm) == (None,) * 4
        assert privacy.sample_rate == 0.1


def test_privacy_none_with_an_epsilon_on_the_command_line_is_refused():
    (problem,) = problems("privacy=none", "privacy.epsilon=3", name="heart_disease")
    assert "privacy.epsilon is set but privacy.mode is none" in problem


def test_an_experiment_that_contradicts_itself_on_privacy_is_refused(my):
    path = my / "experiments/ward/experiment.yaml"
    path.write_text(path.read_text().replace("  - override /data", "  - override /privacy: none\n  - override /data"))
    (problem,) = problems(name="ward", my=my)
    assert "privacy.epsilon is set but privacy.mode is none" in problem


def test_a_replaced_strategy_leaves_the_experiments_arguments_for_the_old_one_behind(my):
    path = my / "experiments/ward/experiment.yaml"
    path.write_text(path.read_text() + "strategy: {eta: 0.5, beta_1: 0.8}\n")
    assert compose("ward", ["strategy=fedavg"], my).strategy.arguments == {}
    assert compose("ward", ["strategy=fedyogi"], my).strategy.arguments["eta"] == 0.5
    (problem,) = problems("strategy=fedavg", "strategy.eta=1", name="ward", my=my)
    assert "strategy.eta is no argument of fedavg" in problem


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("epsilon=3", "epsilon is unknown; did you mean 'privacy.epsilon'?"),
        ("privacy.epsilom=3", "privacy.epsilom is unknown; did you mean 'privacy.epsilon'?"),
        ("federation.rounds=3", "did you mean 'federation.num_rounds'?"),
        ("trainin.learning_rate=1", "did you mean 'training.learning_rate'?"),
        ("data.sorce.path=x", "did you mean 'data.source.path'?"),
        ("strategy=fedadm", "strategy=fedadm is unknown; did you mean 'fedadam'?"),
        ("data=heart", "data=heart is unknown; did you mean 'heart_disease'?"),
        ("strategy.eta=1", "strategy.eta is no argument of fedavg; it takes none"),
        ("model.name=mpl", "model.name 'mpl' is unknown; did you mean 'mlp'?"),
        ("seed=abc", "seed is 'abc'; a whole number is needed"),
        ("seed=1.5", "seed is 1.5; a whole number is needed"),
        ("seed=null", "seed is None; a whole number is needed"),
        ("training.learning_rate=fast", "training.learning_rate is 'fast'; a number is needed"),
        ("privacy.epsilon=true", "privacy.epsilon is True; a number is needed"),
        ("training.memory_gb=1e300", "training.memory_gb is 1e+300; a number between -1e300 and 1e300 is needed"),
        ("privacy.epsilon=nan", "privacy.epsilon is nan; a finite number is needed"),
        ("training.learning_rate=inf", "training.learning_rate is inf; a finite number is needed"),
        ("data.features.numeric.age=[0,nan]", "data.features.numeric.age is nan; a finite number is needed"),
        ("data.features=null", "data.features is None; a section of keys and values is needed"),
        ("data.target.kind=null", "data.target.kind is None; text is needed"),
        ("privacy.sample_rate.x=1", "privacy.sample_rate.x is unknown; privacy.sample_rate holds one value"),
        ("seed.x=1", "seed.x is unknown; seed holds one value"),
        ("fedkit_schema=loose", "fedkit_schema is unknown"),
        ("hydra.run.dir=x", "hydra.run.dir is unknown"),
        ("seed=${oc.env:HOME}", "seed holds ${...}, which is not evaluated"),
        ("model.hidden='${oc.env:HOME}'", "model.hidden holds ${...}"),
        (
            "privacy.epsilon=1,2",
            "privacy.epsilon has several values in 'privacy.epsilon=1,2'; that is for",
        ),
        ("data=null", "data takes the name of one option: "),
        ("data=[heart_disease,breast_cancer]", "data takes the name of one option: "),
        ("~data", "data takes the name of one option: "),
        ("+experiments/heart_disease=experiment", "cannot be given on the command line"),
        ("privacy@training=none", "cannot be given on the command line"),
        ("seed", "'seed' cannot be read; write key=value"),
        ("name=a b'", "'name' cannot be read; put the value in quotes"),
    ],
)
def test_a_bad_override_is_one_clear_problem(override, expected):
    (problem,) = problems(override)
    assert expected in problem


@pytest.mark.parametrize(("line", "expected"), [
    ("strategy: {etaa: 1}", "strategy.etaa is no argument of fedadam; did you mean 'eta'?"),
    ("strategy: {beta_1: 1}", "strategy.beta_1 is 1; it must be below 1"),
    ("strategy: {eta: .nan}", "strategy.eta is nan; a finite number is needed"),
    ("model: {name: mlp, hidden: []}", "model.hidden is []; a list of whole numbers is needed, such as [32]"),
    ("model: {name: mlp, hidden: [0]}", "model.hidden is 0; it must be at least 1"),
    ("model: {name: mlp, hidden: 32}", "model.hidden is 32; a list of whole numbers"),
    ("federation: {num_round: 3}", "federation.num_round is unknown; did you mean 'num_rounds'?"),
    ("data: {records: {1: 30}}", "data.records.1 is no text; write the name in quotes: '1'"),
    ("data: {features: {numeric: {age: [0]}}}", "data.features.numeric.age has 1 values; two are needed"),
    ("data: {target: {positive: 1}}", "data.target.positive is 1; a list is needed, such as [1]"),
    ("data: 3", "data is 3; a section of keys and values is needed"),
    ("seed: ${oc.env:HOME}", "seed holds ${...}"),
])  # fmt: skip
def test_a_bad_line_of_a_file_is_named_with_its_key(my, line, expected):
    path = my / "experiments/ward/experiment.yaml"
    path.write_text(path.read_text() + line + "\n")
    assert any(expected in problem for problem in problems(name="ward", my=my))


def test_all_problems_are_reported_together(my):
    (my / "data/icu.yaml").write_text((my / "data/icu.yaml").read_text() + "scalling: declared\nsite_colum: x\n")
    found = problems(
        "privacy.epsilom=3", "strategy=fedadm", "strategy.eta=x", "federation.num_rounds=0",
        "training.learning_rate=abc", "privacy.sample_rate=2", name="ward", my=my,
    )  # fmt: skip
    for key in ("privacy.epsilom", "strategy=fedadm", "federation.num_rounds", "training.learning_rate",
                "privacy.sample_rate", "data.scalling", "data.site_colum"):  # fmt: skip
        assert sum(key in problem for problem in found) == 1, key
    assert len(found) == 7


def test_a_problem_is_reported_once_and_not_again_as_its_consequence(my):
    (problem,) = problems("data.features.numeric={age: [0, old]}", "privacy.epsilon=x", name="ward", my=my)[1:]
    assert "data.features.numeric.age is 'old'" in problem or "privacy.epsilon is 'x'" in problem


def test_an_unknown_experiment_is_suggested_and_reported_beside_bad_overrides(my):
    first, second = problems("seeed=1", name="hart_disease")
    assert first == "experiment 'hart_disease' is unknown; did you mean 'heart_disease'?"
    assert "seeed" in second
    assert "did you mean 'ward'?" in problems(name="wards", my=my)[0]
    assert "is unknown" in problems(name="../heart_disease")[0]


def test_an_experiment_with_an_unknown_option_names_itself(my):
    path = my / "experiments/ward/experiment.yaml"
    path.write_text(path.read_text().replace("gentle", "gentel"))
    assert problems(name="ward", my=my) == ("experiment ward: strategy=gentel is unknown; did you mean 'gentle'?",)


def test_broken_yaml_is_named_with_file_and_line(my):
    path = my / "data/icu.yaml"
    path.write_text(path.read_text() + "missing: {numeric: [\n")
    (problem,) = problems("data=icu", my=my)
    assert f"{path}:1" in problem and "is no valid YAML" in problem
    path.write_bytes(b"name: caf\xe9\n")
    (problem,) = problems("data=icu", my=my)
    assert f"{path} cannot be read as UTF-8" in problem
    path.write_text("- a\n- b\n")
    assert problems("data=icu", my=my)


def test_a_broken_file_that_is_not_used_stops_nobody(my):
    (my / "data/other.yaml").write_text("a: [\n")
    assert compose("ward", config_dir=my).name == "ward"


def test_an_interpolation_in_a_defaults_list_is_refused_unread(my, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    path = my / "experiments/ward/experiment.yaml"
    path.write_text("defaults:\n  - override /data: icu\n  - override /model: ${oc.env:SECRET}\n")
    (problem,) = problems(name="ward", my=my)
    assert "hunter2" not in problem
    (my / "data/icu.yaml").write_text("defaults: ['${oc.env:SECRET}']\n")
    path.write_text("defaults:\n  - override /data: icu\n")
    (problem,) = problems(name="ward", my=my)
    assert "hunter2" not in problem and "${...}" in problem


def test_a_missing_or_wrong_config_dir_is_a_clear_error(my):
    assert problems(my=my / "absent") == (f"--config-dir {my / 'absent'} does not exist",)
    (problem,) = problems(my=my / "data/icu.yaml")
    assert "is a file" in problem


def test_an_option_that_would_hide_ours_is_refused(my):
    (my / "strategy/fedavg.yaml").write_text("name: fedadam\n")
    (problem,) = problems(my=my)
    assert "strategy/fedavg, which fedkit has too; rename it" in problem


def test_a_yml_ending_is_explained(my):
    (my / "data/icu.yaml").rename(my / "data/icu.yml")
    assert problems("data=icu", my=my) == ("data/icu.yml is not read; rename it to icu.yaml",)


@pytest.mark.parametrize("value", [
    "postgresql://reader:hunter2@db/clinic", "postgresql://reader:hun@ter2/x@db/clinic", "'x://r:hunter2@d b'",
    "mssql+pyodbc:///?odbc_connect=PWD%3Dhunter2", "mysql://db/clinic?password=hunter2", "postgresql://r:hunter2 @x'",
])  # fmt: skip
@pytest.mark.parametrize("key", ["data.source.url", "seed", "strategy", "sead"])
def test_a_password_is_refused_and_never_printed(key, value):
    with pytest.raises(ConfigError) as caught:
        compose(overrides=[f"{key}={value}"])
    assert "hunter2" not in str(caught.value) and "hun@" not in str(caught.value)


# --- behaviour ------------------------------------------------------------------------------------------------------


def test_no_hydra_state_is_left_and_a_callers_own_survives(tmp_path):
    compose("heart_disease")
    assert not GlobalHydra.instance().is_initialized()
    with pytest.raises(ConfigError):
        compose(overrides=["seed=x"])
    assert not GlobalHydra.instance().is_initialized()
    from hydra import initialize_config_dir

    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        compose("heart_disease")
        assert GlobalHydra.instance().is_initialized()


def test_composition_is_repeatable_and_independent_of_the_working_directory(tmp_path, monkeypatch):
    first = compose("heart_disease")
    monkeypatch.chdir(tmp_path)
    assert compose("heart_disease") == first
    assert list(tmp_path.iterdir()) == []


def test_composition_is_little_work():
    # A tenth of a second: 312,000 calls, nearly all of them Hydra's.
    assert calls(compose, "heart_disease") < 1_000_000


def test_a_config_dir_with_blanks_quotes_and_signs_in_its_path_works(my):
    odd = my.rename(my.parent / 'mein Ordner\'s, 50% = "gut" é')
    assert compose("ward", config_dir=odd).data.source.path == str(odd / "data/icu.csv")


def test_a_table_with_sites_can_be_partitioned_from_the_command_line():
    overrides = ["data.site_column=null", "data.partition.kind=iid", "data.partition.sites=3", "data.records=null"]
    for lines in (overrides, [overrides[0], "data.partition={kind: iid, sites: 3}", overrides[3]]):
        data = compose("heart_disease", lines).data
        assert data.partition is not None
        assert (data.partition.kind, data.partition.sites, dict(data.records)) == ("iid", 3, {})


def test_a_partition_can_be_taken_away():
    data = compose(None, ["data=breast_cancer", "data.partition=null", "data.site_column=x"]).data
    assert data.partition is None


@pytest.mark.parametrize(
    "source",
    [
        "url=postgresql://hunter2@h/x",
        "url='postgresql://u@db/x?access_token=hunter2'",
        "url='sqlite:///icu.db?key=hunter2'",
        "url='mssql://h/x?odbc_connect=UID%3Dme%3BPWD%3Dhunter2'",
        "query=\"select * from dblink('host=db user=a password=hunter2')\"",
        "query='pwd=hunter2 host=x'",
    ],
)
def test_a_printed_source_cannot_hold_a_credential(source):
    lines = ["data.source.kind=sql", "data.source.path=null", f"data.source.{source}"]
    with pytest.raises(ConfigError) as caught:
        compose("heart_disease", lines)
    assert "hunter2" not in str(caught.value)
    assert "password" in str(caught.value) or "because a config" in str(caught.value)
