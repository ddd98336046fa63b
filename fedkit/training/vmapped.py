"""Plain training of many sites as one program, for models that have no closed form: ``vmap`` over the sites' copies.

The mathematics and batches are those of :mod:`fedkit.training.local`; results differ by the rounding of float32. Every
site's batch has its own length: sites whose batches are equally long share a call, and no row is padded, so that a
model which looks across its batch is trained as the reference trains it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedkit.errors import TrainingError, first_line
from fedkit.models.flat import attach
from fedkit.training import local
from fedkit.training.losses import loss, target_type
from fedkit.training.programs import Named, Programs
from fedkit.training.shuffles import Shuffles, placed
from fedkit.training.updates import updater
from fedkit.types import ClientUpdate, Float32, RoundPlan, Site, SiteState, Task

AT_ONCE = 128
"""Sites of one program. A constant: a sum inside a batched product may depend on how many products there are, and what
bounds memory must change no bit."""


_FEW, _SMALL = 8, 2**15
_OF_MODULES = frozenset(vars(nn.Module()))
"""torch's own attributes of any module."""


@dataclass(frozen=True)
class Vmapped:
    """Sites trained ``AT_ONCE`` together, in the order in which they are given."""

    _programs: Programs = field(default_factory=Programs, init=False, repr=False, compare=False)

    def train(
        self, model: nn.Module, task: Task, sites: Sequence[Site], plan: RoundPlan, state: Mapping[str, SiteState]
    ) -> tuple[list[ClientUpdate], dict[str, SiteState]]:
        """As :func:`fedkit.training.local.train`.

        Raises:
            TrainingError: a site with a privacy plan (FK417), without any plan or rows (FK409), a result that is not
                finite (FK405).

        Guarantee: same sites and inputs, same bits. Which other sites share the call changes rounding alone.
        """
        self.check(model, task, sites, plan)
        private = [site.name for site in sites if plan.sites[site.name].privacy is not None]
        if private:
            message = f"training.engine=vmap is for plain training, and {private[0]} trains privately"
            raise TrainingError(message, code="FK417", remedy="set training.engine=auto")
        updates: dict[str, ClientUpdate] = {}
        with local.as_found():
            for first in range(0, len(sites), AT_ONCE):
                for group in _alike(sites[first : first + AT_ONCE], plan):
                    updates |= {update.site: update for update in _together(model, task, group, plan, self._programs)}
        return [updates[site.name] for site in sites], {site.name: state.get(site.name, {}) for site in sites}

    def check(self, model: nn.Module, task: Task, sites: Sequence[Site], plan: RoundPlan) -> None:
        """As :func:`fedkit.training.local.check_model`."""
        local.check_model(model, task, sites, plan)


def slower(model: nn.Module, sites: int) -> str | None:
    """Why the reference is likely to be as fast: measured, on convolutions, wide models and few sites."""
    d = sum(p.numel() for p in model.parameters())
    if d > _SMALL:
        return f"a model of {d:,} parameters trains faster one site after another"
    for name, part in model.named_modules():
        if isinstance(part, nn.modules.conv._ConvNd):
            return f"{name or 'the model'} ({type(part).__name__}) trains faster one site after another"
    return "so few sites train as fast one after another" if sites < _FEW else None


def refused(model: nn.Module, task: Task, input_shape: tuple[int, ...]) -> str | None:
    """Why a model cannot be trained so, found by training two copies of it on random rows, both ways.

    Guarantee: a model that is taken gave both copies the gradient that autograd gives each by itself, to 1e-4 of the
    largest, has no dropout, drew no random number, and replaced or grew no attribute of its modules.
    """
    for name, part in model.named_modules():
        told = f"{name} ({type(part).__name__})" if name else type(part).__name__
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.p:
            return f"{told} draws at random"
    worker = local.copy_of(model)
    draw = torch.Generator().manual_seed(1)
    d = sum(p.numel() for p in worker.parameters())
    received: Float32 = (0.1 * torch.randn(d, generator=draw)).numpy()
    x = torch.randn((2, 3, *input_shape), generator=draw)
    y = torch.zeros((2, 3), dtype=torch.int64 if task.kind == "multiclass" else torch.float32)
    try:
        with local.as_found():
            attach(worker, received)
            worker.train()
            kept = _kept(worker)
            copies = _Copies(worker, task, 2)
            for part, scale in zip(copies.values.values(), (1.0, 1.5), strict=False):
                part[1] *= scale
            found = copies.of(slice(2), x, y)
            for site in range(2):
                if not _agree(worker, copies, site, task, x[site], y[site], found):
                    return "vmap gives other gradients than autograd does"
    except (RuntimeError, ValueError, TypeError, TrainingError) as error:
        return f"vmap does not take it: {first_line(error)}"
    return None if kept == _kept(worker) else "it keeps something from one call to the next"


