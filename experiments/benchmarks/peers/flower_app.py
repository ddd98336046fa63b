"""The ClientApp of the benchmark's Flower simulation: what an actor imports once, and does for a message."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch
import works
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

WORK = "BENCH_WORK"
"""The environment variable that names the folder of the work, for the actors."""
app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """One local epoch from the received model."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus warns of its own hooks at every step
        given = works.read(Path(os.environ[WORK]))
        received = message.content["arrays"].to_torch_state_dict()
        trained = works.train_site(given, given.work.model(), received, int(context.node_config["partition-id"]))
    content = {"arrays": ArrayRecord(trained), "metrics": MetricRecord({"num-examples": given.work.rows})}
    return Message(content=RecordDict(content), reply_to=message)
