"""``fedkit client explain``, ``requests``, ``approve``, ``deny``: what the site's file and its people say of a run."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

SiteYaml = Annotated[Path, typer.Argument(metavar="SITE.yaml", help="The site's own file.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="As `requests` shows it, or the job's digest.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]


def explain(
    site_yaml: SiteYaml,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN | [EXPERIMENT] [KEY=VALUE]...", help="A run that the site was asked for, or an experiment."
        ),
    ] = None,
    study: Annotated[str, typer.Option("--study", metavar="NAME", help="Of an experiment.")] = "none",
    submitter: Annotated[
        str, typer.Option("--submitter", metavar="USER", help="Who would sign an experiment, or USER=FINGERPRINT.")
    ] = "",
    other_sites: Annotated[
        int, typer.Option("--other-sites", metavar="N", min=0, help="How many would take part in an experiment.")
    ] = 0,
    config_dir: Annotated[
        Path | None,
        typer.Option("--config-dir", metavar="DIR", help="A folder with groups and experiments of your own."),
    ] = None,
    json_: Json = False,
) -> None:
    """Each clause of the site's file with what a run has, the bound and the verdict; exit status 1 if it is refused.

    A message is refused by the same function. An experiment is composed here, with the site's own declared count.

    Example: fedkit client explain site/site.yaml heart_disease privacy.epsilon=1 --submitter ana
    """
    from fedkit.cli.words import name_and_overrides
    from fedkit_client.explain import Told, as_json, as_text
    from fedkit_client.explain import explain as do

    name, overrides = name_and_overrides(words or [])
    what, weighed = do(site_yaml, name, overrides, Told(study, submitter, other_sites), config_dir)
    _print(as_json(what, weighed), json_, as_text(what, weighed))
    if weighed.admitted is None:
        raise typer.Exit(1)


def requests(site_yaml: SiteYaml, json_: Json = False) -> None:
    """Runs that wait for a person: who asks, for what, and how the config differs from the last one approved.

    Example: fedkit client requests site/site.yaml
    """
    from fedkit_client.deciding import described, text_of

    now, record = time.time(), _approvals(site_yaml).read()
    told = [described(run, record, now) for run in record.open(now)]
    _print({"requests": told}, json_, "".join(map(text_of, told)) or "no run waits for a decision\n")


def approve(
    site_yaml: SiteYaml,
    run: Run,
    days: Annotated[float, typer.Option("--days", metavar="N", help="How long the approval is good.")] = 30.0,
    json_: Json = False,
) -> None:
    """Approve exactly the job that was asked for, until the approval expires; a job that differs asks anew.

    Example: fedkit client approve site/site.yaml 20260101-120000-heart_disease-0a1b2c --days 7
    """
    from datetime import UTC, datetime

    from fedkit_client.approvals import require_days
    from fedkit_client.deciding import text_of
    from fedkit_client.decisions import approve_run

    require_days(days)
    told = approve_run(_folder(site_yaml), run, days, time.time())
    until = datetime.fromtimestamp(told["until"], UTC)
    _print(told, json_, f"{text_of(told)}approved until {until:%Y-%m-%d %H:%M} UTC\n")


def deny(
    site_yaml: SiteYaml,
    run: Run,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept at the site; nobody else sees it.")],
    json_: Json = False,
) -> None:
    """Deny a run, one that was approved too; it can be approved again.

    Example: fedkit client deny site/site.yaml 20260101-120000-heart_disease-0a1b2c --reason "no ethics vote"
    """
    from fedkit_client.approvals import require_reason
    from fedkit_client.decisions import deny_run

    require_reason(reason)
    denied = deny_run(_folder(site_yaml), run, reason, time.time())
    done, unlogged = denied.decision, denied.unlogged
    text = f"{done.run} is denied\n" + (f"  the audit log does not tell of it: {unlogged}\n" if unlogged else "")
    _print({"run": done.run, "job": done.job, "reason": done.reason, "logged": not unlogged}, json_, text)


def _folder(site_yaml: Path) -> Any:
    from fedkit.governance.site_file import read_site_file
    from fedkit_client.folder import SiteFolder
    from fedkit_client.unlinked import require_unlinked

    folder = SiteFolder(read_site_file(site_yaml).folder.resolve())
    folder.enrolment()
    require_unlinked(folder.path)
    return folder


def _approvals(site_yaml: Path) -> Any:
    from fedkit_client.approvals import Approvals

    return Approvals(_folder(site_yaml).approvals_file)


def _print(value: dict[str, Any], json_: bool, text: str) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n" if json_ else text)
    sys.stdout.flush()
