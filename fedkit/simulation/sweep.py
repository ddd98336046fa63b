"""``fedkit sweep``: one experiment over a grid of overrides; a finished cell is never run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import fedkit
from fedkit.config.compose import compose, expand_sweep
from fedkit.config.experiment import ExperimentConfig
from fedkit.config.serialize import digest
from fedkit.errors import ConfigError, FedkitError, Interrupted
from fedkit.reporting.sweep_progress import SweepProgress, cells_in_order
from fedkit.reporting.sweep_report import write_sweep
from fedkit.runs.directory import cannot_write
from fedkit.simulation.forked import CannotStart
from fedkit.simulation.shared_data import SharedData
from fedkit.simulation.shared_ray import SharedRay, shared_ray
from fedkit.simulation.side_by_side import side_by_side
from fedkit.simulation.simulate import simulate
from fedkit.simulation.spread import AUTO, cores
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
    jobs: int | None = None,
    progress: SweepProgress | None = None,
) -> Sweep:
    """Run every combination of the swept overrides, as many side by side as there are cores.

    A finished cell is kept while its config and fedkit's version stay as they are; whether the data has changed since
    is not checked: remove the sweep's folder after a change. Each table is read once.

    Args:
        overrides: Hydra's sweep syntax, such as ``privacy.epsilon=0.5,1,3``.
        on_cell: called as each cell ends with its index, the number of cells and the cell.
        jobs: cells at a time, each in a process and with ``training.memory_gb`` of its own; None: one a core.
            Cells that share ledgers, or of ``federation=flower``, come one after another. Those of ``federation=ray``
            share one Ray, and its CPUs out among them.
        progress: told of every step.

    Returns:
        All cells in the order of the combinations; one that failed carries its error, the others go on. The results do
        not depend on ``jobs``.

    Raises:
        ConfigError: a cell's config is refused; all cells are composed before the first one runs.
        FederationError: FK550 to FK554, a Ray that cells would train in cannot be had.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError([f"--jobs is {jobs}; it must be at least 1"])
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
    told = [{key: value for key, value in map(_split, chosen) if key in varying} for chosen in swept]
    running = _Running(folder, configs, told, progress or SweepProgress(), on_cell or (lambda *_: None))
    try:
        running.run(jobs)
    except OSError as error:
        raise cannot_write(folder, error) from None
    return Sweep(folder, tuple(cells_in_order(running.cells)))


