"""Gradients on a GPU: a copy of the site's model lives there and follows its parameters.

Rows go to the device lot by lot, and one sum of a lot comes back: clipped integers where a plan is private, the mean
gradient where it is not. Lots, places, noise, the division and the parameters stay the CPU's, by the same code as
without a GPU.

What clipping relies on, that a row's gradient follows from its own values, its place and the parameters alone
(:mod:`fedkit.privacy.placement`), holds where an operation of one shape is one sequence of additions. A GPU is told to
keep to that (:func:`deterministic`): an operation that has no such form there is refused, and none is rounded to fewer
bits than float32.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedkit.errors import TrainingError, first_line
from fedkit.privacy import dp_sgd
from fedkit.privacy.randomness import Source
from fedkit.training.gradients import BatchGradient, batch_gradient
from fedkit.types import Int64, Task

CPU = torch.device("cpu")


def device_of(asked: str, setting: str) -> torch.device:
    """The device that ``auto``, ``cpu`` or ``cuda`` means on this machine.

    Args:
        setting: where it was asked for, for the error.

    Raises:
        TrainingError: FK423, cuda where torch finds no GPU.

    A process that has asked about CUDA cannot fork another that uses it.
    """
    if asked == "cpu":
        return CPU
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if asked == "auto":
        return CPU
    raise TrainingError(
        f"{setting} is cuda, and torch finds no GPU here",
        code="FK423",
        remedy=f"set {setting} to cpu or auto, or install a driver and a torch that fit the GPU",
    )


def name_of(device: torch.device) -> str:
    """The device in words: which GPU it is decides the last bits of a result."""
    return f"cuda, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "cpu"


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Same inputs, same bits on a GPU, in whole float32; its generator and torch's settings are put back.

    What has no such form there raises a RuntimeError inside: see :func:`refused_by`.
    """
    if device.type != "cuda":
        yield
        return
    # cuBLAS reads it when its first handle is made, and splits sums by what else runs without it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    fresh: Any = torch.utils.deterministic
    was = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    flags = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32, fresh.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    cudnn.benchmark = cudnn.allow_tf32 = matmul.allow_tf32 = False
    # It would write to all new memory, for operations that read what they have not written: half of a step's kernels.
    fresh.fill_uninitialized_memory = False
    try:
        with torch.random.fork_rng(devices=[device.index]):
            yield
    finally:
        torch.use_deterministic_algorithms(was[0], warn_only=was[1])
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32, fresh.fill_uninitialized_memory = flags


@contextmanager
def refused_by(device: torch.device) -> Iterator[None]:
    """What a GPU cannot do, or has no room for, as one error.

    Raises:
        TrainingError: FK423. Where records are in use, its being raised may follow from them.
    """
    try:
        yield
    except RuntimeError as error:
        if device.type != "cuda":
            raise
        raise TrainingError(
            f"the model cannot be trained on {name_of(device)}: {first_line(error)}",
            code="FK423",
            remedy="train it on the CPU, or leave out the operation that is named",
        ) from error


@dataclass(frozen=True)
class _Twin:
    """A model and its copy elsewhere."""

    own: nn.Module
    there: nn.Module

    def follow(self) -> None:
        """Give the copy the parameters that the model has now."""
        with torch.no_grad():
            for copied, p in zip(self.there.parameters(), self.own.parameters(), strict=True):
                copied.copy_(p)

    def tell(self) -> None:
        """Give the model the buffers of its copy, which a forward pass may have moved."""
        for own, copied in zip(self.own.buffers(), self.there.buffers(), strict=True):
            own.copy_(copied)


def _twin(module: nn.Module, device: torch.device) -> _Twin:
    return _Twin(module, copy.deepcopy(module).to(device))


@dataclass
class _SumsThere:
    """`fedkit.privacy.dp_sgd.LotGradients` of the copy, with the parameters that the model has now."""

    d: int
    gradients: dp_sgd.LotGradients
    twin: _Twin

    def of_records(
        self, x: Tensor, y: Tensor, max_grad_norm: float, source: Source, *, max_lot: int, lot_size: float
    ) -> Tensor:
        self.twin.follow()
        return self.gradients.of_records(x, y, max_grad_norm, source, max_lot=max_lot, lot_size=lot_size)

    def of_units(self, x: Tensor, y: Tensor, unit: Int64, max_grad_norm: float, source: Source) -> Tensor:
        self.twin.follow()
        return self.gradients.of_units(x, y, unit, max_grad_norm, source)

    def check_independence(self, shape: tuple[int, ...], target: torch.dtype) -> None:
        self.gradients.check_independence(shape, target)


@contextmanager
def lot_gradients_on(
    device: torch.device, module: nn.Module, losses: dp_sgd.SampleLosses
) -> Iterator[dp_sgd.LotGradients | _SumsThere]:
    """`fedkit.privacy.dp_sgd.lot_gradients` with forward, backward, clipping and sum on a device.

    Raises:
        TrainingError: as there.

    Guarantee: as there, inside :func:`deterministic`.
    """
    if device == CPU:
        with dp_sgd.lot_gradients(module, losses) as gradients:
            yield gradients
        return
    twin = _twin(module, device)
    with dp_sgd.lot_gradients(twin.there, losses) as gradients:
        yield _SumsThere(gradients.d, gradients, twin)


def batch_gradient_on(device: torch.device, module: nn.Module, task: Task, flat: Tensor) -> BatchGradient:
    """`fedkit.training.gradients.batch_gradient` with forward and backward on a device; the gradient comes back."""
    if device == CPU:
        return batch_gradient(module, task, flat)
    twin = _twin(module, device)
    there = batch_gradient(twin.there, task, flat.to(device))

    def gradient(x: Tensor, y: Tensor) -> Tensor:
        twin.follow()
        result = there(x.to(device), y.to(device)).to(CPU)
        twin.tell()
        return result

    return gradient
