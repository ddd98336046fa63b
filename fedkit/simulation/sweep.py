"""``fedkit sweep``: one experiment over a grid of overrides; a finished cell is never run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fedkit
from fedkit.config.compose import compose, expand_sweep
from fedkit.config.experiment import ExperimentConfig
from fedkit.config.serialize import digest
from fedkit.errors import ConfigError, FedkitError
from fedkit.reporting.sweep_report import write_sweep
from fedkit.runs.directory import cannot_write
from fedkit.simulation.simulate import simulate
from fedkit.storage.atomic import write_json

CellDone = Callable[[int, int, dict[str, Any]], None]


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder and cells; each cell is what ``sweep.json`` holds."""

    path: Path
    cells: tuple[dict[str, Any], ...]


def sweep(
    name: str | None,
    overrides: Sequence[str],
    *,
    config_dir: Path | str | None = None,
    on_cell: CellDone | None = None,
) -> Sweep:
    """Run every combination of the swept overrides.

    A finished cell is kept while its config and fedkit's version stay as they are; whether the data has changed since
    is not checked: remove the sweep's folder after a change.

    Args:
        overrides: Hydra's sweep syntax, such as ``privacy.epsilon=0.5,1,3``.
        on_cell: called after each cell with its index, the number of cells and the cell.

    Returns:
        All cells; one that failed carries its error, the others go on.

    Raises:
        ConfigError: a cell's config is refused; all cells are composed before the first one runs.
    """
    swept = expand_sweep(overrides)
    varying = _varying(swept)
    configs = _compose_all(name, swept, config_dir)
    root = Path(configs[0].runs_dir)
    identity = hashlib.sha256(json.dumps([digest(config) for config in configs]).encode()).hexdigest()[:8]
    folder = root / f"sweep-{configs[0].name}-{identity}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from None
    cells: list[dict[str, Any]] = []
    for index, (config, chosen) in enumerate(zip(configs, swept, strict=True)):
        try:
            cell = _cell(folder, config, {key: value for key, value in map(_split, chosen) if key in varying})
        except OSError as error:
            raise cannot_write(folder, error) from None
        cells.append(cell)
        write_sweep(folder, cells)
        if on_cell:
            on_cell(index, len(configs), cell)
    return Sweep(folder, tuple(cells))


def _cell(folder: Path, config: ExperimentConfig, overrides: dict[str, str]) -> dict[str, Any]:
    place = folder / digest(config)[:12]
    done = place / "cell.json"
    kept = _finished(done)
    if kept is not None:
        return {"overrides": overrides, "result": kept, "error": None, "status": "kept"}
    try:
        run = simulate(replace(config, runs_dir=str(place)))
    except FedkitError as error:
        # Not written down: a cell that failed is tried again.
        return {"overrides": overrides, "result": None, "error": str(error), "status": "failed"}
    cell = {"overrides": overrides, "result": dict(run.result), "error": None, "status": "ran"}
    if run.result["outcome"] in ("complete", "degraded"):
        write_json(done, {"fedkit": fedkit.__version__, **cell})
    return cell


def _finished(path: Path) -> dict[str, Any] | None:
    """The result of a cell that this version finished; None for anything else, which is then run."""
    try:
        cell = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(cell, dict) or cell.get("fedkit") != fedkit.__version__:
        return None
    result = cell.get("result")
    return result if isinstance(result, dict) and result.get("outcome") in ("complete", "degraded") else None


def _compose_all(
    name: str | None, swept: Sequence[Sequence[str]], config_dir: Path | str | None
) -> list[ExperimentConfig]:
    configs, problems = [], []
    for chosen in swept:
        try:
            configs.append(compose(name, chosen, config_dir))
        except ConfigError as error:
            problems += [p for p in error.problems if p not in problems]
    if problems:
        raise ConfigError(problems)
    return configs


def _varying(swept: Sequence[Sequence[str]]) -> set[str]:
    seen: dict[str, set[str]] = {}
    for chosen in swept:
        for key, value in map(_split, chosen):
            seen.setdefault(key, set()).add(value)
    return {key for key, values in seen.items() if len(values) > 1}


def _split(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key.lstrip("+"), value
