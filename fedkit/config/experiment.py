"""The resolved config of one run: frozen, complete, checked. Everything downstream reads only this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SourceConfig:
    """Where rows come from. ``kind``: builtin | csv | parquet | sql | site (each reads its own; only in a job) | arrays
    (given in Python)."""

    kind: str
    path: str | None = None
    """builtin: file name inside the package; csv, parquet: absolute once composed."""
    query: str | None = None
    url: str | None = None
    """sql: a database URL without a password."""
    url_env: str | None = None
    """sql: name of the environment variable that holds the URL."""
    url_file: str | None = None
    """sql: path of a file that holds the URL."""
    delimiter: str = ","
    encoding: str = "utf-8"


@dataclass(frozen=True)
class TargetConfig:
    """What is predicted. ``kind``: binary | multiclass | regression."""

    column: str
    kind: str
    positive: tuple[Any, ...] = ()
    classes: tuple[Any, ...] = ()
    range: tuple[float, float] | None = None


@dataclass(frozen=True)
class FeaturesConfig:
    """Declared columns: plausible ranges of numbers, levels of categories (both public constants)."""

    numeric: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    categorical: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    drop_first: bool = False
    """One-hot without the first level (k - 1 columns); a missing value then reads as the first level."""
    shape: tuple[int, ...] | None = None
    """Of one example, where it is no row of numbers: an image's [channels, height, width]. The encoded features fill it
    in their order, the last axis first, so that a row of pixels lies together."""


@dataclass(frozen=True)
class MissingConfig:
    """``numeric``: midpoint | drop_row. ``values``: texts that mean missing; ``codes``: the same by column."""

    numeric: str = "midpoint"
    indicator: bool = True
    values: tuple[str, ...] = ("", "NA", "?")
    codes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class SplitConfig:
    """``kind``: keyed_hash | stratified | permuted (the last two only with privacy=none)."""

    kind: str = "keyed_hash"
    test_fraction: float = 0.25
    seed: int = 43


@dataclass(frozen=True)
class PartitionConfig:
    """Sites made from a table that has none. ``kind``: iid | dirichlet | quantity_skew."""

    kind: str
    sites: int
    alpha: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class DataConfig:
    """A table's declaration: all that fedkit may know of it before it reads a row."""

    name: str
    description: str
    source: SourceConfig
    target: TargetConfig
    features: FeaturesConfig
    missing: MissingConfig = MissingConfig()
    split: SplitConfig = SplitConfig()
    site_column: str | None = None
    partition: PartitionConfig | None = None
    unit_column: str | None = None
    max_rows_per_unit: int | None = None
    """Rows of a unit that are used; the others are left out by a keyed hash. Null: all of them."""
    records: Mapping[str, int] = field(default_factory=dict)
    scaling: str = "declared"
    """declared | site_zscore | pooled_zscore (the last two only with privacy=none)."""
    subgroups: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Column to its levels, or to ascending cut points where the column is a declared number."""


@dataclass(frozen=True)
class ModelConfig:
    """A model by name with its own arguments."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StrategyConfig:
    """A strategy by name with its own arguments."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationConfig:
    """The noisy histograms from which a private run measures its model; charged to ``privacy.epsilon``."""

    noise_multiplier: float | None = None
    """sigma of each histogram, to which a unit adds a total of 1."""
    share: float | None = None
    """In its place: sigma such that all evaluations alone would cost this share of the run's epsilon. Neither is set:
    nothing is measured under the guarantee."""
    every: int = 0
    """Rounds between two evaluations, each of which is charged; 0: once, after the last round."""
    bins: int = 6
    """Cells of the score's range; even, so that a classifier's threshold .5 is an edge."""


@dataclass(frozen=True)
class PrivacyConfig:
    """``mode``: none | record_dp. With none, only ``sample_rate`` may be set (it sizes the batches)."""

    mode: str
    noise: str = "seeded"
    """seeded (replayable, not private) | secure."""
    epsilon: float | None = None
    delta: float | None = None
    noise_multiplier: float | None = None
    max_grad_norm: float | None = None
    sample_rate: float | None = None
    evaluation: EvaluationConfig = EvaluationConfig()


@dataclass(frozen=True)
class TrainingConfig:
    """Local training; exactly one of ``local_epochs`` and ``local_steps``."""

    learning_rate: float
    local_epochs: float | None = None
    local_steps: int | None = None
    batch_size: int | None = None
    optimizer: str = "sgd"
    engine: str = "auto"
    """What trains a simulation's sites: auto, closed_form, taps, vmap or reference; see `fedkit.training.engine`."""
    device: str = "cpu"
    """Where a simulation trains: cpu, cuda, or auto (a GPU that is there, for what it does faster). Another device has
    other last bits: cpu is what every machine has."""
    workers: str = "auto"
    """Processes that train a simulation's sites, one thread each: auto (as many as there are cores, where that pays) or
    a number; 1 is this process."""
    max_clients_at_once: int | None = None
    """Sites whose models are in memory together; null: as many as ``memory_gb`` holds."""
    memory_gb: float = 2.0


@dataclass(frozen=True)
class FederationConfig:
    """``kind``: local (this machine's processes) | ray (actors, on one machine or many) | flower (a stock SuperLink and
    SuperNodes)."""

    kind: str
    num_rounds: int
    fraction_train: float = 1.0
    min_sites: int = 1
    evaluate_every: int = 1
    timeout: float = 600.0
    """Seconds that a round may take before absent sites are left out."""
    policies: str | None = None
    """Folder with site files, SITE.yaml, that a simulation is held against before its first round; null: none is."""
    address: str | None = None
    """ray: the cluster that is joined, auto (one that runs on this machine) or HOST:PORT; null or local: one is started
    on this machine for the run."""


@dataclass(frozen=True)
class ExperimentConfig:
    """One experiment, resolved."""

    name: str
    seed: int
    data: DataConfig
    model: ModelConfig
    strategy: StrategyConfig
    privacy: PrivacyConfig
    training: TrainingConfig
    federation: FederationConfig
    purpose: str | None = None
    """What the run is for; a site admits purposes that its own file names, and never a run without one."""
    runs_dir: str = "runs"
    ledgers_dir: str | None = None
    """Folder with one ledger a site, SITE.sqlite, that a run with secure noise spends from; null: none is kept."""
