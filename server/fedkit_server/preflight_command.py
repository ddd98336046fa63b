"""``fedkit server preflight``: one table of what fits where, before anybody is asked."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
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
    study: Annotated[
        str, typer.Option("--study", metavar="NAME", help="The study that the run would belong to.")
    ] = "none",
    config_dir: Annotated[
        Path | None,
        typer.Option("--config-dir", metavar="DIR", help="A folder with groups and experiments of your own."),
    ] = None,
    profile: Profile = None,
    json_: Json = False,
) -> None:
    """Whether an experiment fits each site, by the offers that the sites have signed, and what it would cost them.

    Free: no site is asked, no record is read, nothing is charged. Exit status 1 if it does not fit somewhere; what
    would only wait there, for an hour or a person, fits. What depends on records is priced here, and asked for by
    `fedkit server stats`.

    Example: fedkit server preflight heart_disease privacy.epsilon=1 --sites north,south
    """
    from fedkit.errors import DeploymentError
    from fedkit_server.preflight import preflight as look
    from fedkit_server.submission import circumstances, composed, require_model
    from fedkit_server.under_study import agreement_checks

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
    asked = circumstances(remote.profile, study, time.time())
    found = look(config, known, named, stats_epsilon, asked, agreement_checks(remote, study))
    if json_:
        show(found, "", json_=True)
    else:
        _print(found)
    if not found["fits"]:
        raise typer.Exit(1)


ROWS = (
    "online", "data set", "declaration", "model", "strategy", "unit", "delta", "epsilon", "epsilon of a run",
    "unprotected", "purpose", "study", "agreement", "submitter", "rounds", "release", "records", "other sites",
    "hours", "approval", "plan",
)  # fmt: skip


def _print(found: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table
    from rich.text import Text

    console, told = Console(), found["sites"]
    by_site = {name: {check["rule"]: check for check in each["checks"]} for name, each in told.items()}
    table = Table("rule", *(Column(name, overflow="fold") for name in ("the run", *map(escape, told))))
    for rule in ROWS:
        cells = [checks.get(rule) for checks in by_site.values()]
        if any(cells):
            asked = next((cell["asked"] for cell in cells if cell and cell["asked"]), "")
            table.add_row(rule, Text(asked), *(Text(_cell(cell)) for cell in cells))
    last = {
        "declared records": ["–" if each["records"] is None else f"{each['records']:,}" for each in told.values()],
        "run costs": [_epsilon(each["epsilon"]) for each in told.values()],
        "statistics cost": [_priced(each["statistics"], each["checks"]) for each in told.values()],
    }
    for label, texts in last.items():
        table.add_row(label, "", *map(Text, texts))
    console.print(table)
    fitting = sum(each["fits"] for each in told.values())
    lines = [f"{found['name']} fits {fitting} of {len(told)} sites; epsilon is for one {found['unit']}, add or remove"]
    for each in told.values():
        lines += [check["problem"] for check in each["checks"] if check["problem"]] + each["waits"]
    console.print(*(Text(line) for line in (*lines, *found["notes"])), sep="\n")


def _cell(check: Mapping[str, Any] | None) -> str:
    if check is None:
        return "–"
    if check["problem"]:
        return "NO" if check["rule"] == "agreement" else f"NO: {check['admitted']}"
    return f"waits: {check['admitted']}" if check["waits"] else str(check["admitted"])


def _epsilon(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _priced(told: Mapping[str, Any] | None, checks: Sequence[Mapping[str, Any]]) -> str:
    if told is None:
        return "–"
    from fedkit_server.fit import NOT_OFFERED

    released = next((str(check["admitted"]) for check in checks if check["rule"] == "release"), NOT_OFFERED)
    if released != NOT_OFFERED and "statistics" not in released:
        return "not released"
    if "problem" in told:
        return str(told["problem"])
    return f"{told['epsilon']:.3g} of {told['of_max_epsilon']:g}, {len(told['columns'])} columns"
