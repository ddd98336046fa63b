"""The ServerApp of ``federation=flower``: the one round loop over the Grid that Flower hands in."""

from __future__ import annotations

import json
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedkit.config.serialize import from_dict
from fedkit.errors import FedkitError
from fedkit.models.flat import pack
from fedkit.simulation.exchange import Exchange
from fedkit.simulation.local import make_loop
from fedkit.simulation.prepare import prepare, strategy_for

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Wait for every site, run the rounds, hand each one to the command that started the run."""
    exchange = Exchange(Path(str(context.run_config["fedkit-exchange"])))
    try:
        prepared = prepare(from_dict(json.loads(str(context.run_config["fedkit-config"]))))
        loop = make_loop(prepared, grid, strategy_for(prepared))
        exchange.put_finish(loop.run(pack(prepared.model), exchange.put_round))
    except FedkitError as error:
        exchange.put_error(str(error))
        raise
    except BaseException as error:
        exchange.put_error(f"{type(error).__name__}: see the SuperLink's log")
        raise
