"""What each site will do in every round, and who is left out: settled before anything runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fedkit.config.experiment import DataConfig, ExperimentConfig, TrainingConfig
from fedkit.data.declared import task_of
from fedkit.data.encode import subgroup_names
from fedkit.data.table import name_text
from fedkit.errors import PrivacyError, TrainingError
from fedkit.privacy.plan import MIN_TEST_UNITS, SiteFacts, declared_train_units, make_plans, whole_steps
from fedkit.training.histograms import HistogramSpec, specs_of
from fedkit.training.updates import UPDATES
from fedkit.types import Dataset, LocalPlan, Site, Task

MIN_TRAIN_UNITS = 5
MIN_TEST_ROWS = 5


@dataclass(frozen=True)
class LocalPlans:
    """Plans of the sites that train, and what a reader should know of the others.

    Attributes:
        sites: site to plan, in the data set's order; sites too small to train are absent.
        tested: sites with enough test rows for exact metrics (simulation only).
        notes: one sentence for each site that is left out of a part.
        remarks: what else a reader should know; the run is whole all the same.
        specs: the histograms that a charged evaluation releases; empty where the plans have none.
    """

    sites: Mapping[str, LocalPlan]
    tested: tuple[str, ...]
    notes: tuple[str, ...]
    specs: tuple[HistogramSpec, ...] = ()
    remarks: tuple[str, ...] = ()


def evaluation_specs(config: ExperimentConfig, task: Task) -> tuple[HistogramSpec, ...]:
    """The histograms of a config's charged evaluation, in the order in which they are released; none without one.

    Raises:
        TrainingError: FK413, a shape that cannot be.
    """
    evaluation = config.privacy.evaluation
    if config.privacy.mode == "none" or (evaluation.noise_multiplier is None and evaluation.share is None):
        return ()
    subgroups = {column: tuple(subgroup_names(config.data, column)) for column in config.data.subgroups}
    return specs_of(task, subgroups, config.privacy.evaluation.bins)


def local_plans(config: ExperimentConfig, dataset: Dataset) -> LocalPlans:
    """The plan of every site that is large enough.

    In a private run every number, the decision to leave a site out of training included, follows from declared
    constants.

    Raises:
        TrainingError: impossible training settings, or no site that can train.
        PrivacyError: every problem of the privacy plans of all sites at once.
    """
    private = config.privacy.mode != "none"
    _check_training(config.training)
    trained, tested, notes = [], [], []
    for site in dataset.sites:
        units = declared_train_units(_facts(site, dataset)) if private else site.train.num_units
        if units < MIN_TRAIN_UNITS:
            notes.append(_too_small(site.name, units, declared=private and site.records_declared))
        else:
            trained.append(site)
        if len(site.test) < MIN_TEST_ROWS:
            notes.append(
                f"{site.name} left out of testing: {len(site.test)} test rows, at least {MIN_TEST_ROWS} needed"
            )
        else:
            tested.append(site.name)
    if not trained:
        raise _nobody_trains(dataset.name)
    specs = evaluation_specs(config, dataset.task)
    if private:
        plans = _private(config, [_facts(site, dataset) for site in trained], len(specs))
    else:
        plans = {site.name: _plain(config, len(site.train)) for site in trained}
    return LocalPlans(plans, tuple(tested), tuple(notes), specs, _remarks(plans, specs))


def declared_plans(config: ExperimentConfig, names: Sequence[str] | None = None) -> LocalPlans:
    """What follows of :func:`local_plans` from the declaration alone: no row is read, ``tested`` is empty.

    In a private run that is every plan, weights and evaluation rounds included. With privacy none it is who trains and
    with what optimizer: weights are None, and steps and batches are those of the declared counts, not of the rows.

    Args:
        names: sites that ``data.records`` declares; None for all of them.

    Raises:
        TrainingError: impossible training settings, or no site that can train.
        PrivacyError: every problem of the privacy plans of all sites at once; FK310, a site without a declared count.

    >>> from fedkit.config.compose import compose
    >>> declared_plans(compose("heart_disease")).sites["cleveland"].weight
    200.0
    """
    _check_training(config.training)
    facts = _declared_facts(config.data, names)
    trained = [fact for fact in facts if declared_train_units(fact) >= MIN_TRAIN_UNITS]
    notes = [_too_small(fact.site, declared_train_units(fact), declared=True) for fact in facts if fact not in trained]
    if not trained:
        raise _nobody_trains(config.data.name)
    specs = evaluation_specs(config, task_of(config.data))
    if config.privacy.mode != "none":
        plans = _private(config, trained, len(specs))
    else:
        plans = {fact.site: _plain(config, max(1, round(declared_train_units(fact)))) for fact in trained}
    return LocalPlans(plans, (), tuple(notes), specs, _remarks(plans, specs))


def _declared_facts(data: DataConfig, names: Sequence[str] | None) -> list[SiteFacts]:
    declared = {name_text(name): count for name, count in data.records.items()}
    wanted = list(declared) if names is None else list(names)
    if missing := [name for name in wanted if name not in declared]:
        raise PrivacyError(
            f"data.records declares no count of {', '.join(missing)}", code="FK310", remedy="declare every site's count"
        )
    unit: Literal["record", "patient"] = "record" if data.unit_column is None else "patient"
    return [SiteFacts(name, declared[name], True, unit, data.split.test_fraction) for name in wanted]


def _too_small(site: str, units: float, *, declared: bool) -> str:
    kind = "declared training" if declared else "training"
    return f"{site} left out of training: {units:.4g} {kind} units, at least {MIN_TRAIN_UNITS} needed"


def _nobody_trains(dataset: str) -> TrainingError:
    return TrainingError(
        f"no site of {dataset} has the {MIN_TRAIN_UNITS} training units that are needed",
        code="FK409",
        remedy="pool sites, or lower data.split.test_fraction",
    )


def _remarks(plans: Mapping[str, LocalPlan], specs: tuple[HistogramSpec, ...]) -> tuple[str, ...]:
    silent = [name for name, plan in plans.items() if specs and plan.privacy and plan.privacy.evaluation is None]
    return tuple(
        f"{name} releases no histogram: at least {MIN_TEST_UNITS} declared test units are needed" for name in silent
    )


def _private(config: ExperimentConfig, facts: list[SiteFacts], histograms: int) -> dict[str, LocalPlan]:
    plans = make_plans(facts, config.privacy, config.training, config.federation.num_rounds, histograms)
    return {
        fact.site: LocalPlan(
            steps=plans[fact.site].steps,
            batch_size=max(1, round(plans[fact.site].lot_size)),
            learning_rate=config.training.learning_rate,
            optimizer=_optimizer(config.training),
            privacy=plans[fact.site],
            weight=float(max(1, round(declared_train_units(fact)))),
        )
        for fact in facts
    }


def _plain(config: ExperimentConfig, rows: int) -> LocalPlan:
    training = config.training
    if training.batch_size is not None:
        batch = min(training.batch_size, rows)
    else:
        batch = min(max(1, round((config.privacy.sample_rate or 1.0) * rows)), rows)
    if training.local_steps is not None:
        steps = training.local_steps
    else:
        steps = whole_steps((training.local_epochs or 1.0) * math.ceil(rows / batch))
    return LocalPlan(
        steps=steps,
        batch_size=batch,
        learning_rate=training.learning_rate,
        optimizer=_optimizer(training),
        privacy=None,
    )


def _facts(site: Site, dataset: Dataset) -> SiteFacts:
    return SiteFacts(site.name, site.records, site.records_declared, dataset.unit, dataset.test_fraction)


def _optimizer(training: TrainingConfig) -> Literal["sgd", "adam"]:
    return "adam" if training.optimizer == "adam" else "sgd"


def _check_training(training: TrainingConfig) -> None:
    problems = []
    rate = training.learning_rate
    if not (math.isfinite(rate) and rate > 0):
        problems.append(f"training.learning_rate {rate:g} is not above 0, set training.learning_rate=0.1")
    if training.optimizer not in UPDATES:
        problems.append(f"training.optimizer {training.optimizer} is not one of {', '.join(UPDATES)}")
    if (training.local_epochs is None) == (training.local_steps is None):
        problems.append("exactly one of training.local_epochs and training.local_steps must be set")
    for name, value in (
        ("local_epochs", training.local_epochs),
        ("local_steps", training.local_steps),
        ("batch_size", training.batch_size),
    ):
        if value is not None and not (math.isfinite(value) and value > 0):
            problems.append(f"training.{name} {value:g} is not above 0")
    if problems:
        raise TrainingError("; ".join(problems), code="FK408")
