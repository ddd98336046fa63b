"""The closed form in compiled code: one site after another, small layers that stay in a core's cache.

The mathematics, lots, noise and batches are those of :mod:`fedkit.training.cohort_private` and
:mod:`fedkit.training.cohort_steps`; results differ by the rounding of float32.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from fedkit.errors import TrainingError
from fedkit.privacy.lattice import fill_integer_noise
from fedkit.privacy.randomness import Draws, Float64, Secure, Seeded
from fedkit.training.cohort_drawn import Drawn
from fedkit.training.shuffles import Shuffles, placed
from fedkit.training.sites_read import SitesRead
from fedkit.training.stack import Layer
from fedkit.training.stack_compiled import (
    TASKS,
    compiled,
    described,
    plan_read,
    privacy_of,
    refuse_no_class,
    rows_of,
    targets_of,
)
from fedkit.types import Float32, Int64, PrivacyPlan, RoundPlan, Site, Task

_AHEAD = 2**15
_NOBODY = -1


def private_here(site: Site, plan: PrivacyPlan) -> bool:
    """Whether compiled code trains a site: one whose rows are units."""
    return plan.unit == "record" and site.train.num_units == len(site.train)


def train_private(
    layers: Sequence[Layer], task: Task, sites: Sequence[Site], plan: RoundPlan, reads: SitesRead | None = None
) -> Float32:
    """One round at each site.

    Args:
        sites: of :func:`private_here`.
        reads: what was read of sites in calls before, whose records are not read anew; None keeps nothing.

    Returns:
        float32 [sites, d], the trained parameters.

    Raises:
        TrainingError: FK409, a local plan and its privacy plan that disagree, targets that are no class.

    Guarantee: that of :func:`fedkit.privacy.dp_sgd.train_lots` at each site. A row's outputs, errors and integers are
    the same operations in the same order whatever other rows there are (``fedkit/native/products.h``), so a lot needs
    no places that hide its size from the arithmetic: see *by themselves* in :mod:`fedkit.privacy.placement`. Its
    integers and their sums are those of :mod:`fedkit.privacy.product_sum`, for as many rows as ``max_lot`` is padded
    to; what a larger lot adds goes on in 64 bits, and the sum of a lot is rounded to the lattice once.
    """
    for site in sites:
        local = plan.sites[site.name]
        if privacy_of(local).steps != local.steps:
            raise TrainingError(f"{site.name}: the local plan and its privacy plan disagree on the steps", code="FK409")
    found = np.repeat(plan.parameters[None].astype(np.float32), len(sites), 0)
    told, reads = described(layers), SitesRead() if reads is None else reads
    drawn = Drawn.of(told, task, sites, plan, found, reads)
    if drawn is not None:
        drawn.train()
        return found
    room = _Room()
    for site, parameters in zip(sites, found, strict=True):
        _private(told, parameters, task, site, plan, reads, room)
    return found


class _Room:
    """Memory that one site after another works in: what is new to a process costs more than a small model's step."""

    def __init__(self) -> None:
        self._noise, self._work, self._ends = np.empty(0), np.empty(0), np.empty(0, dtype=np.int64)

    def of(self, steps: int, d: int, work: int) -> tuple[Float64, Float64, Int64]:
        """Noise float64 [steps, d], what compiled code works in, and where lots end, int64 [steps + 1], from 0 on."""
        if len(self._noise) < steps * d:
            self._noise = np.empty(steps * d)
        if len(self._work) < work:
            self._work = np.empty(work)
        if len(self._ends) <= steps:
            self._ends = np.zeros(steps + 1, dtype=np.int64)
        return self._noise[: steps * d].reshape(steps, d), self._work, self._ends


def _private(
    layers: Int64, parameters: Float32, task: Task, site: Site, plan: RoundPlan, reads: SitesRead, room: _Room
) -> None:
    """Draw here, window after window, and train there."""
    code, local = compiled(), plan.sites[site.name]
    privacy = privacy_of(local)
    source: Draws = (
        Secure() if privacy.noise == "secure" else Seeded(plan.seed, plan.round, site.name, "lots and noise")
    )
    d, units, stack = len(parameters), len(site.train), (layers.ctypes.data, len(layers))
    read = reads.of(site, task, int(layers[0, 0]))
    told = plan_read(task, local, privacy, plan.proximal_mu)
    state = np.empty(code.fedkit_state(*stack), dtype=np.float32) if told.adam or told.mu else None
    window = min(privacy.steps, max(1, _AHEAD // max(d, units)))
    noise, work, ends = room.of(window, d, code.fedkit_private_memory(*stack))
    for before in range(0, privacy.steps, window):
        told.before, told.steps = before, min(window, privacy.steps - before)
        joined = source.poisson_mask(told.steps * units, privacy.sample_rate).reshape(told.steps, units)
        fill_integer_noise(noise[: told.steps], source, privacy.noise_multiplier)
        step, row = np.nonzero(joined)
        index = read.order[row]
        np.cumsum(np.bincount(step, minlength=told.steps), out=ends[1 : told.steps + 1])
        wrong = code.fedkit_private(
            *stack,
            ctypes.addressof(told),
            *(part.ctypes.data for part in (parameters, read.x, read.y, index, ends, noise)),
            None if state is None else state.ctypes.data,
            work.ctypes.data,
        )
        refuse_no_class(wrong, task)


def train_plain(layers: Sequence[Layer], task: Task, sites: Sequence[Site], plan: RoundPlan) -> Float32:
    """One round without privacy at each site.

    Args:
        sites: of one optimizer and learning rate, of batches that are padded alike, those with more steps first.

    Returns:
        float32 [sites, d], how far each site's parameters are from the received ones.

    Raises:
        TrainingError: FK409, a site without rows, targets that are no class.
    """
    counts = [len(site.train) for site in sites]
    if 0 in counts:
        name = sites[counts.index(0)].name
        raise TrainingError(f"{name} has no training rows", code="FK409", remedy="leave the site out")
    code, told = compiled(), described(layers)
    locals_ = [plan.sites[site.name] for site in sites]
    local, places = locals_[0], max(local.batch_size for local in locals_)
    x = np.concatenate([rows_of(site, layers[0].inputs) for site in sites])
    y = np.concatenate([targets_of(task, site) for site in sites])
    starts = np.cumsum([0, *counts])
    names, shuffles = [site.name for site in sites], Shuffles(plan.seed, plan.round, "batches")
    index = placed(names, locals_, starts, places, _NOBODY, shuffles)
    steps = np.array([each.steps for each in locals_], dtype=np.int64)
    received = np.ascontiguousarray(plan.parameters, dtype=np.float32)
    moved = np.empty((len(sites), len(received)), dtype=np.float32)
    stack = (told.ctypes.data, len(told))
    work = np.empty(code.fedkit_plain_memory(*stack, places), dtype=np.float32)
    wrong = code.fedkit_plain(
        *stack,
        TASKS[task.kind],
        *(part.ctypes.data for part in (received, x, y, index, steps)),
        len(sites),
        places,
        local.learning_rate,
        plan.proximal_mu,
        local.optimizer == "adam",
        moved.ctypes.data,
        work.ctypes.data,
    )
    refuse_no_class(wrong, task)
    return moved
