"""Which engine trains a run: the config's, or the fastest that has the reference's mathematics for its model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from fedkit.config.experiment import TrainingConfig
from fedkit.errors import TrainingError
from fedkit.privacy.product_sum import fits
from fedkit.training.cohort import COMPILED, Cohort, form_of
from fedkit.training.cohort_on_device import CohortOnDevice
from fedkit.training.engine import REFERENCE, SEVERAL, Engine, of_cohort, reference_on
from fedkit.training.engine_memory import bytes_of_model, bytes_of_reference, bytes_of_stack, enough, too_large
from fedkit.training.engine_taps import Refusal, taps_of
from fedkit.training.kinds import Kinds
from fedkit.training.on_device import CPU, device_of
from fedkit.training.stack import linear_stack
from fedkit.training.taps_on_device import TapsOnDevice
from fedkit.training.vmapped import AT_ONCE, Vmapped, bytes_together, slower
from fedkit.training.vmapped import refused as refused_by_vmap
from fedkit.types import Task

MOST_THERE = 1024
"""Sites that a GPU trains together in the closed form."""
SMALL = 2**12
"""Parameters of the largest layer up to which a core's compiled code should be faster than a GPU: 187,000 rows of W1 a
second on one machine's core, 123,000 and 228,000 on two others' GPU."""


@dataclass(frozen=True)
class _Asked:
    """What :func:`choose` was asked."""

    training: TrainingConfig
    model: nn.Module
    task: Task
    input_shape: tuple[int, ...]
    kinds: Kinds


def choose(
    training: TrainingConfig,
    model: nn.Module,
    task: Task,
    input_shape: tuple[int, ...],
    kinds: Kinds,
) -> Engine:
    """The engine that a config asks for, or with ``auto`` the fastest that has the reference's mathematics here.

    Args:
        input_shape: of one example. kinds: of the plans of every site that trains.

    Raises:
        TrainingError: FK417, an engine that cannot take this model or device; FK418, a memory budget that holds no
            site; FK423, a GPU where there is none.
    """
    device = device_of(training.device, "training.device")
    _refuse_below_one_model(training, model, private=kinds.private)
    each = bytes_of_reference(*_sizes(model), kinds)
    reference = replace(REFERENCE, most_workers=max(1, int(training.memory_gb * 2**30 // each)))
    there = reference_on(device)
    # What does not fit in the reference is refused, unless another engine takes less.
    lacks: Refusal | None = None
    if there.device == CPU and each > training.memory_gb * 2**30:
        lacks = too_large(each / 2**30, training.memory_gb, private=kinds.private)
    if training.engine == "reference":
        if lacks:
            raise TrainingError(f"training.engine=reference: {lacks[1]}", code=lacks[0], remedy=lacks[2])
        return reference if there.device == CPU else there
    refused: Refusal | None = None
    # Units of several rows are summed one after another: a core's work where there is a choice.
    fast = CPU if kinds.patients and training.device == "auto" else device
    known: dict[str, Callable[[_Asked], Engine | Refusal]] = {
        "closed_form": partial(_closed_form, fast),
        "taps": partial(_taps, fast),
        "vmap": _vmap,
    }
    asked = _Asked(training, model, task, input_shape, kinds)
    # What is for the other kind of training has no reason to give.
    fit = ["closed_form", "taps" if kinds.private else "vmap"]
    if device != CPU and not kinds.private:
        # Of plain training a GPU has the reference alone, and stacks are a core's work where there is a choice.
        fit = fit[:1] if training.device == "auto" else []
    for name in fit if training.engine == "auto" else [training.engine]:
        found = known[name](asked)
        if isinstance(found, Engine):
            return found
        code, why, remedy = found
        if training.engine == name:
            raise TrainingError(f"training.engine={name} cannot train this model: {why}", code=code, remedy=remedy)
        # The first that would do, were there memory, takes the least of it.
        refused = refused if refused and refused[0] == "FK418" else found
    if lacks:
        code, why, remedy = refused if refused and refused[0] == "FK418" else lacks
        raise TrainingError(why, code=code, remedy=remedy)
    why = refused[1] if refused else reference.why
    return replace(reference, why=why) if there.device == CPU else replace(there, why=f"{there.why}; {why}")


def unplanned(training: TrainingConfig, model: nn.Module, *, private: bool) -> Engine:
    """What is known before there are plans of the engine that ``auto`` will take: its device, and a bound of processes.

    Raises:
        TrainingError: FK418, a memory budget below one model; FK423, a GPU where there is none.
    """
    _refuse_below_one_model(training, model, private=private)
    most = int(training.memory_gb * 2**30 // bytes_of_model(*_sizes(model), private=private))
    return replace(reference_on(device_of(training.device, "training.device")), most_workers=most)


def _refuse_below_one_model(training: TrainingConfig, model: nn.Module, *, private: bool) -> None:
    least = bytes_of_model(*_sizes(model), private=private) / 2**30
    if least > training.memory_gb:
        raise TrainingError(
            f"training.memory_gb={training.memory_gb:g} is below one model in training, {least:.3g} GB",
            code="FK418",
            remedy=f"set training.memory_gb={enough(least):g} or more",
        )


def _sizes(model: nn.Module) -> tuple[int, int]:
    """Parameters, and those that are not frozen."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def _closed_form(device: torch.device, asked: _Asked) -> Engine | Refusal:
    training, kinds = asked.training, asked.kinds
    layers = linear_stack(asked.model, asked.input_shape, asked.task.num_outputs)
    remedy = "set training.engine=auto, or reference"
    if isinstance(layers, str):
        return "FK417", layers, remedy
    shapes = [(layer.width, layer.outputs) for layer in layers]
    if training.device == "cuda" and (kinds.plain or kinds.patients):
        return "FK417", "on a GPU it trains privately, and rows that are units", f"{remedy}, or training.device=cpu"
    if kinds.private and not fits(shapes, kinds.places):
        return "FK417", f"exact sums of {kinds.places} places exceed what the noise is scaled for", remedy
    budget, each = training.memory_gb * 2**30, bytes_of_stack(layers, kinds.places)
    most = int(budget // each)
    if most < 1:
        return too_large(each / 2**30, training.memory_gb, private=kinds.private)
    if training.max_clients_at_once is not None:
        most = min(most, training.max_clients_at_once)
    why = f"the model is a stack of {len(layers)} Linear layer{'s' if len(layers) > 1 else ''}"
    form = form_of(layers, private=kinds.private)
    # Small operations keep a GPU waiting.
    small = form == COMPILED and training.device == "auto" and max(layer.size for layer in layers) <= SMALL
    if device != CPU and kinds.private and not small:
        there = CohortOnDevice(Cohort(layers, min(most, MOST_THERE)), device)
        why = f"training.device={device.type}; {why}"
        return Engine("closed_form", why, there.train, there.check, there.cohort.at_once, device=device)
    why += ", in compiled code" if form == COMPILED else ""
    return of_cohort(why, Cohort(layers, most, form), most)


def _taps(device: torch.device, asked: _Asked) -> Engine | Refusal:
    training, kinds = asked.training, asked.kinds
    remedy = "set training.engine=auto, or reference"
    if not kinds.private:
        return "FK417", "taps are for private training, and privacy is none", remedy
    found = taps_of(asked.model, asked.task, asked.input_shape, training.memory_gb, device)
    if isinstance(found[1], str):
        return found
    why, gigabytes, taps = found
    if device != CPU:
        there = TapsOnDevice(taps[0].tapped, device)
        return Engine("taps", f"training.device={device.type}; {why}", there.train, there.check, device=device)
    most = max(1, int(training.memory_gb // gigabytes))
    return Engine("taps", why, taps[0].train, taps[0].check, most_workers=most, taps=taps)


def _vmap(asked: _Asked) -> Engine | Refusal:
    training, kinds = asked.training, asked.kinds
    remedy = "set training.engine=auto, or reference"
    if training.device == "cuda":
        return "FK417", "vmap trains on the CPU", f"{remedy}, or training.device=cpu"
    if kinds.private:
        return "FK417", "vmap is for plain training, and a site trains privately", remedy
    if training.workers not in ("auto", "1"):
        several = training.workers == SEVERAL
        told = "several actors train" if several else f"training.workers is {training.workers}"
        told = f"its last bits follow from which sites share a call, and {told}"
        return "FK417", told, "set training.workers=1, or training.engine=reference"
    if training.engine == "auto" and (unfit := slower(asked.model, kinds.sites)):
        return "FK417", unfit, remedy
    if why := refused_by_vmap(asked.model, asked.task, asked.input_shape):
        return "FK417", why, remedy
    gigabytes = bytes_together(asked.model, asked.input_shape, kinds.batch) / 2**30
    most = training.max_clients_at_once
    if gigabytes > training.memory_gb or (most is not None and most < AT_ONCE):
        told = f"{AT_ONCE} sites take {gigabytes:.3g} GB together, training.memory_gb is {training.memory_gb:g}"
        told += "" if most is None else f" and training.max_clients_at_once {most}"
        needed = [f"training.memory_gb={enough(gigabytes):g}"] if gigabytes > training.memory_gb else []
        needed += ["training.max_clients_at_once=null"] if most is not None and most < AT_ONCE else []
        return "FK418", told, f"set {' and '.join(needed)}, or training.engine=reference"
    vmapped = Vmapped()
    why = f"plain training of one model at {AT_ONCE} sites at once"
    return Engine("vmap", why, vmapped.train, vmapped.check, at_once=AT_ONCE)
