"""``fedkit simulate``: one experiment, from config to report."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.serverapp.strategy import Strategy
from torch import nn

from fedkit.config.compose import compose
from fedkit.config.experiment import ExperimentConfig
from fedkit.data.load import load_dataset
from fedkit.errors import FedkitError, Interrupted
from fedkit.federation.gate import Gate
from fedkit.federation.rounds import Finish
from fedkit.models.flat import split, unpack
from fedkit.reporting.report import write_report
from fedkit.runs.directory import RunDirectory, cannot_write, create, prove_writable
from fedkit.runs.manifest import describe, is_private
from fedkit.simulation.baselines import baselines as run_baselines
from fedkit.simulation.flower import run_flower
from fedkit.simulation.ledgers import gates, refuse_uncharged, taken
from fedkit.simulation.local import predict_all, run_local
from fedkit.simulation.measured import measured
from fedkit.simulation.prepare import Load, Prepared, engine_for, holding_notes, prepare, strategy_for
from fedkit.simulation.ray_probe import check as check_ray
from fedkit.simulation.rehearsal import check_rehearsed, rehearse
from fedkit.simulation.result import build_result
from fedkit.training.engine import Engine
from fedkit.types import ClientUpdate, Float32, RoundReport, Task

Progress = Callable[[RoundReport], None]
Track = Callable[[Path], object]
_NOT_DISK = (ConnectionError, TimeoutError, ChildProcessError)


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: its folder.
        result: what ``--json`` prints.
        parameters: float32 [d], the final model, packed in the order of ``named_parameters``.
        model: the trained module, in evaluation mode; it ends in logits.
    """

    path: Path
    result: Mapping[str, Any]
    parameters: Float32
    model: nn.Module


@dataclass
class _Journal:
    """Writes each round as it ends, and remembers the last good model for an interruption."""

    directory: RunDirectory
    record_updates: bool
    progress: Progress | None
    track: Track | None = None
    rounds: int = 0
    epsilon: Mapping[str, float] = field(default_factory=dict)
    parameters: Float32 | None = None
    measured: tuple[int, Mapping[str, tuple[float, ...]]] = (0, {})

    def __call__(self, report: RoundReport, parameters: Float32, updates: Sequence[ClientUpdate]) -> None:
        if self.record_updates and updates:
            self.directory.write_updates(report.round, updates)
        self.directory.append_round(report)
        self.rounds, self.epsilon, self.parameters = report.round, report.epsilon, parameters
        if report.histograms:
            self.measured = report.round, report.histograms
        if self.track:
            self.track(self.directory.path)
        if self.progress:
            self.progress(report)


def simulate(
    config: ExperimentConfig | str | None = None,
    *,
    overrides: Sequence[str] = (),
    config_dir: Path | str | None = None,
    model: Callable[[], nn.Module] | None = None,
    data: Mapping[str, Any] | None = None,
    task: Task | None = None,
    strategy: Strategy | None = None,
    baselines: bool = False,
    progress: Progress | None = None,
    load: Load = load_dataset,
    track: Track | None = None,
    cpus: int | None = None,
) -> Run:
    """Train one model over many sites, in simulation.

    Args:
        config: a composed config, or the name of an experiment, or None for the defaults.
        overrides: such as ``["privacy.epsilon=1"]``; only with a name or None.
        config_dir: a folder with groups and experiments of your own.
        model: a function without arguments that returns a module; it ends in logits.
        data: site to ``(x, y)`` or to a mapping with ``x``, ``y`` and optional ``x_test``, ``y_test``, ``unit``.
        task: what ``data`` predicts; inferred from integer labels where it is None.
        strategy: any Flower ``Strategy`` that takes plain arrays.
        baselines: also train the pooled and the local-only models.
        progress: called after each round.
        load: reads the declared table; a sweep reads it once for all cells.
        track: called with the run's folder after each round and at its end; it must not raise.
        cpus: most of a Ray's that it takes; a sweep shares them out among its cells.

    Returns:
        The run; its folder holds config, manifest, metrics, model and report.

    Raises:
        FedkitError: bad input, named before any training; or a run that cannot go on.
        Interrupted: Ctrl-C; the folder says so and holds the last round's model.

    Guarantee: none with ``privacy.noise=seeded``. With ``secure``, the updates and the model of each site are
    (epsilon, delta)-DP as its plan states; metrics are exact and exist in simulation only.
    """
    if not isinstance(config, ExperimentConfig):
        config = compose(config, overrides, config_dir)
    refuse_uncharged(config, baselines=baselines)
    if config.federation.kind == "ray":
        check_ray(config.federation.address)
    given = {"model": model, "data": data, "strategy": strategy}
    rehearsed = rehearse(config, [name for name, value in given.items() if value is not None])
    prove_writable(Path(config.runs_dir))
    prepared = prepare(config, model=model, data=data, task=task, strategy=strategy, load=load)
    check_rehearsed(config, rehearsed, [site.name for site in prepared.dataset.sites])
    if strategy is None:
        strategy_for(prepared)
    engine = engine_for(prepared)
    with gates(prepared) as opened:
        directory = create(Path(config.runs_dir), prepared.config.name)
        journal = _Journal(directory, is_private(prepared.config), progress, track)
        try:
            return _run(prepared, directory, strategy, baselines, journal, opened, engine, cpus)
        finally:
            # However it ended: the folder says so.
            if track:
                track(directory.path)


