"""A site's own file, ``site.yaml``: what it has, what it allows and what it gives; nobody else's word counts.

Of a coordinator's there is ``allow.yaml``, which lists the models that it has installed beside fedkit's own.

::

    FK120  a file that cannot be read, or anything wrong in it, all of it at once
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fedkit.config.yaml_shape import shape_problem
from fedkit.errors import ConfigError
from fedkit.governance.site_checks import allow_table_of, site_file_of
from fedkit.governance.terms import Allowed
from fedkit.governance.terms import SiteFile as SiteFile

CODE = "FK120"


def read_site_file(path: Path | str) -> SiteFile:
    """Read and check a site's file; relative paths in it are relative to it.

    Raises:
        ConfigError: FK120, every problem at once, with the key and an example.

    Guarantee: no row is read, no code of the allow tables is run, and nothing of the environment is put in.
    """
    path = Path(path).absolute()
    found, problems = site_file_of(load_mapping(path, "make one with `fedkit client init`", "site: NAME"), path.parent)
    if problems or found is None:
        raise ConfigError([f"{path.name}: {problem}" for problem in dict.fromkeys(problems)], code=CODE)
    return found


def read_allow_file(path: Path | str) -> dict[str, Allowed]:
    """Read the literal table of installed models that stands by itself: ``models: {NAME: {import: ..., sha256: ...}}``.

    Raises:
        ConfigError: FK120, every problem at once.

    Guarantee: no code of the table is run.
    """
    path = Path(path).absolute()
    found, problems = allow_table_of(
        load_mapping(path, "name the one that the coordinator has", "models:"), path.parent
    )
    if problems:
        raise ConfigError([f"{path.name}: {problem}" for problem in dict.fromkeys(problems)], code=CODE)
    return found


def load_mapping(path: Path, make: str, begin: str) -> Mapping[str, Any]:
    """The keys and values of a YAML file, as strictly as a site's file is read.

    Args:
        make: how one is made where there is none.
        begin: how such a file begins.

    Raises:
        ConfigError: FK120.
    """
    if path.is_dir():
        within = sorted(each.name for each in path.glob("*.yaml"))
        named = f"name the file in it: {path / within[0]}" if len(within) == 1 else "name a file"
        raise ConfigError([f"{path} is a folder; {named}"], code=CODE)
    if not path.is_file():
        raise ConfigError([f"there is no file {path}; {make}"], code=CODE)
    if problem := shape_problem(path):
        raise ConfigError([problem], code=CODE)
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        twice = _twice(node) if node is not None else []
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError([_no_yaml(path, error)], code=CODE) from None
    except (OSError, ValueError) as error:
        # ValueError: no UTF-8, or a date that cannot be.
        raise ConfigError([f"{path.name} cannot be read ({type(error).__name__})"], code=CODE) from None
    if twice:
        raise ConfigError([f"{path.name}:{line} has the key {key!r} twice" for key, line in twice], code=CODE)
    if not isinstance(values, dict):
        raise ConfigError([f"{path.name} holds no keys and values; begin with {begin}"], code=CODE)
    return values


def _no_yaml(path: Path, error: yaml.YAMLError) -> str:
    """Where the file stops being YAML, and why as the parser sees it."""
    mark, begun = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    why = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "")
    text = f"{path.name}{f':{mark.line + 1}' if mark else ''} is no valid YAML{f': {why}' if why else ''}"
    if "'\\t'" in why:
        return f"{text}; indent with spaces, not with tabs"
    if mark and begun and begun.line != mark.line:
        text += f", {getattr(error, 'context', None) or 'in what begins'} (line {begun.line + 1})"
    return text


def _twice(node: Any) -> list[tuple[str, int]]:
    """Keys that a mapping has twice, of which YAML would silently take the last."""
    if isinstance(node, yaml.SequenceNode):
        return [hit for inner in node.value for hit in _twice(inner)]
    if not isinstance(node, yaml.MappingNode):
        return []
    seen: set[str] = set()
    hits: list[tuple[str, int]] = []
    for key, value in node.value:
        if isinstance(key.value, str) and key.value in seen:
            hits.append((key.value, key.start_mark.line + 1))
        seen |= {key.value} if isinstance(key.value, str) else set()
        hits += _twice(value)
    return hits
