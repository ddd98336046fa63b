"""The closed form in compiled code: one site after another, small layers that stay in a core's cache.

The mathematics, lots, noise and batches are those of :mod:`fedkit.training.cohort_private` and
:mod:`fedkit.training.cohort_steps`; results differ by the rounding of float32.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import TrainingError
from fedkit.native.library import library
from fedkit.privacy.lattice import G, fill_integer_noise
from fedkit.privacy.product_sum import product_bits
from fedkit.privacy.randomness import Draws, Float64, Secure, Seeded
from fedkit.training.cohort_rows import padded
from fedkit.training.shuffles import Shuffles, placed
from fedkit.training.stack import Layer
from fedkit.types import Float32, Int64, PrivacyPlan, RoundPlan, Site, Task

_MOST_LAYERS = 64
_MOST_NUMBERS = {True: 2**17, False: 2**15}
"""Parameters of the largest layer, in private and in plain training, up to which compiled code is the faster one."""
_FUNCTIONS = {"": 0, "relu": 1, "tanh": 2, "sigmoid": 3}
_TASKS = {"binary": 0, "multiclass": 1, "regression": 2}
_AHEAD = 2**15
_NOBODY = -1


class _Plan(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("task", "steps", "before", "places")),
        *((name, ctypes.c_int64) for name in ("bits_u", "bits_v", "lattice_bits", "adam")),
        *((name, ctypes.c_double) for name in ("clip", "to_mean", "rate", "mu")),
    ]


def takes(layers: Sequence[Layer], *, private: bool) -> bool:
    """Whether there is compiled code for such a stack, and it is faster than torch's products."""
    few = len(layers) <= _MOST_LAYERS and max(layer.size for layer in layers) <= _MOST_NUMBERS[private]
    named = all(len(layer.after) <= 1 and all(function.name for function in layer.after) for layer in layers)
    return few and named and library() is not None


def compiled() -> ctypes.CDLL:
    """The library.

    Raises:
        TrainingError: FK425, there is none.
    """
    found = library()
    if found is None:
        raise TrainingError(
            "the run is in compiled code, and this installation of fedkit has none",
            code="FK425",
            remedy="install fedkit again where a C compiler (cc, gcc or clang) is, or run the experiment anew with"
            " FEDKIT_NATIVE=off in the environment",
        )
    return found


def private_here(site: Site, plan: PrivacyPlan) -> bool:
    """Whether compiled code trains a site: one whose rows are units."""
    return plan.unit == "record" and site.train.num_units == len(site.train)


def train_private(layers: Sequence[Layer], task: Task, sites: Sequence[Site], plan: RoundPlan) -> Float32:
    """One round at each site.

    Args:
        sites: of :func:`private_here`.

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
    described, room = _described(layers), _Room()
    found = np.repeat(plan.parameters[None].astype(np.float32), len(sites), 0)
    for site, parameters in zip(sites, found, strict=True):
        _private(described, parameters, task, site, plan, room)
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


def _private(described: Int64, parameters: Float32, task: Task, site: Site, plan: RoundPlan, room: _Room) -> None:
    code, local = compiled(), plan.sites[site.name]
    privacy = local.privacy
    if privacy is None or privacy.steps != local.steps:
        raise TrainingError(f"{site.name}: the local plan and its privacy plan disagree on the steps", code="FK409")
    source: Draws = (
        Secure() if privacy.noise == "secure" else Seeded(plan.seed, plan.round, site.name, "lots and noise")
    )
    d, units, layers = len(parameters), len(site.train), (described.ctypes.data, len(described))
    order = np.argsort(site.train.unit, kind="stable")
    x, y = _rows(site, int(described[0, 0])), _targets(task, site)
    places = padded(privacy.max_lot)
    told = _Plan(_TASKS[task.kind], 0, 0, places, *product_bits(places), G.bit_length() - 1, local.optimizer == "adam")
    told.clip, told.to_mean = privacy.max_grad_norm, privacy.max_grad_norm / G / privacy.lot_size
    told.rate, told.mu = local.learning_rate, plan.proximal_mu
    state = np.empty(code.fedkit_state(*layers), dtype=np.float32) if told.adam or told.mu else None
    window = min(privacy.steps, max(1, _AHEAD // max(d, units)))
    noise, work, ends = room.of(window, d, code.fedkit_private_memory(*layers))
    for before in range(0, privacy.steps, window):
        told.before, told.steps = before, min(window, privacy.steps - before)
        drawn = source.poisson_mask(told.steps * units, privacy.sample_rate).reshape(told.steps, units)
        fill_integer_noise(noise[: told.steps], source, privacy.noise_multiplier)
        step, row = np.nonzero(drawn)
        index = order[row]
        np.cumsum(np.bincount(step, minlength=told.steps), out=ends[1 : told.steps + 1])
        wrong = code.fedkit_private(
            *layers,
            ctypes.addressof(told),
            *(part.ctypes.data for part in (parameters, x, y, index, ends, noise)),
            None if state is None else state.ctypes.data,
            work.ctypes.data,
        )
        _refuse_no_class(wrong, task)


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
    code, described = compiled(), _described(layers)
    locals_ = [plan.sites[site.name] for site in sites]
    local, places = locals_[0], max(local.batch_size for local in locals_)
    x = np.concatenate([_rows(site, layers[0].inputs) for site in sites])
    y = np.concatenate([_targets(task, site) for site in sites])
    starts = np.cumsum([0, *counts])
    names, shuffles = [site.name for site in sites], Shuffles(plan.seed, plan.round, "batches")
    index = placed(names, locals_, starts, places, _NOBODY, shuffles)
    steps = np.array([each.steps for each in locals_], dtype=np.int64)
    received = np.ascontiguousarray(plan.parameters, dtype=np.float32)
    moved = np.empty((len(sites), len(received)), dtype=np.float32)
    layers_ = (described.ctypes.data, len(described))
    work = np.empty(code.fedkit_plain_memory(*layers_, places), dtype=np.float32)
    wrong = code.fedkit_plain(
        *layers_,
        _TASKS[task.kind],
        *(part.ctypes.data for part in (received, x, y, index, steps)),
        len(sites),
        places,
        local.learning_rate,
        plan.proximal_mu,
        local.optimizer == "adam",
        moved.ctypes.data,
        work.ctypes.data,
    )
    _refuse_no_class(wrong, task)
    return moved


def _described(layers: Sequence[Layer]) -> Int64:
    """As compiled code reads them, int64 [layers, 4]: inputs, outputs, bias, function."""
    functions = [layer.after[0].name if layer.after else "" for layer in layers]
    told = [
        (layer.inputs, layer.outputs, layer.bias, _FUNCTIONS[function])
        for layer, function in zip(layers, functions, strict=True)
    ]
    return np.array(told, dtype=np.int64)


def _rows(site: Site, width: int) -> Float32:
    """What compiled code would read beyond its end is refused here."""
    found = np.ascontiguousarray(site.train.x, dtype=np.float32)
    if found.size != len(site.train) * width:
        raise TrainingError(
            f"rows of shape {found.shape[1:]} for a model of {width} inputs",
            code="FK401",
            remedy="use the same model and arguments on both sides",
        )
    return found


def _targets(task: Task, site: Site) -> NDArray[np.generic]:
    """As compiled code reads them."""
    kind = np.int64 if task.kind == "multiclass" else np.float32
    return np.ascontiguousarray(site.train.y, dtype=kind)


def _refuse_no_class(wrong: int, task: Task) -> None:
    if wrong:
        last = task.num_outputs - 1
        raise TrainingError(f"a class index is not between 0 and {last}", code="FK409", remedy="name every class")
