"""The closing figures of a run: by site, overall, by subgroup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedkit.data.encode import subgroup_names
from fedkit.simulation.prepare import Prepared
from fedkit.training.metrics import concatenate, metrics, subgroup_metrics
from fedkit.types import Examples, Int64, Metrics, Predictions


def site_metrics(prepared: Prepared, predictions: Mapping[str, Predictions]) -> dict[str, Metrics]:
    """Exact metrics a site."""
    return {site: metrics(prepared.dataset.task, scored) for site, scored in predictions.items()}


def build_result(
    prepared: Prepared,
    manifest: Mapping[str, Any],
    predictions: Mapping[str, Predictions],
    run_dir: str,
    evaluation: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What ``--json`` prints and ``result.json`` holds.

    ``overall``, ``sites`` and ``subgroups`` are exact, not protected, and cover the test rows of the sites that have
    enough of them; an undefined metric is None. ``evaluation`` is what the charged histograms say instead.
    """
    task = prepared.dataset.task
    by_site = site_metrics(prepared, predictions)
    sites: dict[str, Any] = {}
    for site in prepared.dataset.sites:
        plan = prepared.local.sites.get(site.name)
        entry: dict[str, Any] = {"train": len(site.train), "test": len(site.test)}
        if prepared.dataset.unit == "patient":
            entry |= {"train_patients": site.train.num_units, "test_patients": site.test.num_units}
        entry |= by_site.get(site.name, {})
        if plan is not None and plan.privacy is not None:
            entry |= {"epsilon": manifest["epsilon"].get(site.name, 0.0), "delta": plan.privacy.delta}
        sites[site.name] = entry
    return {
        "run_dir": run_dir,
        "outcome": manifest["outcome"],
        "rounds": manifest["rounds_done"],
        "seconds": manifest["seconds"],
        "noise": manifest["noise"],
        "private": manifest["private"],
        "statement": manifest["statement"],
        "notes": manifest["notes"],
        "model": {"name": manifest["model"]["name"], "parameters": manifest["model"]["parameters"]},
        "overall": metrics(task, concatenate(list(predictions.values()))) if predictions else {},
        "sites": sites,
        "subgroups": _subgroups(prepared, predictions),
        "exact_metrics": "not protected (simulation only)",
        "evaluation": evaluation,
    }


def _subgroups(prepared: Prepared, predictions: Mapping[str, Predictions]) -> dict[str, Any]:
    tested = [site for site in prepared.dataset.sites if site.name in predictions]
    columns = sorted({column for site in tested for column in site.test.subgroups})
    if not tested:
        return {}
    together = concatenate([predictions[site.name] for site in tested])
    units = _units_of_all([site.test for site in tested])
    task, data = prepared.dataset.task, prepared.config.data
    return {
        column: subgroup_metrics(
            task,
            together,
            np.concatenate([site.test.subgroups[column] for site in tested]),
            units=units,
            order=subgroup_names(data, column),
        )
        for column in columns
    }


def _units_of_all(parts: Sequence[Examples]) -> Int64:
    offsets = np.cumsum([0, *(part.num_units for part in parts)])
    return np.concatenate([part.unit + offset for part, offset in zip(parts, offsets, strict=False)])
