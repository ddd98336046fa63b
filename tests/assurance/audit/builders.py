"""A small federation with a real plan, and audits of it that take a second."""

import numpy as np

from fedkit.assurance.audit import audit, measure, verdict
from fedkit.config.experiment import ModelConfig, PrivacyConfig, TrainingConfig
from fedkit.models import build
from fedkit.privacy.plan import SiteFacts, make_plans
from fedkit.types import Dataset, Examples, LocalPlan, Site, Task

ROUNDS, STEPS = 8, 5
RARELY = 1e-10
"""A rate of false alarms for tests that demand the absence of one: at the shipped rate they would fail with it."""
TASKS = {
    "binary": Task("binary", ("no", "yes")),
    "multiclass": Task("multiclass", ("a", "b", "c")),
    "regression": Task("regression", (), (0.0, 60.0)),
}


def dataset(kind="binary", unit="record", sites=("north", "south")):
    parts = []
    for index, name in enumerate(sites):
        rng = np.random.default_rng(index)
        x = rng.normal(size=(90, 5)).astype(np.float32)
        y = {
            "binary": (x[:, 0] > 0).astype(np.int64),
            "multiclass": rng.integers(0, 3, 90),
            "regression": rng.random(90).astype(np.float32),
        }[kind]
        train = Examples(x, y, np.arange(90) // (3 if unit == "patient" else 1))
        parts.append(Site(name, train, Examples(x[:0], y[:0], train.unit[:0]), 200, True))
    return Dataset(
        "made", TASKS[kind], unit, (5,), ("a", "b", "c", "d", "e"), tuple(parts), 0.25, "keyed_hash", "declared", {}
    )


def plans(data, noise="secure", sigma=2.0, q=0.1, steps=STEPS):
    privacy = PrivacyConfig(
        "record_dp", noise_multiplier=sigma, delta=1e-5, max_grad_norm=0.5, sample_rate=q, noise=noise
    )
    facts = [SiteFacts(site.name, site.records, True, data.unit, 0.25) for site in data.sites]
    made = make_plans(facts, privacy, TrainingConfig(0.1, local_steps=steps), ROUNDS)
    return {name: LocalPlan(steps, 15, 0.1, "adam", plan, 150.0) for name, plan in made.items()}


def audited(
    monkeypatch,
    kind="binary",
    unit="record",
    sites=("north", "south"),
    *,
    wide=4096,
    releases=32,
    false_alarm=verdict.FALSE_ALARM,
    **plan,
):
    """The audit of a small federation, in rounds that are smaller than those of the command."""
    monkeypatch.setattr(verdict, "FALSE_ALARM", false_alarm)
    sizes = {"WIDE": wide, "RELEASES": releases, "CANARIES": 1000, "LOT": 512, "QUIET_ROUNDS": 12}
    for name, value in sizes.items():
        monkeypatch.setattr(measure, name, value)
    data = dataset(kind, unit, sites)
    model = build(ModelConfig("logistic"), (5,), data.task.num_outputs, seed=1)
    return audit(model, data, plans(data, **plan), num_rounds=ROUNDS, seed=7)


def contradicted(found):
    """Names of the checks that failed."""
    return {finding.check for finding in found.contradictions}
