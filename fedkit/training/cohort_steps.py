"""Plain local training at several sites at once, by closed form: a step is a few products over all of them.

The batches are the reference's; results differ by the rounding of float32. :mod:`fedkit.training.cohort_plain` is the
form before this one, in which runs were recorded that are still to be replayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fedkit.errors import TrainingError
from fedkit.training.cohort_copies import Copies, Residual
from fedkit.training.cohort_rows import padded
from fedkit.training.losses import LOSSES, target_type
from fedkit.training.shuffles import Shuffles, placed
from fedkit.training.stack import Layer
from fedkit.training.updates import updater
from fedkit.types import Float32, RoundPlan, Site, Task

_NOBODY = 0
_VECTOR = 32


@dataclass
class Workspace:
    """What steps write to, by places; kept from round to round."""

    layers: tuple[Layer, ...]
    _copies: dict[int, Copies] = field(default_factory=dict)
    _rows: dict[int, Tensor] = field(default_factory=dict)

    def copies(self, places: int) -> Copies:
        """For steps of so many places."""
        if places not in self._copies:
            # Sites of one federation have few sizes of batches; what another run had need not be kept.
            if len(self._copies) >= 2:
                self._copies.clear()
                self._rows.clear()
            self._copies[places] = Copies(self.layers, places)
        return self._copies[places]

    def rows(self, sites: Sequence[Site], width: int) -> Tensor:
        """Training rows one after another, float32 [1 + all, width], behind one that is nobody's."""
        first, count = self.layers[0], 1 + sum(len(site.train.x) for site in sites)
        held = self._rows.get(width)
        if held is None or len(held) < count:
            held = self._rows[width] = torch.zeros(count, width)
            if first.bias:
                held[:, first.inputs] = 1.0
        into = held.numpy()[1:count, : first.inputs]
        np.concatenate([site.train.x.reshape(len(site.train.x), -1) for site in sites], out=into, casting="unsafe")
        return held[:count]


def train_steps(
    work: Workspace, task: Task, sites: Sequence[Site], plan: RoundPlan
) -> tuple[Float32, list[float | None]]:
    """One round at each site.

    Args:
        sites: of one optimizer and learning rate, of batches that are padded alike, those with more steps first.

    Returns:
        float32 [sites, d], how far each site's parameters are from the received ones; and each site's mean loss of the
        received model, where its plan reports one.

    Raises:
        TrainingError: FK409, a site without rows.
    """
    counts = [len(site.train.x) for site in sites]
    if 0 in counts:
        name = sites[counts.index(0)].name
        raise TrainingError(f"{name} has no training rows", code="FK409", remedy="leave the site out")
    locals_ = [plan.sites[site.name] for site in sites]
    local, places = locals_[0], padded(locals_[0].batch_size)
    copies = work.copies(places)
    copies.load(plan.parameters, len(sites))
    x = work.rows(sites, copies.width)
    y = torch.zeros(len(x), dtype=target_type(task))
    np.concatenate([site.train.y for site in sites], out=y.numpy()[1:], casting="unsafe")
    starts = np.cumsum([1, *counts])
    losses = losses_of(work.layers, task, sites, plan)
    names, draw = [site.name for site in sites], Shuffles(plan.seed, plan.round, "batches")
    index = torch.from_numpy(placed(names, locals_, starts, places, _NOBODY, draw))
    present = index != _NOBODY
    shares = present / present.sum(-1, keepdim=True).clamp(min=1)
    steps = [each.steps for each in locals_]
    residuals = _Residuals(task.kind, task.num_outputs, y[index], shares)
    fused = local.optimizer == "sgd" and not plan.proximal_mu
    mu, parameters = plan.proximal_mu, [] if fused else copies.parameters(len(sites))
    moves = [updater(part, local.optimizer, local.learning_rate, mu) for part in parameters]
    with torch.no_grad():
        for step in range(local.steps):
            active = sum(each > step for each in steps) if steps[-1] <= step else len(steps)
            copies.take(x, index[step, :active])
            copies.passes(active, residuals.at(step, active))
            if fused:
                copies.descend(active, local.learning_rate)
            else:
                for move, slope in zip(moves, copies.slopes(active), strict=True):
                    move(slope)
    return copies.moved(len(sites)), losses


