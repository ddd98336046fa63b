"""What a well-typed config must also hold to make sense; pure, one sentence a problem, none left for later.

Every sentence begins with the key that it is about.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from fedkit.config.check_data import check_data
from fedkit.config.experiment import ExperimentConfig, PrivacyConfig
from fedkit.config.locate import NAME
from fedkit.config.wording import holds_credentials, suggestion

_SEED_LIMIT = 2**63
# What the accountants can compute in seconds (fedkit.privacy.accounting holds the same bounds).
_LEAST = {"epsilon": 1e-4, "noise_multiplier": 0.1, "delta": 1e-11, "max_grad_norm": 1e-9}
_MOST = {"epsilon": 100.0, "noise_multiplier": 1e4, "max_grad_norm": 1e9}
_LEAST_RATE = 1e-6
_MOST_BINS = 100
_LONGEST_PURPOSE = 100
_MOST_COUNTS = {"num_rounds": 100_000, "local_steps": 1_000_000, "local_epochs": 100_000.0}


def check(config: ExperimentConfig, *, python: bool = False) -> list[str]:
    """Return every problem of a config, none if it can be run.

    Args:
        python: data given in Python are admitted (a recorded run's config has them).
    """
    return [
        *_run(config),
        *check_data(config.data, python=python),
        *_secrets(config, ""),
        *(_private(config) if config.privacy.mode == "record_dp" else ()),
        *_privacy(config.privacy),
        *_training(config),
        *_federation(config),
    ]


def is_purpose(text: str) -> bool:
    """Whether a purpose can be called so; ``none`` would read as if there were one.

    >>> is_purpose("heart-disease-research"), is_purpose("none"), is_purpose("any purpose")
    (True, False, False)
    """
    return bool(NAME.fullmatch(text)) and len(text) <= _LONGEST_PURPOSE and text.lower() not in ("none", "null")


def one_of(key: str, value: str, known: Iterable[str]) -> list[str]:
    """Return the problem of a value that is not among the known ones."""
    known = list(known)
    return [] if value in known else [f"{key} is {value!r}; {suggestion(value, known)}"]


def _run(config: ExperimentConfig) -> Iterator[str]:
    if not NAME.fullmatch(config.name):
        yield f"name is {config.name!r}; use letters, digits, _ and - only, since the run directory carries it"
    if config.purpose is not None and not is_purpose(config.purpose):
        yield (
            f"purpose is {config.purpose!r}; use 1 to {_LONGEST_PURPOSE} letters, digits, _ and -, such as "
            "purpose=heart-disease-research, or purpose=null"
        )
    if not config.runs_dir.strip():
        yield "runs_dir is empty; set runs_dir=runs"
    if config.ledgers_dir is not None:
        if not config.ledgers_dir.strip():
            yield "ledgers_dir is empty; set ledgers_dir=ledgers, or ledgers_dir=null"
        if config.privacy.mode == "none":
            yield "ledgers_dir is set but privacy.mode is none, which no budget can pay; set ledgers_dir=null"
        elif config.privacy.noise != "secure":
            yield (
                f"ledgers_dir is set but privacy.noise is {config.privacy.noise}; a ledger charges only real noise: "
                "set privacy.noise=secure, or ledgers_dir=null"
            )
    seeds = {"seed": config.seed, "data.split.seed": config.data.split.seed}
    if config.data.partition:
        seeds["data.partition.seed"] = config.data.partition.seed
    for key, seed in seeds.items():
        if not 0 <= seed < _SEED_LIMIT:
            yield f"{key} is {seed}; it must be at least 0 and below 2**63"


def _secrets(value: Any, key: str) -> Iterator[str]:
    """Refuse credentials wherever they stand; never with their text."""
    if is_dataclass(value):
        for part in fields(value):
            yield from _secrets(getattr(value, part.name), f"{key}.{part.name}" if key else part.name)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _secrets(inner, f"{key}.{name}")
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _secrets(inner, key)
    elif isinstance(value, str) and holds_credentials(value):
        yield (
            f"{key} holds a password; name where it is instead: "
            "data.source.url_env=VARIABLE or data.source.url_file=FILE, and data.source.url=null"
        )


def _privacy(privacy: PrivacyConfig) -> Iterator[str]:
    yield from one_of("privacy.mode", privacy.mode, ["none", "record_dp"])
    yield from one_of("privacy.noise", privacy.noise, ["seeded", "secure"])
    guarantee = ("epsilon", "noise_multiplier", "max_grad_norm", "delta")
    names = [name for name in guarantee if getattr(privacy, name) is not None]
    measured = [key for key in ("noise_multiplier", "share") if getattr(privacy.evaluation, key) is not None]
    given = [*names, *(f"evaluation.{key}" for key in measured)]
    if given and privacy.mode == "none":
        keys = ", ".join(f"privacy.{name}" for name in given)
        verb = "is" if len(given) == 1 else "are"
        yield f"{keys} {verb} set but privacy.mode is none; leave out what is set, or choose privacy=record_dp"
    for name in names:
        value = getattr(privacy, name)
        if value <= 0:
            yield f"privacy.{name} is {value}; it must be above 0{_example(name)}"
        elif value < _LEAST[name]:
            yield f"privacy.{name} is {value}; it must be at least {_LEAST[name]:g}{_example(name)}"
        elif value > _MOST.get(name, value):
            yield f"privacy.{name} is {value}; it must be at most {_MOST[name]:g}{_example(name)}"
    if privacy.delta is not None and privacy.delta >= 1:
        yield f"privacy.delta is {privacy.delta}; it must be below 1 (and below 1 / records): set privacy.delta=1e-5"
    if privacy.sample_rate is not None and not 0 < privacy.sample_rate <= 1:
        yield f"privacy.sample_rate is {privacy.sample_rate}; it must be above 0 and at most 1"
    elif privacy.sample_rate is not None and privacy.sample_rate < _LEAST_RATE:
        yield f"privacy.sample_rate is {privacy.sample_rate}; it must be at least {_LEAST_RATE:g}"
    yield from _evaluation(privacy)


def _evaluation(privacy: PrivacyConfig) -> Iterator[str]:
    evaluation = privacy.evaluation
    sigma = evaluation.noise_multiplier
    if sigma is not None and not _LEAST["noise_multiplier"] <= sigma <= _MOST["noise_multiplier"]:
        yield (
            f"privacy.evaluation.noise_multiplier is {sigma}; it must be between {_LEAST['noise_multiplier']:g} and "
            f"{_MOST['noise_multiplier']:g}: set privacy.evaluation.noise_multiplier=5"
        )
    share = evaluation.share
    if share is not None and sigma is not None:
        yield (
            "privacy.evaluation.noise_multiplier and privacy.evaluation.share are both set; one is enough: add "
            "privacy.evaluation.share=null"
        )
    if share is not None and not 0.01 <= share <= 0.9:
        yield f"privacy.evaluation.share is {share}; it must be between 0.01 and 0.9: set 0.4, or null for none"
    if evaluation.every < 0:
        yield f"privacy.evaluation.every is {evaluation.every}; it must be at least 1, or 0 for the last round alone"
    if not 2 <= evaluation.bins <= _MOST_BINS or evaluation.bins % 2:
        yield f"privacy.evaluation.bins is {evaluation.bins}; it must be an even number from 2 to {_MOST_BINS}: set 6"


def _example(name: str) -> str:
    values = {"epsilon": "3", "noise_multiplier": "1.1", "max_grad_norm": "1", "delta": "1e-5"}
    return f": set privacy.{name}={values[name]}"


def _private(config: ExperimentConfig) -> Iterator[str]:
    privacy, data = config.privacy, config.data
    yield from _exactly_one("privacy.epsilon", privacy.epsilon, "privacy.noise_multiplier", privacy.noise_multiplier)
    for name in ("delta", "max_grad_norm"):
        if getattr(privacy, name) is None:
            yield f"privacy.{name} is not set, and a private run needs it{_example(name)}"
    if privacy.delta is not None and 0 < privacy.delta < 1 and data.records:
        site, records = max(data.records.items(), key=lambda item: item[1])
        if records > 0 and privacy.delta >= 1 / records:
            least = max(0.1 / records, _LEAST["delta"])
            yield (
                f"privacy.delta is {privacy.delta}; it must be below 1 / {records}, the declared records of {site}: "
                + (
                    f"set privacy.delta={least:.0e}"
                    if least < 1 / records
                    else f"correct data.records, as the least delta that can be computed is {_LEAST['delta']:g}"
                )
            )
    if data.split.kind in ("stratified", "permuted"):
        yield (
            f"data.split.kind is {data.split.kind}, which lets one record move others between train and test; "
            "a private run needs data.split.kind=keyed_hash (or privacy=none)"
        )
    if data.scaling in ("site_zscore", "pooled_zscore"):
        yield (
            f"data.scaling is {data.scaling}, which depends on every record; "
            "a private run needs data.scaling=declared (or privacy=none)"
        )
    if config.strategy.name == "qfedavg":
        yield "strategy.name is qfedavg, which needs each site's loss; a private run sends none: choose privacy=none"


def _training(config: ExperimentConfig) -> Iterator[str]:
    training = config.training
    yield from _exactly_one(
        "privacy.sample_rate", config.privacy.sample_rate, "training.batch_size", training.batch_size
    )
    yield from _exactly_one(
        "training.local_steps", training.local_steps, "training.local_epochs", training.local_epochs
    )
    yield from one_of("training.optimizer", training.optimizer, ["sgd", "adam"])
    yield from one_of("training.engine", training.engine, ["auto", "closed_form", "taps", "vmap", "reference"])
    yield from one_of("training.device", training.device, ["auto", "cpu", "cuda"])
    if training.device == "cuda" and config.federation.kind in ("flower", "ray"):
        told = f"training.device is cuda; federation={config.federation.kind} trains on the CPU"
        yield f"{told}: set training.device=cpu, or federation=local"
    if training.engine in ("closed_form", "taps", "vmap") and config.federation.kind == "flower":
        told = f"training.engine is {training.engine}; federation=flower trains a site a process"
        yield f"{told}: set training.engine=auto"
    if training.engine == "vmap" and config.federation.kind == "ray":
        yield "training.engine is vmap, for one process; federation=ray trains in several: set training.engine=auto"
    if training.workers != "auto" and not re.fullmatch(r"[1-9][0-9]{0,2}", training.workers):
        yield f"training.workers is {training.workers}; it must be auto, or a whole number from 1 to 999"
    for name in ("learning_rate", "local_epochs", "memory_gb"):
        value = getattr(training, name)
        if value is not None and value <= 0:
            yield f"training.{name} is {value}; it must be above 0"
    for name in ("local_steps", "batch_size", "max_clients_at_once"):
        value = getattr(training, name)
        if value is not None and value < 1:
            yield f"training.{name} is {value}; it must be at least 1"
    for name in ("local_steps", "local_epochs"):
        value = getattr(training, name)
        if value is not None and value > _MOST_COUNTS[name]:
            yield f"training.{name} is {value}; it must be at most {_MOST_COUNTS[name]}"
    if training.batch_size is not None and config.data.records:
        site, records = min(config.data.records.items(), key=lambda item: item[1])
        if training.batch_size > records > 0:
            yield f"training.batch_size is {training.batch_size}; {site} declares only {records} records (data.records)"


def _federation(config: ExperimentConfig) -> Iterator[str]:
    federation = config.federation
    yield from one_of("federation.kind", federation.kind, ["local", "flower", "ray"])
    if federation.address is not None:
        if federation.kind != "ray":
            yield f"federation.address is set, and federation={federation.kind} has none; set federation=ray, or null"
        if not re.fullmatch(r"auto|local|[^\s/:@]+:[0-9]{1,5}|\[[0-9a-fA-F:]+\]:[0-9]{1,5}", federation.address):
            told = federation.address if "@" not in federation.address else "not what it may be"
            yield f"federation.address is {told}; it must be auto, local or HOST:PORT, Ray's own port"
    for name in ("num_rounds", "min_sites", "evaluate_every"):
        value = getattr(federation, name)
        if value < 1:
            yield f"federation.{name} is {value}; it must be at least 1"
    if federation.num_rounds > _MOST_COUNTS["num_rounds"]:
        yield f"federation.num_rounds is {federation.num_rounds}; it must be at most {_MOST_COUNTS['num_rounds']}"
    if not 0 < federation.fraction_train <= 1:
        yield f"federation.fraction_train is {federation.fraction_train}; it must be above 0 and at most 1"
    if federation.policies is not None and not federation.policies.strip():
        yield "federation.policies is empty; set federation.policies=DIR, or federation.policies=null"
    if federation.timeout <= 0:
        yield f"federation.timeout is {federation.timeout}; it must be above 0 seconds"
    if config.data.partition and federation.min_sites > config.data.partition.sites >= 2:
        yield (
            f"federation.min_sites is {federation.min_sites}; "
            f"there are only {config.data.partition.sites} sites (data.partition.sites)"
        )


def _exactly_one(key: str, value: Any, other_key: str, other: Any) -> Iterator[str]:
    if value is not None and other is not None:
        yield f"{key} and {other_key} are both set; one is needed: add {key}=null or {other_key}=null"
    if value is None and other is None:
        yield f"{key} and {other_key} are both unset; exactly one of them is needed"
