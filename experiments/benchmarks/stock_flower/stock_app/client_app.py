"""A site: trains the model that comes on its own rows, with DP-SGD or without."""

from __future__ import annotations

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer one round."""
    received = message.content["arrays"]
    # Imported here so that the work without Opacus is not made to wait for it.
    if context.run_config["work"] == "heart":
        from stock_app.dp_sgd import train as work
    else:
        from stock_app.plain_sgd import train as work
    arrays, examples = work(received, context)
    metrics = MetricRecord({"num-examples": examples})
    return Message(content=RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
