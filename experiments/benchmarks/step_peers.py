"""The peers: the loops that one writes with Opacus or torch alone, set up once and as fast as they readily go."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import chain, repeat

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import PrivacyEngine
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fedkit.simulation.prepare import Prepared
from fedkit.types import Site

Flat = NDArray[np.float32]


def _load(parameters: list[nn.Parameter], flat: Flat) -> None:
    # A copy: the parameters become views of what they are given, and a step writes into them.
    nn.utils.vector_to_parameters(torch.from_numpy(flat).clone(), parameters)


def _tensors(site: Site) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(site.train.x), torch.from_numpy(site.train.y).float()


class Opacus:
    """Poisson lots, DPOptimizer and torch's noise through ``PrivacyEngine.make_private``, wrapped once for all rounds.

    Wrapping once is both right (a new engine each round forgets what was spent) and the fastest way to use it.
    """

    def __init__(
        self, model: nn.Module, site: Site, *, rate: float, clip: float, sigma: float, learning_rate: float, steps: int
    ) -> None:
        module = copy.deepcopy(model).train()
        rows = len(site.train)
        loader = DataLoader(TensorDataset(*_tensors(site)), batch_size=max(1, round(rate * rows)))
        self.model, self.optimizer, self.loader = PrivacyEngine(accountant="rdp").make_private(
            module=module,
            optimizer=torch.optim.SGD(module.parameters(), lr=learning_rate),
            data_loader=loader,
            noise_multiplier=sigma,
            max_grad_norm=clip,
            poisson_sampling=True,
        )
        self.parameters, self.steps, self.loss = list(module.parameters()), steps, nn.BCEWithLogitsLoss()

    def round(self, start: Flat) -> Flat:
        """Train from a model; returns trained minus received."""
        _load(self.parameters, start)
        batches = chain.from_iterable(repeat(self.loader))
        for _, (x, y) in zip(range(self.steps), batches, strict=False):
            self.optimizer.zero_grad()
            self.loss(self.model(x).squeeze(-1), y).backward()
            self.optimizer.step()
        trained: Flat = nn.utils.parameters_to_vector(self.parameters).detach().numpy()
        return trained - start


class PlainTorch:
    """Shuffled slices of a tensor (a DataLoader is slower), autograd, ``torch.optim.SGD``."""

    def __init__(self, model: nn.Module, site: Site, *, batch_size: int, learning_rate: float, steps: int) -> None:
        self.model = copy.deepcopy(model).train()
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.SGD(self.parameters, lr=learning_rate)
        self.x, self.y = _tensors(site)
        self.batch_size, self.steps, self.loss = batch_size, steps, nn.BCEWithLogitsLoss()

    def round(self, start: Flat) -> Flat:
        """Train from a model; returns trained minus received."""
        _load(self.parameters, start)
        done = 0
        while done < self.steps:
            for rows in torch.randperm(len(self.x)).split(self.batch_size)[: self.steps - done]:
                self.optimizer.zero_grad()
                self.loss(self.model(self.x[rows]).squeeze(-1), self.y[rows]).backward()
                self.optimizer.step()
                done += 1
        trained: Flat = nn.utils.parameters_to_vector(self.parameters).detach().numpy()
        return trained - start


def opacus_federation(prepared: Prepared) -> Callable[[], Flat]:
    """FedAvg over Opacus sites under the plans of a prepared experiment: one loop, no messages, no records kept."""
    sites, weights = [], []
    for site in prepared.dataset.sites:
        local = prepared.local.sites[site.name]
        if local.privacy is None or local.weight is None:
            raise ValueError(f"{site.name} has no privacy plan")
        sites.append(
            Opacus(
                prepared.model,
                site,
                rate=local.privacy.sample_rate,
                clip=local.privacy.max_grad_norm,
                sigma=local.privacy.noise_multiplier,
                learning_rate=local.learning_rate,
                steps=local.steps,
            )
        )
        weights.append(local.weight)
    shares = np.array(weights, dtype=np.float32) / np.float32(sum(weights))
    first: Flat = nn.utils.parameters_to_vector(prepared.model.parameters()).detach().numpy().copy()

    def run() -> Flat:
        current = first
        for _ in range(prepared.config.federation.num_rounds):
            updates = np.stack([site.round(current) for site in sites])
            current = current + (shares[:, None] * updates).sum(axis=0)
        return current

    return run