def losses_of(layers: Sequence[Layer], task: Task, sites: Sequence[Site], plan: RoundPlan) -> list[float | None]:
    """Each site's mean loss of the received model, as QFedAvg asks for, where its plan reports one."""
    locals_ = [plan.sites[site.name] for site in sites]
    if not any(local.reports_loss for local in locals_):
        return [None] * len(locals_)
    received, found = torch.from_numpy(np.array(plan.parameters, dtype=np.float32)), list[float | None]()
    for local, site in zip(locals_, sites, strict=True):
        if not local.reports_loss or not len(site.train):
            found.append(None)
            continue
        # Arrays of their own: where a site's rows begin must not depend on who shares the call.
        x = torch.tensor(site.train.x, dtype=torch.float32).flatten(1)
        y = torch.tensor(site.train.y, dtype=target_type(task))
        found.append(float(LOSSES[task.kind](_outputs(layers, received, x), y, "sum")) / len(site.train))
    return found


def _outputs(layers: Sequence[Layer], parameters: Tensor, x: Tensor) -> Tensor:
    at = 0
    for layer in layers:
        middle = at + layer.inputs * layer.outputs
        weight = parameters[at:middle].view(layer.outputs, layer.inputs)
        bias = parameters[middle : at + layer.size] if layer.bias else None
        x = torch.nn.functional.linear(x, weight, bias)
        for function in layer.after:
            x = function.forward(x)
        at += layer.size
    return x


class _Residuals:
    """Errors of the mean loss of a step's rows, for one chunk of sites.

    Args:
        y: targets, shares: each row's share of its batch, both [steps, sites, places].
    """

    def __init__(self, kind: str, outputs: int, y: Tensor, shares: Tensor) -> None:
        self._y, self._shares = y.unbind(), shares.unbind()
        self._of = {"binary": self._binary, "multiclass": self._multiclass, "regression": self._regression}[kind]
        if kind == "multiclass":
            places = y.shape[-1]
            # Classes first, and each site's rows in whole vectors: many times as fast as classes last.
            self._scores = torch.zeros(outputs, y.shape[1], -(-places // _VECTOR) * _VECTOR)
            self._one = torch.full((1, 1, 1), -1.0).expand(1, *y.shape[1:])

    def at(self, step: int, active: int) -> Residual:
        """Of the first sites in a step."""
        return partial(self._of, self._y[step][:active], self._shares[step][:active])

    def _binary(self, y: Tensor, share: Tensor, outputs: Tensor, errors: Tensor) -> None:
        errors.copy_(outputs)
        # Beside the one output stands an empty one: a number's neighbours must be the same whoever shares the call.
        errors.sigmoid_()
        errors[..., 0].sub_(y).mul_(share)
        errors[..., 1] = 0.0

    def _regression(self, y: Tensor, share: Tensor, outputs: Tensor, errors: Tensor) -> None:
        torch.sub(outputs[..., 0], y, out=errors[..., 0])
        errors[..., 0].mul_(2.0).mul_(share)
        errors[..., 1] = 0.0

    def _multiclass(self, y: Tensor, share: Tensor, outputs: Tensor, errors: Tensor) -> None:
        sites, places, _ = outputs.shape
        scores = self._scores[:, :sites]
        scores[..., :places] = outputs.movedim(-1, 0)
        found = torch.softmax(scores, 0)[..., :places]
        found.scatter_add_(0, y[None], self._one[:, :sites])
        torch.mul(found.movedim(0, -1), share[..., None], out=errors)
