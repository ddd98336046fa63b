"""What one site's private round draws: which rows stand in which place, step by step, and the noise.

The draws are those of :func:`fedkit.privacy.dp_sgd.train_lots`, each kind in its order, several steps at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedkit.errors import TrainingError
from fedkit.privacy.device_gaussian import integer_noise_on, sent
from fedkit.privacy.placement import columns_of
from fedkit.privacy.randomness import BoolMask, Draws, Secure, Seeded
from fedkit.types import Int64, PrivacyPlan, RoundPlan, Site


@dataclass(frozen=True)
class Drawn:
    """Some steps in a row.

    Attributes:
        noise: float64 [steps, d] on the device, whole numbers.
        records: of each step, int64 [blocks, places] on the device: the row in each place, or one behind the last
            where there is none. Empty where a unit may have several rows.
        units: of each step, the rows of each unit that joined. Empty where every row is a unit.
    """

    noise: Tensor
    records: list[Tensor]
    units: list[list[Int64]]


class Lots:
    """The draws of one site in one round.

    Args:
        d: number of trained parameters. places_of: a block's, by the plan alone.

    Attributes:
        privacy: the site's plan. source: of its lots and noise. records: whether every row is a unit. nobody: the index
            that stands in empty places, one behind the last row.

    Raises:
        TrainingError: FK409, a local plan and its privacy plan that disagree on the steps.

    Guarantee: which place a row takes follows from the plan and from draws that look at no record.
    """

    def __init__(self, site: Site, plan: RoundPlan, d: int, places_of: Callable[[PrivacyPlan], int]) -> None:
        local = plan.sites[site.name]
        privacy = local.privacy
        if privacy is None or privacy.steps != local.steps:
            raise TrainingError(f"{site.name}: the local plan and its privacy plan disagree on the steps", code="FK409")
        self.privacy: PrivacyPlan = privacy
        seeded = privacy.noise == "seeded"
        self.source: Draws = Seeded(plan.seed, plan.round, site.name, "lots and noise") if seeded else Secure()
        self._order = np.argsort(site.train.unit, kind="stable")
        self._unit = site.train.unit[self._order]
        self._units = int(self._unit[-1]) + 1 if len(self._unit) else 0
        self._d, self._places, self.nobody = d, places_of(privacy), len(site.train)
        self.records = privacy.unit == "record" and self._units == len(self._unit)

    @property
    def widest(self) -> int:
        """Numbers that a step draws of the kind of which it draws most."""
        return max(self._d, self.privacy.max_lot, self._units, 1)

    def draw(self, steps: int, device: torch.device) -> Drawn:
        """The next steps."""
        (noise,) = integer_noise_on(device, [self.source], [self.privacy.noise_multiplier], steps, self._d)
        if not self.records:
            return Drawn(noise, [], [self._by_unit(np.flatnonzero(mask[self._unit])) for mask in self._joined(steps)])
        index, beyond = self.placed(steps)
        records = list(sent(index, device))
        for step, lot in beyond.items():
            records[step] = sent(lot, device)
        return Drawn(noise, records, [])

    def placed(self, steps: int) -> tuple[Int64, dict[int, Int64]]:
        """The lots of the next steps, where every row is a unit, without the noise.

        Returns:
            int64 [steps, blocks, places]; and by step, lots that are beyond their places, int64 [blocks, places].
        """
        blocks = -(-self.privacy.max_lot // self._places)
        index = np.full((steps, blocks * self._places), self.nobody, dtype=np.int64)
        # Every row is a unit: the order of the one is that of the other.
        masks = self._joined(steps)
        counts = masks.sum(1)
        fitting = np.flatnonzero(counts <= self.privacy.max_lot)
        step, row = np.nonzero(masks[fitting])
        rank = np.arange(len(row)) - np.repeat(np.cumsum(counts[fitting]) - counts[fitting], counts[fitting])
        index[fitting[step], self.source.permutations(len(fitting), self.privacy.max_lot)[step, rank]] = self._order[
            row
        ]
        beyond = {
            int(each): self._in_columns(self._order[np.flatnonzero(masks[each])])
            for each in np.flatnonzero(counts > self.privacy.max_lot)
        }
        return index.reshape(steps, blocks, self._places), beyond

    def _joined(self, steps: int) -> BoolMask:
        """Which units join; bool [steps, units]."""
        return self.source.poisson_mask(steps * self._units, self.privacy.sample_rate).reshape(steps, self._units)

    def _by_unit(self, lot: Int64) -> list[Int64]:
        rows = self._order[lot]
        return np.split(rows, np.flatnonzero(np.diff(self._unit[lot])) + 1) if len(rows) else []

    def _in_columns(self, rows: Int64) -> Int64:
        found = []
        for block in columns_of(len(rows), self.source, self._places):
            found.append(np.full(self._places, self.nobody, dtype=np.int64))
            found[-1][block.places] = rows[block.rows]
        return np.stack(found)
