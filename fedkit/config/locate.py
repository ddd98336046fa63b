"""Where configs and experiments lie: inside the installed package, else in the repository; and the user's folder."""

from __future__ import annotations

import re
from pathlib import Path

from fedkit.config.wording import suggestion
from fedkit.errors import ConfigError

GROUPS = ("data", "model", "privacy", "strategy", "training", "federation")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
"""What an option or an experiment may be called: its name becomes part of a path and of an override."""

_PACKAGE = Path(__file__).resolve().parents[1]


def _root(folder: str) -> Path:
    for base in (_PACKAGE, _PACKAGE.parent):
        if (base / folder).is_dir():
            return base / folder
    raise ConfigError([f"{folder}/ is missing from this installation of fedkit; install it again"], code="FK102")


def configs_root() -> Path:
    """Return the folder of our own config groups."""
    return _root("configs")


def experiments_root() -> Path:
    """Return the folder of our own experiments."""
    return _root("experiments")


def user_folder(config_dir: Path | str | None) -> Path | None:
    """Return the user's folder, absolute.

    Raises:
        ConfigError: it is missing, is no folder, or hides one of our options behind one of the same name.
    """
    if config_dir is None:
        return None
    folder = Path(config_dir).expanduser().absolute()
    if not folder.exists():
        raise ConfigError([f"--config-dir {config_dir} does not exist"], code="FK102")
    if not folder.is_dir():
        raise ConfigError([f"--config-dir {config_dir} is a file; name the folder that holds data/, model/, ..."])
    if folder.resolve() == configs_root().resolve():
        return None
    ours = {group: option_files(group, None) for group in GROUPS} | {"experiments": experiment_files(None)}
    theirs = {group: _options_in(folder / group) for group in GROUPS} | {"experiments": _experiments_in(folder)}
    if (folder / "experiments").resolve() == experiments_root().resolve():
        theirs["experiments"] = {}
    # Hydra would read ours and leave theirs unread without a word.
    hidden = [f"{group}/{name}" for group in theirs for name in theirs[group] if name in ours[group]]
    if hidden:
        raise ConfigError([f"--config-dir {config_dir} has {path}, which fedkit has too; rename it" for path in hidden])
    return folder


def option_files(group: str, folder: Path | None) -> dict[str, Path]:
    """Return option name to its YAML file for one group, ours and then the user's."""
    return _options_in(configs_root() / group) | (_options_in(folder / group) if folder else {})


def experiment_files(folder: Path | None) -> dict[str, Path]:
    """Return experiment name to its YAML file, ours and then the user's."""
    return _experiments_in(experiments_root().parent) | (_experiments_in(folder) if folder else {})


def unknown_option(group: str, option: str, folder: Path | None) -> str:
    """Word the problem of an option that no group file offers."""
    if folder and (folder / group / f"{option}.yml").is_file():
        return f"{group}/{option}.yml is not read; rename it to {option}.yaml"
    if folder and (folder / group / f"{option}.yaml").is_file():
        return f"{group}/{option}.yaml cannot be named; use letters, digits, _ and - only"
    return f"{group}={option} is unknown; {suggestion(option, option_files(group, folder))}"


def unknown_experiment(name: str, folder: Path | None) -> str:
    """Word the problem of an experiment that does not exist."""
    return f"experiment {name!r} is unknown; {suggestion(name, experiment_files(folder))}"


def _options_in(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.yaml")) if NAME.fullmatch(path.stem)}


def _experiments_in(folder: Path) -> dict[str, Path]:
    paths = sorted(folder.glob("experiments/*/experiment.yaml"))
    return {path.parent.name: path for path in paths if NAME.fullmatch(path.parent.name)}
