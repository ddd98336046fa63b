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
from fedkit.types import Dataset, LocalPlan

FORMAT = 1
_PACKAGES = ("torch", "flwr", "opacus", "dp-accounting", "numpy", "hydra-core", "omegaconf", "duckdb", "scikit-learn")


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
        model_source: ``config``, or ``python`` where the caller passed an object (replay then needs it again).
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
        "outcome": "running",
        "notes": list(notes),
        "mode": config.privacy.mode,
        "noise": config.privacy.noise if config.privacy.mode != "none" else None,
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


def statement(config: ExperimentConfig, plans: Mapping[str, LocalPlan]) -> str:
    """One sentence that says what is private and what is not."""
    spent = [plan.privacy for plan in plans.values() if plan.privacy]
    if not spent:
        return "No privacy: updates and metrics are exact."
    worst = max(spent, key=lambda plan: plan.epsilon)
    cost = (
        f"epsilon {worst.epsilon:.2f} at delta {worst.delta:g} for one {worst.unit}"
        " (add or remove, largest over the sites, the whole run)"
    )
    if config.privacy.noise == "seeded":
        return f"Not private: the noise is seeded for replay. With real noise the same plan would cost {cost}."
    return f"The model and all updates are private: {cost}. The metrics are exact and not protected (simulation only)."


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
