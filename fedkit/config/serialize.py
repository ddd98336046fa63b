"""A config as plain JSON types and back, and its digest: what a run directory records and a replay reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import yaml

from fedkit.config.build import Findings, build
from fedkit.config.check import check
from fedkit.config.experiment import ExperimentConfig, ModelConfig, StrategyConfig
from fedkit.config.wording import holds_credentials, redacted
from fedkit.errors import ConfigError

_ODD_BREAKS = frozenset("\x85\u2028\u2029\ufeff")


def to_dict(config: ExperimentConfig) -> dict[str, Any]:
    """Return the config as a user would write it: nested dicts of str, int, float, bool, None and lists.

    A model's or strategy's arguments stand beside its name. No credential can be among the values: a config names
    the variable or the file that holds one.
    """
    plain: dict[str, Any] = _plain(config)
    return plain


def from_dict(values: Mapping[str, Any], *, python: bool = True, models: Collection[str] = ()) -> ExperimentConfig:
    """Return the config that ``to_dict`` wrote.

    Args:
        python: admit what was given in Python, which a recorded run's config names and no other may.
        models: names of further models that somebody has installed.

    Raises:
        ConfigError: unknown keys, wrong types, or values that ``compose`` would refuse too; all of them.

    >>> from fedkit.config.compose import compose
    >>> config = compose("heart_disease")
    >>> from_dict(to_dict(config)) == config
    True
    """
    found = Findings()
    config = build(values, found, python=python, models=models)
    found.add_unrelated(check(config, python=python))
    if found.problems:
        raise ConfigError([redacted(text) for text in found.problems])
    return config


def to_yaml(config: ExperimentConfig) -> str:
    """Return the config as YAML, keys in the order of the schema."""
    values = to_dict(config)
    # PyYAML writes these breaks unquoted and reads them back as blanks.
    readable = not _ODD_BREAKS.intersection(json.dumps(values, ensure_ascii=False))
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=readable, width=120))


def from_yaml(text: str, *, models: Collection[str] = ()) -> ExperimentConfig:
    """Return the config that ``to_yaml`` wrote.

    Args:
        models: names of further models that somebody has installed.

    Raises:
        ConfigError: no YAML, no mapping, or anything that ``from_dict`` refuses.
    """
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError([f"the config is no valid YAML{f', line {mark.line + 1}' if mark else ''}"]) from None
    return from_dict(values, models=models)


def digest(config: ExperimentConfig) -> str:
    """Return the SHA-256 of the canonical JSON of all that can change a result: neither purpose nor folders.

    Returns:
        64 hexadecimal digits.
    """
    values = to_dict(config)
    del values["runs_dir"], values["ledgers_dir"], values["purpose"], values["federation"]["policies"]
    del values["federation"]["address"]
    # Memory and processes change no bit, and what an engine does not is for the manifest to say: a config has one
    # digest with it or without, as a run has that was recorded before there was a choice.
    for key in ("max_clients_at_once", "memory_gb", "workers"):
        del values["training"][key]
    for key, usual in (("engine", "auto"), ("device", "cpu")):
        if values["training"][key] == usual:
            del values["training"][key]
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, (ModelConfig, StrategyConfig)):
        return {"name": value.name, **{key: _plain(inner) for key, inner in value.arguments.items()}}
    if is_dataclass(value):
        return {part.name: _plain(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    # A composed config holds no credential; one put together by hand might.
    return redacted(value) if isinstance(value, str) and holds_credentials(value) else value
