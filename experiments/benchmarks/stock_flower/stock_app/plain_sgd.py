"""Steps of SGD on a large network whose parameters come in flat arrays."""

from __future__ import annotations

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters


def train(received: ArrayRecord, context: Context) -> tuple[ArrayRecord, int]:
    """Train the received model for some steps, each on a tenth of the rows.

    Returns:
        The trained model in arrays of the same names and sizes, and the number of its rows.
    """
    run = context.run_config
    with np.load(str(context.node_config["rows"])) as rows:
        x, y = torch.from_numpy(rows["x"]).float(), torch.from_numpy(rows["y"]).float()
    parts = [array.numpy() for array in received.values()]
    width, columns = int(run["hidden"]), int(run["columns"])
    with torch.device("meta"):
        model = nn.Sequential(
            nn.Linear(columns, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )
    model.to_empty(device="cpu")
    vector_to_parameters(torch.from_numpy(np.concatenate(parts)), model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=float(run["learning-rate"]))
    for _ in range(int(run["steps"])):
        picked = torch.randperm(len(x))[: max(1, len(x) // 10)]
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(x[picked]).squeeze(-1), y[picked]).backward()
        optimizer.step()
    trained = parameters_to_vector(model.parameters()).detach().numpy()
    cuts = np.cumsum([len(part) for part in parts])[:-1]
    arrays = dict(zip(received, np.split(trained, cuts), strict=True))
    return ArrayRecord({name: Array(value) for name, value in arrays.items()}), len(x)
