"""Made-up units whose influence on a release can be read off, and the real training path they go through.

A canary owns one input feature of a linear model without bias, trained with the task's own loss: at zero parameters
its gradient lies along its own coordinates alone, ``residual / |residual|`` in the outputs, with whatever norm its
input's size gives it. A coordinate that no canary owns releases noise and nothing else. This is the strongest
attacker of the threat model: it chooses the model, the parameters and the other records (Nasr et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedkit.errors import PrivacyError
from fedkit.training import local
from fedkit.training.losses import loss, target_type
from fedkit.types import ClientUpdate, Examples, Float32, LocalPlan, PrivacyPlan, RoundPlan, Site, Task

Readings = NDArray[np.float64]
"""What a site released in a round, as the sum of its lots in units of the clip C; float64 [d]."""

QUIET = 1e-9
"""A noise multiplier whose noise the lattice rounds to nothing, so that the sum itself is seen."""
ENORMOUS = 100.0
"""Norm of a canary's gradient in units of C: clipping must take it down to 1."""
LABEL = 1.0
_ROWS_OF_A_PATIENT = 3


@dataclass(frozen=True)
class Canaries:
    """How units are made for one task.

    Attributes:
        features: inputs of the canary model, one a canary.
        rows: rows a unit has, 1 where a record is the unit.
    """

    task: Task
    features: int
    rows: int

    @property
    def d(self) -> int:
        """Number of parameters of the canary model."""
        return self.features * self.task.num_outputs

    def model(self) -> nn.Module:
        """A linear model without bias: one column of weights for each canary."""
        # Not initialised by torch, which would draw from the caller's generator.
        model: nn.Module = nn.utils.skip_init(  # type: ignore[no-untyped-call]
            nn.Linear, self.features, self.task.num_outputs, bias=False
        )
        for p in model.parameters():
            nn.init.zeros_(p)
        return model

    def units(self, feature: Sequence[int] | NDArray[np.int64], gradient: float, label: float = LABEL) -> Examples:
        """Units of one label, each alone on its feature or together with others on the same one.

        Args:
            feature: of each unit, [units].
            gradient: norm of each unit's gradient at zero parameters, before clipping.
        """
        at = np.asarray(feature, dtype=np.int64)
        x = np.zeros((len(at), self.features), dtype=np.float32)
        x[np.arange(len(at)), at] = gradient / float(np.linalg.norm(residual(self.task, label)))
        y = np.full(len(at), label, dtype=np.float32 if self.task.kind == "regression" else np.int64)
        # A unit's rows lie apart, as a table may have them.
        return Examples(np.tile(x, (self.rows, 1)), np.tile(y, self.rows), np.tile(np.arange(len(at)), self.rows))

    def contribution(self, readings: Readings, label: float = LABEL) -> Readings:
        """Along each feature, the reading in the direction of a canary's gradient; float64 [..., features]."""
        outputs = readings.reshape(*readings.shape[:-1], self.task.num_outputs, self.features)
        away = residual(self.task, label)
        along: Readings = np.einsum("...kf,k->...f", outputs, away / np.linalg.norm(away))
        return along


