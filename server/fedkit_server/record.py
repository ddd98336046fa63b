"""The run directory of a deployed run: the same files as a simulation's, made from declarations and replies alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from fedkit.config.experiment import ExperimentConfig
from fedkit.data.declared import feature_names, input_shape, task_of
from fedkit.federation.code_texts import legend
from fedkit.federation.folding import Recorded
from fedkit.federation.job import Job
from fedkit.federation.outcome import Finish
from fedkit.models.flat import views
from fedkit.privacy.plan import SiteFacts, declared_train_units
from fedkit.reporting.report import write_report
from fedkit.runs.deleted import require_kept
from fedkit.runs.directory import MANIFEST, METRICS, RunDirectory, read_json, read_text, reopen
from fedkit.runs.manifest import describe
from fedkit.simulation.measured import measured
from fedkit.simulation.prepare import Prepared, holding_notes
from fedkit.simulation.result import build_result
from fedkit.storage.atomic import write_text
from fedkit.training.model import declared_model
from fedkit.training.plan import declared_plans
from fedkit.types import ClientUpdate, Dataset, Examples, Float32, Metrics, RoundReport, Site
from fedkit_server.evaluated import note_evaluation

MOST_RECORDED = 2 * 2**30
"""Bytes of updates that a run directory keeps for `fedkit replay`; a run that would bring more records none."""

JOB = "job.json"


def declared_run(config: ExperimentConfig, models: Mapping[str, Callable[..., nn.Module]] | None = None) -> Prepared:
    """A run as its declarations describe it: sites without a row, plans, the untrained model.

    Args:
        models: those that the coordinator has installed, by name.

    Raises:
        FedkitError: plans or a model that cannot be.
    """
    data, shape = config.data, input_shape(config.data)
    nobody = Examples(np.zeros((0, *shape), np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64))
    dataset = Dataset(
        name=data.name,
        task=task_of(data),
        unit="record" if data.unit_column is None else "patient",
        input_shape=shape,
        feature_names=feature_names(data),
        sites=tuple(Site(name, nobody, nobody, records, True) for name, records in data.records.items()),
        test_fraction=data.split.test_fraction,
        split=data.split.kind,
        scaling=data.scaling,
        fingerprints=dict.fromkeys(data.records, ""),
    )
    source = "installed" if config.model.name in (models or {}) else "config"
    return Prepared(config, dataset, declared_model(config, models), declared_plans(config), source, "config")


@dataclass
class Record:
    """Writes one run's folder as it goes; opened again after a crash, it goes on.

    Attributes:
        directory: ``RUN``.
        keeps_updates: whether each round's updates are recorded.
        last: the last round that the folder held when it was opened.
    """

    directory: RunDirectory
    prepared: Prepared
    job: Job
    keeps_updates: bool
    manifest: dict[str, Any]
    rounds: int = 0
    last: int = -1
    epsilon: Mapping[str, float] = field(default_factory=dict)
    exact: Mapping[str, Metrics] = field(default_factory=dict)
    measured: tuple[int, Mapping[str, tuple[float, ...]]] = (0, {})
    _started: float = field(default_factory=time.perf_counter)

    def on_round(self, report: RoundReport, parameters: Float32, updates: Sequence[ClientUpdate]) -> None:
        """Called after each round; for the round that a crash cut off, a second time."""
        if self.keeps_updates and updates:
            if isinstance(updates, Recorded):
                self.directory.link_updates(report.round, updates.files())
            else:
                self.directory.write_updates(report.round, updates)
        if report.round > self.last:
            self.directory.append_round(report)
        self.rounds, self.epsilon = report.round, report.epsilon
        self.exact = report.sites or self.exact
        if report.histograms:
            self.measured = report.round, report.histograms
            note_evaluation(self.directory.path, self.prepared, *self.measured)

    def restore(self) -> None:
        """Take up what the folder says of the rounds that it holds."""
        for text in read_text(self.directory.path / METRICS).splitlines():
            line = json.loads(text)
            self.rounds, self.epsilon, self.exact = line["round"], line["epsilon"], line["sites"] or self.exact
            if line.get("histograms"):
                self.measured = line["round"], line["histograms"]

    def finish(self, finish: Finish, usage: Mapping[str, Any]) -> dict[str, Any]:
        """Write how the run ended: model, result, manifest, report."""
        outcome = "degraded" if finish.outcome == "complete" and self.prepared.local.notes else finish.outcome
        manifest = self.manifest | {
            "outcome": outcome,
            # Of a run that was resumed, the notes of before are among those of now.
            "notes": list(dict.fromkeys([*self.manifest["notes"], *finish.notes, *legend(finish.notes)])),
            "rounds_done": finish.rounds,
            "seconds": round(self.manifest["seconds"] + time.perf_counter() - self._started, 3),
            "epsilon": dict(self.epsilon),
            "usage": dict(usage),
        }
        self.directory.write_model(
            views(self.prepared.model, finish.parameters),
            {"statement": manifest["statement"]},
        )
        evaluation = measured(self.prepared, *self.measured)
        result = build_result(self.prepared, manifest, {}, str(self.directory.path), evaluation)
        for site, counts in _declared_counts(self.prepared).items():
            result["sites"][site] |= {**counts, **self.exact.get(site, {})}
        result["exact_metrics"] = "not protected" if self.exact else "none"
        result["usage"] = dict(usage)
        self.directory.write_result(result)
        self.directory.write_manifest(manifest)
        write_report(self.directory.path)
        return result

    def fail(self, note: str) -> None:
        """Write that the run cannot go on."""
        self.directory.write_manifest(
            self.manifest | {"outcome": "failed", "notes": [*self.manifest["notes"], note], "rounds_done": self.rounds}
        )


def open_record(path: Path, job: Job, models: Mapping[str, Callable[..., nn.Module]] | None = None) -> Record:
    """Make the folder of a run, or open it again.

    Args:
        models: as in :func:`declared_run`.

    Raises:
        FedkitError: plans or a model that cannot be; a folder that cannot be read or written; FK636, one of which the
            updates were deleted.
    """
    require_kept(path)
    # Quorum and deadline are the job's own: a replay samples and counts as the run did.
    federation = replace(job.config.federation, min_sites=job.min_sites, timeout=job.deadline)
    config = replace(job.config, federation=federation)
    prepared = declared_run(config, models)
    directory = RunDirectory(path)
    size = sum(parameter.numel() for parameter in prepared.model.parameters())
    bytes_ = 4 * size * len(prepared.local.sites) * federation.num_rounds
    keeps = bytes_ <= MOST_RECORDED
    if (path / MANIFEST).is_file():
        directory, last = reopen(path)
        record = Record(directory, prepared, job, keeps, read_json(path / MANIFEST), last=last)
        record.restore()
        return record
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    notes = [*prepared.local.notes, *prepared.local.remarks, *holding_notes(prepared)]
    if not keeps:
        notes.append(f"updates are not recorded: {bytes_ / 2**30:.1f} GiB; `fedkit replay` cannot fold the run again")
    manifest = describe(
        config,
        prepared.dataset,
        prepared.local.sites,
        parameters=size,
        model_source=prepared.model_source,
        strategy_source="config",
        notes=notes,
    )
    manifest |= {"federation": "deployed", "run": job.run, "study": job.study, "submitter": job.submitter}
    manifest |= {"federation_id": job.federation, "job": job.digest}
    for site, counts in _declared_counts(prepared).items():
        manifest["data"]["sites"][site] |= {**counts, "train_rows": None, "test_rows": None}
    write_text(path / JOB, job.signed.text + "\n")
    directory.write_config(config)
    write_text(path / METRICS, "")
    directory.write_manifest(manifest)
    return Record(directory, prepared, job, keeps, manifest)


def _declared_counts(prepared: Prepared) -> dict[str, dict[str, int]]:
    """Site to the units that it trains on and tests on, as declared."""
    dataset = prepared.dataset
    found = {}
    for site in dataset.sites:
        train = round(
            declared_train_units(SiteFacts(site.name, site.records, True, dataset.unit, dataset.test_fraction))
        )
        found[site.name] = {"train": train, "test": site.records - train}
    return found
