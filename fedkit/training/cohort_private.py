"""DP-SGD at several sites at once, by closed form: the lots, noise and updates of :mod:`fedkit.privacy.dp_sgd`.

A site's draws come from its own source in the order of the reference: with ``noise=seeded`` both engines have the same
lots and the same noise, and differ by the rounding of float32 alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fedkit.errors import TrainingError
from fedkit.privacy.dp_sgd import most_rows
from fedkit.privacy.lattice import G, LatticeSum, integer_noise
from fedkit.privacy.placement import blocks_of, in_slots
from fedkit.privacy.product_sum import clipped_sums
from fedkit.privacy.randomness import Secure, Seeded, Source
from fedkit.training.cohort_rows import Rows, padded
from fedkit.training.local import PARAMETER_LIMIT
from fedkit.training.stack import Layer
from fedkit.training.stacked import Stacked
from fedkit.training.updates import updater
from fedkit.types import Float32, Int64, PrivacyPlan, RoundPlan, Site, Task


def alike(site: Site, plan: PrivacyPlan) -> tuple[object, ...]:
    """What sites must agree on to share arrays: where rows go, and the clip."""
    records = plan.unit == "record" and site.train.num_units == len(site.train)
    return records, padded(plan.max_lot) if records else 0, plan.max_grad_norm


def train_private(layers: Sequence[Layer], task: Task, sites: Sequence[Site], plan: RoundPlan) -> Float32:
    """One round at each site.

    Args:
        sites: of one :func:`alike`, those with more steps first.

    Returns:
        float32 [sites, d], the trained parameters.

    Raises:
        TrainingError: a local plan and its privacy plan that disagree.

    Guarantee: that of :func:`fedkit.privacy.dp_sgd.train_lots` at each site. Every array's shape follows from the
    plans, every row's place is drawn without looking at records, and no site's numbers enter another's.
    """
    stacked = Stacked(layers, len(sites), plan.parameters)
    rows = Rows(layers[0], task, sites)
    drawn = [_draws(site, plan, stacked.d, int(at), rows.nobody) for site, at in zip(sites, rows.starts, strict=False)]
    local = plan.sites[sites[0].name]
    together = len({draw.plan.steps for draw in drawn}) == 1
    parts, gradients = stacked.parts(together=together)
    updates = [updater(part, local.optimizer, local.learning_rate, plan.proximal_mu) for part in parts]
    places = padded(drawn[0].plan.max_lot)
    sums = [torch.empty(weight.shape, dtype=torch.float64) for weight in stacked.weights]
    clips = torch.tensor([draw.plan.max_grad_norm for draw in drawn], dtype=torch.float64)
    to_mean = clips / G / torch.tensor([draw.plan.lot_size for draw in drawn], dtype=torch.float64)
    for step in range(drawn[0].plan.steps):
        active = sum(draw.plan.steps > step for draw in drawn)
        index = np.full((active, places), rows.nobody, dtype=np.int64)
        noise = np.empty((active, stacked.d), dtype=np.int64)
        apart = [draw.next(index[k], noise[k]) for k, draw in enumerate(drawn[:active])]
        now = [total[:active] for total in sums]
        if drawn[0].records:
            x, residual = rows.at(index)
            inputs, errors = stacked.passes(x, residual)
            present = torch.from_numpy(index != rows.nobody)
            clipped_sums(inputs, errors, present, drawn[0].plan.max_grad_norm, now)
        else:
            for total in now:
                total.zero_()
        for k, lot in enumerate(apart):
            if lot is not None:
                _add(now, k, lot.sum(stacked, rows, k))
        stacked.add_packed(torch.from_numpy(noise), now)
        for total, slope in zip(now, stacked.slopes, strict=True):
            torch.mul(total, to_mean[:active, None, None], out=slope[:active])
        for update, gradient in zip(updates, gradients, strict=True):
            update(gradient if together else gradient[:active])
        for part in parts:
            # A bound on the parameters is post-processing, as in the reference.
            part.nan_to_num_(nan=0.0, posinf=PARAMETER_LIMIT, neginf=-PARAMETER_LIMIT)
            part.clamp_(-PARAMETER_LIMIT, PARAMETER_LIMIT)
    return stacked.packed()


@dataclass
class _Apart:
    """A lot whose rows need arrays of their own: units of several rows, or more rows than there are places.

    Attributes:
        blocks: (indices of rows [size], which of them are present), one array each.
        units: whether a block is one unit, its gradient the mean over the rows of all its pieces.
    """

    clip: float
    units: bool
    blocks: list[tuple[list[Int64], Tensor]] = field(default_factory=list)

    def sum(self, stacked: Stacked, rows: Rows, site: int) -> list[Tensor]:
        """The lattice sum, int64 [outputs, width] of each layer."""
        total = LatticeSum(stacked.d, self.clip)
        for pieces, present in self.blocks:
            found: list[Tensor] = []
            for piece in pieces:
                inputs, errors = stacked.passes(*rows.at(piece[None]), first=site)
                if self.units:
                    parts = [e[0].t() @ a[0] for a, e in zip(inputs, errors, strict=True)]
                    found = (
                        [f + p[None] for f, p in zip(found, parts, strict=True)] if found else [p[None] for p in parts]
                    )
                else:
                    found = [e[0, :, :, None] * a[0, :, None, :] for a, e in zip(inputs, errors, strict=True)]
            if self.units:
                found = [part / sum(len(piece) for piece in pieces) for part in found]
            total.add(found, present)
        sizes = [layer.size for layer in stacked.layers]
        flat = torch.split(total.result(), sizes)
        return [part.view(layer.outputs, layer.width) for part, layer in zip(flat, stacked.layers, strict=True)]


def _add(sums: Sequence[Tensor], site: int, lot: Sequence[Tensor]) -> None:
    for total, part in zip(sums, lot, strict=True):
        total[site] += part


@dataclass
class _Draws:
    """A site's lots and noise, step after step; every call draws what the reference would, in its order."""

    plan: PrivacyPlan
    source: Source
    order: Int64
    unit: Int64
    d: int
    nobody: int
    places: Callable[[int], Int64]

    def __post_init__(self) -> None:
        self.units = int(self.unit[-1]) + 1 if len(self.unit) else 0
        self.records = self.plan.unit == "record" and self.units == len(self.unit)
        self._slots = {"max_lot": self.plan.max_lot, "lot_size": self.plan.lot_size, "d": self.d}

    def next(self, index: Int64, noise: Int64) -> _Apart | None:
        """Draw a step: fill the lot's places [places] and the noise [d], or return what no place is for."""
        source, plan = self.source, self.plan
        chosen = np.flatnonzero(source.poisson_mask(self.units, plan.sample_rate)[self.unit])
        apart = None
        if not self.records:
            apart = self._of_units(chosen)
        elif in_slots(len(chosen), **self._slots):  # type: ignore[arg-type]
            for block in blocks_of(len(chosen), source, **self._slots, most=most_rows(self.d)):  # type: ignore[arg-type]
                source.seed()
                index[block.first + block.places] = self.order[chosen[block.rows]]
        elif len(chosen) <= plan.max_lot:
            # So wide a model's rows stand in columns in the reference, which draws for them; here a place is cheap.
            for _ in blocks_of(len(chosen), source, **self._slots, most=most_rows(self.d)):  # type: ignore[arg-type]
                source.seed()
            index[self.places(plan.max_lot)[: len(chosen)]] = self.order[chosen]
        else:
            apart = self._in_columns(chosen)
        noise[:] = integer_noise(source, self.d, plan.noise_multiplier)
        return apart

    def _of_units(self, chosen: Int64) -> _Apart:
        lot, most = _Apart(self.plan.max_grad_norm, units=True), most_rows(self.d)
        unit = self.unit[chosen]
        starts = np.flatnonzero(np.r_[True, unit[1:] != unit[:-1]]) if len(unit) else np.zeros(0, np.int64)
        for begin, end in zip(starts, np.r_[starts[1:], len(unit)], strict=False):
            self.source.seed()
            own = self.order[chosen[begin:end]]
            lot.blocks.append(
                ([own[at : at + most] for at in range(0, len(own), most)], torch.ones(1, dtype=torch.bool))
            )
        return lot

    def _in_columns(self, chosen: Int64) -> _Apart:
        lot = _Apart(self.plan.max_grad_norm, units=False)
        for block in blocks_of(len(chosen), self.source, **self._slots, most=most_rows(self.d)):  # type: ignore[arg-type]
            self.source.seed()
            index, present = np.full(block.size, self.nobody, dtype=np.int64), np.zeros(block.size, dtype=np.bool_)
            index[block.places] = self.order[chosen[block.rows]]
            present[block.places] = True
            lot.blocks.append(([index], torch.from_numpy(present)))
        return lot


def _draws(site: Site, plan: RoundPlan, d: int, at: int, nobody: int) -> _Draws:
    local = plan.sites[site.name]
    privacy = local.privacy
    if privacy is None or privacy.steps != local.steps:
        raise TrainingError(f"{site.name}: the local plan and its privacy plan disagree on the steps", code="FK409")
    order = np.argsort(site.train.unit, kind="stable")
    unit = site.train.unit[order]
    if privacy.noise == "secure":
        secure = Secure()
        return _Draws(privacy, secure, order + at, unit, d, nobody, secure.permutation)
    seeded = Seeded(plan.seed, plan.round, site.name, "lots and noise")
    # Where the reference draws columns in their stead, places must not use up what it draws its noise from.
    slots = in_slots(0, max_lot=privacy.max_lot, lot_size=privacy.lot_size, d=d)
    places = seeded if slots else Seeded(plan.seed, plan.round, site.name, "places")
    return _Draws(privacy, seeded, order + at, unit, d, nobody, places.permutation)
