"""``fedkit plan``: what a run will promise and cost, before anything is trained."""

from __future__ import annotations

import json
import sys

from fedkit.cli.run_commands import ConfigDir, Json, Words
from fedkit.cli.words import name_and_overrides


def plan(words: Words = None, config_dir: ConfigDir = None, json_: Json = False) -> None:
    """Print each site's noise, epsilon and noise relative to signal before launch; nothing is trained.

    What ``fedkit simulate`` would refuse is refused here, with the remedy.

    Example: fedkit plan heart_disease privacy.epsilon=1
    """
    name, overrides = name_and_overrides(words or [])
    from fedkit.config.compose import compose

    config = compose(name, overrides, config_dir)
    from fedkit.privacy.describe import plan_costs, priced
    from fedkit.reporting.plan_table import NO_LEDGER, plan_notes, plan_statement, plan_table
    from fedkit.simulation.prepare import prepare, strategy_for

    with priced("the plan"):
        prepared = prepare(config)
        strategy_for(prepared)
        parameters = sum(p.numel() for p in prepared.model.parameters() if p.requires_grad)
        costs = plan_costs(config, prepared.local.sites, parameters)
    summary = {
        "name": config.name,
        "data": prepared.dataset.name,
        "unit": prepared.dataset.unit,
        "model": config.model.name,
        **costs,
        "ledger": None,
        "ledger_statement": NO_LEDGER,
        "notes": [*prepared.local.notes, *plan_notes(costs, config.federation.fraction_train)],
        "statement": plan_statement(costs),
    }
    if json_:
        sys.stdout.write(json.dumps(summary, allow_nan=False) + "\n")
        return
    from rich.console import Console

    Console().print(plan_table(summary))
