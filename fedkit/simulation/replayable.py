"""Whether a recorded run is one that can be done again: its config, plans, seed's scheme, objects and data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fedkit.config.experiment import ExperimentConfig
from fedkit.config.serialize import digest, from_yaml
from fedkit.errors import ConfigError, PrivacyError, RunError
from fedkit.privacy.plan import epsilon_after
from fedkit.privacy.randomness import DRAWS
from fedkit.runs.directory import CONFIG, MANIFEST, read_text
from fedkit.runs.manifest import read_plan
from fedkit.runs.statement import rounded_up


def read_config(path: Path, models: Collection[str]) -> ExperimentConfig:
    """The config as a run has recorded it.

    Raises:
        RunError: FK604.
    """
    try:
        return from_yaml(read_text(path), models=models)
    except ConfigError as error:
        raise RunError(f"{path} cannot be used: {error}", code="FK604", remedy="restore the file") from None


def check_plans(path: Path, manifest: Mapping[str, Any]) -> None:
    """Price every plan anew.

    Raises:
        RunError: FK616, a plan that costs more than it states, or fewer rounds than the run has.
    """
    for site, entry in manifest["plan"].items():
        try:
            plan = read_plan(path / MANIFEST, site, entry)
            costs = epsilon_after(plan, plan.rounds)
        except (PrivacyError, TypeError) as error:
            raise RunError(f"{path / MANIFEST}: the plan of {site} cannot be priced: {error}", code="FK616") from None
        # The accountant's own last digits differ from machine to machine, and from version to version.
        if plan.rounds < manifest["num_rounds"] or not plan.epsilon >= costs * (1 - 1e-6):
            raise RunError(
                f"{path / MANIFEST}: the plan of {site} states epsilon {plan.epsilon:g} for {plan.rounds} rounds;"
                f" its noise costs {rounded_up(costs)}",
                code="FK616",
                remedy="restore the file; nothing that this run states can be trusted",
            )


def check_config(path: Path, manifest: Mapping[str, Any], config: ExperimentConfig) -> None:
    """Refuse a config that is not the manifest's.

    Raises:
        RunError: FK609.
    """
    if (manifest["config_digest"], manifest["seed"]) != (digest(config), config.seed):
        raise RunError(
            f"{path / CONFIG} is not the config that the manifest was written for",
            code="FK609",
            remedy="restore both files; a run that was edited cannot be replayed",
        )


def check_draws(path: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a private run whose seed means other lots and noise here; only for one that is trained again.

    Raises:
        RunError: FK609.
    """
    # Manifests of before the number was recorded are of 1.
    drawn = manifest.get("draws", 1)
    if manifest["mode"] != "none" and drawn != DRAWS:
        raise RunError(
            f"{path}: its lots and noise follow from the seed by scheme {drawn}; this fedkit draws by scheme {DRAWS}",
            code="FK609",
            remedy=f"replay it with the fedkit that made it ({manifest.get('fedkit', 'unknown')}), or run it again",
        )


def check_objects(
    manifest: Mapping[str, Any], model: object | None, data: object | None, strategy: object | None
) -> None:
    """Ask for what was given in Python.

    Raises:
        RunError: FK607.
    """
    given = {
        "model": manifest["model"]["source"] == "python",
        "strategy": manifest["strategy"]["source"] == "python",
        "data": manifest["data"]["source"] == "arrays" and manifest["noise"] != "secure",
    }
    passed = {"model": model, "strategy": strategy, "data": data}
    missing = [name for name, needed in given.items() if needed and passed[name] is None]
    if missing:
        raise RunError(
            f"the run was given its {' and '.join(missing)} in Python, which no file records",
            code="FK607",
            remedy=f"call fedkit.replay(run_dir, {', '.join(f'{name}=...' for name in missing)})",
        )


def check_fingerprints(manifest: Mapping[str, Any], found: Mapping[str, str]) -> None:
    """Refuse other data than the run was trained on.

    Raises:
        RunError: FK608.
    """
    recorded = {site: entry["fingerprint"] for site, entry in manifest["data"]["sites"].items()}
    changed = sorted(site for site in recorded.keys() | found.keys() if recorded.get(site) != found.get(site))
    if changed:
        raise RunError(
            f"the data of {', '.join(changed)} is not what the run was trained on",
            code="FK608",
            remedy="restore the data, or compare two runs with `fedkit compare`",
        )
