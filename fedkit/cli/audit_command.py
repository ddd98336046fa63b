"""``fedkit audit``: whether the mechanism does what its plan says, measured on the real training path."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from fedkit.cli.run_commands import ConfigDir, Json, Words
from fedkit.cli.words import name_and_overrides
from fedkit.errors import Interrupted


def audit(words: Words = None, config_dir: ConfigDir = None, json_: Json = False) -> None:
    """Train canaries by the real path and compare what leaves with the claimed epsilon.

    Exit status: 0 no contradiction, 1 a contradiction (by chance: once in 10,000 audits at most), 2 bad input.

    Example: fedkit audit heart_disease
    """
    name, overrides = name_and_overrides(words or [])
    from fedkit.config.compose import compose

    config = compose(name, overrides, config_dir)
    from fedkit.assurance.audit import audit as run
    from fedkit.privacy.describe import priced
    from fedkit.reporting.audit_table import audit_statement, audit_table
    from fedkit.simulation.prepare import prepare

    with priced("the plan"):
        prepared = prepare(config)
    try:
        with _progress(enabled=not json_) as progress:
            found = run(
                prepared.model,
                prepared.dataset,
                prepared.local.sites,
                num_rounds=config.federation.num_rounds,
                seed=config.seed,
                specs=prepared.local.specs,
                progress=progress,
            )
    except KeyboardInterrupt:
        raise Interrupted("interrupted; an audit leaves nothing behind") from None
    summary = {
        "name": config.name,
        "data": prepared.dataset.name,
        "unit": prepared.dataset.unit,
        "model": config.model.name,
        "num_rounds": config.federation.num_rounds,
        **found.to_dict(),
    }
    summary["statement"] = audit_statement(summary)
    if json_:
        sys.stdout.write(json.dumps(summary, allow_nan=False) + "\n")
    else:
        from rich.console import Console

        Console().print(audit_table(summary))
    if found.contradictions:
        raise typer.Exit(1)


@contextmanager
def _progress(*, enabled: bool) -> Iterator[Callable[[str, float], None]]:
    """A bar on stderr where that is a terminal, a line a stage elsewhere."""
    if not enabled:
        yield lambda what, share: None
        return
    if not sys.stderr.isatty():
        told: set[str] = set()

        def say(what: str, share: float) -> None:
            if what not in told:
                told.add(what)
                sys.stderr.write(f"audit: {what}\n")

        yield say
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("audit"), BarColumn(bar_width=24), TextColumn("{task.percentage:3.0f} %"), TimeElapsedColumn(),
        TextColumn("{task.description}"), console=Console(stderr=True), refresh_per_second=4, transient=True,
    )  # fmt: skip
    task = bar.add_task("", total=1.0)
    with bar:
        yield lambda what, share: bar.update(task, completed=share, description=what)