def canaries_for(task: Task, unit: str, values: int) -> Canaries:
    """Canaries of a task whose model has about as many parameters as ``values``."""
    features = max(32, values // task.num_outputs // 16 * 16)
    return Canaries(task, features, _ROWS_OF_A_PATIENT if unit == "patient" else 1)


def together(*parts: Examples) -> Examples:
    """One site's rows out of several groups of units."""
    units, shifted = 0, []
    for part in parts:
        shifted.append(part.unit + units)
        units += part.num_units
    return Examples(np.concatenate([p.x for p in parts]), np.concatenate([p.y for p in parts]), np.concatenate(shifted))


def residual(task: Task, label: float) -> Readings:
    """Gradient of the task's own loss by the outputs at outputs of 0; float64 [outputs]."""
    outputs = torch.zeros((1, task.num_outputs), requires_grad=True)
    kind = target_type(task)
    loss(task, outputs, torch.tensor([label]).to(kind), "sum").backward()  # type: ignore[no-untyped-call]
    gradient = outputs.grad
    if gradient is None or not bool(gradient.any()):
        raise PrivacyError(
            f"the {task.kind} loss has no gradient at outputs of 0 and label {label:g}: no canary can be made",
            code="FK361",
        )
    return gradient[0].double().numpy()


def altered(
    plan: LocalPlan,
    *,
    steps: int | None = None,
    sample_rate: float | None = None,
    noise_multiplier: float | None = None,
    noise: Literal["secure", "seeded"] = "secure",
    gradient: float = ENORMOUS,
) -> LocalPlan:
    """A site's plan with SGD, whose release is read exactly, and a step so small that canaries' gradients stay put.

    Args:
        gradient: of the largest canary, in units of C.

    What a plan leaves to the optimizer is post-processing of the noisy gradients, so nothing private is changed by it.
    """
    old = privacy_of(plan)
    privacy = replace(
        old,
        steps=old.steps if steps is None else steps,
        sample_rate=old.sample_rate if sample_rate is None else sample_rate,
        noise_multiplier=old.noise_multiplier if noise_multiplier is None else noise_multiplier,
        noise=noise,
    )
    return replace(
        plan,
        steps=privacy.steps,
        optimizer="sgd",
        privacy=privacy,
        learning_rate=_small_rate(privacy, gradient * privacy.max_grad_norm),
    )


def privacy_of(plan: LocalPlan) -> PrivacyPlan:
    """The privacy plan of a site that has one.

    Raises:
        PrivacyError: it has none.
    """
    if plan.privacy is None:
        raise PrivacyError("privacy=none promises nothing: there is nothing to audit", code="FK360",
                           remedy="set privacy=record_dp")  # fmt: skip
    return plan.privacy


def _small_rate(privacy: PrivacyPlan, gradient: float) -> float:
    """A power of two at which a coordinate moves a canary's output by about .01 in a round, ten residuals' worth."""
    reach = privacy.steps * privacy.sample_rate + 6 * privacy.noise_multiplier * math.sqrt(privacy.steps) + 6
    movement = reach * privacy.max_grad_norm / privacy.lot_size
    return float(2.0 ** math.floor(math.log2(0.001 / (gradient * movement))))


def release(
    model: nn.Module,
    task: Task,
    parts: Mapping[str, tuple[Examples, LocalPlan]],
    *,
    parameters: Float32 | None = None,
    seed: int = 0,
    number: int = 1,
) -> dict[str, Readings]:
    """Train one round at each site by the real path, and read what left.

    Args:
        parts: site to its training rows and its plan (SGD).
        parameters: what the coordinator sends; zeros if None.

    Returns:
        Site to the sum of its lots over the round, in units of its clip.
    """
    found = {}
    for update in updates(model, task, parts, parameters=parameters, seed=seed, number=number):
        plan = parts[update.site][1]
        privacy = privacy_of(plan)
        per_clip = privacy.lot_size / (plan.learning_rate * privacy.max_grad_norm)
        found[update.site] = -update.delta.astype(np.float64) * per_clip
    return found


def updates(
    model: nn.Module,
    task: Task,
    parts: Mapping[str, tuple[Examples, LocalPlan]],
    *,
    parameters: Float32 | None = None,
    seed: int = 0,
    number: int = 1,
) -> list[ClientUpdate]:
    """What leaves the sites after one round of the real path; arguments as of :func:`release`."""
    if parameters is None:
        parameters = np.zeros(sum(p.numel() for p in model.parameters()), dtype=np.float32)
    plan = RoundPlan(seed, number, parameters, 0.0, {name: plan for name, (_, plan) in parts.items()})
    found, _ = local.train(model, task, [_site(name, examples) for name, (examples, _) in parts.items()], plan, {})
    return found


def _site(name: str, examples: Examples) -> Site:
    nothing = Examples(examples.x[:0], examples.y[:0], examples.unit[:0])
    return Site(name, examples, nothing, examples.num_units, True)
