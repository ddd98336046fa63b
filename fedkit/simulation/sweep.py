"""``fedkit sweep``: one experiment over a grid of overrides; a finished cell is never run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedkit.config.compose import compose, expand_sweep
from fedkit.config.experiment import ExperimentConfig
from fedkit.config.serialize import digest
from fedkit.errors import ConfigError, FedkitError, RunError
from fedkit.reporting.sweep_report import write_sweep
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
        raise RunError(
            f"the sweep folder {folder} cannot be written: {error.strerror}", code="FK601", remedy="set runs_dir=FOLDER"
        ) from None
    cells: list[dict[str, Any]] = []
    for index, (config, chosen) in enumerate(zip(configs, swept, strict=True)):
        cell = _cell(folder, config, {key: value for key, value in map(_split, chosen) if key in varying})
        cells.append(cell)
        write_sweep(folder, cells)
        if on_cell:
            on_cell(index, len(configs), cell)
    return Sweep(folder, tuple(cells))


def _cell(folder: Path, config: ExperimentConfig, overrides: dict[str, str]) -> dict[str, Any]:
    place = folder / digest(config)[:12]
    done = place / "cell.json"
    if done.is_file():
        cell: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        return cell | {"overrides": overrides, "status": "kept"}
    try:
        run = simulate(replace(config, runs_dir=str(place)))
    except FedkitError as error:
        # Not written down: a cell that failed is tried again.
        return {"overrides": overrides, "result": None, "error": str(error), "status": "failed"}
    cell = {"overrides": overrides, "result": dict(run.result), "error": None, "status": "ran"}
    if run.result["outcome"] in ("complete", "degraded"):
        write_json(done, cell)
    return cell


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
