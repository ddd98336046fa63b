"""Plain local training at several sites at once, by closed form; batches are the reference's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fedkit.errors import TrainingError
from fedkit.privacy.randomness import generator
from fedkit.training.cohort_rows import Rows, padded
from fedkit.training.losses import LOSSES
from fedkit.training.stack import Layer
from fedkit.training.stacked import Stacked
from fedkit.training.updates import updater
from fedkit.types import Float32, Int64, LocalPlan, RoundPlan, Site, Task


def train_plain(
    layers: Sequence[Layer], task: Task, sites: Sequence[Site], plan: RoundPlan
) -> tuple[Float32, list[float | None]]:
    """One round at each site.

    Args:
        sites: of one optimizer and learning rate, of batches that are padded alike, those with more steps first.

    Returns:
        float32 [sites, d], the trained parameters; and each site's mean loss of the received model, where its plan
        reports one.

    Raises:
        TrainingError: FK409, a site without rows.
    """
    empty = [site.name for site in sites if not len(site.train)]
    if empty:
        raise TrainingError(f"{empty[0]} has no training rows", code="FK409", remedy="leave the site out")
    stacked = Stacked(layers, len(sites), plan.parameters)
    rows = Rows(layers[0], task, sites)
    losses = _losses(stacked, rows, task, [plan.sites[site.name] for site in sites])
    locals_ = [plan.sites[site.name] for site in sites]
    local = locals_[0]
    steps = [each.steps for each in locals_]
    index = np.full((local.steps, len(sites), padded(local.batch_size)), rows.nobody, dtype=np.int64)
    for k, (site, each) in enumerate(zip(sites, locals_, strict=True)):
        _batches(index[:, k], site, each, plan, int(rows.starts[k]))
    present = torch.from_numpy(index != rows.nobody)
    weights = present / present.sum(-1, keepdim=True).clamp(min=1)
    together = min(steps) == local.steps
    parts, gradients = stacked.parts(together=together)
    updates = [updater(part, local.optimizer, local.learning_rate, plan.proximal_mu) for part in parts]
    for step in range(local.steps):
        active = sum(each > step for each in steps)
        x, residual = rows.at(index[step, :active])
        inputs, errors = stacked.passes(x, residual)
        share = weights[step, :active, :, None]
        for a, e, slope in zip(inputs, errors, stacked.slopes, strict=True):
            torch.bmm(e.mul_(share).transpose(1, 2), a, out=slope[:active])
        for update, gradient in zip(updates, gradients, strict=True):
            update(gradient if together else gradient[:active])
    return stacked.packed(), losses


def _batches(index: Int64, site: Site, local: LocalPlan, plan: RoundPlan, at: int) -> None:
    """Fill [steps, places] with the rows of a site's batches, drawn as the reference draws them."""
    order, done, count = generator(plan.seed, plan.round, site.name, "batches"), 0, len(site.train)
    while done < local.steps:
        shuffled = order.permutation(count) + at
        for first in range(0, count, local.batch_size):
            if done == local.steps:
                return
            batch = shuffled[first : first + local.batch_size]
            index[done, : len(batch)] = batch
            done += 1


def _losses(stacked: Stacked, rows: Rows, task: Task, plans: Sequence[LocalPlan]) -> list[float | None]:
    """Of the received model, as QFedAvg asks for; each site's rows in arrays of their own."""
    found: list[float | None] = []
    for local, at, end in zip(plans, rows.starts[:-1], rows.starts[1:], strict=True):
        if not local.reports_loss:
            found.append(None)
            continue
        # Copied to a boundary: where a site's rows begin depends on who shares the call, and so would the last bits.
        x, y = rows.x[at:end].clone(), rows.y[at:end].clone()
        found.append(float(LOSSES[task.kind](stacked.outputs(x), y, "sum")) / int(end - at))
    return found
