"""The noisy histograms of the evaluation, as the site's own code releases them: their noise, and a unit's weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from fedkit.assurance.audit.canaries import Readings, privacy_of
from fedkit.assurance.audit.finding import Finding, compared
from fedkit.assurance.audit.intervals import mean_interval, sigma_interval
from fedkit.federation.site import SiteRuntime
from fedkit.models.flat import pack
from fedkit.privacy.accounting import MIN_SIGMA
from fedkit.training.histograms import HistogramSpec
from fedkit.types import Dataset, EvaluationPlan, Examples, LocalPlan, Site

_RELEASES, _CELLS = 200, 40_000
_ROWS = 50


def evaluation_findings(
    model: nn.Module,
    dataset: Dataset,
    plans: Mapping[str, LocalPlan],
    specs: Sequence[HistogramSpec],
    alpha: float,
) -> list[Finding]:
    """Noise over plan at a site without records, and what a unit of many rows adds to a histogram; none without specs.

    The unit's weight is read under the least noise that the mechanism admits, which only an audit asks for.
    """
    found = []
    for site, plan in plans.items():
        evaluation = privacy_of(plan).evaluation
        if evaluation is None or not specs:
            continue
        cells = sum(spec.size for spec in specs)
        count = max(20, min(_RELEASES, _CELLS // cells))
        noise = _released(model, dataset, specs, plan, _rows(dataset, 0), evaluation.noise_multiplier, count)
        estimate = float(np.sqrt(np.mean(np.square(noise)))) / evaluation.noise_multiplier
        found.append(
            compared("noise.evaluation", "noise", site, "evaluation: noise over plan", estimate,
                     sigma_interval(estimate, noise.size, alpha), 1.0, margin=1e-3,
                     below="less noise than planned", above="more noise than planned")
        )  # fmt: skip
        weighed = _released(model, dataset, specs, plan, _rows(dataset, _ROWS), MIN_SIGMA, count)
        total = float(weighed.sum(1).mean()) / len(specs)
        spread = MIN_SIGMA * float(np.sqrt(cells)) / len(specs)
        found.append(
            compared("clip.evaluation", "clipping", site, "evaluation: weight of a unit", total,
                     mean_interval(total, spread, count, alpha), 1.0, margin=1e-6,
                     below="a unit counts less than once", above="a unit counts more than once")
        )  # fmt: skip
    return found


def _released(
    model: nn.Module,
    dataset: Dataset,
    specs: Sequence[HistogramSpec],
    plan: LocalPlan,
    test: Examples,
    sigma: float,
    count: int,
) -> Readings:
    """What the site's own code answers to as many requests; float64 [count, cells]."""
    privacy = privacy_of(plan)
    evaluation = EvaluationPlan(sigma, (1,), len(specs), specs[0].bins)
    audited = replace(plan, privacy=replace(privacy, noise="secure", evaluation=evaluation))
    nobody = Examples(test.x[:0], test.y[:0], test.unit[:0])
    site = Site("audited", nobody, test, test.num_units, True)
    runtime = SiteRuntime(
        model, dataset.task, 0, {site.name: site}, {site.name: audited}, frozenset(), tuple(specs), exact=False
    )
    parameters = pack(model)
    return np.stack([runtime.histograms(site.name, parameters, 1) for _ in range(count)])


def _rows(dataset: Dataset, count: int) -> Examples:
    """One unit of as many equal rows; its subgroups are undeclared levels."""
    kind = np.float32 if dataset.task.kind == "regression" else np.int64
    columns = {column for site in dataset.sites for column in site.test.subgroups}
    return Examples(
        np.zeros((count, *dataset.input_shape), dtype=np.float32),
        np.zeros(count, dtype=kind),
        np.zeros(count, dtype=np.int64),
        {column: np.full(count, "audit") for column in sorted(columns)},
    )
