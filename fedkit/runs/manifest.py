"""The manifest: what a run is, under which versions, with which plan, and how it ended."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import fedkit
from fedkit.config.experiment import ExperimentConfig
from fedkit.config.serialize import digest
from fedkit.errors import RunError
from fedkit.privacy.randomness import DRAWS
from fedkit.runs.statement import statement
from fedkit.types import Dataset, EvaluationPlan, LocalPlan, PrivacyPlan

FORMAT = 1
_PACKAGES = ("torch", "flwr", "opacus", "dp-accounting", "numpy", "hydra-core", "omegaconf", "duckdb", "scikit-learn")
_NEEDED: Mapping[str, type | tuple[type, ...]] = {
    "config_digest": str,
    "seed": int,
    "outcome": str,
    "mode": str,
    "num_rounds": int,
    "model.source": str,
    "strategy.source": str,
    "data.source": str,
    "data.sites": dict,
    "data.input_shape": list,
    "data.task.kind": str,
    "data.task.classes": list,
    "versions": dict,
    "plan": dict,
    "local": dict,
}
_NUMBER = (int, float)
_NEEDED_EACH: Mapping[str, Mapping[str, type | tuple[type, ...]]] = {
    "data.sites": {"fingerprint": str},
    "plan": {
        "sample_rate": _NUMBER,
        "noise_multiplier": _NUMBER,
        "steps": int,
        "rounds": int,
        "epsilon": _NUMBER,
        "delta": _NUMBER,
    },
}


def describe(
    config: ExperimentConfig,
    dataset: Dataset,
    plans: Mapping[str, LocalPlan],
    *,
    parameters: int,
    model_source: str,
    strategy_source: str,
    notes: Sequence[str],
) -> dict[str, Any]:
    """The manifest of a run that is about to start.

    Args:
        parameters: number of parameters of the model.
        model_source: ``config``, or ``python`` where the caller passed an object (replay then needs it again), or
            ``installed`` where the config names one that the coordinator had installed (likewise).
        strategy_source: the same for the strategy.
        notes: what the reader must know, such as sites left out.
    """
    private_plans = {site: asdict(plan.privacy) for site, plan in plans.items() if plan.privacy}
    return {
        "format": FORMAT,
        "fedkit": fedkit.__version__,
        "name": config.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": installed_versions(),
        "git": _git(),
        "seed": config.seed,
        "config_digest": digest(config),
        "outcome": "running",
        "notes": list(notes),
        "mode": config.privacy.mode,
        "noise": config.privacy.noise if config.privacy.mode != "none" else None,
        "draws": DRAWS,
        "private": is_private(config),
        "statement": statement(config, plans),
        "federation": config.federation.kind,
        "num_rounds": config.federation.num_rounds,
        "rounds_done": 0,
        "seconds": 0.0,
        "model": {
            "name": config.model.name,
            "arguments": dict(config.model.arguments),
            "parameters": parameters,
            "source": model_source,
        },
        "strategy": {
            "name": config.strategy.name,
            "arguments": dict(config.strategy.arguments),
            "source": strategy_source,
        },
        "plan": private_plans,
        "local": {
            site: {
                "steps": plan.steps,
                "batch_size": plan.batch_size,
                "learning_rate": plan.learning_rate,
                "optimizer": plan.optimizer,
                "weight": plan.weight,
            }
            for site, plan in plans.items()
        },
        "data": {
            "name": dataset.name,
            "source": config.data.source.kind,
            "task": {"kind": dataset.task.kind, "classes": list(dataset.task.classes), "range": dataset.task.range},
            "unit": dataset.unit,
            "input_shape": list(dataset.input_shape),
            "feature_names": list(dataset.feature_names),
            "split": dataset.split,
            "scaling": dataset.scaling,
            "warnings": list(dataset.warnings),
            "sites": {
                site.name: {
                    "train": site.train.num_units,
                    "test": site.test.num_units,
                    "train_rows": len(site.train),
                    "test_rows": len(site.test),
                    "records": site.records,
                    "records_declared": site.records_declared,
                    "fingerprint": dataset.fingerprints[site.name],
                }
                for site in dataset.sites
            },
        },
    }


def is_private(config: ExperimentConfig) -> bool:
    """True only where real noise protects the updates."""
    return config.privacy.mode != "none" and config.privacy.noise == "secure"


def check_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest that lacks what a replay reads.

    Raises:
        RunError: FK615, the first thing that is missing or of another type.
    """
    if manifest.get("format") != FORMAT:
        raise RunError(
            f"{path} has format {manifest.get('format')!r}; this fedkit reads {FORMAT}",
            code="FK613",
            remedy="use the fedkit that wrote the run",
        )
    for place, kind in _NEEDED.items():
        value: Any = manifest
        for key in place.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if not isinstance(value, kind) or isinstance(value, bool):
            raise _not_whole(path, place)
    for group, inner in _NEEDED_EACH.items():
        entries = manifest["data"]["sites"] if group == "data.sites" else manifest[group]
        for site, entry in entries.items():
            for key, kind in inner.items():
                if not isinstance(entry, Mapping) or not isinstance(entry.get(key), kind):
                    raise _not_whole(path, f"{group}.{site}.{key}")
    private = manifest["mode"] != "none"
    if (private and manifest["plan"].keys() != manifest["local"].keys()) or manifest["noise"] not in (
        ("seeded", "secure") if private else (None,)
    ):
        raise _not_whole(path, "plan")
    if not manifest["local"].keys() <= manifest["data"]["sites"].keys():
        raise _not_whole(path, "local")


def read_plan(path: Path, site: str, entry: Mapping[str, Any]) -> PrivacyPlan:
    """A site's plan as the manifest recorded it.

    Raises:
        RunError: FK615, an entry is missing, unknown or of another type.
    """
    values = dict(entry)
    try:
        evaluation = values.pop("evaluation")
        if evaluation is not None:
            rounds = tuple(int(number) for number in evaluation["rounds"])
            evaluation = EvaluationPlan(**(evaluation | {"rounds": rounds}))
        return PrivacyPlan(**values, evaluation=evaluation)
    except (KeyError, TypeError, ValueError):
        raise _not_whole(path, f"plan.{site}") from None


def _not_whole(path: Path, place: str) -> RunError:
    return RunError(f"{path} is not whole: {place} is missing or wrong", code="FK615", remedy="restore the file")


def installed_versions() -> dict[str, str]:
    """Versions that a result may depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git() -> dict[str, Any] | None:
    root = Path(fedkit.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        revision = _run_git(root, "rev-parse", "HEAD")
        return {"revision": revision, "dirty": bool(_run_git(root, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _run_git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
