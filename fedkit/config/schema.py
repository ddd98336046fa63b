"""The types that Hydra composes over.

Plain dataclasses: Hydra merges group files into them, which frozen ones refuse. What comes out of a composition is
``fedkit.config.experiment.ExperimentConfig``; a test holds the two to the same keys. Inner lists are of Any:
OmegaConf takes no whole number for a float in there, ``build`` does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class SourceSchema:
    """Mirror of ``SourceConfig``."""

    kind: str = MISSING
    path: str | None = None
    query: str | None = None
    url: str | None = None
    url_env: str | None = None
    url_file: str | None = None
    delimiter: str = ","
    encoding: str = "utf-8"


@dataclass
class TargetSchema:
    """Mirror of ``TargetConfig``."""

    column: str = MISSING
    kind: str = MISSING
    positive: list[Any] = field(default_factory=list)
    classes: list[Any] = field(default_factory=list)
    range: list[Any] | None = None


@dataclass
class FeaturesSchema:
    """Mirror of ``FeaturesConfig``."""

    numeric: dict[str, list[Any]] = field(default_factory=dict)
    categorical: dict[str, list[Any]] = field(default_factory=dict)
    drop_first: bool = False
    shape: list[Any] | None = None


@dataclass
class MissingSchema:
    """Mirror of ``MissingConfig``."""

    numeric: str = "midpoint"
    indicator: bool = True
    values: list[str] = field(default_factory=lambda: ["", "NA", "?"])
    codes: dict[str, list[Any]] = field(default_factory=dict)


@dataclass
class SplitSchema:
    """Mirror of ``SplitConfig``."""

    kind: str = "keyed_hash"
    test_fraction: float = 0.25
    seed: int = 43


@dataclass
class PartitionSchema:
    """Mirror of ``PartitionConfig``."""

    kind: str = MISSING
    sites: int = MISSING
    alpha: float = 0.5
    seed: int = 0


@dataclass
class DataSchema:
    """Mirror of ``DataConfig``."""

    name: str = MISSING
    description: str = ""
    source: SourceSchema = field(default_factory=SourceSchema)
    target: TargetSchema = field(default_factory=TargetSchema)
    features: FeaturesSchema = field(default_factory=FeaturesSchema)
    missing: MissingSchema = field(default_factory=MissingSchema)
    split: SplitSchema = field(default_factory=SplitSchema)
    site_column: str | None = None
    # An object, not null: Hydra cannot merge an override into a null section. Without a kind it is no partition.
    partition: PartitionSchema | None = field(default_factory=PartitionSchema)
    unit_column: str | None = None
    max_rows_per_unit: int | None = None
    records: dict[str, int] = field(default_factory=dict)
    scaling: str = "declared"
    subgroups: dict[str, list[Any]] = field(default_factory=dict)


@dataclass
class EvaluationSchema:
    """Mirror of ``EvaluationConfig``."""

    noise_multiplier: float | None = None
    share: float | None = None
    every: int = 0
    bins: int = 6


@dataclass
class PrivacySchema:
    """Mirror of ``PrivacyConfig``."""

    mode: str = MISSING
    noise: str = "seeded"
    epsilon: float | None = None
    delta: float | None = None
    noise_multiplier: float | None = None
    max_grad_norm: float | None = None
    sample_rate: float | None = None
    evaluation: EvaluationSchema = field(default_factory=EvaluationSchema)


@dataclass
class TrainingSchema:
    """Mirror of ``TrainingConfig``."""

    learning_rate: float = MISSING
    local_epochs: float | None = None
    local_steps: int | None = None
    batch_size: int | None = None
    optimizer: str = "sgd"
    engine: str = "auto"
    device: str = "cpu"
    workers: str = "auto"
    max_clients_at_once: int | None = None
    memory_gb: float = 2.0


@dataclass
class FederationSchema:
    """Mirror of ``FederationConfig``."""

    kind: str = MISSING
    num_rounds: int = MISSING
    fraction_train: float = 1.0
    min_sites: int = 1
    evaluate_every: int = 1
    timeout: float = 600.0
    policies: str | None = None
    address: str | None = None


@dataclass
class ExperimentSchema:
    """Mirror of ``ExperimentConfig``; models and strategies carry their arguments beside their name."""

    name: str | None = None
    seed: int = MISSING
    data: DataSchema = field(default_factory=DataSchema)
    model: dict[str, Any] = field(default_factory=dict)
    strategy: dict[str, Any] = field(default_factory=dict)
    privacy: PrivacySchema = field(default_factory=PrivacySchema)
    training: TrainingSchema = field(default_factory=TrainingSchema)
    federation: FederationSchema = field(default_factory=FederationSchema)
    purpose: str | None = None
    runs_dir: str = "runs"
    ledgers_dir: str | None = None


def register(kind: str) -> None:
    """Offer Hydra the schema as ``fedkit_schema=typed``, or the same keys without types as ``fedkit_schema=loose``.

    Typed composition stops at the first wrong key or type; the loose one goes through, so that all can be listed.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    store = ConfigStore.instance()
    if f"{kind}.yaml" in store.repo.get("fedkit_schema", {}):
        return
    node = ExperimentSchema if kind == "typed" else OmegaConf.to_container(OmegaConf.structured(ExperimentSchema))
    store.store(group="fedkit_schema", name=kind, node=node, package="_global_", provider="fedkit")
