"""The two numbers every reader asks for: one model on everyone's records, and each site alone.

Both train with the federation's own settings (privacy included) and as many rounds. They are comparisons for a
simulation: a real federation can compute neither, and no run's epsilon covers them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedkit.config.experiment import ExperimentConfig, StrategyConfig
from fedkit.data.pool import pooled
from fedkit.simulation.local import one_thread, run_local
from fedkit.simulation.prepare import Prepared
from fedkit.simulation.result import site_metrics
from fedkit.training.evaluate import predict
from fedkit.training.metrics import concatenate, metrics
from fedkit.training.plan import local_plans
from fedkit.types import Dataset, Predictions


def baselines(prepared: Prepared) -> dict[str, Any]:
    """Metrics of the pooled model and of each site's own model, on the same test rows as the federation's."""
    return {"pooled": _summary(prepared, _pooled(prepared)), "local_only": _summary(prepared, _local_only(prepared))}


def _pooled(prepared: Prepared) -> dict[str, Predictions]:
    return _scores(prepared, _alone(prepared, pooled(prepared.dataset)), list(prepared.local.tested))


def _local_only(prepared: Prepared) -> dict[str, Predictions]:
    scored: dict[str, Predictions] = {}
    for site in prepared.dataset.sites:
        if site.name in prepared.local.sites and site.name in prepared.local.tested:
            scored |= _scores(prepared, _alone(prepared, replace(prepared.dataset, sites=(site,))), [site.name])
    return scored


def _alone(prepared: Prepared, dataset: Dataset) -> Any:
    config = _plain(prepared.config)
    alone = replace(prepared, config=config, dataset=dataset, local=local_plans(config, dataset))
    return run_local(alone, lambda *_: None, evaluate=False).parameters


def _plain(config: ExperimentConfig) -> ExperimentConfig:
    # With one participant every strategy's averaging is the identity: what is left is plain local training.
    federation = replace(config.federation, kind="local", min_sites=1, fraction_train=1.0)
    return replace(config, strategy=StrategyConfig("fedavg"), federation=federation)


def _scores(prepared: Prepared, parameters: Any, names: list[str]) -> dict[str, Predictions]:
    with one_thread():
        return {
            site.name: predict(prepared.model, parameters, prepared.dataset.task, site.test)
            for site in prepared.dataset.sites
            if site.name in names
        }


def _summary(prepared: Prepared, predictions: Mapping[str, Predictions]) -> dict[str, Any]:
    overall = metrics(prepared.dataset.task, concatenate(list(predictions.values()))) if predictions else {}
    return {"overall": overall, "sites": site_metrics(prepared, predictions)}