@dataclass
class _Running:
    """A sweep in progress."""

    folder: Path
    configs: Sequence[ExperimentConfig]
    overrides: Sequence[dict[str, str]]
    progress: SweepProgress
    on_cell: CellDone
    cells: dict[int, dict[str, Any]] = field(default_factory=dict)
    data: SharedData = field(default_factory=SharedData)
    ray: SharedRay | None = None

    def run(self, jobs: int | None) -> None:
        kept = {index: result for index in range(len(self.configs)) if (result := _finished(self._done(index)))}
        waiting = [index for index in range(len(self.configs)) if index not in kept]
        alone = _alone(self.configs)
        most = 1 if alone else max(1, min(jobs or cores(), len(waiting)))
        with ExitStack() as stack:
            over_ray = [self.configs[index] for index in waiting if self.configs[index].federation.kind == "ray"]
            if over_ray and len(waiting) > 1 and not alone:
                try:
                    most, alone = self._share_ray(stack, over_ray, most)
                except CannotStart as error:
                    most, alone = 1, str(error)
            rounds = {index: self.configs[index].federation.num_rounds for index in waiting}
            self.progress.planned(rounds, len(self.configs), most, alone if len(waiting) > 1 else "")
            for index, result in kept.items():
                self._end(index, self._cell(index, "kept", result))
            for index in waiting:
                self.data.read_ahead(self.configs[index])
            if most > 1 or self.ray:
                try:
                    self._side_by_side(waiting, most)
                    return
                except CannotStart:
                    self.ray = None
        for index in waiting:
            self.progress.begun(index)
            self._end(index, self._ran(index, lambda number, index=index: self.progress.round(index, number)))  # type: ignore[misc]

    def _share_ray(self, stack: ExitStack, configs: Sequence[ExperimentConfig], most: int) -> tuple[int, str]:
        """A Ray for all cells; how many of them it has room for at a time, and why not for more."""
        needs = max(1 if config.training.workers == AUTO else int(config.training.workers) for config in configs)
        ray = stack.enter_context(shared_ray(configs[0].federation.address, max(cores(), needs)))
        room = max(1, ray.cpus // needs)
        self.ray = ray.among(min(most, room))
        if room >= most:
            return most, ""
        return room, "" if room > 1 else f"the cluster has {ray.cpus} CPUs free, and a cell takes {needs}"

    def _side_by_side(self, waiting: Sequence[int], jobs: int) -> None:
        with closing(side_by_side(waiting, self._tried, jobs, self.ray.beside if self.ray else ())) as news:
            for each in news:
                if each.what == "begun":
                    self.progress.begun(each.piece)
                elif each.what == "round":
                    self.progress.round(each.piece, each.value)
                elif each.what == "lost":
                    self._end(each.piece, self._cell(each.piece, "failed", error=f"FK422: its process {each.value}."))
                elif isinstance(each.value, OSError):
                    raise each.value
                else:
                    self._end(each.piece, each.value)

    def _tried(self, index: int, tell: Callable[[int], None]) -> dict[str, Any] | OSError:
        """A cell in a process of its own, from which no exception but Ctrl-C gets out."""
        try:
            return self._ran(index, tell)
        except Interrupted:
            raise KeyboardInterrupt from None
        except OSError as error:
            return OSError(error.errno, error.strerror)

    def _ran(self, index: int, tell: Callable[[int], None]) -> dict[str, Any]:
        done = self._done(index)
        config = replace(self.configs[index], runs_dir=str(done.parent))
        try:
            with ExitStack() as stack:
                ray = self.ray if config.federation.kind == "ray" else None
                if ray:
                    stack.enter_context(ray.joined())
                cpus = ray.each if ray else None
                run = simulate(config, progress=lambda report: tell(report.round), load=self.data, cpus=cpus)
        except FedkitError as error:
            # Not written down: a cell that failed is tried again.
            return self._cell(index, "failed", error=str(error))
        except (OSError, Interrupted):
            raise
        except Exception as error:
            return self._cell(index, "failed", error=f"FK422: {type(error).__name__}: {error}")
        cell = self._cell(index, "ran", dict(run.result))
        if run.result["outcome"] in ("complete", "degraded"):
            write_json(done, {"fedkit": fedkit.__version__, **cell})
        return cell

    def _cell(self, index: int, status: str, result: Any = None, error: str | None = None) -> dict[str, Any]:
        return {"overrides": self.overrides[index], "result": result, "error": error, "status": status}

    def _done(self, index: int) -> Path:
        return self.folder / digest(self.configs[index])[:12] / "cell.json"

    def _end(self, index: int, cell: dict[str, Any]) -> None:
        self.cells[index] = cell
        write_sweep(self.folder, cells_in_order(self.cells))
        self.progress.ended(index, len(self.configs), cell)
        self.on_cell(index, len(self.configs), cell)


def _alone(configs: Sequence[ExperimentConfig]) -> str:
    """Why these cells come one after another; empty where they need not."""
    if any(config.ledgers_dir is not None for config in configs):
        return "they spend from the same ledgers, and which is refused must not depend on which is faster"
    if any(config.federation.kind == "flower" for config in configs):
        return "federation=flower starts processes of its own"
    if len({config.federation.address for config in configs if config.federation.kind == "ray"}) > 1:
        return "they train in several Ray clusters"
    return ""


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
