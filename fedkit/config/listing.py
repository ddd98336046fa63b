"""Every group, option and experiment with a line each, read from the YAML files themselves."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path

import yaml

from fedkit.config.locate import GROUPS, experiment_files, option_files, user_folder


def options(config_dir: Path | str | None = None) -> dict[str, list[tuple[str, str]]]:
    """List what can be named on the command line.

    Returns:
        group (and ``experiments``) to its (name, one-line description) pairs.

    Raises:
        ConfigError: the folder is missing or is no folder.

    >>> [name for name, _ in options()["model"]]
    ['cnn', 'logistic', 'mlp']
    """
    folder = user_folder(config_dir)
    files = {group: option_files(group, folder) for group in GROUPS} | {"experiments": experiment_files(folder)}
    return {group: [(name, describe(path)) for name, path in files[group].items()] for group in files}


def describe(path: Path) -> str:
    """Return a YAML file's ``description``, else the second line of its opening comment, else nothing.

    A file that cannot be read is described as such: a list must not fail for one broken file.
    """
    try:
        text = path.read_text(encoding="utf-8")
        declared = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return "(cannot be read)"
    if isinstance(declared, dict) and isinstance(declared.get("description"), str):
        return " ".join(declared["description"].split())
    comments = [line.lstrip("# ").strip() for line in takewhile(lambda line: line.startswith("#"), text.splitlines())]
    comments = [line for line in comments if not line.startswith("@package")]
    return comments[1] if len(comments) > 1 else ""
