"""One round at each of a batch of sites: the reference engine, site after site, one thread.

FedAvg's local work (McMahan et al. 2017), or DP-SGD where a site's plan says so.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from fedkit.errors import FedkitError, TrainingError
from fedkit.models.flat import attach, pack, unpack
from fedkit.privacy import dp_sgd
from fedkit.privacy.randomness import Secure, Seeded, Source, derive_seed, generator
from fedkit.training.losses import loss, target_type, targets
from fedkit.training.on_device import CPU, batch_gradient_on, deterministic, lot_gradients_on, refused_by
from fedkit.training.updates import updater
from fedkit.types import ClientUpdate, Float32, LocalPlan, RoundPlan, Site, SiteState, Task

Sums = Callable[[nn.Module, Task, Source], AbstractContextManager[dp_sgd.ClippedSums]]
"""(a site's copy of the model, task, where places come from) -> what sums its lots."""

PARAMETER_LIMIT = 1e6
"""Largest size of a parameter in a private round; requests beyond it are refused, steps beyond it are cut back."""


def train(
    model: nn.Module,
    task: Task,
    sites: Sequence[Site],
    plan: RoundPlan,
    state: Mapping[str, SiteState],
    *,
    device: torch.device = CPU,
) -> tuple[list[ClientUpdate], dict[str, SiteState]]:
    """Train the received model at each site for one round.

    Args:
        model: the architecture; its own parameters, buffers and mode are neither used nor changed.
        sites: those to train, each with an entry in ``plan.sites``.
        state: what each site kept from its last round; handed through, as nothing here needs any.
        device: where gradients are computed; the model itself stays on the CPU.

    Returns:
        Updates in the order of ``sites``, and the sites' next state.

    Raises:
        TrainingError: a model that cannot be used, a site without a plan, a result that is not finite.

    Guarantee: same inputs, same bits, whatever the number of threads and whichever sites share the call (a plan with
    ``noise="secure"`` draws fresh randomness each time; another device rounds otherwise). torch's global generator and
    thread count are left as found.
    """
    check_model(model, task, sites, plan, device=device)

    def sums(worker: nn.Module, task: Task, _: Source) -> AbstractContextManager[dp_sgd.ClippedSums]:
        return lot_gradients_on(device, worker, summed(task))

    with as_found(), deterministic(device):
        # A copy each: what a model keeps outside its parameters must not cross from one hospital to the next.
        updates = []
        for site in sites:
            worker = copy_of(model)
            with on_records(plan.sites[site.name].privacy is not None, site.name), refused_by(device):
                updates.append(train_site(worker, task, site, plan, sums, device))
    return updates, {site.name: state.get(site.name, {}) for site in sites}


def check_model(
    model: nn.Module, task: Task, sites: Sequence[Site], plan: RoundPlan, *, device: torch.device = CPU
) -> None:
    """Refuse what :func:`train` would refuse whatever the records are; reads the shape of examples and no record.

    Raises:
        TrainingError: a site without a plan, a model that mixes or remembers records where a plan is private, or one
            that the device cannot train (FK423).
    """
    missing = [site.name for site in sites if site.name not in plan.sites]
    if missing:
        raise TrainingError(f"no local plan for {', '.join(missing)}", code="FK409")
    shapes = {(plan.sites[site.name].privacy is not None, site.train.x.shape[1:]) for site in sites}
    with as_found(), deterministic(device), refused_by(device):
        for private, shape in shapes:
            if private:
                _check_private(copy_of(model), task, shape, plan, device)
            elif device != CPU:
                _check_plain(copy_of(model), task, shape, plan, device)


@contextmanager
def on_records(private: bool, name: str) -> Iterator[None]:
    """Give whatever fails once a private site's records are in use one code, which no site lets others see."""
    try:
        yield
    except FedkitError as error:
        if not private:
            raise
        message = f"private training at {name} failed: {error.message}"
        raise TrainingError(message, code="FK419", remedy=error.remedy) from error


def train_site(
    worker: nn.Module, task: Task, site: Site, plan: RoundPlan, sums: Sums, device: torch.device = CPU
) -> ClientUpdate:
    """One site's round on a copy of the model, which is given the plan's parameters first.

    Args:
        sums: what sums the lots of a private plan.
        device: where the gradients of a plan without privacy are computed.

    Raises:
        TrainingError: see :func:`train`.
    """
    local = plan.sites[site.name]
    flat = attach(worker, plan.parameters)
    x = torch.tensor(site.train.x, dtype=torch.float32)
    y = targets(task, site.train)
    metrics: dict[str, float] = {}
    if local.privacy is None and local.reports_loss:
        metrics["train_loss"] = mean_loss(worker, task, x, y)
    worker.train()
    _seed_torch(local, plan, site.name, device)
    if local.privacy is None:
        _plain(worker, task, x, y, flat, local, plan, site.name, device)
    else:
        _private(worker, task, x, y, flat, local, plan, site, sums)
    return update_of(site, local, plan, pack(worker), metrics)


def update_of(
    site: Site, local: LocalPlan, plan: RoundPlan, trained: Float32, metrics: dict[str, float]
) -> ClientUpdate:
    """What a site answers, from its trained parameters float32 [d], which are overwritten.

    Raises:
        TrainingError: FK405, they are not finite.
    """
    trained -= plan.parameters.astype(np.float32, copy=False)
    if not np.isfinite(trained).all():
        raise TrainingError(
            f"training at {site.name} gave parameters that are not finite (learning rate {local.learning_rate:g})",
            code="FK405",
            remedy="lower training.learning_rate",
        )
    weight = float(len(site.train)) if local.weight is None else local.weight
    return ClientUpdate(site=site.name, delta=trained, weight=weight, metrics=metrics)


def _check_private(
    probed: nn.Module, task: Task, shape: tuple[int, ...], plan: RoundPlan, device: torch.device
) -> None:
    """Refuse a model that mixes or remembers records before it sees any."""
    unpack(probed, plan.parameters)
    with lot_gradients_on(device, probed, summed(task)) as gradients:
        gradients.check_independence(shape, target_type(task))


def _check_plain(probed: nn.Module, task: Task, shape: tuple[int, ...], plan: RoundPlan, device: torch.device) -> None:
    """Refuse a model that the device cannot train before any site has worked for nothing."""
    gradient = batch_gradient_on(device, probed, task, attach(probed, plan.parameters))
    with torch.no_grad():
        gradient(torch.zeros((2, *shape)), torch.zeros(2, dtype=target_type(task)))


def summed(task: Task) -> dp_sgd.SampleLosses:
    """The task's loss as a sum over rows."""
    return lambda outputs, expected: loss(task, outputs, expected, "sum")


def _plain(
    worker: nn.Module,
    task: Task,
    x: Tensor,
    y: Tensor,
    flat: Tensor,
    local: LocalPlan,
    plan: RoundPlan,
    name: str,
    device: torch.device,
) -> None:
    if not len(x):
        raise TrainingError(f"{name} has no training rows", code="FK409", remedy="leave the site out")
    gradient = batch_gradient_on(device, worker, task, flat)
    update = updater(flat, local.optimizer, local.learning_rate, plan.proximal_mu)
    order = generator(plan.seed, plan.round, name, "batches")
    buffers = [buffer.clone() for buffer in worker.buffers()]
    done = 0
    with torch.no_grad():
        while done < local.steps:
            shuffled = torch.from_numpy(order.permutation(len(x)))
            batches_x, batches_y = (
                torch.split(x[shuffled], local.batch_size),
                torch.split(y[shuffled], local.batch_size),
            )
            for batch_x, batch_y in list(zip(batches_x, batches_y, strict=True))[: local.steps - done]:
                update(gradient(batch_x, batch_y))
            done += len(batches_x)
    moved = [n for (n, b), was in zip(worker.named_buffers(), buffers, strict=True) if not torch.equal(b, was)]
    if moved:
        raise TrainingError(
            f"training moves the model's buffers ({', '.join(moved)}), and only parameters travel",
            code="FK407",
            remedy="replace BatchNorm by GroupNorm or LayerNorm",
        )


def _private(
    worker: nn.Module,
    task: Task,
    x: Tensor,
    y: Tensor,
    flat: Tensor,
    local: LocalPlan,
    plan: RoundPlan,
    site: Site,
    sums: Sums,
) -> None:
    privacy = local.privacy
    if privacy is None or privacy.steps != local.steps:
        raise TrainingError(f"{site.name}: the local plan and its privacy plan disagree on the steps", code="FK409")
    source: Source
    places: Source
    if privacy.noise == "secure":
        source = places = Secure()
    else:
        source, places = (Seeded(plan.seed, plan.round, site.name, what) for what in ("lots and noise", "places"))
    update = updater(flat, local.optimizer, local.learning_rate, plan.proximal_mu)

    def step(gradient: Tensor) -> None:
        with torch.no_grad():
            update(gradient)
            # A failure would be seen off-site and be nobody's charge; a bound on the parameters is post-processing.
            flat.nan_to_num_(nan=0.0, posinf=PARAMETER_LIMIT, neginf=-PARAMETER_LIMIT)
            flat.clamp_(-PARAMETER_LIMIT, PARAMETER_LIMIT)

    with sums(worker, task, places) as gradients:
        dp_sgd.train_lots(gradients, x, y, site.train.unit, privacy, source, step)


def mean_loss(worker: nn.Module, task: Task, x: Tensor, y: Tensor) -> float:
    """Loss of the received global model on the training rows, as QFedAvg asks for."""
    worker.eval()
    total = 0.0
    with torch.no_grad():
        for batch_x, batch_y in zip(torch.split(x, 4096), torch.split(y, 4096), strict=True):
            total += float(loss(task, worker(batch_x), batch_y, "sum"))
    return total / max(1, len(x))


def copy_of(model: nn.Module) -> nn.Module:
    """A copy whose parameters have no values yet.

    Raises:
        TrainingError: FK410, a model that cannot be copied.
    """
    # Parameters are given their values afterwards: a large model's own are not copied for nothing.
    bare = {
        id(p): nn.Parameter(torch.empty_like(p), requires_grad=p.requires_grad)
        for p in model.parameters()
        if type(p) is nn.Parameter
    }
    try:
        return copy.deepcopy(model, bare)
    except (RuntimeError, TypeError) as error:
        raise TrainingError(f"the model cannot be copied: {error}", code="FK410") from error


def _seed_torch(local: LocalPlan, plan: RoundPlan, name: str, device: torch.device) -> None:
    """Dropout draws from torch's generator: seeded for replay, from the operating system where noise is."""
    secure = local.privacy is not None and local.privacy.noise == "secure"
    seed = int.from_bytes(os.urandom(8)) if secure else derive_seed(plan.seed, plan.round, name, "dropout")
    torch.default_generator.manual_seed(seed & (2**63 - 1))
    if device.type == "cuda":
        torch.cuda.manual_seed(seed & (2**63 - 1))


@contextmanager
def as_found() -> Iterator[None]:
    """One thread and a generator of our own inside; both as they were afterwards."""
    threads = torch.get_num_threads()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        if threads != 1:
            torch.set_num_threads(1)
            stack.callback(torch.set_num_threads, threads)
        yield