def bytes_together(model: nn.Module, input_shape: tuple[int, ...], rows: int) -> int:
    """An upper estimate of what a program holds: parameters, gradients, moments; what its passes keep for a batch."""
    held, worker = 0, local.copy_of(model)

    def count(value: Tensor) -> Tensor:
        nonlocal held
        held += value.numel() * value.element_size()
        return value

    with local.as_found(), torch.autograd.graph.saved_tensors_hooks(count, lambda value: value):
        attach(worker, np.zeros(sum(p.numel() for p in worker.parameters()), dtype=np.float32))
        worker.train()(torch.zeros((rows, *input_shape)))
    return AT_ONCE * (24 * sum(p.numel() for p in worker.parameters()) + 3 * held)


class _Copies:
    """Trainable parameters of some sites, a parameter of all sites in one piece.

    Attributes:
        flat, slopes: float32 [all], parameters and their gradients. parts, gradients: views, [sites, numbers] each.
        values: views by name, [sites, *shape].
    """

    def __init__(self, worker: nn.Module, task: Task, sites: int) -> None:
        trained = {name: p.detach() for name, p in worker.named_parameters() if p.requires_grad}
        ends = np.cumsum([0, *(sites * p.numel() for p in trained.values())]).tolist()
        self.flat, self.slopes = torch.empty(ends[-1]), torch.empty(ends[-1])
        self.parts, self.gradients = (
            [whole[a:b].view(sites, -1) for a, b in itertools.pairwise(ends)] for whole in (self.flat, self.slopes)
        )
        self.values = {
            name: part.copy_(p.reshape(1, -1)).view(sites, *p.shape)
            for (name, p), part in zip(trained.items(), self.parts, strict=True)
        }

        frozen = {name: p.detach() for name, p in worker.named_parameters() if not p.requires_grad}
        self._rest = frozen | dict(worker.named_buffers())

        def of_one(values: Named, rest: Named, x: Tensor, y: Tensor) -> Tensor:
            return loss(task, functional_call(worker, values | rest, (x,)), y, "mean")

        self._gradient = vmap(grad(of_one), in_dims=(0, None, 0, 0), randomness="error")

    def of(self, which: slice | Tensor, x: Tensor, y: Tensor, programs: Programs | None = None) -> Named:
        """Gradients by name, [sites, *shape], of some of the sites for batches [sites, rows, ...]."""
        values = {name: value[which] for name, value in self.values.items()}
        # Attention's fused kernels have no form for several sites, and would run site after site.
        with sdpa_kernel(SDPBackend.MATH):
            if programs is not None:
                return programs.run(self._gradient, values, self._rest, x, y)
            found: Named = self._gradient(values, self._rest, x, y)
        return found

    def packed(self, worker: nn.Module) -> Float32:
        """Every site's parameters, float32 [sites, d], each in the order in which a model is packed."""
        named = [(p.numel(), self.values.get(name, p.detach()[None])) for name, p in worker.named_parameters()]
        sites = len(self.parts[0]) if self.parts else 0
        found, at = torch.empty(sites, sum(size for size, _ in named)), 0
        for size, value in named:
            found[:, at : at + size] = value.reshape(len(value), size)
            at += size
        result: Float32 = found.numpy()
        return result


