"""DP-SGD with Opacus, as in Flower's and Opacus' own examples: a new engine for every message."""

from __future__ import annotations

import warnings
from itertools import chain, repeat

import numpy as np
import torch
from flwr.app import ArrayRecord, Context
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

warnings.filterwarnings("ignore")  # Opacus warns of its own hooks at every step


def train(received: ArrayRecord, context: Context) -> tuple[ArrayRecord, int]:
    """Train the received model for some steps.

    Returns:
        The trained model and the number of its rows.
    """
    run = context.run_config
    with np.load(str(context.node_config["rows"])) as rows:
        dataset = TensorDataset(torch.from_numpy(rows["x"]), torch.from_numpy(rows["y"]).float())
    model = nn.Linear(int(run["columns"]), 1)
    model.load_state_dict(received.to_torch_state_dict())
    private, optimizer, loader = PrivacyEngine(accountant="rdp").make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=float(run["learning-rate"])),
        data_loader=DataLoader(dataset, batch_size=max(1, round(float(run["sample-rate"]) * len(dataset)))),
        noise_multiplier=float(run["noise-multiplier"]),
        max_grad_norm=float(run["max-grad-norm"]),
        poisson_sampling=True,
    )
    loss = nn.BCEWithLogitsLoss()
    for _, (x, y) in zip(range(int(run["steps"])), chain.from_iterable(repeat(loader)), strict=False):
        optimizer.zero_grad()
        loss(private(x).squeeze(-1), y).backward()
        optimizer.step()
    return ArrayRecord(model.state_dict()), len(dataset)
