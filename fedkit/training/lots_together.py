"""What the private rounds of many sites draw, side by side: lots in one array, and noise worked out at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fedkit.privacy.device_gaussian import integer_noise_on, sent
from fedkit.training.lots import Drawn, Lots
from fedkit.types import Int64, PrivacyPlan


class LotsTogether:
    """The draws of some sites of equal steps and places, every row of which is a unit.

    Args:
        starts: where each site's rows begin among all of them. d: number of parameters.
        slots: sites that arrays are made for; nobody's rows stand in those without a site.

    Attributes:
        privacy: the first site's plan.
    """

    def __init__(self, sites: Sequence[Lots], starts: Sequence[int], slots: int, d: int) -> None:
        self._sites, self._starts, self._slots, self._d = sites, starts, slots, d
        self.privacy: PrivacyPlan = sites[0].privacy

    @property
    def widest(self) -> int:
        """Numbers that a step draws of the kind of which it draws most."""
        return sum(site.widest for site in self._sites)

    def draw(self, steps: int, device: torch.device) -> Drawn:
        """The next steps: noise float64 [steps, sites, d]; of each step, int64 [blocks, slots, places]."""
        multipliers = [site.privacy.noise_multiplier for site in self._sites]
        sources = [site.source for site in self._sites]
        noise = integer_noise_on(device, sources, multipliers, steps, self._d).transpose(0, 1)
        found, beyond = zip(*(site.placed(steps) for site in self._sites), strict=True)
        blocks, places = found[0].shape[1:]
        index = np.full((steps, blocks, self._slots, places), self._starts[0] + self._sites[0].nobody, dtype=np.int64)
        for k, (mine, at) in enumerate(zip(found, self._starts, strict=False)):
            index[:, :, k] = mine + at
        records = list(sent(index, device))
        for step in sorted({step for each in beyond for step in each}):
            records[step] = sent(self._wider(index[step], step, beyond), device)
        return Drawn(noise, records, [])

    def _wider(self, index: Int64, step: int, beyond: Sequence[dict[int, Int64]]) -> Int64:
        """The blocks of a step in which some sites need more of them."""
        most = max(len(each[step]) for each in beyond if step in each)
        nobody = [at + site.nobody for site, at in zip(self._sites, self._starts, strict=False)]
        nobody += nobody[:1] * (self._slots - len(self._sites))
        wider = np.tile(np.array(nobody)[None, :, None], (max(most, len(index)), 1, index.shape[-1]))
        wider[: len(index)] = index
        for k, (each, at) in enumerate(zip(beyond, self._starts, strict=False)):
            if step in each:
                wider[: len(each[step]), k] = each[step] + at
        return wider
