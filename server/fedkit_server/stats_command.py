"""``fedkit server stats``: what depends on records, asked of several sites, with its price shown before."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from fedkit.cli.words import name_and_overrides
from fedkit_server.options import Json, Profile, connect, show
from fedkit_server.run_command import Words


def stats(
    sites: Annotated[str, typer.Option("--sites", metavar="A,B,...", help="The sites that are asked.")],
    epsilon: Annotated[
        float,
        typer.Option(
            "--epsilon", metavar="EPSILON", min=0.0001, max=100, help="What all columns together cost a site."
        ),
    ],
    words: Words = None,
    columns: Annotated[
        str | None,
        typer.Option("--columns", metavar="A,B", help="Declared columns; all of them if left out. Fewer: less noise."),
    ] = None,
    bins: Annotated[
        int, typer.Option("--bins", metavar="N", min=2, max=1000, help="Bins of a number's declared range.")
    ] = 10,
    anew: Annotated[
        str, typer.Option("--anew", metavar="LABEL", help="Ask a question that was answered again, at full cost.")
    ] = "",
    study: Annotated[
        str, typer.Option("--study", metavar="NAME", help="The study that the question belongs to; none: to no study.")
    ] = "none",
    deadline: Annotated[
        float, typer.Option("--deadline", metavar="SECONDS", help="How long absent sites are waited for.")
    ] = 120.0,
    yes: Annotated[bool, typer.Option("--yes", help="Ask the sites without asking you; --json needs it.")] = False,
    config_dir: Annotated[
        Path | None,
        typer.Option("--config-dir", metavar="DIR", help="A folder with groups and experiments of your own."),
    ] = None,
    profile: Profile = None,
    json_: Json = False,
) -> None:
    """Noisy class balance, ranges and missing values of an experiment's columns at each site, signed with your key.

    What it costs is shown before anything is asked. Each site holds the question against its own file, which must
    release `statistics`, and charges the ledger that training spends from before it reads a record. The same question
    is answered by the same figures, at no charge. Exit status 1 if a site has not answered.

    Example: fedkit server stats heart_disease --epsilon 0.5 --sites north,south
    """
    from fedkit.errors import DeploymentError
    from fedkit_server.remote import segment
    from fedkit_server.statistics import answered, described, planned
    from fedkit_server.submission import circumstances, composed, require_purpose, sign, with_sites
    from fedkit_server.under_study import agreement_for

    remote = connect(profile)
    key, now = remote.profile.key(), time.time()
    name, overrides = name_and_overrides(words or [])
    config = composed(name, overrides, config_dir)
    require_purpose(config)
    known, names = remote.get("/sites")["sites"], [word.strip() for word in sites.split(",") if word.strip()]
    asked_of = tuple(part.strip() for part in columns.split(",") if part.strip()) if columns is not None else ()
    question = planned(config, known, names, epsilon, asked_of, bins, anew)
    asked = circumstances(remote.profile, study, now, question.asked)
    ready, waits = with_sites(question.config, known, names, 1, deadline, asked)
    question = replace(question, config=ready, waits=waits)
    agreement = agreement_for(remote, study, ready, names, question.asked)
    # Better said here than by every site.
    remote.keyring().signer(key.fingerprint, "operator")
    told = described(question, names, study)
    if not json_:
        _print_plan(told)
    if not yes and (json_ or not sys.stdin.isatty()):
        raise DeploymentError(
            f"nothing is asked without your word: it costs each site epsilon {told['epsilon']:.4g}",
            code="FK729",
            remedy="give --yes",
        )
    if not yes and not typer.confirm("Ask the sites?"):
        show({}, "nothing was asked", json_=False)
        raise typer.Exit(1)
    _, signed = sign(
        ready, remote.profile, study=study, min_sites=1, deadline=deadline, now=time.time(), agreement=agreement,
        statistics=question.asked,
    )  # fmt: skip
    run = str(remote.post("/runs", {"job": signed.text})["run"])
    _wait(remote, run, json_=json_)
    told |= {"run": run, **answered(question, remote.get(f"/runs/{segment(run)}/statistics"))}
    if json_:
        show(told, "", json_=True)
    else:
        _print_figures(told)
    if len(told["answered"]) < len(names):
        raise typer.Exit(1)


def _wait(remote: Any, run: str, *, json_: bool) -> None:
    from fedkit_server.watching import follow_quietly

    if not json_:
        show({}, f"{run}: submitted; behind a run that trains it waits for its turn", json_=False)
    follow_quietly(remote, run)


def _print_plan(told: dict[str, Any]) -> None:
    from rich.console import Console

    from fedkit.reporting.stats_table import charge_table

    Console().print(charge_table(told))


def _print_figures(told: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    from fedkit.reporting.stats_table import stats_table

    console = Console()
    if told["pooled"] is not None:
        console.print("", stats_table(told), sep="\n")
    for site, why in told["failed"].items():
        console.print(Text(f"{site} has not answered: {why}"))
