"""One private round at many sites as one program on a GPU: the closed form for stacks of Linear layers.

Lots, places and bits of noise are drawn on the CPU, the next steps' while the GPU trains these
(:mod:`fedkit.training.lots_together`); a step is then the passes of all sites' copies, the exact sums of their lots,
noise, and one update. What is not private, or has units of several rows, is trained on the CPU as it is without a GPU.
Results differ from the reference's by the rounding of float32.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import nn

from fedkit.privacy.device_gaussian import check_float64
from fedkit.privacy.lattice import G
from fedkit.training import local
from fedkit.training.cohort import Cohort
from fedkit.training.cohort_rows import padded
from fedkit.training.lots import Drawn, Lots
from fedkit.training.lots_together import LotsTogether
from fedkit.training.on_device import deterministic, refused_by
from fedkit.training.placed import Placed, Rows
from fedkit.training.stack_on_device import StackOnDevice
from fedkit.training.streams import Beside, Sent, ahead
from fedkit.training.updates import updater
from fedkit.types import ClientUpdate, PrivacyPlan, RoundPlan, Site, SiteState, Task

_PROGRAMS = 16


@dataclass
class _Kept:
    """What the rounds of a run share."""

    task: Task
    placed: Placed
    beside: Beside
    stacks: dict[tuple[int, int, float], StackOnDevice] = field(default_factory=dict)


@dataclass(frozen=True)
class CohortOnDevice:
    """A stack of Linear layers, trained privately at many sites at once.

    Attributes:
        cohort: what trains the other sites; its layers and how many sites share a call are these.
    """

    cohort: Cohort
    device: torch.device
    _held: list[_Kept] = field(default_factory=list, init=False, repr=False, compare=False)

    def train(
        self, model: nn.Module, task: Task, sites: Sequence[Site], plan: RoundPlan, state: Mapping[str, SiteState]
    ) -> tuple[list[ClientUpdate], dict[str, SiteState]]:
        """As :func:`fedkit.training.local.train`.

        Raises:
            TrainingError: a site without a plan, a result that is not finite.

        Guarantee: that of :func:`fedkit.training.local.train`, but that a site's last bits may follow from which sites
            share the call.
        """
        self.check(model, task, sites, plan)
        groups, others = self._groups(sites, plan)
        updates = {update.site: update for update in self.cohort.train(model, task, others, plan, state)[0]}
        d, sent = sum(layer.size for layer in self.cohort.layers), deque[tuple[list[Site], Sent]]()

        def answer() -> None:
            members, trained = sent.popleft()
            with local.on_records(True, ", ".join(site.name for site in members)), refused_by(self.device):
                for site, parameters in zip(members, trained.arrived().numpy(), strict=True):
                    updates[site.name] = local.update_of(site, plan.sites[site.name], plan, parameters, {})

        with local.as_found(), deterministic(self.device), torch.no_grad():
            kept = self._kept(task)
            with ahead([partial(_together, group, plan, d) for group in groups], kept.beside) as drawn:
                for group in groups:
                    with local.on_records(True, ", ".join(site.name for site in group)), refused_by(self.device):
                        windows = drawn.next_site()[1]
                        stack = self._stack(kept, group, plan)
                        sent.append((group, _train(stack, kept.placed, group, plan, windows)))
                    if len(sent) > 1:
                        answer()
            while sent:
                answer()
        return [updates[site.name] for site in sites], {site.name: state.get(site.name, {}) for site in sites}

    def check(self, model: nn.Module, task: Task, sites: Sequence[Site], plan: RoundPlan) -> None:
        """Refuse what :meth:`train` would refuse whatever the records are.

        Raises:
            TrainingError: as :meth:`fedkit.training.cohort.Cohort.check`; what the device has no room for (FK423).
        """
        self.cohort.check(model, task, sites, plan)
        with local.as_found(), deterministic(self.device), refused_by(self.device), torch.no_grad():
            kept = self._kept(task)
            for group in self._groups(sites, plan)[0]:
                self._stack(kept, group, plan)

    def _groups(self, sites: Sequence[Site], plan: RoundPlan) -> tuple[list[list[Site]], list[Site]]:
        """Sites that share arrays; and those that are trained on the CPU."""
        groups: dict[tuple[object, ...], list[Site]] = {}
        others = []
        for site in sites:
            each = plan.sites[site.name]
            privacy = each.privacy
            if privacy is None or privacy.unit != "record" or site.train.num_units != len(site.train):
                others.append(site)
            else:
                alike = each.steps, each.optimizer, each.learning_rate, _places(privacy), privacy.max_grad_norm
                groups.setdefault(alike, []).append(site)
        most = self.cohort.at_once
        return [group[at : at + most] for group in groups.values() for at in range(0, len(group), most)], others

    def _kept(self, task: Task) -> _Kept:
        if not self._held or self._held[0].task != task:
            check_float64(self.device)
            self._held[:] = [_Kept(task, Placed(self.device, task), Beside(self.device))]
        return self._held[0]

    def _stack(self, kept: _Kept, group: Sequence[Site], plan: RoundPlan) -> StackOnDevice:
        privacy = _plan(group[0], plan)
        # Few sizes of groups, so that a round of some sites more need not be recorded anew.
        key = padded(len(group)), _places(privacy), privacy.max_grad_norm
        if key not in kept.stacks:
            if len(kept.stacks) >= _PROGRAMS:
                kept.stacks.clear()
            kept.stacks[key] = StackOnDevice(self.cohort.layers, kept.task, *key, self.device)
        return kept.stacks[key]


def _train(
    stack: StackOnDevice,
    placed: Placed,
    group: Sequence[Site],
    plan: RoundPlan,
    windows: Iterator[Drawn],
) -> Sent:
    """One round at each site of a group; their parameters are on their way when it returns.

    Guarantee: that of :func:`fedkit.privacy.dp_sgd.train_lots` at each site. No site's numbers enter another's.
    """
    held = [placed.rows(site.train) for site in group]
    rows = Rows(torch.cat([each.x for each in held]).flatten(1), torch.cat([each.y for each in held]))
    nobody = np.cumsum([len(each.y) for each in held]) - 1
    slots = np.append(nobody, np.full(len(stack.flat) - len(group), nobody[0]))
    each, privacy = plan.sites[group[0].name], [_plan(site, plan) for site in group]
    to_mean = torch.tensor([mine.max_grad_norm / G / mine.lot_size for mine in privacy], dtype=torch.float64)
    there, to_mean = torch.from_numpy(slots).to(stack.flat.device), to_mean.to(stack.flat.device)[:, None]
    stack.flat.copy_(torch.from_numpy(np.array(plan.parameters, dtype=np.float32)))
    flat = stack.flat[: len(group)]
    update = updater(flat, each.optimizer, each.learning_rate, plan.proximal_mu)
    for drawn in windows:
        for noise, lots in zip(drawn.noise, drawn.records, strict=True):
            total = stack.of_records(rows, there, lots)[: len(group)]
            update(total.double().add_(noise).mul_(to_mean).float())
            # A bound on the parameters is post-processing, as in the reference.
            flat.nan_to_num_(nan=0.0, posinf=local.PARAMETER_LIMIT, neginf=-local.PARAMETER_LIMIT)
            flat.clamp_(-local.PARAMETER_LIMIT, local.PARAMETER_LIMIT)
    return Sent(flat)


def _together(group: Sequence[Site], plan: RoundPlan, d: int) -> LotsTogether:
    starts = np.cumsum([0, *(len(site.train) + 1 for site in group[:-1])]).tolist()
    return LotsTogether([Lots(site, plan, d, _places) for site in group], starts, padded(len(group)), d)


def _plan(site: Site, plan: RoundPlan) -> PrivacyPlan:
    privacy = plan.sites[site.name].privacy
    if privacy is None:
        raise ValueError(f"{site.name} is not private")
    return privacy


def _places(plan: PrivacyPlan) -> int:
    return padded(plan.max_lot)
