"""The closing figures of a run: by site, overall, by subgroup."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedkit.simulation.prepare import Prepared
from fedkit.training.metrics import concatenate, metrics, subgroup_metrics
from fedkit.types import Metrics, Predictions


def site_metrics(prepared: Prepared, predictions: Mapping[str, Predictions]) -> dict[str, Metrics]:
    """Exact metrics a site."""
    return {site: metrics(prepared.dataset.task, scored) for site, scored in predictions.items()}


def build_result(
    prepared: Prepared, manifest: Mapping[str, Any], predictions: Mapping[str, Predictions], run_dir: str
) -> dict[str, Any]:
    """What ``--json`` prints and ``result.json`` holds.

    Metrics are exact and cover the test rows of the sites that have enough of them; an undefined one is None.
    """
    task = prepared.dataset.task
    by_site = site_metrics(prepared, predictions)
    sites: dict[str, Any] = {}
    for site in prepared.dataset.sites:
        plan = prepared.local.sites.get(site.name)
        entry: dict[str, Any] = {"train": site.train.num_units, "test": site.test.num_units}
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
    }


def _subgroups(prepared: Prepared, predictions: Mapping[str, Predictions]) -> dict[str, Any]:
    tested = [site for site in prepared.dataset.sites if site.name in predictions]
    columns = sorted({column for site in tested for column in site.test.subgroups})
    if not tested:
        return {}
    together = concatenate([predictions[site.name] for site in tested])
    return {
        column: subgroup_metrics(
            prepared.dataset.task, together, np.concatenate([site.test.subgroups[column] for site in tested])
        )
        for column in columns
    }
