"""The frozen values that flow between the parts; no behaviour beyond reading themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Metrics = Mapping[str, float | None]
"""Metric name to value; None where the metric is undefined (never 0 or 0.5 in its place)."""


@dataclass(frozen=True)
class Task:
    """What the model predicts.

    Attributes:
        kind: ``binary``, ``multiclass`` or ``regression``.
        classes: display names by class index; two of them for binary, none for regression.
        range: public bounds of a regression target in its own units.
    """

    kind: Literal["binary", "multiclass", "regression"]
    classes: tuple[str, ...] = ()
    range: tuple[float, float] | None = None

    @property
    def num_outputs(self) -> int:
        """Width of the model's last layer: 1 for binary and regression, else the number of classes."""
        return len(self.classes) if self.kind == "multiclass" else 1


@dataclass(frozen=True)
class Examples:
    """Encoded records of one part (train or test) of one site.

    Attributes:
        x: float32 [n, *input_shape].
        y: int64 [n] class index, or for regression float32 [n] scaled to [0, 1] by the task's range.
        unit: int64 [n], the index of the privacy unit that owns the row, 0 .. num_units - 1.
        subgroups: declared column to label a row, str [n].
    """

    x: Float32
    y: NDArray[Any]
    unit: Int64
    subgroups: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.x)

    @cached_property
    def num_units(self) -> int:
        """Number of privacy units (equals the number of rows where a row is the unit)."""
        return int(self.unit.max()) + 1 if len(self.unit) else 0


@dataclass(frozen=True)
class Site:
    """One hospital's data in a simulation.

    Attributes:
        records: declared, public, approximate number of privacy units at the site (train and test together);
            where nothing was declared the true count stands in and ``records_declared`` is False.
    """

    name: str
    train: Examples
    test: Examples
    records: int
    records_declared: bool


@dataclass(frozen=True)
class Dataset:
    """All sites of a simulation, encoded.

    Attributes:
        unit: what one unit of privacy is.
        input_shape: shape of one example.
        test_fraction: the declared share of units held out for testing.
        split: how train and test were parted; only ``keyed_hash`` is admitted in a private run.
        scaling: how numbers were scaled; only ``declared`` is admitted in a private run.
        fingerprints: site to SHA-256 of its encoded arrays (a simulation's own record, never sent anywhere).
        warnings: what a reader should know: sites without a feature, undeclared levels, ...
    """

    name: str
    task: Task
    unit: Literal["record", "patient"]
    input_shape: tuple[int, ...]
    feature_names: tuple[str, ...]
    sites: tuple[Site, ...]
    test_fraction: float
    split: str
    scaling: str
    fingerprints: Mapping[str, str]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class EvaluationPlan:
    """What a site will say of the model's quality: noisy histograms of its test units.

    Attributes:
        noise_multiplier: sigma of each histogram, to which a unit adds a total of 1.
        rounds: after which rounds they are released, ascending.
        histograms: how many are released each time: one a subgroup column, at least one.
        bins: cells of the score's range.
    """

    noise_multiplier: float
    rounds: tuple[int, ...]
    histograms: int
    bins: int


@dataclass(frozen=True)
class PrivacyPlan:
    """What one site's run promises; made before anything runs, and never changed in part.

    Guarantee: with real noise, everything the site's updates and histograms reveal over ``rounds`` rounds is
    (``epsilon``, ``delta``)-DP for one ``unit`` under ``adjacency``, for an observer of every message.

    Attributes:
        sample_rate: q, the chance that a unit joins a lot (Poisson sampling).
        noise_multiplier: sigma; the noise's standard deviation is sigma * max_grad_norm on the sum of a lot.
        lot_size: declared expected number of units in a lot, the constant that sums are divided by.
        steps: noisy steps a round.
        records: the declared count that q and the lot derive from; ``records_declared`` False says that the
            simulation's true count stands in for a declaration.
        noise: ``secure`` (operating system's randomness) or ``seeded`` (replayable: NOT private).
        max_lot: a count of units that no lot of the run exceeds, but for a chance that ``delta`` covers: the number
            of places that a lot's rows are laid out in.
        evaluation: the histograms that are charged beside the training; None releases none.
    """

    site: str
    unit: Literal["record", "patient"]
    adjacency: Literal["add_remove"]
    sample_rate: float
    max_grad_norm: float
    noise_multiplier: float
    lot_size: float
    steps: int
    rounds: int
    epsilon: float
    delta: float
    accountant: str
    records: int
    records_declared: bool
    noise: Literal["seeded", "secure"]
    max_lot: int
    evaluation: EvaluationPlan | None = None


@dataclass(frozen=True)
class LocalPlan:
    """What one site does in every round.

    Attributes:
        steps: optimizer steps a round.
        batch_size: rows a step where privacy is None (a lot is drawn by the privacy plan otherwise).
        weight: aggregation weight, a declared constant in a private run; None stands for the true number of
            training rows.
        reports_loss: whether the update says the received model's loss on the training rows; a private one never does.
    """

    steps: int
    batch_size: int
    learning_rate: float
    optimizer: Literal["sgd", "adam"]
    privacy: PrivacyPlan | None
    weight: float | None = None
    reports_loss: bool = True


@dataclass(frozen=True)
class RoundPlan:
    """One round for a batch of sites.

    Attributes:
        parameters: float32 [d], the global model packed into one flat array.
        proximal_mu: FedProx's mu; 0 leaves the term out.
    """

    seed: int
    round: int
    parameters: Float32
    proximal_mu: float
    sites: Mapping[str, LocalPlan]


@dataclass(frozen=True)
class ClientUpdate:
    """What leaves a site after a round.

    Attributes:
        delta: float32 [d], local minus received.
        weight: the declared number of training units, a public constant.
        metrics: empty in a private run.
    """

    site: str
    delta: Float32
    weight: float
    metrics: Mapping[str, float] = field(default_factory=dict)


SiteState = Mapping[str, Float32]
"""What a site keeps from round to round (control variates, personal heads); empty for most strategies."""


@dataclass(frozen=True)
class Predictions:
    """Scores of the model on one site's test rows.

    Attributes:
        y: [n] as in Examples.
        scores: float64 [n] probability of the positive class (binary), [n, k] class probabilities (multiclass),
            or [n] predictions on the [0, 1] scale (regression).
    """

    y: NDArray[Any]
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class RoundReport:
    """What is known after one round.

    Attributes:
        sites: site to its exact test metrics in simulation ("not protected").
        epsilon: site to epsilon spent so far; empty without privacy.
        failed: site to the reason why its reply is missing.
        digest: SHA-256 of the global model's float32 bytes.
        histograms: site to what its charged evaluation released in this round, one cell after the other.
    """

    round: int
    trained: tuple[str, ...]
    failed: Mapping[str, str]
    sites: Mapping[str, Metrics]
    epsilon: Mapping[str, float]
    digest: str
    seconds: float
    histograms: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
