"""What trains a round's sites: chosen once a run by looking at the model, recorded, and used again by a replay.

=========== ============================================================================================
reference   any model, one site after another: :mod:`fedkit.training.local`
closed_form stacks of Linear and pointwise layers, all sites at once: :mod:`fedkit.training.cohort`
vmap        plain training of other layers that vmap can take, 128 sites at once: :mod:`fedkit.training.vmapped`
taps        private training of Linear, convolution, Embedding, LayerNorm and GroupNorm layers, one site after
            another: :mod:`fedkit.training.taps`
=========== ============================================================================================

All have the same mathematics, lots, batches, noise and privacy; their results differ by the rounding of float32. The
reference trains on a GPU too (:mod:`fedkit.training.on_device`), in one process; the others on the CPU's cores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from fedkit.config.experiment import TrainingConfig
from fedkit.errors import TrainingError
from fedkit.privacy.product_sum import fits
from fedkit.training import local
from fedkit.training.cohort import COMPILED, Cohort, form_of
from fedkit.training.cohort_compiled import compiled
from fedkit.training.cohort_rows import padded
from fedkit.training.engine_memory import bytes_of_stack, enough
from fedkit.training.engine_taps import taps_of
from fedkit.training.on_device import CPU, device_of, name_of
from fedkit.training.stack import linear_stack
from fedkit.training.taps import Taps
from fedkit.training.vmapped import AT_ONCE, Vmapped, bytes_together, slower
from fedkit.training.vmapped import refused as refused_by_vmap
from fedkit.types import ClientUpdate, LocalPlan, RoundPlan, Site, SiteState, Task

Train = Callable[
    [nn.Module, Task, Sequence[Site], RoundPlan, Mapping[str, SiteState]],
    tuple[list[ClientUpdate], dict[str, SiteState]],
]
Check = Callable[[nn.Module, Task, Sequence[Site], RoundPlan], None]


ENGINES = ("reference", "closed_form", "taps", "vmap")
SEVERAL = "several"
"""In ``training.workers``' place where it is auto and there will be more than one."""

FAST_AT_ONCE = 128
"""Sites that share a call in the closed form: measured, more of them save no more, and leave the caches."""


