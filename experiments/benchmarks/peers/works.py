"""W1, W2 and W3: their numbers, data and networks, and one site's training as users of Opacus or torch write it.

Needs torch and numpy, and Opacus where a work is private; never fedkit. The benchmark writes a work into a folder, and
every side reads the same rows and the same first model from there.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

State = dict[str, Tensor]
RATE, CLIP, SIGMA = 0.05, 1.0, 1.0


def table_network() -> nn.Module:
    """An MLP of 4,130 parameters."""
    return nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))


def image_network() -> nn.Module:
    """A CNN of 105,866 parameters."""
    stages = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    stages += [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*stages, nn.Flatten(), nn.Linear(1568, 64), nn.ReLU(), nn.Linear(64, 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"table": table_network, "image": image_network}


@dataclass(frozen=True)
class Work:
    """One federation: sites of so many rows, one local epoch in batches or Poisson lots of ``batch``."""

    name: str
    sites: int
    a_round: int
    rounds: int
    private: bool
    rows: int = 100
    batch: int = 20
    shape: tuple[int, ...] = (30,)
    classes: int = 2
    network: str = "table"

    @property
    def steps(self) -> int:
        """Of a site and round; Poisson lots have the rate 1 / steps, as Opacus' loader draws them."""
        return math.ceil(self.rows / self.batch)

    @property
    def samples(self) -> int:
        """Rows that a round trains on, expected where lots are drawn."""
        return self.a_round * self.rows

    def model(self) -> nn.Module:
        """A new one; its parameters are to be replaced by the first model's."""
        return NETWORKS[self.network]()


WORKS = {
    work.name: work
    for work in (
        Work("W1", sites=100, a_round=20, rounds=50, private=True),
        Work("W2", 50, 10, 10, True, 200, 32, (1, 28, 28), 10, "image"),
        Work("W3", sites=1000, a_round=100, rounds=50, private=False),
    )
}


@dataclass(frozen=True)
class Given:
    """What every side of a work gets: rows x [sites, rows, ...], labels y [sites, rows], the first model."""

    work: Work
    x: Tensor
    y: Tensor
    first: State

    def moved(self, last: State) -> float:
        """Distance of a model from the first."""
        return math.sqrt(sum(float((last[name] - value).square().sum()) for name, value in self.first.items()))


def write(work: Work, folder: Path) -> Path:
    """Draw a work's rows and first model into a folder; returns it."""
    draw = np.random.default_rng(1234)
    truth = draw.standard_normal((math.prod(work.shape), work.classes))
    x = draw.standard_normal((work.sites, work.rows, *work.shape), dtype=np.float32)
    y = (x.reshape(work.sites, work.rows, -1) @ truth).argmax(-1).astype(np.int64)
    y[:, : work.classes] = range(work.classes)
    torch.manual_seed(0)
    first = {name: value.numpy() for name, value in work.model().state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "work.npz", x=x, y=y, **first)
    (folder / "work.json").write_text(json.dumps(asdict(work)), encoding="utf-8")
    return folder


def about(folder: Path) -> Work:
    """The numbers of what :func:`write` left."""
    told = json.loads((folder / "work.json").read_text(encoding="utf-8"))
    return Work(**told | {"shape": tuple(told["shape"])})


@cache
def read(folder: Path) -> Given:
    """What :func:`write` left; read once a process."""
    with np.load(folder / "work.npz") as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in stored.files}
    return Given(about(folder), arrays.pop("x"), arrays.pop("y"), arrays)


def train_site(given: Given, model: nn.Module, received: State, site: int) -> State:
    """One local epoch, as a user writes it: a model, an optimizer, a loader and an engine of its own.

    Args:
        model: of the work; it is copied.
        received: the parameters that training starts from.
    """
    work = given.work
    mine: Any = copy.deepcopy(model).train()
    mine.load_state_dict(received)
    optimizer: Any = torch.optim.SGD(mine.parameters(), lr=RATE)
    rows = TensorDataset(given.x[site], given.y[site])
    loader: Any = DataLoader(rows, batch_size=work.batch, shuffle=True)
    loss = nn.CrossEntropyLoss()
    if work.private:
        from opacus import PrivacyEngine

        mine, optimizer, loader = PrivacyEngine().make_private(
            module=mine, optimizer=optimizer, data_loader=loader, noise_multiplier=SIGMA, max_grad_norm=CLIP
        )
    for x, y in loader:
        optimizer.zero_grad()
        loss(mine(x), y).backward()
        optimizer.step()
    return dict((mine._module if work.private else mine).state_dict())
