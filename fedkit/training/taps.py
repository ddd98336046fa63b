"""One round of DP-SGD at a batch of sites, one after another, by taps: no per-row gradient where its factors will do.

The rounds are those of :mod:`fedkit.training.local`, with its lots, noise, updates and checks; what sums a lot is
:mod:`fedkit.training.tap_gradients`. Results differ by the rounding of float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from fedkit.errors import TrainingError, first_line
from fedkit.models.flat import unpack
from fedkit.privacy.independence import refusal
from fedkit.privacy.randomness import Seeded
from fedkit.training.local import Sums, as_found, copy_of, on_records, summed, train_site
from fedkit.training.losses import target_type
from fedkit.training.tap_gradients import tap_gradients
from fedkit.training.tapped import Tapped
from fedkit.training.trunk import Trunk, cut, stages
from fedkit.training.trunk_gradients import trunk_gradients
from fedkit.types import ClientUpdate, RoundPlan, Site, SiteState, Task


@dataclass(frozen=True)
class Taps:
    """A model that is tapped, trained at one site after another.

    Attributes:
        trunk: where it is cut, if it is.
        compiled: whether lots are summed, and convolutions passed, in compiled code, where there is a library.
    """

    tapped: Tapped
    trunk: Trunk | None = None
    compiled: bool = False

    def train(
        self, model: nn.Module, task: Task, sites: Sequence[Site], plan: RoundPlan, state: Mapping[str, SiteState]
    ) -> tuple[list[ClientUpdate], dict[str, SiteState]]:
        """As :func:`fedkit.training.local.train`.

        Raises:
            TrainingError: a site without a plan, a model that cannot be used, a result that is not finite.

        Guarantee: that of :func:`fedkit.training.local.train`; a site without privacy is trained as it is there.
        """
        self.check(model, task, sites, plan)
        updates = []
        with as_found():
            worker = copy_of(model)
            sums = self._sums(worker)
            for site in sites:
                with on_records(plan.sites[site.name].privacy is not None, site.name):
                    updates.append(train_site(worker, task, site, plan, sums))
                if not self.tapped.proven:
                    # What a model keeps outside its parameters must not cross from one hospital to the next.
                    worker = copy_of(model)
                    sums = self._sums(worker)
        return updates, {site.name: state.get(site.name, {}) for site in sites}

    def check(self, model: nn.Module, task: Task, sites: Sequence[Site], plan: RoundPlan) -> None:
        """Refuse what :meth:`train` would refuse whatever the records are.

        A model that is proven needs no probe: its modules keep rows apart, and remember none.

        Raises:
            TrainingError: a site without a plan, parameters of another size than the model's, a model that mixes or
                remembers records.
        """
        missing = [site.name for site in sites if site.name not in plan.sites]
        if missing:
            raise TrainingError(f"no local plan for {', '.join(missing)}", code="FK409")
        private = [site for site in sites if plan.sites[site.name].privacy is not None]
        if not private:
            return
        with as_found():
            probed = copy_of(model)
            unpack(probed, plan.parameters)
            if not self.tapped.proven:
                for shape in {site.train.x.shape[1:] for site in private}:
                    probe(probed, self.tapped, task, shape)

    def _sums(self, worker: nn.Module) -> Sums:
        """What sums the lots of a copy of the model."""
        trunk = self.trunk
        if trunk is None:
            return lambda worker, task, places: tap_gradients(
                worker, self.tapped, summed(task), places, compiled=self.compiled
            )
        # One room for the rows of all sites: to make it anew would take as long as some lots.
        through = stages(cut(worker)[0], trunk.shapes, compiled=trunk.compiled)
        return lambda worker, task, places: trunk_gradients(worker, self.tapped, trunk, through, summed(task), places)


def probe(module: nn.Module, tapped: Tapped, task: Task, shape: tuple[int, ...]) -> None:
    """Ask random numbers whether a model treats each row by itself, and whether its taps tell all of a gradient.

    Raises:
        TrainingError: FK404, it does not, or they do not.
    """
    try:
        with tap_gradients(module, tapped, summed(task), Seeded("probe")) as gradients:
            gradients.check(shape, target_type(task))
    except RuntimeError as error:
        raise refusal(first_line(error)) from error