@dataclass(frozen=True)
class Engine:
    """A way to train a batch of sites for one round.

    Attributes:
        why: in one sentence, why it was chosen.
        train, check: as :func:`fedkit.training.local.train` and :func:`fedkit.training.local.check_model`.
        at_once: sites that are in memory together.
        most_workers: processes that the memory budget holds, each with one site at least.
        cohort: the closed form's; None for the others. taps: today's form of theirs, then others.
        device: where gradients are computed.
    """

    name: str
    why: str
    train: Train
    check: Check
    at_once: int = 1
    most_workers: int = 1
    cohort: Cohort | None = None
    taps: tuple[Taps, ...] = ()
    device: torch.device = CPU

    def record(self) -> dict[str, str | int]:
        """What the manifest says of it."""
        told: dict[str, str | int] = {"name": self.name, "why": self.why, "at_once": self.at_once}
        if self.cohort is not None:
            told["form"] = self.cohort.form
        elif self.taps and self.taps[0].compiled:
            told["form"] = COMPILED
        return told if self.device == CPU else {**told, "device": name_of(self.device)}

    def in_form(self, form: int) -> Engine:
        """The same, adding up in the order of a run that was recorded before; see :attr:`Cohort.form`.

        Raises:
            TrainingError: FK425, in compiled code where there is none.
        """
        for taps in self.taps:
            if taps.compiled == (form == COMPILED):
                return self if taps is self.taps[0] else replace(self, train=taps.train, check=taps.check, taps=(taps,))
        if self.cohort is not None and form == self.cohort.form:
            return self
        if form == COMPILED and (self.taps or self.cohort):
            compiled()
        if self.cohort is None:
            return self
        return _of(self.why, replace(self.cohort, form=form), self.most_workers)

    def among(self, processes: int) -> Engine:
        """What each of some processes trains with, which share the memory budget."""
        if self.cohort is None or processes == 1:
            return self
        return _of(self.why, self.cohort, max(1, self.most_workers // processes))


def _train(
    model: nn.Module, task: Task, sites: Sequence[Site], plan: RoundPlan, state: Mapping[str, SiteState]
) -> tuple[list[ClientUpdate], dict[str, SiteState]]:
    return local.train(model, task, sites, plan, state)


def _check(model: nn.Module, task: Task, sites: Sequence[Site], plan: RoundPlan) -> None:
    local.check_model(model, task, sites, plan)


REFERENCE = Engine("reference", "training.engine=reference", _train, _check)


def reference_on(device: torch.device) -> Engine:
    """The reference with its gradients on a device; nothing is asked of the device before it trains."""
    if device == CPU:
        return REFERENCE
    train, check = partial(local.train, device=device), partial(local.check_model, device=device)
    return Engine("reference", f"training.device={device.type}", train, check, device=device)


def reference_for(asked: str, setting: str) -> Engine:
    """The reference on the device that a setting means here.

    Raises:
        TrainingError: FK423, cuda where torch finds no GPU.
    """
    return reference_on(device_of(asked, setting))


def choose(
    training: TrainingConfig,
    model: nn.Module,
    task: Task,
    input_shape: tuple[int, ...],
    plans: Mapping[str, LocalPlan],
) -> Engine:
    """The engine that a config asks for, or with ``auto`` the fastest that has the reference's mathematics here.

    Args:
        input_shape: of one example. plans: of every site that trains.

    Raises:
        TrainingError: FK417, an engine that cannot take this model or device; FK418, a memory budget that holds no
            model; FK423, a GPU where there is none.
    """
    device = device_of(training.device, "training.device")
    if training.device == "cuda" and training.engine not in ("auto", "reference"):
        raise TrainingError(
            f"training.engine={training.engine} trains on the CPU",
            code="FK417",
            remedy="set training.engine=reference for a GPU, or training.device=cpu",
        )
    d = sum(p.numel() for p in model.parameters())
    budget = training.memory_gb * 2**30
    # One model, its gradient and the update that it becomes.
    if 12 * d > budget:
        raise TrainingError(
            f"training.memory_gb={training.memory_gb:g} is below one model in training, {12 * d / 2**30:.3g} GB",
            code="FK418",
            remedy=f"set training.memory_gb={enough(12 * d / 2**30):g} or more",
        )
    reference = replace(REFERENCE, most_workers=int(budget // (12 * d)))
    there = reference_on(device)
    if training.engine == "reference" or training.device == "cuda":
        return reference if there.device == CPU else there
    refused: tuple[str, str, str] | None = None
    private = any(plan.privacy is not None for plan in plans.values())
    # What is for the other kind of training has no reason to give.
    found_by = {"closed_form": _closed_form, "taps" if private else "vmap": _taps if private else _vmap}
    if training.engine != "auto":
        found_by = {training.engine: {"closed_form": _closed_form, "taps": _taps, "vmap": _vmap}[training.engine]}
    elif device != CPU:
        # A GPU is for what one core is slow at: a model that the others would take is better off there.
        found_by = {"closed_form": _closed_form}
    for name, find in found_by.items():
        found = find(training, model, task, input_shape, plans)
        if isinstance(found, Engine):
            return found
        code, why, remedy = found
        if training.engine == name:
            raise TrainingError(f"training.engine={name} cannot train this model: {why}", code=code, remedy=remedy)
        refused = found
    why = refused[1] if refused else reference.why
    return replace(reference, why=why) if there.device == CPU else replace(there, why=f"{there.why}; {why}")


def _closed_form(
    training: TrainingConfig,
    model: nn.Module,
    task: Task,
    input_shape: tuple[int, ...],
    plans: Mapping[str, LocalPlan],
) -> Engine | tuple[str, str, str]:
    """The engine, or code, reason and remedy of its refusal."""
    layers = linear_stack(model, input_shape, task.num_outputs)
    remedy = "set training.engine=auto, or reference"
    if isinstance(layers, str):
        return "FK417", layers, remedy
    shapes = [(layer.width, layer.outputs) for layer in layers]
    places = max((_places(plan) for plan in plans.values()), default=1)
    if any(plan.privacy is not None for plan in plans.values()) and not fits(shapes, places):
        return "FK417", f"exact sums of {places} places exceed what the noise is scaled for", remedy
    budget, each = training.memory_gb * 2**30, bytes_of_stack(layers, places)
    most = int(budget // each)
    if most < 1:
        gigabytes = each / 2**30
        told = f"one site takes {gigabytes:.3g} GB, training.memory_gb is {training.memory_gb:g}"
        return "FK418", told, f"set training.memory_gb={enough(gigabytes):g}, or training.engine=reference"
    if training.max_clients_at_once is not None:
        most = min(most, training.max_clients_at_once)
    why = f"the model is a stack of {len(layers)} Linear layer{'s' if len(layers) > 1 else ''}"
    form = form_of(layers, private=any(plan.privacy is not None for plan in plans.values()))
    why += ", in compiled code" if form == COMPILED else ""
    return _of(why, Cohort(layers, most, form), most)


def _of(why: str, cohort: Cohort, most: int) -> Engine:
    cohort = replace(cohort, at_once=min(most, FAST_AT_ONCE))
    return Engine("closed_form", why, cohort.train, cohort.check, cohort.at_once, most, cohort)


def _taps(
    training: TrainingConfig,
    model: nn.Module,
    task: Task,
    input_shape: tuple[int, ...],
    plans: Mapping[str, LocalPlan],
) -> Engine | tuple[str, str, str]:
    """The engine, or code, reason and remedy of its refusal."""
    remedy = "set training.engine=auto, or reference"
    if not any(plan.privacy is not None for plan in plans.values()):
        return "FK417", "taps are for private training, and privacy is none", remedy
    found = taps_of(model, task, input_shape, training.memory_gb)
    if isinstance(found[1], str):
        return found
    why, gigabytes, taps = found
    most = max(1, int(training.memory_gb // gigabytes))
    return Engine("taps", why, taps[0].train, taps[0].check, most_workers=most, taps=taps)


def _vmap(
    training: TrainingConfig,
    model: nn.Module,
    task: Task,
    input_shape: tuple[int, ...],
    plans: Mapping[str, LocalPlan],
) -> Engine | tuple[str, str, str]:
    """The engine, or code, reason and remedy of its refusal."""
    remedy = "set training.engine=auto, or reference"
    if any(plan.privacy is not None for plan in plans.values()):
        return "FK417", "vmap is for plain training, and a site trains privately", remedy
    if training.workers not in ("auto", "1"):
        several = training.workers == SEVERAL
        told = "several actors train" if several else f"training.workers is {training.workers}"
        told = f"its last bits follow from which sites share a call, and {told}"
        return "FK417", told, "set training.workers=1, or training.engine=reference"
    if training.engine == "auto" and (unfit := slower(model, len(plans))):
        return "FK417", unfit, remedy
    if why := refused_by_vmap(model, task, input_shape):
        return "FK417", why, remedy
    gigabytes = bytes_together(model, input_shape, max(plan.batch_size for plan in plans.values())) / 2**30
    most = training.max_clients_at_once
    if gigabytes > training.memory_gb or (most is not None and most < AT_ONCE):
        told = f"{AT_ONCE} sites take {gigabytes:.3g} GB together, training.memory_gb is {training.memory_gb:g}"
        told += "" if most is None else f" and training.max_clients_at_once {most}"
        return "FK418", told, f"set training.memory_gb={enough(gigabytes):g}, or training.engine=reference"
    vmapped = Vmapped()
    why = f"plain training of one model at {AT_ONCE} sites at once"
    return Engine("vmap", why, vmapped.train, vmapped.check, at_once=AT_ONCE)


def _places(plan: LocalPlan) -> int:
    return padded(plan.batch_size if plan.privacy is None else plan.privacy.max_lot)
