"""What trains a round's sites: chosen once a run by looking at the model, recorded, and used again by a replay.

=========== ============================================================================================
reference   any model, one site after another: :mod:`fedkit.training.local`
closed_form stacks of Linear and pointwise layers, all sites at once: :mod:`fedkit.training.cohort`
vmap        plain training of other layers that vmap can take, 128 sites at once: :mod:`fedkit.training.vmapped`
taps        private training of Linear, convolution, Embedding, LayerNorm and GroupNorm layers, one site after
            another: :mod:`fedkit.training.taps`
=========== ============================================================================================

All have the same mathematics, lots, batches, noise and privacy; their results differ by the rounding of float32. On a
GPU, in one process, train the reference (:mod:`fedkit.training.on_device`) and privately taps and closed form too
(:mod:`fedkit.training.taps_on_device`, :mod:`fedkit.training.cohort_on_device`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from fedkit.training import local
from fedkit.training.cohort import COMPILED, Cohort
from fedkit.training.on_device import CPU, device_of, name_of
from fedkit.training.stack_compiled import compiled
from fedkit.training.taps import Taps
from fedkit.types import ClientUpdate, RoundPlan, Site, SiteState, Task

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

    @property
    def form(self) -> int | None:
        """See :attr:`Cohort.form`; None for an engine of one form, or in the first."""
        if self.cohort is not None:
            return self.cohort.form
        return COMPILED if self.taps and self.taps[0].compiled else None

    def record(self) -> dict[str, str | int]:
        """What the manifest says of it."""
        told: dict[str, str | int] = {"name": self.name, "why": self.why, "at_once": self.at_once}
        if self.form is not None:
            told["form"] = self.form
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
        return of_cohort(self.why, replace(self.cohort, form=form), self.most_workers)

    def among(self, processes: int) -> Engine:
        """What each of some processes trains with, which share the memory budget."""
        if self.cohort is None or processes == 1:
            return self
        return of_cohort(self.why, self.cohort, max(1, self.most_workers // processes))


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


def of_cohort(why: str, cohort: Cohort, most: int) -> Engine:
    """The closed form on the CPU, of at most so many sites in memory together."""
    cohort = replace(cohort, at_once=min(most, FAST_AT_ONCE))
    return Engine("closed_form", why, cohort.train, cohort.check, cohort.at_once, most, cohort)
