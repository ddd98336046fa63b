"""``fedkit ledger create``: a site fixes the budget of a data set, once and for all."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedkit.cli.run_commands import Json

if TYPE_CHECKING:
    from fedkit.privacy.ledger.ledger import Ledger


def create(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The site's ledger; made if it is not there.")],
    dataset: Annotated[
        str, typer.Option("--dataset", metavar="NAME", help="The declared population: data.name of its runs.")
    ],
    unit: Annotated[str, typer.Option("--unit", metavar="record|patient", help="What one unit of privacy is.")],
    epsilon: Annotated[float, typer.Option("--epsilon", metavar="EPSILON", help="What all runs together may cost.")],
    delta: Annotated[float, typer.Option("--delta", metavar="DELTA", help="Below 1 / records; that of every run.")],
    order: Annotated[
        float | None,
        typer.Option("--order", metavar="A", help="1.1, 1.2, ..., 64, where costs add up; by default the best."),
    ] = None,
    json_: Json = False,
) -> None:
    """Fix a data set's budget in a site's ledger, for good; asking for the same again changes nothing.

    Example: fedkit ledger create ledgers/va.sqlite --dataset heart_disease --unit record --epsilon 8 --delta 1e-5
    """
    from fedkit.privacy import rdp_filter
    from fedkit.privacy.accounting import ADJACENCY
    from fedkit.privacy.ledger import checks

    # All that can be refused is refused before a file is made.
    checks.budget(dataset, unit, ADJACENCY)
    chosen = rdp_filter.best_order(epsilon, delta) if order is None else order
    rdp_filter.capacity(epsilon, delta, chosen)
    made, ledger = _opened(file)
    with ledger:
        there = dataset in ledger.book().accounts
        budget = ledger.create_budget(dataset, unit=unit, limit=epsilon, delta=delta, order=order)
    found = {
        "ledger": str(file),
        "file_created": made,
        "budget_created": not there,
        "dataset": dataset,
        "unit": budget.unit,
        "adjacency": budget.adjacency,
        "epsilon": budget.limit,
        "delta": budget.delta,
        "order": budget.order,
    }
    if json_:
        sys.stdout.write(json.dumps(found, allow_nan=False) + "\n")
        return
    state = "was fixed before and stays" if there else "is fixed for good"
    sys.stdout.write(
        f"{file}: the budget of {dataset} {state}: epsilon {budget.limit:g} at delta {budget.delta:g} for one"
        f" {budget.unit}, add or remove, over all runs together\n"
        f"  enforced at Renyi order {budget.order:g}{'' if order is not None else ', which admits most'}: a run that"
        " would exceed it is refused before it reads a record\n"
        "  another file of the same patients is the same data set; a second budget for them would add to this one\n"
        f"  next: `fedkit ledger export --ledger {file} --out HEAD.json` after every run, kept on another machine\n"
    )


def _opened(file: Path) -> tuple[bool, Ledger]:
    from fedkit.errors import PrivacyError
    from fedkit.privacy.ledger.ledger import Ledger

    if file.exists():
        return False, Ledger(file)
    try:
        file.absolute().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        code = "FK337" if error.errno == 28 else "FK336"
        raise PrivacyError(f"{file.parent} cannot be made: {error.strerror}", code=code) from error
    try:
        return True, Ledger.create(file)
    except PrivacyError as error:
        # Another process was faster: its file is as good.
        if error.code != "FK330" or not file.exists():
            raise
        return False, Ledger(file)
