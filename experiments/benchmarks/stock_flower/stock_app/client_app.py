"""A site: trains the model that comes with DP-SGD on its own rows, or sends the arrays back plus one."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer one round."""
    received = message.content["arrays"]
    if context.run_config["work"] == "heart":
        # Imported here so that the other work, which needs no torch, is not made to wait for it.
        from stock_app.dp_sgd import train as train_privately

        arrays, examples = train_privately(received, context)
    else:
        arrays, examples = ArrayRecord({name: Array(array.numpy() + 1) for name, array in received.items()}), 1
    metrics = MetricRecord({"num-examples": examples})
    return Message(content=RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
