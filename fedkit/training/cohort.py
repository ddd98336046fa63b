"""One round at a batch of sites as one program: the closed form for stacks of Linear layers.

The mathematics, lots, noise and batches are those of :mod:`fedkit.training.local`; results differ by the rounding of
float32. Which sites share a call, and how many at once, changes no bit: a site's arrays have shapes of its own plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from fedkit.errors import TrainingError
from fedkit.training import cohort_compiled
from fedkit.training.cohort_copies import usable
from fedkit.training.cohort_plain import train_plain
from fedkit.training.cohort_private import alike, train_private
from fedkit.training.cohort_rows import padded
from fedkit.training.cohort_steps import Workspace, losses_of, train_steps
from fedkit.training.local import as_found, on_records
from fedkit.training.sites_read import SitesRead
from fedkit.training.stack import Layer
from fedkit.training.stack_compiled import takes
from fedkit.types import ClientUpdate, Float32, LocalPlan, RoundPlan, Site, SiteState, Task

COMPILED, FORM = 3, 2
"""Today's :attr:`Cohort.form`, where there is compiled code for the layers and where there is none."""


def form_of(layers: Sequence[Layer], *, private: bool) -> int:
    """Today's form for such layers on this machine."""
    return COMPILED if takes(layers, private=private) else FORM


@dataclass(frozen=True)
class Cohort:
    """A stack of Linear layers, trained at many sites at once.

    Attributes:
        layers: as :func:`fedkit.training.stack.linear_stack` found them.
        at_once: sites whose copies are in memory together.
        form: in which order training adds up: 3 in compiled code, 2 in torch's; or 1, plain training's before 2.
    """

    layers: tuple[Layer, ...]
    at_once: int
    form: int = FORM
    _work: Workspace = field(init=False, repr=False, compare=False)
    _reads: SitesRead = field(default_factory=SitesRead, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_work", Workspace(self.layers))

    def train(
        self, model: nn.Module, task: Task, sites: Sequence[Site], plan: RoundPlan, state: Mapping[str, SiteState]
    ) -> tuple[list[ClientUpdate], dict[str, SiteState]]:
        """As :func:`fedkit.training.local.train`.

        Raises:
            TrainingError: a site without a plan, a result that is not finite.

        Guarantee: same inputs, same bits, whichever sites share the call (a plan with ``noise="secure"`` draws fresh
        randomness each time).
        """
        self.check(model, task, sites, plan)
        groups: dict[tuple[object, ...], list[Site]] = {}
        for site in sites:
            groups.setdefault(self._alike(site, plan.sites[site.name]), []).append(site)
        updates: dict[str, ClientUpdate] = {}
        with as_found():
            for group in groups.values():
                group.sort(key=lambda site: -plan.sites[site.name].steps)
                for first in range(0, len(group), self.at_once):
                    for update in self._chunk(task, group[first : first + self.at_once], plan):
                        updates[update.site] = update
        return [updates[site.name] for site in sites], {site.name: state.get(site.name, {}) for site in sites}

    def check(self, model: nn.Module, task: Task, sites: Sequence[Site], plan: RoundPlan) -> None:
        """Refuse what :meth:`train` would refuse whatever the records are.

        That no row enters another's gradient, and none is remembered, needs no probe: the layers cannot.

        Raises:
            TrainingError: a site without a plan, parameters of another size than the model's.
        """
        missing = [site.name for site in sites if site.name not in plan.sites]
        if missing:
            raise TrainingError(f"no local plan for {', '.join(missing)}", code="FK409")
        d = sum(layer.size for layer in self.layers)
        if plan.parameters.shape != (d,):
            raise TrainingError(
                f"the parameters have shape {tuple(plan.parameters.shape)}, the model needs ({d},)",
                code="FK401",
                remedy="use the same model and arguments on both sides",
            )

    def _alike(self, site: Site, local: LocalPlan) -> tuple[object, ...]:
        """What sites of one chunk have in common; each part is its own plan's, not the company's."""
        if local.privacy is None:
            kind: tuple[object, ...] = (padded(local.batch_size),)
        else:
            kind = alike(site, local.privacy)
        return local.privacy is None, local.optimizer, local.learning_rate, *kind

    def _chunk(self, task: Task, sites: Sequence[Site], plan: RoundPlan) -> list[ClientUpdate]:
        names = ", ".join(site.name for site in sites)
        losses: list[float | None] = [None] * len(sites)
        local = plan.sites[sites[0].name]
        private, compiled, moved = local.privacy is not None, self.form == COMPILED, False
        with on_records(private, names):
            if local.privacy is not None:
                if compiled and cohort_compiled.private_here(sites[0], local.privacy):
                    trained = cohort_compiled.train_private(self.layers, task, sites, plan, self._reads)
                else:
                    trained = train_private(self.layers, task, sites, plan)
            elif compiled:
                losses = losses_of(self.layers, task, sites, plan)
                trained, moved = cohort_compiled.train_plain(self.layers, task, sites, plan), True
            elif self.form == FORM and usable(self.layers):
                (trained, losses), moved = train_steps(self._work, task, sites, plan), True
            else:
                trained, losses = train_plain(self.layers, task, sites, plan)
        if not moved:
            trained -= plan.parameters.astype(np.float32, copy=False)
        finite = bool(np.isfinite(trained).all())
        return [
            _update(site, plan.sites[site.name], delta, loss, finite=finite)
            for site, delta, loss in zip(sites, trained, losses, strict=True)
        ]


def _update(site: Site, local: LocalPlan, delta: Float32, loss: float | None, *, finite: bool) -> ClientUpdate:
    if not finite and not np.isfinite(delta).all():
        raise TrainingError(
            f"training at {site.name} gave parameters that are not finite (learning rate {local.learning_rate:g})",
            code="FK405",
            remedy="lower training.learning_rate",
        )
    weight = float(len(site.train)) if local.weight is None else local.weight
    return ClientUpdate(site.name, delta, weight, {} if loss is None else {"train_loss": loss})
