"""A stack of Linear layers, its plans and its rows, as compiled code reads them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import TrainingError
from fedkit.native.library import library
from fedkit.privacy.lattice import G
from fedkit.privacy.product_sum import product_bits
from fedkit.training.cohort_rows import padded
from fedkit.training.stack import Layer
from fedkit.types import Float32, Int64, LocalPlan, PrivacyPlan, Site, Task

_MOST_LAYERS = 64
_MOST_NUMBERS = {True: 2**17, False: 2**15}
"""Parameters of the largest layer, in private and in plain training, up to which compiled code is the faster one."""
_FUNCTIONS = {"": 0, "relu": 1, "tanh": 2, "sigmoid": 3}
TASKS = {"binary": 0, "multiclass": 1, "regression": 2}


class PlanRead(ctypes.Structure):
    """``plan`` of ``fedkit/native/private.h``."""

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


def privacy_of(local: LocalPlan) -> PrivacyPlan:
    """What a private round charges for.

    Raises:
        TrainingError: FK409, nothing.
    """
    if local.privacy is None:
        raise TrainingError("a private round has a site without a privacy plan", code="FK409")
    return local.privacy


def plan_read(task: Task, local: LocalPlan, privacy: PrivacyPlan, mu: float) -> PlanRead:
    """A private plan, for all of its steps from the first on."""
    places = padded(privacy.max_lot)
    bits = *product_bits(places), G.bit_length() - 1
    found = PlanRead(TASKS[task.kind], privacy.steps, 0, places, *bits, local.optimizer == "adam")
    found.clip, found.to_mean = privacy.max_grad_norm, privacy.max_grad_norm / G / privacy.lot_size
    found.rate, found.mu = local.learning_rate, mu
    return found


def described(layers: Sequence[Layer]) -> Int64:
    """As compiled code reads them, int64 [layers, 4]: inputs, outputs, bias, function."""
    functions = [layer.after[0].name if layer.after else "" for layer in layers]
    told = [
        (layer.inputs, layer.outputs, layer.bias, _FUNCTIONS[function])
        for layer, function in zip(layers, functions, strict=True)
    ]
    return np.array(told, dtype=np.int64)


def rows_of(site: Site, width: int) -> Float32:
    """What compiled code would read beyond its end is refused here."""
    found = np.ascontiguousarray(site.train.x, dtype=np.float32)
    if found.size != len(site.train) * width:
        raise TrainingError(
            f"rows of shape {found.shape[1:]} for a model of {width} inputs",
            code="FK401",
            remedy="use the same model and arguments on both sides",
        )
    return found


def targets_of(task: Task, site: Site) -> NDArray[np.generic]:
    """As compiled code reads them, one a row.

    Raises:
        TrainingError: FK409, another number of them: it would read beyond their end.
    """
    found = np.ascontiguousarray(site.train.y, dtype=np.int64 if task.kind == "multiclass" else np.float32)
    if found.shape != (len(site.train),):
        message = f"{site.name} has another number of targets than of rows"
        raise TrainingError(message, code="FK409", remedy="give each row one target")
    return found


def refuse_no_class(wrong: int, task: Task) -> None:
    """Say what compiled code has found.

    Raises:
        TrainingError: FK409, a target that is no class.
    """
    if wrong:
        last = task.num_outputs - 1
        raise TrainingError(f"a class index is not between 0 and {last}", code="FK409", remedy="name every class")