def _run(
    prepared: Prepared,
    directory: RunDirectory,
    strategy: Strategy | None,
    baselines: bool,
    journal: _Journal,
    opened: Mapping[str, Gate],
    engine: Engine,
    cpus: int | None,
) -> Run:
    manifest = describe(
        prepared.config,
        prepared.dataset,
        prepared.local.sites,
        parameters=sum(p.numel() for p in prepared.model.parameters()),
        model_source=prepared.model_source,
        strategy_source=prepared.strategy_source,
        notes=[
            *prepared.local.notes,
            *prepared.local.remarks,
            *holding_notes(prepared, strategy),
            *prepared.dataset.warnings,
        ],
    )
    manifest["ledger_run"] = next((gate.run for gate in opened.values()), None)
    manifest["ledger"] = {}
    manifest["engine"] = engine.record()
    closing = _Closing(prepared, directory, manifest, journal, opened)
    try:
        directory.write_config(prepared.config)
        directory.write_manifest(manifest)
        if prepared.config.federation.kind == "flower":
            finish = run_flower(prepared, journal, directory.path)
        else:
            finish = run_local(
                prepared, journal, strategy=strategy, gates=opened, engine=engine, manifest=manifest, cpus=cpus
            )
        outcome = "degraded" if finish.outcome == "complete" and prepared.local.notes else finish.outcome
        result = closing.finish(outcome, finish)
    except KeyboardInterrupt:
        closing.stop("interrupted", "stopped by the user")
        raise Interrupted(f"interrupted after round {journal.rounds}; {directory.path} holds what was done") from None
    except SystemExit:
        # What rich makes of an output that nobody reads any more.
        closing.stop("interrupted", "its output could not be written any more")
        raise
    except Exception as error:
        told = _told(directory.path, error)
        closing.stop("failed", str(told) or type(told).__name__)
        raise told from None if told is not error else error.__cause__
    if baselines:
        _add_baselines(prepared, closing, result)
    try:
        write_report(directory.path)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted after the last round; {directory.path} lacks only its report") from None
    trained = copy.deepcopy(prepared.model)
    unpack(trained, finish.parameters)
    return Run(directory.path, result, finish.parameters, trained.eval())


def _told(path: Path, error: Exception) -> Exception:
    # A broken pipe or a site that went away says nothing about the disk.
    return cannot_write(path, error) if isinstance(error, OSError) and not isinstance(error, _NOT_DISK) else error


def _add_baselines(prepared: Prepared, closing: _Closing, result: dict[str, Any]) -> None:
    """Baselines come after the outcome is on disk: whatever stops them, the run stands."""
    directory, path = closing.directory, closing.directory.path
    try:
        result["baselines"] = run_baselines(prepared)
        directory.write_result(result)
    except KeyboardInterrupt:
        closing.amend(result, "stopped by the user while the baselines were trained: they are missing")
        raise Interrupted(f"interrupted after the last round; {path} holds the run without its baselines") from None
    except (FedkitError, OSError) as error:
        told = _told(path, error)
        closing.amend(result, f"the baselines are missing: {told}")
        raise told from None


@dataclass
class _Closing:
    """How a run is left: the outcome last, once everything that it promises is on disk."""

    prepared: Prepared
    directory: RunDirectory
    manifest: dict[str, Any]
    journal: _Journal
    gates: Mapping[str, Gate]
    start: float = field(default_factory=time.perf_counter)

    def finish(self, outcome: str, finish: Finish) -> dict[str, Any]:
        """A run that came to its own end."""
        manifest = self._ended(outcome, finish.notes)
        result = self._write(manifest, finish.parameters)
        self.directory.write_manifest(manifest)
        self.manifest |= manifest
        return result

    def stop(self, outcome: str, note: str) -> None:
        """A run that was stopped: the manifest first, then what can be saved; never an error of its own."""
        manifest = self._ended(outcome, (note,))
        steps: tuple[Callable[[], Any], ...] = (
            lambda: self.directory.write_manifest(manifest),
            lambda: self.directory.write_config(self.prepared.config),
            lambda: self._write(manifest, self.journal.parameters),
            lambda: write_report(self.directory.path),
        )
        with suppress(KeyboardInterrupt):
            for step in steps:
                with suppress(FedkitError, OSError):
                    step()

    def amend(self, result: dict[str, Any], note: str) -> None:
        """One more note on a run that has ended."""
        self.manifest["notes"] = result["notes"] = [*self.manifest["notes"], note]
        result.pop("baselines", None)
        with suppress(KeyboardInterrupt, FedkitError, OSError):
            self.directory.write_manifest(self.manifest)
            self.directory.write_result(result)
            write_report(self.directory.path)

    def _ended(self, outcome: str, notes: Sequence[str]) -> dict[str, Any]:
        return self.manifest | {
            "outcome": outcome,
            "notes": [*self.manifest["notes"], *notes],
            "rounds_done": self.journal.rounds,
            "seconds": round(time.perf_counter() - self.start, 3),
            "epsilon": dict(self.journal.epsilon),
            "ledger": taken(self.gates),
        }

    def _write(self, manifest: Mapping[str, Any], parameters: Float32 | None) -> dict[str, Any]:
        predictions = {} if parameters is None else predict_all(self.prepared, parameters)
        if parameters is not None:
            self.directory.write_model(
                {name: tensor.numpy() for name, tensor in split(self.prepared.model, parameters).items()},
                {"statement": manifest["statement"]},
            )
            self.directory.write_predictions(predictions)
        evaluation = measured(self.prepared, *self.journal.measured)
        result = build_result(self.prepared, manifest, predictions, str(self.directory.path), evaluation)
        self.directory.write_result(result)
        return result
