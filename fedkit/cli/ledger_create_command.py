"""``fedkit ledger create``: a site fixes the budget of a data set, once and for all."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedkit.cli.numbers import plain_number
from fedkit.cli.run_commands import Json

if TYPE_CHECKING:
    from fedkit.privacy.ledger.ledger import Ledger


def create(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The site's ledger; made if it is not there.")],
    dataset: Annotated[
        str, typer.Option("--dataset", metavar="NAME", help="The declared population: data.name of its runs.")
    ],
    unit: Annotated[str, typer.Option("--unit", metavar="record|patient", help="What one unit of privacy is.")],
    epsilon: Annotated[str, typer.Option("--epsilon", metavar="EPSILON", help="What all runs together may cost.")],
    delta: Annotated[str, typer.Option("--delta", metavar="DELTA", help="Below 1 / records; that of every run.")],
    order: Annotated[
        str | None,
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
    limit, at = _number("--epsilon", epsilon, "FK301", "3"), _number("--delta", delta, "FK302", "1e-5")
    asked = None if order is None else _number("--order", order, "FK343", "7.5")
    chosen = rdp_filter.best_order(limit, at) if asked is None else asked
    rdp_filter.capacity(limit, at, chosen)
    made, ledger = _opened(file)
    with ledger:
        there = dataset in ledger.book().accounts
        budget = ledger.create_budget(dataset, unit=unit, limit=limit, delta=at, order=asked)
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


def _number(option: str, text: str, code: str, example: str) -> float:
    from fedkit.errors import PrivacyError

    try:
        value = plain_number(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise PrivacyError(f"{option} {text[:40]!r} is not a number", code=code, remedy=f"give {option} {example}")
    return value


def _opened(file: Path) -> tuple[bool, Ledger]:
    from fedkit.errors import PrivacyError
    from fedkit.privacy.ledger.ledger import Ledger
    from fedkit.privacy.ledger.place import is_there

    if is_there(file):
        return False, Ledger(file)
    try:
        file.absolute().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        code = "FK337" if error.errno == 28 else "FK336"
        remedy = "free space" if code == "FK337" else "choose a folder that this user may write"
        raise PrivacyError(f"{file.parent} cannot be made: {error.strerror}", code=code, remedy=remedy) from error
    try:
        return True, Ledger.create(file)
    except PrivacyError as error:
        # Another process was faster: its file is as good.
        if error.code != "FK330" or not is_there(file):
            raise
        return False, Ledger(file)
