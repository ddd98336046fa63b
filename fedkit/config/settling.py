"""What merged values become before they are built: paths absolute, the run's name, no arguments of a model replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkit.config.arguments import MODEL_ARGUMENTS, STRATEGY_ARGUMENTS
from fedkit.config.build import UNSET
from fedkit.config.overrides import Overrides


@dataclass(frozen=True)
class Experiment:
    """An experiment file: where it lies and what it says by itself."""

    name: str
    path: Path
    says: Mapping[str, Any]


def settle(
    raw: dict[str, Any],
    given: Overrides,
    experiment: Experiment | None,
    data_file: Path | None,
    installed: Mapping[str, Any],
) -> None:
    """Give the merged values their last form: paths, the run's name, what a chosen option makes meaningless.

    Args:
        data_file: the file of the chosen data option.
        installed: what the file of a model says that no table of ours describes; empty for ours.
    """
    says = experiment.says if experiment else {}
    if raw.get("name") is None:
        data = raw.get("data")
        raw["name"] = experiment.name if experiment else data.get("name", UNSET) if isinstance(data, dict) else UNSET
    _absolute(raw, given, experiment, data_file)
    _drop_empty_partition(raw)
    privacy = raw.get("privacy")
    chosen = "privacy" in given.choices or "privacy.mode" in given.values
    if chosen and isinstance(privacy, dict) and privacy.get("mode") == "none":
        for key in {"epsilon", "delta", "noise_multiplier", "max_grad_norm"} & set(privacy):
            if f"privacy.{key}" not in given.values:
                privacy[key] = None
        evaluation = privacy.get("evaluation")
        for key in ("noise_multiplier", "share"):
            if isinstance(evaluation, dict) and f"privacy.evaluation.{key}" not in given.values:
                evaluation[key] = None
    for group, table in (("model", MODEL_ARGUMENTS), ("strategy", STRATEGY_ARGUMENTS)):
        section = raw.get(group)
        if (group in given.choices or f"{group}.name" in given.values) and isinstance(section, dict):
            # The experiment set these for the model or strategy that the command line has just replaced.
            own = table.get(str(section.get("name")), {})
            others = {key for arguments in table.values() for key in arguments if key not in own}
            meant = says.get(group)
            for key in others.intersection(section, meant if isinstance(meant, dict) else ()):
                if f"{group}.{key}" not in given.values:
                    del section[key]
                    section |= {key: installed[key]} if group == "model" and key in installed else {}


def _drop_empty_partition(raw: dict[str, Any]) -> None:
    data = raw.get("data")
    partition = data.get("partition") if isinstance(data, dict) else None
    if isinstance(data, dict) and partition == {"kind": UNSET, "sites": UNSET, "alpha": 0.5, "seed": 0}:
        data["partition"] = None


def _absolute(raw: dict[str, Any], given: Overrides, experiment: Experiment | None, data_file: Path | None) -> None:
    data = raw.get("data")
    source = data.get("source") if isinstance(data, dict) else None
    if not isinstance(source, dict) or source.get("kind") == "builtin":
        return
    for key in ("path", "url_file"):
        value = source.get(key)
        if not isinstance(value, str) or value in ("", UNSET):
            continue
        if f"data.source.{key}" in given.values:
            base = Path.cwd()
        elif experiment and _says(experiment.says, "data", "source", key):
            base = experiment.path.parent
        else:
            base = data_file.parent if data_file else Path.cwd()
        # Not resolve(): the path is printed as it was written, links included.
        source[key] = str(Path(base.absolute(), Path(value).expanduser()))


def _says(says: Any, *keys: str) -> bool:
    for key in keys:
        if not isinstance(says, Mapping) or key not in says:
            return False
        says = says[key]
    return True
