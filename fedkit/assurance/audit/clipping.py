"""What one unit can do to the sum of a lot: at most C, whatever its gradient and whatever else is in the lot."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import nn

from fedkit.assurance.audit.canaries import (
    ENORMOUS,
    QUIET,
    Readings,
    altered,
    canaries_for,
    privacy_of,
    release,
    together,
)
from fedkit.assurance.audit.finding import Finding, compared, not_measured, within
from fedkit.assurance.audit.intervals import mean_interval
from fedkit.models.flat import pack
from fedkit.types import Dataset, Examples, LocalPlan, Task

TOLERANCE = 1e-3
"""Of a unit's influence, for the rounding of float32 gradients and releases."""
_CROWD = 32
_UNITS, _LEFT_OUT, _AT_ONCE = 64, 8, 16
_LABELS: dict[str, tuple[tuple[float, float], ...]] = {
    "binary": ((0.0, 1.0), (1.0, 0.0)),
    "multiclass": ((0.0, 1.0), (1.0, 0.0)),
    "regression": ((1.0, 0.5), (0.5, 1.0)),
}


def clip_findings(site: str, quiet: Readings, noisy: Readings, sigma: float, alpha: float) -> list[Finding]:
    """What a canary with an enormous gradient contributes to one lot, without noise and under the plan's.

    Args:
        quiet: contributions in units of C, any shape. noisy: the same with noise of ``sigma``.
    """
    largest = float(quiet.flat[int(np.abs(quiet).argmax())])
    mean = float(noisy.mean())
    return [
        within("clip.largest", "clipping", site, f"{ENORMOUS:g} C, clipped, in C",
               largest, (1 - TOLERANCE, 1 + TOLERANCE), 1.0, broken="not clipped to C"),
        compared("clip.noisy", "clipping", site, "the same under noise, in C", mean,
                 mean_interval(mean, sigma, noisy.size, alpha), 1.0,
                 below="less than C: it is shared with the rest of the lot", above="more than C"),
    ]  # fmt: skip


def influence_findings(task: Task, unit: str, plans: Mapping[str, LocalPlan]) -> dict[str, Finding]:
    """How far one canary moves a lot that holds a crowd of others: the sensitivity, by site.

    The crowd pulls in one direction with gradients from C / 2 to 100 times the crowd's C, and the canary is of
    another class. A loss that is averaged or weighted over the lot changes every gradient of the crowd when the
    canary joins: by 14 C and more with weights of 1 and 50.
    """
    canaries = canaries_for(task, unit, 32)
    gradients = [0.5, 1.0, 2.0, _CROWD / 2, _CROWD - 1.0, _CROWD, _CROWD + 1.0, 2.0 * _CROWD, ENORMOUS * _CROWD]
    parts: dict[str, tuple[Examples, LocalPlan]] = {}
    for site, plan in plans.items():
        clip = privacy_of(plan).max_grad_norm
        bare = altered(plan, steps=1, sample_rate=1.0, noise_multiplier=QUIET, gradient=max(gradients))
        for case, (gradient, (crowd_label, label)) in enumerate(
            (gradient, labels) for gradient in gradients for labels in _LABELS[task.kind]
        ):
            crowd = canaries.units([0] * _CROWD, gradient * clip, crowd_label)
            joined = together(crowd, canaries.units([1], ENORMOUS * clip, label))
            parts[f"{site}/{case}/without"] = crowd, bare
            parts[f"{site}/{case}/again"] = crowd, bare
            parts[f"{site}/{case}/with"] = joined, bare
    readings = release(canaries.model(), task, parts)
    what = "influence of a record, in C"
    found: dict[str, Finding] = {}
    for site in plans:
        cases = range(len(gradients) * len(_LABELS[task.kind]))
        without, again, present = (
            np.stack([readings[f"{site}/{case}/{kind}"] for case in cases]) for kind in ("without", "again", "with")
        )
        if float(np.abs(again - without).max()) > TOLERANCE:
            why = (
                "the same records without noise give different sums: sampling is off, or noise is where none was asked"
            )
            found[site] = not_measured("clip.influence", "clipping", site, what, why)
            continue
        moved = float(np.linalg.norm(present - without, axis=1).max())
        found[site] = within(
            "clip.influence", "clipping", site, what, moved,
            (1 - TOLERANCE, 1 + TOLERANCE), 1.0, broken="a record changes what others contribute",
            holds="at most C, whatever the others",
        )  # fmt: skip
    return found


