"""``fedkit server preflight``: one table of what fits where, before anybody is asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fedkit.cli.words import name_and_overrides
from fedkit_server.options import Json, Profile, connect, show
from fedkit_server.run_command import Words


def preflight(
    words: Words = None,
    sites: Annotated[
        str | None, typer.Option("--sites", metavar="A,B,...", help="The sites to look at; by default all enrolled.")
    ] = None,
    stats_epsilon: Annotated[
        float, typer.Option("--stats-epsilon", metavar="EPSILON", min=0.0001, max=100, help="To price statistics at.")
    ] = 1.0,
    config_dir: Annotated[
        Path | None,
        typer.Option("--config-dir", metavar="DIR", help="A folder with groups and experiments of your own."),
    ] = None,
    profile: Profile = None,
    json_: Json = False,
) -> None:
    """Whether an experiment fits each site, by the offers that the sites have signed, and what it would cost them.

    Free: no site is asked, no record is read, nothing is charged. Exit status 1 if it does not fit somewhere. What
    depends on records is only priced here: statistics are not asked for over a deployed federation, each site runs
    `fedkit stats` itself.

    Example: fedkit server preflight heart_disease privacy.epsilon=1 --sites north,south
    """
    from fedkit.errors import DeploymentError
    from fedkit_server.preflight import preflight as look
    from fedkit_server.submission import composed, require_model

    remote = connect(profile)
    name, overrides = name_and_overrides(words or [])
    config = composed(name, overrides, config_dir)
    require_model(config, remote.get("/status").get("models", ()))
    known = remote.get("/sites")["sites"]
    named = [word.strip() for word in sites.split(",")] if sites is not None else [each["name"] for each in known]
    named = [each for each in dict.fromkeys(named) if each]
    if not named:
        raise DeploymentError(
            "no site is named, and none is enrolled" if sites is None else "--sites names no site",
            code="FK728",
            remedy="`fedkit server sites` lists them; `fedkit server invite SITE`",
        )
    found = look(config, known, named, stats_epsilon)
    if json_:
        show(found, "", json_=True)
    else:
        _print(found)
    if not found["fits"]:
        raise typer.Exit(1)


RULES = ("online", "data set", "declaration", "model", "strategy", "unit", "delta", "epsilon", "unprotected")


def _print(found: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    told = found["sites"]
    rules = [rule for rule in RULES if any(check["rule"] == rule for each in told.values() for check in each["checks"])]
    table = Table("site", "records", *rules, "run costs", "statistics cost")
    for name, each in told.items():
        by_rule = {check["rule"]: check for check in each["checks"]}
        cells = [_cell(by_rule.get(rule)) for rule in rules]
        records = "–" if each["records"] is None else f"{each['records']:,}"
        table.add_row(*map(Text, (name, records, *cells, _epsilon(each["epsilon"]), _priced(each["statistics"]))))
    console.print(table)
    fitting = sum(each["fits"] for each in told.values())
    lines = [f"{found['name']} fits {fitting} of {len(told)} sites; epsilon is for one {found['unit']}, add or remove"]
    for name, each in told.items():
        said = (check["problem"] for check in each["checks"] if check["problem"])
        lines += [problem if problem.startswith((name, repr(name))) else f"{name} {problem}" for problem in said]
    console.print(*(Text(line) for line in (*lines, *found["notes"])), sep="\n")


def _cell(check: Mapping[str, Any] | None) -> str:
    if check is None:
        return "–"
    return f"NO: {check['admitted']}" if check["problem"] else check["admitted"]


def _epsilon(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _priced(told: Mapping[str, Any] | None) -> str:
    if told is None:
        return "–"
    if "problem" in told:
        return str(told["problem"])
    return f"{told['epsilon']:.3g} of {told['of_max_epsilon']:g}, {len(told['columns'])} columns"
