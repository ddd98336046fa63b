"""``fedkit simulate | sweep | compare | report | replay``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fedkit.cli.words import name_and_overrides
from fedkit.errors import Interrupted

Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME] [KEY=VALUE]...", help="An experiment, and overrides of its config."),
]
ConfigDir = Annotated[
    Path | None, typer.Option("--config-dir", metavar="DIR", help="A folder with groups and experiments of your own.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]


def simulate(
    words: Words = None,
    config_dir: ConfigDir = None,
    json_: Json = False,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also train the pooled and the local-only models.")
    ] = False,
    track: Annotated[
        str | None, typer.Option("--track", metavar="mlflow|tensorboard", help="Mirror the metrics of each round.")
    ] = None,
) -> None:
    """Train one model over many sites, in simulation.

    Without NAME the defaults and the overrides stand.

    Example: fedkit simulate heart_disease privacy.epsilon=1 --baselines
    """
    name, overrides = name_and_overrides(words or [])
    from fedkit.config.compose import compose

    config = compose(name, overrides, config_dir)
    mirrored = None
    if track is not None:
        from fedkit.reporting.trackers import open_tracker
        from fedkit.reporting.tracking import Mirror

        mirrored = Mirror(open_tracker(track, None)).catch_up
    from fedkit.reporting.progress import round_progress
    from fedkit.simulation.simulate import simulate as run

    with round_progress(config.federation.num_rounds, enabled=not json_) as progress:
        done = run(config, baselines=baselines, progress=progress, track=mirrored)
    try:
        if json_:
            _print_json(done.result)
        else:
            from rich.console import Console

            from fedkit.reporting.reader import read_run
            from fedkit.reporting.terminal import closing_table

            Console().print(closing_table(read_run(done.path), done.path / "report.html"))
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted after the run had ended; {done.path} holds all of it") from None
    if done.result["outcome"] == "failed":
        raise typer.Exit(1)


def sweep(
    words: Words = None,
    config_dir: ConfigDir = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, metavar="N", help="Cells at a time; one a core by default.")
    ] = None,
    json_: Json = False,
) -> None:
    """Run a grid of overrides side by side; finished cells are kept.

    Example: fedkit sweep heart_disease privacy.epsilon=0.5,1,3,8 strategy=fedavg,fedadam
    """
    name, overrides = name_and_overrides(words or [])
    from rich.console import Console

    from fedkit.reporting.sweep_progress import sweep_progress
    from fedkit.reporting.terminal import sweep_table
    from fedkit.simulation.sweep import sweep as run

    try:
        with sweep_progress(enabled=not json_) as progress:
            done = run(name, overrides, config_dir=config_dir, jobs=jobs, progress=progress)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; cells that finished are kept: the same command goes on from them") from None
    if json_:
        _print_json({"sweep_dir": str(done.path), "cells": list(done.cells)})
    else:
        Console().print(sweep_table(done.cells))
        Console().print(f"Report: {done.path / 'sweep.html'}", markup=False, highlight=False, soft_wrap=True)
    if any(cell["status"] == "failed" or (cell["result"] or {}).get("outcome") == "failed" for cell in done.cells):
        raise typer.Exit(1)


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders.")], json_: Json = False
) -> None:
    """Show what differs between runs: config and results.

    Example: fedkit compare runs/20260101-120000-heart_disease runs/20260101-120500-heart_disease
    """
    from fedkit.reporting.compare import compare as read

    comparison = read(runs)
    if json_:
        _print_json(comparison.to_dict())
        return
    from rich.console import Console

    from fedkit.reporting.terminal import comparison_table

    Console().print(comparison_table(comparison))


def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")], json_: Json = False) -> None:
    """Write a run's report again from its folder.

    Example: fedkit report runs/20260101-120000-heart_disease
    """
    from fedkit.reporting.report import write_report

    path = write_report(run)
    if json_:
        _print_json({"report": str(path)})
    else:
        sys.stdout.write(f"{path}\n")


def replay(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    allow: Annotated[
        Path | None,
        typer.Option("--allow", metavar="FILE", help="The coordinator's table of models that it installed."),
    ] = None,
    json_: Json = False,
) -> None:
    """Do a run again and say whether every round's model is identical.

    A run with secure noise is not trained again: its recorded updates are folded again. Where its model was installed
    at the coordinator, install it here too; FILE names it.

    Example: fedkit replay runs/20260101-120000-heart_disease
    """
    from fedkit.reporting.text import plural
    from fedkit.simulation.replay import replay as run_again

    models = None
    if allow is not None:
        from fedkit.governance.allow import allowed_models
        from fedkit.governance.site_file import read_allow_file
        from fedkit.runs.directory import MANIFEST, read_json
        from fedkit.runs.manifest import check_manifest

        manifest = read_json(run / MANIFEST)
        check_manifest(run / MANIFEST, manifest)
        # Of the others nothing needs to be installed here.
        models = allowed_models(read_allow_file(allow), manifest["model"]["name"])
    found = run_again(run, models=models)
    if json_:
        _print_json(found.to_dict())
    else:
        how = {"retrained": "trained again", "refolded": "folded again from recorded updates"}[found.how]
        if found.first_difference is not None:
            verdict = f"the models differ, first in round {found.first_difference}"
        else:
            verdict = "every round's model is identical"
        if found.model_identical is False:
            verdict += "; model.safetensors is not the last round's model"
        sys.stdout.write(f"{found.run_dir}: {plural(found.rounds, 'round')} {how}; {verdict}\n")
        for note in found.notes:
            sys.stdout.write(f"  {note}\n")
    if not found.identical:
        raise typer.Exit(1)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
