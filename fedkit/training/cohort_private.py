"""DP-SGD at several sites at once, by closed form: the lots, noise and updates of :mod:`fedkit.privacy.dp_sgd`.

A site's draws come from its own source, each kind in the order of the reference: with ``noise=seeded`` both engines
have the same lots and the same noise, and differ by the rounding of float32 alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fedkit.errors import TrainingError
from fedkit.privacy.dp_sgd import most_rows
from fedkit.privacy.lattice import G, LatticeSum, fill_integer_noise
from fedkit.privacy.placement import COLUMNS, columns_of
from fedkit.privacy.product_sum import clipped_sums
from fedkit.privacy.randomness import Draws, Float64, Secure, Seeded
from fedkit.training.cohort_rows import Rows, padded
from fedkit.training.local import PARAMETER_LIMIT
from fedkit.training.stack import Layer
from fedkit.training.stacked import Stacked
from fedkit.training.updates import updater
from fedkit.types import Float32, Int64, PrivacyPlan, RoundPlan, Site, Task

_AHEAD, _TOGETHER = 2**16, 2**21
"""Random numbers of a site, and of all sites of a call, that are drawn at once where a step needs fewer: what is drawn
ahead is in memory beside what ``training.memory_gb`` is held against."""


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
    drawn = [_draws(site, plan, stacked.d, int(at)) for site, at in zip(sites, rows.starts, strict=False)]
    local = plan.sites[sites[0].name]
    together = len({draw.plan.steps for draw in drawn}) == 1
    parts, gradients = stacked.parts(together=together)
    updates = [updater(part, local.optimizer, local.learning_rate, plan.proximal_mu) for part in parts]
    sums = [torch.empty(weight.shape, dtype=torch.float64) for weight in stacked.weights]
    clips = torch.tensor([draw.plan.max_grad_norm for draw in drawn], dtype=torch.float64)
    to_mean = clips / G / torch.tensor([draw.plan.lot_size for draw in drawn], dtype=torch.float64)
    for step, ahead in _steps(drawn, stacked.d, rows.nobody):
        active = sum(draw.plan.steps > step for draw in drawn)
        index = ahead.index[step - ahead.first, :active]
        now = [total[:active] for total in sums]
        if drawn[0].records:
            x, residual = rows.at(index)
            inputs, errors = stacked.passes(x, residual)
            present = torch.from_numpy(index != rows.nobody)
            clipped_sums(inputs, errors, present, drawn[0].plan.max_grad_norm, now)
        else:
            for total in now:
                total.zero_()
        for k in range(active):
            lot = ahead.apart.get((step, k))
            if lot is not None:
                _add(now, k, lot.sum(stacked, rows, k))
        stacked.add_packed(torch.from_numpy(ahead.noise[:active, step - ahead.first]), now)
        for total, slope in zip(now, stacked.slopes, strict=True):
            torch.mul(total, to_mean[:active, None, None], out=slope[:active])
        for update, gradient in zip(updates, gradients, strict=True):
            update(gradient if together else gradient[:active])
        for part in parts:
            # A bound on the parameters is post-processing, as in the reference.
            part.nan_to_num_(nan=0.0, posinf=PARAMETER_LIMIT, neginf=-PARAMETER_LIMIT)
            part.clamp_(-PARAMETER_LIMIT, PARAMETER_LIMIT)
    return stacked.packed()


@dataclass(frozen=True)
class _Ahead:
    """What some steps in a row draw at every site.

    Attributes:
        first: of the steps.
        index: int64 [steps, sites, places], the row in each place. noise: float64 [sites, steps, d], whole numbers.
        apart: (step, site) to the lot that no place is for.
    """

    first: int
    index: Int64
    noise: Float64
    apart: dict[tuple[int, int], _Apart]


def _steps(drawn: Sequence[_Draws], d: int, nobody: int) -> Iterator[tuple[int, _Ahead]]:
    """Each step, with what it draws: the streams go on by themselves, so that several cost little more than one."""
    steps = drawn[0].plan.steps
    places = padded(drawn[0].plan.max_lot) if drawn[0].records else 0
    widest = max(d, places, *(draw.units for draw in drawn))
    window = min(steps, max(1, min(_AHEAD, _TOGETHER // len(drawn)) // widest))
    noise = np.empty((len(drawn), window, d))
    for first in range(0, steps, window):
        index = np.full((window, len(drawn), places), nobody, dtype=np.int64)
        ahead = _Ahead(first, index, noise, {})
        for k, draw in enumerate(drawn):
            count = min(window, draw.plan.steps - first)
            if count > 0:
                lots = draw.next(index[:count, k], noise[k, :count], nobody)
                ahead.apart.update({(first + step, k): lot for step, lot in lots.items()})
        yield from ((step, ahead) for step in range(first, min(first + window, steps)))


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


@dataclass(frozen=True)
class _Draws:
    """A site's lots and noise, which are the reference's.

    Attributes:
        order: the rows of all sites that are this one's, by unit. unit: the unit of each.
        d: number of parameters.
    """

    plan: PrivacyPlan
    source: Draws
    order: Int64
    unit: Int64
    d: int

    @property
    def units(self) -> int:
        """That the site has."""
        return int(self.unit[-1]) + 1 if len(self.unit) else 0

    @property
    def records(self) -> bool:
        """Whether every row is a unit."""
        return self.plan.unit == "record" and self.units == len(self.unit)

    def next(self, index: Int64, noise: Float64, nobody: int) -> dict[int, _Apart]:
        """Draw some steps.

        Args:
            index: [steps, places], which is filled. noise: [steps, d], which is filled.

        Returns:
            Step to its lot, where no place is for it.
        """
        steps = len(index)
        masks = self.source.poisson_mask(steps * self.units, self.plan.sample_rate).reshape(steps, self.units)
        fill_integer_noise(noise, self.source, self.plan.noise_multiplier)
        if not self.records:
            return {step: self._of_units(np.flatnonzero(mask[self.unit])) for step, mask in enumerate(masks)}
        counts = masks.sum(1)
        fitting = np.flatnonzero(counts <= self.plan.max_lot)
        kept = masks if len(fitting) == steps else masks[fitting]
        step, row = np.nonzero(kept)
        ends = np.cumsum(counts[fitting])
        rank = np.arange(len(row)) - np.repeat(ends - counts[fitting], counts[fitting])
        # So wide a model's rows stand in columns in the reference; here a place is cheap.
        place = self.source.permutations(len(fitting), self.plan.max_lot)[step, rank]
        index[fitting[step], place] = self.order[row]
        return {
            int(each): self._in_columns(np.flatnonzero(masks[each]), nobody)
            for each in np.flatnonzero(counts > self.plan.max_lot)
        }

    def _of_units(self, chosen: Int64) -> _Apart:
        lot, most = _Apart(self.plan.max_grad_norm, units=True), most_rows(self.d)
        unit = self.unit[chosen]
        starts = np.flatnonzero(np.r_[True, unit[1:] != unit[:-1]]) if len(unit) else np.zeros(0, np.int64)
        for begin, end in zip(starts, np.r_[starts[1:], len(unit)], strict=False):
            own = self.order[chosen[begin:end]]
            lot.blocks.append(
                ([own[at : at + most] for at in range(0, len(own), most)], torch.ones(1, dtype=torch.bool))
            )
        return lot

    def _in_columns(self, chosen: Int64, nobody: int) -> _Apart:
        lot = _Apart(self.plan.max_grad_norm, units=False)
        for block in columns_of(len(chosen), self.source, min(COLUMNS, most_rows(self.d))):
            index, present = np.full(block.size, nobody, dtype=np.int64), np.zeros(block.size, dtype=np.bool_)
            index[block.places] = self.order[chosen[block.rows]]
            present[block.places] = True
            lot.blocks.append(([index], torch.from_numpy(present)))
        return lot


def _draws(site: Site, plan: RoundPlan, d: int, at: int) -> _Draws:
    local = plan.sites[site.name]
    privacy = local.privacy
    if privacy is None or privacy.steps != local.steps:
        raise TrainingError(f"{site.name}: the local plan and its privacy plan disagree on the steps", code="FK409")
    order = np.argsort(site.train.unit, kind="stable")
    unit = site.train.unit[order]
    if privacy.noise == "secure":
        return _Draws(privacy, Secure(), order + at, unit, d)
    return _Draws(privacy, Seeded(plan.seed, plan.round, site.name, "lots and noise"), order + at, unit, d)