def own_influence_finding(model: nn.Module, dataset: Dataset, plans: Mapping[str, LocalPlan]) -> Finding:
    """The same with the experiment's own model and records: some are left out, one at a time."""
    check, what = "clip.own_model", "own model: influence, in C"
    parameters = pack(model)
    largest, worst, at = -1.0, 0.0, ""
    for site in dataset.sites:
        if site.name not in plans or not len(site.train):
            continue
        plan = _loud(altered(plans[site.name], steps=1, sample_rate=1.0, noise_multiplier=QUIET))
        base = _kept(site.train, range(min(_UNITS, site.train.num_units)))
        parts = {"base": (base, plan), "again": (base, plan)}
        for index in _spread(base):
            kept = [other for other in range(base.num_units) if other != index]
            parts[f"without {index}"] = _kept(base, kept), plan
        readings = release(model, dataset.task, parts, parameters=parameters)
        whole = readings.pop("base")
        per_clip = privacy_of(plan).lot_size / (plan.learning_rate * privacy_of(plan).max_grad_norm)
        size = float(np.abs(parameters).max(initial=0.0)) * per_clip + float(np.abs(whole).max(initial=0.0))
        rounding = 2.0**-23 * size * math.sqrt(2 * len(whole))
        if float(np.linalg.norm(readings.pop("again") - whole)) > rounding + TOLERANCE:
            return not_measured(check, "clipping", "all", what, "the model draws random numbers (dropout)")
        if rounding > 0.1:
            return not_measured(check, "clipping", "all", what, "a model too large for float32 to show it")
        for found in readings.values():
            moved = float(np.linalg.norm(found - whole))
            if moved > largest:
                largest, at = moved, site.name
        worst = max(worst, rounding)
    if largest < 0:
        return not_measured(check, "clipping", "all", what, "no site has records")
    return within(check, "clipping", at, what, largest, (None, 1 + TOLERANCE + worst), None,
                  broken="a record moves the sum by more than C", holds="at most C")  # fmt: skip


def _loud(plan: LocalPlan) -> LocalPlan:
    """A step so large that float32 parameters show the sum's last digits."""
    privacy = privacy_of(plan)
    return replace(plan, learning_rate=2.0 ** round(math.log2(privacy.lot_size / privacy.max_grad_norm)))


def own_noise(
    model: nn.Module, task: Task, plans: Mapping[str, LocalPlan], shape: tuple[int, ...], rounds: int
) -> dict[str, tuple[Readings, float]]:
    """One step's noise on the experiment's own model at sites without records: readings and the plan's sigma."""
    nothing = Examples(
        np.zeros((0, *shape), dtype=np.float32), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    )
    loud = {}
    for site, plan in plans.items():
        louder, sigma = _loud(altered(plan, steps=1)), privacy_of(plan).noise_multiplier
        loud[site] = replace(louder, learning_rate=louder.learning_rate / 2.0 ** round(math.log2(sigma)))
    drawn = []
    for number in range(0, rounds, _AT_ONCE):
        copies = {
            f"{site}/{copy}": (nothing, plan) for site, plan in loud.items() for copy in range(min(_AT_ONCE, rounds))
        }
        released = release(model, task, copies, parameters=pack(model), number=number + 1)
        drawn += [{site: released[f"{site}/{copy}"] for site in plans} for copy in range(min(_AT_ONCE, rounds))]
    trained = _trained(model)
    return {
        site: (np.stack([found[site][trained] for found in drawn]), privacy_of(plan).noise_multiplier)
        for site, plan in plans.items()
    }


def _trained(model: nn.Module) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which of the travelling parameters are trained: frozen ones release nothing."""
    parts = [np.full(p.numel(), p.requires_grad) for p in model.parameters()]
    return np.concatenate(parts)


def _kept(examples: Examples, units: range | list[int]) -> Examples:
    """The rows of some units, which are numbered anew."""
    number = np.full(max(1, examples.num_units), -1)
    number[list(units)] = np.arange(len(units))
    rows = number[examples.unit] >= 0 if len(examples) else np.zeros(0, dtype=bool)
    return Examples(examples.x[rows], examples.y[rows], number[examples.unit[rows]])


def _spread(examples: Examples) -> list[int]:
    """A few units over the range of the target, the rarest first among them."""
    first = [int(np.flatnonzero(examples.unit == index)[0]) for index in range(examples.num_units)]
    values = examples.y[first]
    order = np.argsort(values, kind="stable")
    chosen = np.unique(np.linspace(0, len(order) - 1, min(_LEFT_OUT, len(order))).astype(int))
    return [int(order[at]) for at in chosen]
