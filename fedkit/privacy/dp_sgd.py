"""DP-SGD over Poisson lots (Abadi et al. 2016). The only place that imports Opacus, for per-sample gradients alone.

Opacus' optimizer, loader and noise are not used: its noise is recoverable (a 32-bit seed), and it derives sample rate
and lot size from the data. Here both are constants of the plan.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fedkit.errors import TrainingError
from fedkit.privacy.independence import Untouched, WithoutDropout, check_independence, moved, refusal, snapshot
from fedkit.privacy.lattice import G, LatticeSum, integer_noise
from fedkit.privacy.placement import blocks_of
from fedkit.privacy.randomness import Source
from fedkit.types import Int64, PrivacyPlan

SampleLosses = Callable[[Tensor, Tensor], Tensor]
"""(model outputs, targets) -> the SUM over rows of each row's own loss; a mean would let rows scale each other."""

MAX_ROWS = 256
"""Rows whose gradients are held at once."""
_MAX_VALUES = 2**26


def check_module(module: nn.Module) -> None:
    """Refuse a module whose per-sample gradients would not bound what a record can do.

    Raises:
        TrainingError: normalisation over a batch, any floating-point buffer (a frozen BatchNorm still moves raw data
            into its running mean), an embedding with ``max_norm``, a padding other than zeros, a LayerNorm without
            bias, nothing to train, or parameters that are not float32.
    """
    from opacus.validators import ModuleValidator

    problems = []
    for name, child in module.named_modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            problems.append(f"{name or 'the model'} is {type(child).__name__}, which mixes the records of a batch")
        if getattr(child, "max_norm", None) is not None:
            told = (
                f"{name or 'the model'} has max_norm={child.max_norm}, which rescales in forward the rows it looks up"
            )
            problems.append(f"{told}, without noise")
        # Opacus takes any padding for zeros, and fails on a norm without bias.
        if getattr(child, "padding_mode", "zeros") != "zeros":
            problems.append(
                f"{name or 'the model'} has padding_mode={child.padding_mode}; only zeros can be trained so"
            )
        if isinstance(child, nn.LayerNorm) and child.elementwise_affine and getattr(child, "bias", None) is None:
            problems.append(f"{name or 'the model'} is a LayerNorm without bias")
    if not problems:
        for name, buffer in module.named_buffers():
            if buffer.is_floating_point():
                problems.append(f"buffer {name} is not covered by the noise")
        was_training = module.training
        module.train()  # the validator refuses a module in evaluation mode
        problems += [" ".join(str(error).split()) for error in ModuleValidator.validate(module, strict=False)]
        module.train(was_training)
    trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    if not trainable:
        problems.append("nothing in the model is trainable")
    problems += [f"parameter {name} is {p.dtype}, not float32" for name, p in trainable if p.dtype != torch.float32]
    if problems:
        raise TrainingError(
            "the model cannot be trained with differential privacy: " + "; ".join(problems),
            code="FK404",
            remedy="replace BatchNorm by GroupNorm or LayerNorm, make constants part of forward, and build embeddings"
            " with max_norm=None, convolutions with padding_mode=zeros and norms with a bias",
        )


