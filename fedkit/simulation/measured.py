"""What the charged evaluation says of the final model: post-processing of the released histograms alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from fedkit.privacy.randomness import Float64
from fedkit.simulation.prepare import Prepared
from fedkit.training.histograms import HistogramSpec
from fedkit.training.private_metrics import PrivateMetrics, pooled, private_metrics


def measured(prepared: Prepared, number: int, histograms: Mapping[str, Sequence[float]]) -> dict[str, Any] | None:
    """Metrics with 95 % intervals from the histograms of one round, as plain JSON types; None where there are none.

    Args:
        number: the round after which they were released.
        histograms: site to its cells, one histogram after the other in the order of the specs.

    Guarantee: it reads nothing but the released cells and public constants, and so costs nothing further.
    """
    specs, plans = prepared.local.specs, prepared.local.sites
    if not specs or not histograms:
        return None
    sigmas = {site: _sigma(plans[site].privacy) for site in histograms}
    parts = {site: _split(specs, cells) for site, cells in histograms.items()}
    sites = {site: private_metrics(specs, cells, [sigmas[site]] * len(specs)) for site, cells in parts.items()}
    whole = [pooled({site: cells[index] for site, cells in parts.items()}, sigmas) for index in range(len(specs))]
    overall = private_metrics(specs, [counts for counts, _ in whole], [sd for _, sd in whole])
    private = prepared.config.privacy.noise == "secure"
    return {
        "after_round": number,
        "private": private,
        "noise_multiplier": max(sigmas.values()),
        "histograms": len(specs),
        **_plain(overall),
        "sites": {site: _plain(metrics)["overall"] for site, metrics in sites.items()},
    }


def _sigma(plan: Any) -> float:
    return float(plan.evaluation.noise_multiplier)


def _split(specs: Sequence[HistogramSpec], cells: Sequence[float]) -> list[Float64]:
    ends = np.cumsum([spec.size for spec in specs])[:-1]
    return np.split(np.asarray(cells, dtype=np.float64), ends)


def _plain(metrics: PrivateMetrics) -> dict[str, Any]:
    return {
        "overall": {name: asdict(found) for name, found in metrics.overall.items()},
        "subgroups": {
            column: {level: {name: asdict(found) for name, found in known.items()} for level, known in levels.items()}
            for column, levels in metrics.subgroups.items()
        },
        "confusion": [[asdict(cell) for cell in row] for row in metrics.confusion],
    }
