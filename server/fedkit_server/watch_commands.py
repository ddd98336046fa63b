"""``fedkit server status | watch | stop | resume | pull``: runs of the federation."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from fedkit_server.options import Json, Profile, RunName, connect, show, stamp

MaybeRun = Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run; without one, the federation.")]


def status(run: MaybeRun = None, profile: Profile = None, json_: Json = False) -> None:
    """Show how the federation stands, or one run.

    Example: fedkit server status --profile heart-admin
    """
    from fedkit_server.remote import segment

    remote = connect(profile)
    found = remote.get("/status" if run is None else f"/runs/{segment(run)}")
    show(found, _federation(found) if run is None else _one(found), json_=json_)


def _federation(found: dict[str, Any]) -> str:
    lines = [
        f"{found['name']}: {found['sites']['online']} of {found['sites']['enrolled']} sites online;"
        f" you are {found['you']['name']}, {found['you']['role']}",
        f"fedkit {found['version']}, TLS certificate until {found['certificate_expires_at'][:10]}",
        *(
            ["ALERT: a site's audit log contradicts what it told before; on the coordinator's host: `log verify`"]
            if found.get("log", {}).get("contradicted")
            else []
        ),
        *(_run(run) for run in found["runs"]),
    ]
    return "\n".join(lines if found["runs"] else [*lines, "no run yet: `fedkit server run NAME --sites A,B`"])


def _run(run: dict[str, Any]) -> str:
    rounds = f", round {run['round']} of {run['rounds']}" if run.get("rounds") else ""
    outcome = f": {run['outcome']}" if run.get("outcome") else ""
    return f"{run['run']}  {run['state']}{outcome}{rounds}  by {run['submitter']}, {stamp(run['submitted_at'])}"


def _one(run: dict[str, Any]) -> str:
    from fedkit_server.away import away_text
    from fedkit_server.watching import waits_for

    waits = waits_for(run)
    return "\n".join([_run(run), *([f"  {waits}"] if waits else []), *away_text(run.get("away") or {})])


def watch(run: RunName, profile: Profile = None, json_: Json = False) -> None:
    """Watch a run: whom each round has asked, who has answered, who is missing; with --json one event a line.

    Example: fedkit server watch 20260101-120000-heart_disease-0a1b2c --profile heart-admin
    """
    from fedkit_server.watching import follow

    if follow(connect(profile), run, json_=json_) == "failed":
        raise typer.Exit(1)


def stop(run: RunName, profile: Profile = None, json_: Json = False) -> None:
    """End a run for good: its model so far is kept, what it holds of the sites' budgets is freed.

    Example: fedkit server stop 20260101-120000-heart_disease-0a1b2c --profile heart-admin
    """
    _asked(run, "stop", "is asked to stop", profile, json_=json_)


def resume(run: RunName, profile: Profile = None, json_: Json = False) -> None:
    """Go on with a run that has failed, in the round in which it did; no budget is spent twice.

    Example: fedkit server resume 20260101-120000-heart_disease-0a1b2c --profile heart-admin
    """
    _asked(run, "resume", "goes on", profile, json_=json_)


def _asked(run: str, what: str, done: str, profile: Path | None, *, json_: bool) -> None:
    from fedkit_server.remote import segment

    remote = connect(profile)
    answer = remote.post(f"/runs/{segment(run)}/{what}")
    show(answer, f"{run} {done}; watch it with `fedkit server watch {run}{remote.profile.option}`", json_=json_)


def pull(
    run: RunName,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="A new folder; by default runs/RUN.")
    ] = None,
    profile: Profile = None,
    json_: Json = False,
) -> None:
    """Fetch a run's folder, with config, manifest, metrics, model and report, and show its results.

    Example: fedkit server pull 20260101-120000-heart_disease-0a1b2c --profile heart-admin
    """
    from fedkit.storage.private import require_free
    from fedkit_server.archive import unpack
    from fedkit_server.remote import segment

    remote, place = connect(profile), out or Path("runs", run)
    require_free(place, "name a folder that does not exist yet: --out FOLDER")
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "run.tar")
        remote.download(f"/runs/{segment(run)}/archive", file)
        files = unpack(file, place)
    show({"run": run, "folder": str(place), "files": files}, f"{place}: {len(files)} files", json_=json_)
    if not json_:
        _show_results(place)


def _show_results(place: Path) -> None:
    """As a simulation ends; a run that has only begun has nothing to show."""
    from rich.console import Console

    from fedkit.errors import RunError
    from fedkit.reporting.reader import read_run
    from fedkit.reporting.terminal import closing_table

    try:
        view = read_run(place)
    except RunError:
        return
    report = place / "report.html"
    Console().print(closing_table(view, report if report.exists() else None))