def _together(
    model: nn.Module, task: Task, sites: Sequence[Site], plan: RoundPlan, programs: Programs
) -> Iterator[ClientUpdate]:
    """One round at sites of one optimizer and learning rate, those with more steps first."""
    locals_, counts = [plan.sites[site.name] for site in sites], [len(site.train) for site in sites]
    if 0 in counts:
        name = sites[counts.index(0)].name
        raise TrainingError(f"{name} has no training rows", code="FK409", remedy="leave the site out")
    worker = local.copy_of(model)
    attach(worker, plan.parameters)
    starts = np.cumsum([0, *counts])
    x = torch.from_numpy(np.concatenate([site.train.x for site in sites], dtype=np.float32, casting="unsafe"))
    y = torch.from_numpy(np.concatenate([site.train.y for site in sites])).to(target_type(task))
    metrics = [
        # Copied to a boundary: where a site's rows begin depends on who shares the call.
        {"train_loss": local.mean_loss(worker, task, x[a:b].clone(), y[a:b].clone())} if each.reports_loss else {}
        for each, a, b in zip(locals_, starts[:-1].tolist(), starts[1:].tolist(), strict=True)
    ]
    worker.train()
    copies, steps = _Copies(worker, task, len(sites)), [each.steps for each in locals_]
    mu, optimizer, rate = plan.proximal_mu, locals_[0].optimizer, locals_[0].learning_rate
    updates = [updater(part, optimizer, rate, mu) for part in copies.parts]
    names, draw = [site.name for site in sites], Shuffles(plan.seed, plan.round, "batches")
    rows = placed(names, locals_, starts, max(each.batch_size for each in locals_), -1, draw)
    lengths = (rows >= 0).sum(-1)
    for step in range(max(steps)):
        active = sum(each > step for each in steps)
        now = lengths[step, :active]
        gradients = [each[:active] for each in copies.gradients]
        for length in dict.fromkeys(now.tolist()):
            members = np.flatnonzero(now == length)
            which = slice(active) if len(members) == active else torch.from_numpy(members)
            taken = torch.from_numpy(rows[step, members, :length])
            found = copies.of(which, _at(x, taken), _at(y, taken), programs)
            if len(members) == active:
                gradients = [found[name].reshape(active, -1) for name in copies.values]
                break
            for name, into in zip(copies.values, gradients, strict=True):
                into[which] = found[name].reshape(len(members), -1)
        for update, gradient in zip(updates, gradients, strict=True):
            update(gradient)
    trained = copies.packed(worker)
    for site, each, mine, told in zip(sites, locals_, trained, metrics, strict=True):
        yield local.update_of(site, each, plan, mine, told)


def _at(values: Tensor, index: Tensor) -> Tensor:
    """``values[index]``, in a third of the time."""
    return values.index_select(0, index.reshape(-1)).view(*index.shape, *values.shape[1:])


def _alike(sites: Sequence[Site], plan: RoundPlan) -> list[list[Site]]:
    groups: dict[tuple[str, float], list[Site]] = {}
    for site in sorted(sites, key=lambda site: -plan.sites[site.name].steps):
        each = plan.sites[site.name]
        groups.setdefault((each.optimizer, each.learning_rate), []).append(site)
    return list(groups.values())


def _agree(
    worker: nn.Module, copies: _Copies, site: int, task: Task, x: Tensor, y: Tensor, found: Mapping[str, Tensor]
) -> bool:
    own = {name: value[site].clone().requires_grad_() for name, value in copies.values.items()}
    with torch.enable_grad():
        value = loss(task, functional_call(worker, own, (x,)), y, "mean")
        expected = torch.autograd.grad(value, list(own.values()), allow_unused=True)
    for name, part in zip(own, expected, strict=True):
        wanted = torch.zeros_like(own[name]) if part is None else part
        scale = float(wanted.abs().max()) if wanted.numel() else 0.0
        if not torch.allclose(found[name][site], wanted, rtol=1e-4, atol=1e-4 * scale + 1e-7):
            return False
    return True


def _kept(worker: nn.Module) -> list[tuple[str, str, int, int]]:
    """What a module and its parts hold besides parameters: by identity, and a tensor's version or a length."""
    return [
        (
            name,
            key,
            id(value),
            value._version if isinstance(value, Tensor) else len(value) if isinstance(value, Sized) else 0,
        )
        for name, part in worker.named_modules()
        for key, value in [*vars(part).items(), *part._buffers.items()]
        if not key.startswith("_") or key not in _OF_MODULES
    ]
