"""Rounds of DP-SGD by taps on a GPU: parameters and rows stay there, and a step waits for nothing from it.

What is drawn is drawn on the CPU, for some steps ahead: lots, places, and the bits of the noise
(:mod:`fedkit.training.lots`). A step is then a copy of its rows to their places, one piece of work that is passes,
clipping and sum (:mod:`fedkit.training.device_copy`), noise, and update. The CPU draws for the next steps while the GPU
trains these. Results differ from the reference's by the rounding of float32.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from fedkit.models.flat import attach, pack
from fedkit.privacy import dp_sgd
from fedkit.privacy.device_gaussian import check_float64
from fedkit.privacy.lattice import G
from fedkit.privacy.randomness import Source
from fedkit.training import local
from fedkit.training.device_copy import DeviceCopy
from fedkit.training.lots import Drawn, Lots
from fedkit.training.on_device import deterministic, refused_by
from fedkit.training.placed import Placed, Rows
from fedkit.training.streams import Beside, Sent, ahead
from fedkit.training.tapped import Tapped
from fedkit.training.taps import Taps
from fedkit.training.updates import updater
from fedkit.types import ClientUpdate, LocalPlan, RoundPlan, Site, SiteState, Task


@dataclass
class _Kept:
    """What the rounds of a run share.

    Attributes:
        own: a copy on the CPU, which no record enters.
        copy: on the device; of a model that is not proven, one that no record enters.
    """

    model: nn.Module
    task: Task
    own: nn.Module
    copy: DeviceCopy
    placed: Placed
    beside: Beside


@dataclass(frozen=True)
class TapsOnDevice:
    """A model that is tapped, trained on a device at one site after another."""

    tapped: Tapped
    device: torch.device
    _held: list[_Kept] = field(default_factory=list, init=False, repr=False, compare=False)

    def train(
        self, model: nn.Module, task: Task, sites: Sequence[Site], plan: RoundPlan, state: Mapping[str, SiteState]
    ) -> tuple[list[ClientUpdate], dict[str, SiteState]]:
        """As :func:`fedkit.training.local.train`.

        Raises:
            TrainingError: a site without a plan, a model that cannot be used, a result that is not finite.

        Guarantee: that of :func:`fedkit.training.local.train`; a site without privacy is trained as it is there.
        """
        self.check(model, task, sites, plan)
        updates: dict[str, ClientUpdate] = {}
        sent: deque[tuple[Site, Sent]] = deque()

        def answer() -> None:
            site, parameters = sent.popleft()
            with local.on_records(True, site.name), refused_by(self.device):
                trained.copy_(parameters.arrived())
                found = trained.numpy().copy() if len(trained) == len(plan.parameters) else pack(own)
                updates[site.name] = local.update_of(site, plan.sites[site.name], plan, found, {})

        private = [site for site in sites if plan.sites[site.name].privacy is not None]
        with local.as_found(), deterministic(self.device), torch.no_grad():
            kept = self._kept(model, task)
            own, trained = kept.own, attach(kept.own, plan.parameters)
            if self.tapped.proven:
                kept.copy.receive(own)
            received = trained.to(self.device, copy=True)
            draws = [partial(Lots, site, plan, len(received), kept.copy.places_of) for site in private]
            with ahead(draws, kept.beside) as drawn:
                for site in private:
                    with local.on_records(True, site.name), refused_by(self.device):
                        rows = kept.placed.rows(site.train)
                        with self._ready(kept, task, own, received) as copy:
                            each = plan.sites[site.name]
                            sent.append((site, _train(copy, rows, each, plan.proximal_mu, *drawn.next_site())))
                    if len(sent) > 1:
                        answer()
            while sent:
                answer()
            for site in sites:
                if site.name not in updates:
                    with refused_by(self.device):
                        updates[site.name] = self._plain(model, task, site, plan)
        return [updates[site.name] for site in sites], {site.name: state.get(site.name, {}) for site in sites}

    def check(self, model: nn.Module, task: Task, sites: Sequence[Site], plan: RoundPlan) -> None:
        """Refuse what :meth:`train` would refuse whatever the records are.

        Raises:
            TrainingError: as :meth:`fedkit.training.taps.Taps.check`; what the device cannot do, or has no room for
                (FK423).
        """
        Taps(self.tapped).check(model, task, sites, plan)
        plain = [site for site in sites if plan.sites[site.name].privacy is None]
        if plain:
            local.check_model(model, task, plain, plan, device=self.device)
        with local.as_found(), deterministic(self.device), refused_by(self.device), torch.no_grad():
            copy = self._kept(model, task).copy
            for site in sites:
                privacy = plan.sites[site.name].privacy
                if privacy is not None:
                    copy.prepare(site.train.x.shape[1:], privacy)

    def _kept(self, model: nn.Module, task: Task) -> _Kept:
        """Of this model; another run's is given up."""
        if not self._held or self._held[0].model is not model or self._held[0].task != task:
            check_float64(self.device)
            copy = DeviceCopy(model, self.tapped, task, self.device)
            copy.receive(model)
            self._held[:] = [
                _Kept(model, task, local.copy_of(model), copy, Placed(self.device, task), Beside(self.device))
            ]
        return self._held[0]

    @contextmanager
    def _ready(self, kept: _Kept, task: Task, own: nn.Module, received: Tensor) -> Iterator[DeviceCopy]:
        """A copy with the received parameters: of a model that is not proven, one that no other site has had."""
        copy = kept.copy if self.tapped.proven else DeviceCopy(kept.model, self.tapped, task, self.device)
        if not self.tapped.proven:
            copy.receive(own)
        copy.flat.copy_(received)
        try:
            yield copy
        finally:
            if not self.tapped.proven:
                copy.close()

    def _plain(self, model: nn.Module, task: Task, site: Site, plan: RoundPlan) -> ClientUpdate:
        def sums(worker: nn.Module, task: Task, _: Source) -> AbstractContextManager[dp_sgd.ClippedSums]:
            return dp_sgd.lot_gradients(worker, local.summed(task))

        return local.train_site(local.copy_of(model), task, site, plan, sums, self.device)


def _train(
    copy: DeviceCopy, rows: Rows, each: LocalPlan, proximal_mu: float, lots: Lots, windows: Iterator[Drawn]
) -> Sent:
    """One site's round on a copy that has the received parameters; they are on their way when it returns.

    Guarantee: that of :func:`fedkit.privacy.dp_sgd.train_lots`.
    """
    privacy = lots.privacy
    update = updater(copy.flat, each.optimizer, each.learning_rate, proximal_mu)
    to_mean = privacy.max_grad_norm / G / privacy.lot_size
    for drawn in windows:
        for step, noise in enumerate(drawn.noise):
            if lots.records:
                total = copy.of_records(rows, drawn.records[step], privacy)
            else:
                total = copy.of_units(rows, drawn.units[step], privacy, lots.source)
            update(total.double().add_(noise).mul_(to_mean).float())
            # A bound on the parameters is post-processing, as in the reference.
            copy.flat.nan_to_num_(nan=0.0, posinf=local.PARAMETER_LIMIT, neginf=-local.PARAMETER_LIMIT)
            copy.flat.clamp_(-local.PARAMETER_LIMIT, local.PARAMETER_LIMIT)
    return Sent(copy.flat)