def most_rows(d: int) -> int:
    """Rows whose gradients of d values are held at once."""
    return max(1, min(MAX_ROWS, _MAX_VALUES // max(1, d)))


class ClippedSums(Protocol):
    """What :func:`train_lots` asks of a model: see :class:`LotGradients`, and `fedkit.training.tap_gradients`."""

    d: int

    def of_records(
        self, x: Tensor, y: Tensor, max_grad_norm: float, source: Source, *, max_lot: int, lot_size: float
    ) -> Tensor:
        """The lattice sum of a lot whose rows are the units; int64 [d]."""
        ...

    def of_units(self, x: Tensor, y: Tensor, unit: Int64, max_grad_norm: float, source: Source) -> Tensor:
        """The lattice sum of a lot of units of several rows; int64 [d]."""
        ...


class LotGradients:
    """Per-sample gradients of one module, wrapped by Opacus once for a whole round; see :func:`lot_gradients`."""

    def __init__(self, wrapped: Any, losses: SampleLosses) -> None:
        self._wrapped, self._losses = wrapped, losses
        self._untouched = Untouched(wrapped._module)
        self._parameters: list[Any] = [p for p in wrapped.parameters() if p.requires_grad]
        self._device: torch.device = self._parameters[0].device
        self.d = sum(p.numel() for p in self._parameters)
        self.most = most_rows(self.d)

    def of_records(
        self, x: Tensor, y: Tensor, max_grad_norm: float, source: Source, *, max_lot: int, lot_size: float
    ) -> Tensor:
        """The sum of the clipped gradients of a lot whose rows are the units, on the lattice.

        Args:
            x: float32 [rows, ...], y: targets [rows, ...].
            max_lot, lot_size: public bound and expectation of the rows.

        Returns:
            int64 [d]; multiply by C / G for the sum.

        Raises:
            TrainingError: FK404, forward or backward wrote into a parameter, which is put back.

        Guarantee: a row that joins or leaves changes no other row's term, bit for bit; see
        :mod:`fedkit.privacy.placement`.
        """
        self._untouched.keep()
        total = LatticeSum(self.d, max_grad_norm, self._device)
        for block in blocks_of(len(x), source, max_lot=max_lot, lot_size=lot_size, d=self.d, most=self.most):
            rows, places = torch.from_numpy(block.rows), torch.from_numpy(block.places)
            block_x, block_y = torch.zeros((block.size, *x.shape[1:])), torch.zeros(block.size, dtype=y.dtype)
            block_x[places], block_y[places] = x[rows], y[rows]
            present = torch.zeros(block.size, dtype=torch.bool)
            present[places] = True
            self._seed(source.seed())
            total.add(self._row_gradients(block_x, block_y), present.to(self._device))
        return total.result()

    def of_units(self, x: Tensor, y: Tensor, unit: Int64, max_grad_norm: float, source: Source) -> Tensor:
        """The sum of the clipped gradients of units of any number of rows, each in arrays of its own.

        Args:
            x: float32 [rows, ...], y: targets [rows, ...]: all rows of the lot's units.
            unit: the unit that owns each row, ascending; a unit's gradient is the mean over its rows.

        Returns:
            int64 [d]; multiply by C / G for the sum.

        Raises:
            TrainingError: FK404, forward or backward wrote into a parameter, which is put back.
        """
        self._untouched.keep()
        total = LatticeSum(self.d, max_grad_norm, self._device)
        if not len(unit):
            return total.result()
        starts = np.flatnonzero(np.r_[True, unit[1:] != unit[:-1]])
        for begin, end in zip(starts, np.r_[starts[1:], len(unit)], strict=True):
            self._seed(source.seed())
            sums = [torch.zeros((1, *p.shape), device=self._device) for p in self._parameters]
            # A unit with more rows than are held at once is summed in pieces: it is one clip all the same.
            for at in range(int(begin), int(end), self.most):
                last = min(at + self.most, int(end))
                for part, piece in zip(sums, self._row_gradients(x[at:last].clone(), y[at:last].clone()), strict=True):
                    part += piece.sum(0)
            total.add([part / int(end - begin) for part in sums])
        return total.result()

    def check_independence(self, shape: tuple[int, ...], target: torch.dtype) -> None:
        """Refuse a model that mixes or remembers rows: once, before it sees a record, with random numbers alone.

        Args:
            shape: of one example. target: the type of the losses' targets.

        Raises:
            TrainingError: see :func:`fedkit.privacy.independence.check_independence`, which says what a probe can
                show; outputs that the losses refuse.
        """

        def probe(x: Tensor, weights: Tensor) -> tuple[Tensor, list[Tensor]]:
            self._untouched.keep()
            x, weights = x.to(self._device), weights.to(self._device)
            with WithoutDropout():
                outputs = self._wrapped(x)
            self._losses(outputs.detach(), torch.zeros(len(x), dtype=target, device=self._device))
            if outputs.dim() == 0 or len(outputs) != len(x):
                raise TrainingError("the model does not keep the batch as the first dimension", code="FK404")
            flat = outputs.flatten(1) if outputs.dim() > 1 else outputs[:, None]
            # Unequal weights of the outputs: the sum of a softmax has no gradient.
            columns = torch.linspace(0.5, 1.5, flat.shape[1], device=self._device)
            (flat * columns * weights[:, None]).sum().backward()
            self._untouched.check()
            return outputs.detach(), self._collected(len(x))

        check_independence(probe, lambda x: self._wrapped(x.to(self._device)), self._parameters, shape)

    def _row_gradients(self, x: Tensor, y: Tensor) -> list[Tensor]:
        x, y = x.to(self._device), y.to(self._device)
        self._losses(self._wrapped(x), y).backward()  # type: ignore[no-untyped-call]
        self._untouched.check()
        return self._collected(len(x))

    def _seed(self, seed: int) -> None:
        """For dropout, which draws where the rows are."""
        torch.default_generator.manual_seed(seed)
        if self._device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _collected(self, rows: int) -> list[Tensor]:
        found = []
        for p in self._parameters:
            gradient: Tensor | None = p.grad_sample
            found.append(torch.zeros((rows, *p.shape), device=self._device) if gradient is None else gradient)
            p.grad_sample, p.grad = None, None
        if any(len(gradient) != rows for gradient in found):
            raise TrainingError("the model does not keep the batch as the first dimension", code="FK404")
        return found


@contextmanager
def lot_gradients(module: nn.Module, losses: SampleLosses) -> Iterator[LotGradients]:
    """Wrap a module for per-sample gradients; its hooks and attributes are taken off again at the end.

    Raises:
        TrainingError: a module that :func:`check_module` refuses, or (at the end) one whose buffers or attributes
            have moved or whose parameters are other objects: what it keeps of a lot is in no clipped gradient.
    """
    from opacus import GradSampleModule

    check_module(module)
    was_training = module.training
    module.train()
    before, own = snapshot(module), Untouched(module)
    wrapped: Any = None
    try:
        wrapped = GradSampleModule(module, loss_reduction="sum", strict=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            yield LotGradients(wrapped, losses)
    except NotImplementedError as error:
        raise TrainingError(
            "the model cannot be trained with differential privacy: " + " ".join(str(error).split()), code="FK404"
        ) from error
    finally:
        if wrapped is not None:
            wrapped.remove_hooks()
        for child in module.modules():
            for name in ("activations", "max_batch_len", "ft_compute_sample_grad", "autograd_grad_sample_hooks"):
                child.__dict__.pop(name, None)
        for p in module.parameters():
            p.grad = None
            for name in ("grad_sample", "_forward_counter", "_current_grad_sample"):
                p.__dict__.pop(name, None)
        after = snapshot(module)
        module.train(was_training)
    changed = [*moved(before, after), *own.replaced()]
    if changed:
        raise refusal(f"{', '.join(changed)} changed")


def train_lots(
    gradients: ClippedSums,
    x: Tensor,
    y: Tensor,
    unit: Int64,
    plan: PrivacyPlan,
    source: Source,
    update: Callable[[Tensor], None],
) -> None:
    """One round of noisy steps at one site: lot, clipped sum, noise, division, update, ``plan.steps`` times.

    Args:
        x: float32 [rows, ...], y: targets [rows, ...]: the site's training rows; rows may be none.
        unit: int64 [rows], the unit of each row, 0 .. units - 1.
        update: changes the parameters given a noisy mean gradient, float32 [d]; it sees nothing else.

    Guarantee: with a ``Secure`` source each step is a Poisson-sampled Gaussian mechanism with the plan's sample rate
    and noise multiplier for one unit under add/remove adjacency; an empty lot releases noise like any other, a lot is
    never truncated, and the divisor is the plan's constant.
    """
    order = np.argsort(unit, kind="stable")
    if not np.array_equal(order, np.arange(len(unit))):
        x, y, unit = x[torch.from_numpy(order)], y[torch.from_numpy(order)], unit[order]
    units = int(unit[-1]) + 1 if len(unit) else 0
    to_mean = plan.max_grad_norm / G / plan.lot_size
    for _ in range(plan.steps):
        rows = np.flatnonzero(source.poisson_mask(units, plan.sample_rate)[unit])
        chosen = torch.from_numpy(rows)
        clip, lot = plan.max_grad_norm, (x[chosen], y[chosen])
        if plan.unit == "record" and units == len(unit):
            total = gradients.of_records(*lot, clip, source, max_lot=plan.max_lot, lot_size=plan.lot_size)
        else:
            total = gradients.of_units(*lot, unit[rows], clip, source)
        total += torch.from_numpy(integer_noise(source, gradients.d, plan.noise_multiplier))
        update(total.double().mul_(to_mean).float())
