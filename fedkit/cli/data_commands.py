"""``fedkit data check``."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from fedkit.cli.run_commands import ConfigDir, Json
from fedkit.cli.words import name_and_overrides

data_app = typer.Typer(
    help="Look at a declared table before training.\n\nExample: fedkit data check heart_disease",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@data_app.callback()
def data() -> None:
    """Look at a declared table before training."""


@data_app.command()
def check(
    words: Annotated[
        list[str], typer.Argument(metavar="NAME [KEY=VALUE]...", help="An option of the data group, and overrides.")
    ],
    config_dir: ConfigDir = None,
    json_: Json = False,
) -> None:
    """Read a table and report rows, sites, missing values, out-of-range counts and undeclared levels.

    The report is exact: it is for whoever holds the data.

    Example: fedkit data check icu --config-dir my
    """
    from fedkit.config.compose import compose
    from fedkit.data.check import check_table

    name, overrides = name_and_overrides(words)
    # Non-private, so that a table whose declaration only a reproduction may use can be looked at, too.
    config = compose(None, [*([f"data={name}"] if name else []), "privacy=none", *overrides], config_dir)
    report = check_table(config.data)
    if json_:
        sys.stdout.write(json.dumps(report.to_dict(), allow_nan=False) + "\n")
        raise typer.Exit(2 if report.problems else 0)
    from rich.console import Console

    from fedkit.reporting.table_check import table_report

    Console().print(table_report(report.to_dict()))
    if report.problems:
        raise typer.Exit(2)
