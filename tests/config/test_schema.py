from __future__ import annotations

import dataclasses
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, get_args, get_origin

from omegaconf import OmegaConf

from fedkit.config.build import field_types
from fedkit.config.experiment import ExperimentConfig, ModelConfig, StrategyConfig
from fedkit.config.schema import ExperimentSchema


def keys_and_defaults(cls: Any, path: str = "") -> dict[str, Any]:
    if get_origin(cls) is UnionType:
        cls = get_args(cls)[0]
    if not is_dataclass(cls) or cls in (ModelConfig, StrategyConfig):
        return {}
    found: dict[str, Any] = {}
    for part in fields(cls):
        key = f"{path}.{part.name}"
        default = part.default_factory() if part.default_factory is not dataclasses.MISSING else part.default
        found[key] = "" if is_dataclass(default) else default
        found |= keys_and_defaults(field_types(cls)[part.name], key)
    return found


def test_what_hydra_composes_and_what_comes_out_have_the_same_keys_and_defaults():
    composed, frozen = keys_and_defaults(ExperimentSchema), keys_and_defaults(ExperimentConfig)
    assert composed.keys() == frozen.keys()
    for key, default in frozen.items():
        # Hydra cannot merge an override into a null section, so an empty partition stands for none while composing.
        if default is not dataclasses.MISSING and key != ".data.partition":
            given = composed[key]
            assert (tuple(given) if isinstance(given, list) else given) == default, key


def test_hydra_can_merge_into_the_schema():
    merged = OmegaConf.merge(OmegaConf.structured(ExperimentSchema), {"federation": {"num_rounds": 3}})
    assert merged.federation.num_rounds == 3
