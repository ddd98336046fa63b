"""Everything that a run needs, made and checked before any training: data, model, plans, strategy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from flwr.serverapp.strategy import Strategy
from torch import nn

from fedkit.config.experiment import (
    DataConfig,
    ExperimentConfig,
    FeaturesConfig,
    ModelConfig,
    SourceConfig,
    StrategyConfig,
    TargetConfig,
)
from fedkit.data.arrays import from_arrays
from fedkit.data.load import load_dataset
from fedkit.data.table import name_text
from fedkit.errors import ConfigError, FederationError
from fedkit.models import build as build_model
from fedkit.simulation.spread import check_workers, for_kind
from fedkit.strategies import AnyStrategy, memory_note, refuse_if_needs_statistics
from fedkit.strategies import build as build_strategy
from fedkit.training.choice import choose, unplanned
from fedkit.training.engine import REFERENCE, Engine
from fedkit.training.kinds import Kinds
from fedkit.training.model import ModelFactory as ModelFactory
from fedkit.training.model import check_output, given_model
from fedkit.training.plan import LocalPlans, local_plans
from fedkit.types import Dataset, LocalPlan, Task


class Load(Protocol):
    """See :func:`fedkit.data.load.load_dataset`."""

    def __call__(self, config: DataConfig, *, private: bool) -> Dataset:
        """The data set of a declaration."""
        ...


@dataclass(frozen=True)
class Prepared:
    """A run that can start."""

    config: ExperimentConfig
    dataset: Dataset
    model: nn.Module
    local: LocalPlans
    model_source: str
    strategy_source: str


def prepare(
    config: ExperimentConfig,
    *,
    model: ModelFactory | None = None,
    data: Mapping[str, Any] | None = None,
    task: Task | None = None,
    strategy: Strategy | None = None,
    load: Load = load_dataset,
) -> Prepared:
    """Read the data, build the model, and calibrate every site's plan once it is known that the engine takes the model.

    Args:
        load: reads a declared table, where it may have been read before.

    Raises:
        FedkitError: anything that would stop the run later.
    """
    private = config.privacy.mode != "none"
    if strategy is not None and not isinstance(strategy, Strategy):
        raise FederationError(
            f"strategy is {getattr(strategy, '__name__', type(strategy).__name__)}, not a Flower Strategy object",
            code="FK504",
            remedy="pass an instance, such as flwr.serverapp.strategy.FedAvg()",
        )
    if strategy is not None:
        refuse_if_needs_statistics(strategy, private=private)
    if data is None:
        dataset = load(config.data, private=private)
    else:
        split = config.data.split
        dataset = from_arrays(
            data,
            task,
            test_fraction=split.test_fraction,
            seed=split.seed,
            private=private,
            records=_declared(config, data),
            max_rows_per_unit=config.data.max_rows_per_unit,
        )
        config = _arrays_config(config, dataset)
    if config.federation.min_sites > len(dataset.sites):
        raise ConfigError(
            [
                f"federation.min_sites={config.federation.min_sites}, but data {dataset.name} has"
                f" {len(dataset.sites)} sites; lower federation.min_sites"
            ],
            code="FK110",
        )
    module = _model(config, dataset, model)
    if model is not None:
        config = replace(config, model=ModelConfig("python"))
    if strategy is not None:
        config = replace(config, strategy=StrategyConfig("python"))
    # Plans take seconds of accounting.
    _engine(config, dataset, module, None)
    return Prepared(
        config,
        dataset,
        module,
        local_plans(config, dataset),
        "python" if model is not None else "config",
        "python" if strategy is not None else "config",
    )


def engine_for(prepared: Prepared) -> Engine:
    """What trains the sites of a run: the config's engine, or that which suits the model.

    Raises:
        TrainingError: FK417, FK418, FK423; see :func:`fedkit.training.choice.choose` and :func:`check_workers`.
    """
    return _engine(prepared.config, prepared.dataset, prepared.model, prepared.local.sites)


def strategy_for(prepared: Prepared) -> AnyStrategy:
    """A fresh strategy for one run of the loop (strategies carry momentum and must not be reused).

    Raises:
        FederationError: the strategy cannot be used here.
    """
    config = prepared.config
    count = max(1, int(np.ceil(config.federation.fraction_train * len(prepared.local.sites))))
    return build_strategy(config.strategy, num_sites=count, private=config.privacy.mode != "none")


def holding_notes(prepared: Prepared, strategy: AnyStrategy | None = None) -> list[str]:
    """What a strategy that holds all updates of a round will need, said before the first round.

    Args:
        strategy: the caller's own, else the one that the config names.
    """
    sites = max(1, int(np.ceil(prepared.config.federation.fraction_train * len(prepared.local.sites))))
    size = sum(p.numel() for p in prepared.model.parameters())
    note = memory_note(strategy or strategy_for(prepared), sites=sites, parameters=size)
    return [note] if note else []


def _declared(config: ExperimentConfig, data: Mapping[str, Any]) -> dict[str, int]:
    """The counts that ``data.records`` declares for the arrays' sites; other entries are another table's."""
    names = [name_text(site) for site in data] if isinstance(data, Mapping) else []
    declared = {name: config.data.records[name] for name in names if name in config.data.records}
    if declared and len(declared) < len(names):
        missing = ", ".join(name for name in names if name not in declared)
        raise ConfigError([f"data.records declares no count of {missing}; declare all sites or none"], code="FK111")
    return declared


def _arrays_config(config: ExperimentConfig, dataset: Dataset) -> ExperimentConfig:
    """The config without the declaration of a table that was not read."""
    task = dataset.task
    positive = (1,) if task.kind == "binary" else ()
    classes = task.classes if task.kind == "multiclass" else ()
    data = DataConfig(
        name=dataset.name,
        description="arrays given in Python",
        source=SourceConfig(kind="arrays"),
        target=TargetConfig("y", task.kind, positive, classes, task.range),
        features=FeaturesConfig(),
        split=config.data.split,
        max_rows_per_unit=config.data.max_rows_per_unit,
        records={site.name: site.records for site in dataset.sites if site.records_declared},
    )
    name = dataset.name if config.name == config.data.name else config.name
    return replace(config, name=name, data=data)


def _engine(
    config: ExperimentConfig, dataset: Dataset, model: nn.Module, plans: Mapping[str, LocalPlan] | None
) -> Engine:
    """Before there are plans, what every plan is refused by is."""
    if config.federation.kind == "flower":
        return replace(REFERENCE, why="federation=flower trains a site a process")
    training = for_kind(config.training, config.federation.kind)
    kinds = Kinds(config.privacy.mode != "none") if plans is None else Kinds.of(plans)
    if plans is None and training.engine == "auto":
        # What auto takes follows from the plans, the device too, and with it how many processes the budget holds.
        device = "cuda" if training.device == "cuda" else "cpu"
        engine = unplanned(replace(training, device=device), model, private=kinds.private)
    else:
        engine = choose(training, model, dataset.task, dataset.input_shape, kinds)
    check_workers(training, engine)
    return engine


def _model(config: ExperimentConfig, dataset: Dataset, factory: ModelFactory | None) -> nn.Module:
    if factory is not None:
        return given_model(factory, dataset.input_shape, dataset.task, config.seed)
    module = build_model(config.model, dataset.input_shape, dataset.task.num_outputs, config.seed)
    check_output(module, dataset.input_shape, dataset.task)
    return module
