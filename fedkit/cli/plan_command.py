"""``fedkit plan``: what a run will promise and cost, before anything is trained."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import typer

from fedkit.cli.run_commands import ConfigDir, Json, Words
from fedkit.cli.words import name_and_overrides

if TYPE_CHECKING:
    from fedkit.errors import PrivacyError
    from fedkit.simulation.prepare import Prepared


def plan(words: Words = None, config_dir: ConfigDir = None, json_: Json = False) -> None:
    """Print each site's noise, epsilon and noise relative to signal before launch; nothing is trained.

    With ledgers_dir=DIR also what each site's ledger would be charged, and the rounds that it affords. What
    ``fedkit simulate`` would refuse is refused here, with the remedy.

    Example: fedkit plan heart_disease privacy.epsilon=1
    """
    name, overrides = name_and_overrides(words or [])
    from fedkit.config.compose import compose

    config = compose(name, overrides, config_dir)
    from fedkit.privacy.describe import plan_costs, priced
    from fedkit.reporting.plan_table import NO_LEDGER, plan_notes, plan_statement, plan_table
    from fedkit.simulation.prepare import engine_for, holding_notes, prepare, strategy_for

    refused = None
    with priced("the plan"):
        prepared = prepare(config)
        strategy_for(prepared)
        engine_for(prepared)
        parameters = sum(p.numel() for p in prepared.model.parameters() if p.requires_grad)
        costs = plan_costs(config, prepared.local.sites, parameters)
        ledger, statement = None, NO_LEDGER
        if config.ledgers_dir is not None:
            ledger, statement, refused = _ledgers(prepared, costs, json_=json_)
    summary = {
        "name": config.name,
        "data": prepared.dataset.name,
        "unit": prepared.dataset.unit,
        "model": config.model.name,
        **costs,
        "ledger": ledger,
        "ledger_statement": statement,
        "notes": [
            *prepared.local.notes,
            *prepared.local.remarks,
            *holding_notes(prepared),
            *plan_notes(costs, config.federation.fraction_train),
            *prepared.dataset.warnings,
        ],
        "statement": plan_statement(costs),
    }
    if refused is not None:
        summary["refused"] = {"code": refused.code, "message": refused.message, "remedy": refused.remedy}
    if json_:
        sys.stdout.write(json.dumps(summary, allow_nan=False) + "\n")
    else:
        from rich.console import Console

        Console().print(plan_table(summary))
    if refused is not None:
        sys.stdout.flush()
        sys.stderr.write(f"fedkit: {refused}\n")
        raise typer.Exit(refused.exit_status)


def _ledgers(
    prepared: Prepared, costs: dict[str, Any], *, json_: bool
) -> tuple[dict[str, Any], str, PrivacyError | None]:
    """What the sites' ledgers say; their rounds go into the costs."""
    from fedkit.cli.ledger_commands import computing
    from fedkit.privacy.describe import dearest
    from fedkit.reporting.plan_table import ledger_statement
    from fedkit.simulation.ledgers import forecasts

    found, refused = forecasts(prepared, computing=computing(enabled=not json_))
    for site, each in found.items():
        costs["sites"][site]["rounds_affordable"] = each["rounds_affordable"]
    # The site with the fewest rounds binds; a site whose ledger cannot be used has none to count.
    costs["binds"]["rounds_affordable"] = dearest({s: -e["rounds_affordable"] for s, e in found.items()}, 0) or None
    ledger = {"dir": prepared.config.ledgers_dir, "sites": found}
    return ledger, ledger_statement(ledger, costs), refused
