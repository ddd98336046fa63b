"""``fedkit stats``: private statistics of the declared columns, pooled and by site."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedkit.cli.numbers import plain_number
from fedkit.cli.run_commands import ConfigDir, Json, Words
from fedkit.cli.words import name_and_overrides
from fedkit.errors import PrivacyError, together

if TYPE_CHECKING:
    from fedkit.assurance.site_budgets import SiteCharge
    from fedkit.assurance.statistics import StatsPlan
    from fedkit.config.experiment import ExperimentConfig


@dataclass(frozen=True)
class _Options:
    """The command's options, checked."""

    epsilon: float
    delta: float
    columns: tuple[str, ...]
    bins: int
    noise: str
    seed: int | None
    ledgers: Path | None
    study: str
    run: str | None


# Numbers are taken as text, so that a bad one is refused like all other input: by name, with the others.
def stats(
    words: Words = None,
    epsilon: Annotated[
        str | None, typer.Option("--epsilon", metavar="EPSILON", help="What all columns together cost a site.")
    ] = None,
    delta: Annotated[
        str,
        typer.Option("--delta", metavar="DELTA", show_default=False, help="Below 1 / records; 1e-5 if left out."),
    ] = "1e-5",
    columns: Annotated[
        str | None,
        typer.Option("--columns", metavar="A,B", help="Declared columns; all of them if left out. Fewer: less noise."),
    ] = None,
    bins: Annotated[
        str,
        typer.Option(
            "--bins", metavar="N", show_default=False, help="Bins of a number's declared range; 10 if left out."
        ),
    ] = "10",
    noise: Annotated[
        str | None,
        typer.Option(
            "--noise",
            metavar="secure|seeded",
            help="seeded: replayable and NOT private, the default; secure: the default and a must with --ledgers.",
        ),
    ] = None,
    seed: Annotated[
        str | None, typer.Option("--seed", metavar="N", help="Of seeded noise; the experiment's if left out.")
    ] = None,
    ledgers: Annotated[
        Path | None,
        typer.Option("--ledgers", metavar="DIR", help="Charge each site's ledger, DIR/SITE.sqlite."),
    ] = None,
    study: Annotated[
        str | None, typer.Option("--study", metavar="NAME", help="Whom the ledgers charge; the experiment if left out.")
    ] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="NAME", help="A new name asks the same question anew, at full cost."),
    ] = None,
    config_dir: ConfigDir = None,
    json_: Json = False,
) -> None:
    """Count, mean, variance, quantiles, histogram and missing values of each declared column, with noise.

    What it charges is printed before anything is computed.

    Example: fedkit stats heart_disease --epsilon 1
    """
    name, overrides = name_and_overrides(words or [])
    from fedkit.config.compose import compose

    config = compose(name, overrides, config_dir)
    options = _options(config, epsilon, delta, columns, bins, noise, seed, ledgers, study, run)
    from fedkit.assurance import collect
    from fedkit.assurance.statistics import figures, plan_statistics, summary
    from fedkit.privacy.describe import priced

    with priced("the statistics"):
        plan = plan_statistics(
            config.data, epsilon=options.epsilon, delta=options.delta, columns=options.columns, bins=options.bins
        )
    sites = collect.sites_of(config.data, ledgers=options.ledgers is not None)
    with _charged(config, plan, sites, options) as (charges, run_name, answer):
        shown = _summary(config, plan, options, sites, charges, run_name)
        if not json_:
            from rich.console import Console

            from fedkit.reporting.stats_table import charge_table

            console = Console()
            console.print(charge_table(shown))
        replies = answer()
    shown |= summary(figures(config.data, plan, replies))
    if json_:
        sys.stdout.write(json.dumps(shown, allow_nan=False) + "\n")
        return
    from fedkit.reporting.stats_table import stats_table

    console.print("", stats_table(shown), sep="\n")


@contextmanager
def _charged(
    config: ExperimentConfig, plan: StatsPlan, sites: tuple[str, ...], options: _Options
) -> Iterator[tuple[Mapping[str, SiteCharge], str | None, Callable[[], dict[str, bytes]]]]:
    """What each site will be charged, the run's name there, and what then answers."""
    from fedkit.assurance import collect

    if options.ledgers is None:
        yield {}, None, lambda: collect.unpaid_replies(config.data, plan, sites, options.seed)
        return
    from fedkit.assurance.site_budgets import charges, opened

    asked = collect.question(config.data, plan, sites, study=options.study, run=options.run)
    with opened(options.ledgers, asked) as ledgers:
        found = charges(ledgers, asked)
        yield found, asked.run, lambda: collect.paid_replies(config.data, plan, ledgers, asked, found)


