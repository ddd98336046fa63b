"""Group files, an experiment and the command line -> one checked ``ExperimentConfig``, by Hydra's compose API."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from fedkit.config.build import Findings, build
from fedkit.config.check import check
from fedkit.config.experiment import ExperimentConfig
from fedkit.config.locate import (
    GROUPS,
    configs_root,
    experiment_files,
    experiments_root,
    option_files,
    unknown_experiment,
    unknown_option,
    user_folder,
)
from fedkit.config.overrides import Overrides, read_overrides
from fedkit.config.overrides import expand_sweep as expand_sweep
from fedkit.config.schema import register
from fedkit.config.settling import Experiment, settle
from fedkit.config.wording import redacted
from fedkit.config.yaml_shape import shape_problem
from fedkit.errors import ConfigError, first_line

_LOCK = threading.Lock()  # Hydra keeps the current composition in a global
# Of Hydra's own application, which is never started: reading them took a fifth of the time.
_UNUSED = [
    f"~hydra/{group}"
    for group in ("launcher", "sweeper", "help", "hydra_help", "hydra_logging", "job_logging", "env", "output")
]


def compose(
    name: str | None = None,
    overrides: Sequence[str] = (),
    config_dir: Path | str | None = None,
    *,
    models: Collection[str] = (),
) -> ExperimentConfig:
    """Compose and check one experiment.

    Args:
        name: an experiment's name; None for the defaults. A ``key=value`` in its place is taken as an override.
        overrides: ``key=value`` in Hydra's grammar; the last word.
        config_dir: a folder of the user's with groups as subfolders and, in ``experiments/``, experiments.
        models: names of models that are installed elsewhere; of their arguments only the types are checked.

    Returns:
        The resolved config. A relative ``data.source.path`` has become absolute: it is relative to the YAML file that
        declares it, or to the working directory where the command line gives it.

    Raises:
        ConfigError: with every problem found, not only the first.

    >>> compose("heart_disease", ["privacy.epsilon=1"]).privacy.epsilon
    1.0
    """
    if name is not None and ("=" in name or name.startswith("~")):
        overrides, name = [name, *overrides], None
    folder = user_folder(config_dir)
    found = Findings()
    given = read_overrides(overrides, folder, found)
    experiment = _experiment(name, given, folder, found) if name is not None else None
    raw, choices = _merged(given, experiment, folder, found)
    if hidden := list(_interpolations(raw)):
        found.problems.extend(f"{key} holds ${{...}}, which is not evaluated; write the value itself" for key in hidden)
        _refuse(found)
    own = given.choices.get("model", "") in models
    said = _loaded(option_files("model", folder)[given.choices["model"]], found) if own else {}
    settle(raw, given, experiment, option_files("data", folder).get(choices.get("data", "")), said)
    config = build(raw, found, models=models)
    found.add_unrelated(check(config))
    _refuse(found)
    return config


def _refuse(found: Findings) -> None:
    if found.problems:
        raise ConfigError([redacted(text) for text in dict.fromkeys(found.problems)])


def _experiment(name: str, given: Overrides, folder: Path | None, found: Findings) -> Experiment:
    files = experiment_files(folder)
    if name not in files:
        found.problems.insert(0, unknown_experiment(name, folder))
        _refuse(found)
    before = len(found.problems)
    if problem := shape_problem(files[name]):
        found.problems.append(problem)
        _refuse(found)
    says = _loaded(files[name], found)
    if len(found.problems) > before:
        _refuse(found)
    for entry in says.get("defaults") or ():
        for key, option in entry.items() if isinstance(entry, dict) else ():
            group = str(key).removeprefix("override ").strip()
            if group in GROUPS:
                found.problems.append(f"experiment {name} lists {key!r}; write 'override /{group}'")
            group = group.lstrip("/")
            if group in GROUPS and group not in given.choices and option not in option_files(group, folder):
                found.problems.append(f"experiment {name}: {unknown_option(group, str(option), folder)}")
                _refuse(found)
    return Experiment(name, files[name], says)


def _loaded(path: Path, found: Findings) -> Mapping[str, Any]:
    """What one YAML file says; what cannot be read is noted with file and line, its text unquoted."""
    from omegaconf import OmegaConf

    try:
        says = OmegaConf.to_container(OmegaConf.load(path))
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        found.problems.append(f"{path}{line} is no valid YAML: {error.problem or error.context}")
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        found.problems.append(f"{path} cannot be read as UTF-8 YAML ({type(error).__name__})")
    else:
        if isinstance(says, dict):
            return cast(Mapping[str, Any], says)
        found.problems.append(f"{path} holds a list; keys and values are needed")
    return {}


def _merged(
    given: Overrides, experiment: Experiment | None, folder: Path | None, found: Findings
) -> tuple[dict[str, Any], Mapping[str, str]]:
    """Return the merged plain values and the option chosen in each group."""
    lines = list(given.lines)
    if experiment:
        lines.insert(0, f"+experiments/{experiment.name}@_global_=experiment")
    # Only these folders are read: a search path of its own in a user's file is not followed.
    places = [str(experiments_root().parent), *([str(folder)] if folder else [])]
    quoted = ",".join("'file://" + place.replace("\\", "\\\\").replace("'", "\\'") + "'" for place in places)
    lines.append(f"hydra.searchpath=[{quoted}]")
    files = _user_files(folder)
    for path in files:
        if problem := shape_problem(path):
            found.problems.append(problem)
            _refuse(found)
        if "${" in str(_loaded(path, Findings()).get("defaults", "")):
            found.problems.append(f"{path} holds ${{...}} in its defaults, which is not evaluated; write the option")
            _refuse(found)
    try:
        # Types stop Hydra at the first fault of a file; without them it goes through and build() lists every one.
        return _hydra(["fedkit_schema=typed", *lines]) or _hydra_or_refuse(["fedkit_schema=loose", *lines], found)
    except (yaml.YAMLError, UnicodeDecodeError):
        for path in files:
            _loaded(path, found)
        _refuse(found)
        raise


def _hydra(lines: list[str]) -> tuple[dict[str, Any], Mapping[str, str]] | None:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        return _hydra_compose(lines)
    except (HydraException, OmegaConfBaseException, AssertionError):
        return None


def _hydra_or_refuse(lines: list[str], found: Findings) -> tuple[dict[str, Any], Mapping[str, str]]:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        return _hydra_compose(lines)
    except AssertionError:
        # OmegaConf asserts, without naming the key, when an override reaches into a section that is null.
        found.problems.append(
            "an override sets a key inside a section that is null; give the section as a whole, for example"
            " data.site_column=null 'data.partition={kind: iid, sites: 4}'"
        )
        _refuse(found)
        raise
    except (HydraException, OmegaConfBaseException) as error:
        found.problems.append(first_line(error))
        _refuse(found)
        raise


def _hydra_compose(lines: list[str]) -> tuple[dict[str, Any], Mapping[str, str]]:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    register(lines[0].partition("=")[2])
    with _LOCK:
        current = GlobalHydra.instance()
        callers, current.hydra = current.hydra, None
        try:
            with initialize_config_dir(config_dir=str(configs_root()), job_name="fedkit", version_base="1.3"):
                composed = hydra_compose("config", overrides=[*lines, *_UNUSED], return_hydra_config=True)
        finally:
            GlobalHydra.instance().hydra = callers
    # Nothing is resolved: an interpolation may name a secret of the environment.
    raw = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=False))
    return raw, raw.pop("hydra")["runtime"]["choices"]


def _user_files(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    groups = [path for group in GROUPS for path in sorted((folder / group).glob("*.yaml"))]
    return groups + sorted(folder.glob("experiments/*/experiment.yaml"))


def _interpolations(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if "${" in str(name):
                yield f"a key of {key or 'the config'}"
            else:
                yield from _interpolations(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _interpolations(inner, key)
    elif isinstance(value, str) and "${" in value:
        yield key