def _summary(
    config: ExperimentConfig,
    plan: StatsPlan,
    options: _Options,
    sites: tuple[str, ...],
    charges: Mapping[str, SiteCharge],
    run: str | None,
) -> dict[str, Any]:
    from fedkit.assurance.statistics import request_events, unit_of
    from fedkit.privacy.accounting import ACCOUNTANT, ADJACENCY
    from fedkit.reporting.stats_table import stats_notes, stats_statement

    (event,) = request_events(plan.request)
    cost = {"noise_multiplier": event.noise_multiplier, "epsilon": plan.epsilon}
    shown: dict[str, Any] = {
        "name": config.name,
        "data": config.data.name,
        "unit": unit_of(config.data),
        "adjacency": ADJACENCY,
        "accountant": ACCOUNTANT,
        "noise": options.noise,
        "private": options.noise == "secure",
        "seed": options.seed,
        **cost,
        "target_epsilon": plan.target,
        "delta": plan.delta,
        "events": [{"sample_rate": 1.0, "noise_multiplier": event.noise_multiplier, "steps": event.steps}],
        "columns": list(plan.request.columns),
        "bins": plan.request.bins,
        "ledgers": None if options.ledgers is None else str(options.ledgers),
        "study": None if options.ledgers is None else options.study,
        "run": run,
        "charges": {site: {**cost, "state": "unpaid"} for site in sites},
    }
    for site, charge in charges.items():
        shown["charges"][site] |= {
            "state": charge.state,
            "run": charge.run,
            "share": charge.share,
            "left": charge.left,
            "limit": charge.limit,
            "budget_delta": charge.delta,
        }
    return {**shown, "notes": stats_notes(shown), "statement": stats_statement(shown)}


def _options(
    config: ExperimentConfig,
    epsilon: str | None,
    delta: str,
    columns: str | None,
    bins: str,
    noise: str | None,
    seed: str | None,
    ledgers: Path | None,
    study: str | None,
    run: str | None,
) -> _Options:
    from fedkit.privacy.events import LEAST_DELTA

    problems: list[PrivacyError] = []

    def problem(message: str, code: str, remedy: str) -> None:
        problems.append(PrivacyError(message, code=code, remedy=remedy))

    def number(option: str, text: str, code: str, example: str, bound: str, admits: Callable[[float], bool]) -> float:
        try:
            value = plain_number(text)
        except ValueError:
            value = math.nan
        if math.isnan(value) or not admits(value):
            problem(f"{option} {text.strip()!r} is not {bound}", code, f"give {option} {example}, for instance")
        return value

    if epsilon is None:
        problem("--epsilon is not given", "FK308", "add --epsilon 1")
    target = number(
        "--epsilon", epsilon or "1", "FK301", "1", "a number from 0.0001 to 100", lambda v: 1e-4 <= v <= 100
    )
    at = number("--delta", delta, "FK302", "1e-5", "from 1.1e-12 to below 1", lambda v: LEAST_DELTA <= v < 1)
    count = number("--bins", bins, "FK371", "10", "a whole number from 2 to 1000", _whole(2, 1000))
    ledgers = ledgers or (Path(config.ledgers_dir) if config.ledgers_dir is not None else None)
    chosen = noise or ("secure" if ledgers is not None else "seeded")
    own = math.nan
    if seed is not None:
        own = number("--seed", seed, "FK375", "7", "a whole number from 0 to 2**53", _whole(0, 2**53))
    if chosen not in ("secure", "seeded"):
        problem(f"--noise {chosen!r} is neither secure nor seeded", "FK375", "give --noise secure")
    elif chosen == "seeded" and ledgers is not None:
        problem("seeded noise protects nobody, and a ledger charges only real noise", "FK342", "give --noise secure")
    elif chosen == "secure" and seed is not None:
        problem(f"--seed {seed} is given, and secure noise has no seed", "FK375", "leave --seed out")
    for option, value in (("--study", study), ("--run", run)):
        if value is not None and ledgers is None:
            problem(f"{option} is given and no ledger", "FK375", f"leave {option} out, or give --ledgers DIR")
    named = tuple(part.strip() for part in columns.split(",") if part.strip()) if columns is not None else ()
    if columns is not None and not named:
        problem("--columns names no column", "FK370", "leave --columns out to ask for all of them")
    if named:
        from fedkit.assurance.cells import unknown_columns

        unknown = unknown_columns(config.data, named)
        problems += [unknown] if unknown is not None else []
    if problems:
        raise together(problems)
    return _Options(
        epsilon=target,
        delta=at,
        columns=named,
        bins=int(count),
        noise=chosen,
        seed=None if chosen == "secure" else config.seed if seed is None else int(own),
        ledgers=ledgers,
        study=study if study is not None else config.name,
        run=run,
    )


def _whole(least: int, most: int) -> Callable[[float], bool]:
    return lambda value: least <= value <= most and value == int(value)
