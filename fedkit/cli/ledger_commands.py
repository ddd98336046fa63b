"""``fedkit ledger create | show | verify | export | reconcile``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedkit.cli.ledger_create_command import create
from fedkit.cli.ledger_export_command import LedgerPath, export
from fedkit.cli.numbers import plain_number
from fedkit.cli.run_commands import Json

if TYPE_CHECKING:
    from fedkit.privacy.ledger.facts import Job

ledger_app = typer.Typer(
    help="See and keep a site's privacy budget.\n\nExample: fedkit ledger show --ledger ledger.db",
    no_args_is_help=True,
    rich_markup_mode=None,
)
ledger_app.command()(create)
_PLAN_KEYS = ("steps", "rounds", "sample_rate", "noise_multiplier", "unit", "adjacency")
_HEAD_HELP = "The newest export that was kept elsewhere; an older ledger is refused."
HeadPath = Annotated[Path | None, typer.Option("--head", metavar="FILE", help=_HEAD_HELP)]


@ledger_app.command()
def show(
    ledger: LedgerPath,
    dataset: Annotated[str | None, typer.Option("--dataset", metavar="NAME", help="Only this data set.")] = None,
    event: Annotated[
        list[str] | None,
        typer.Option("--event", metavar="Q,SIGMA,STEPS", help="A job: how many more are affordable. Repeatable."),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", metavar="FILE", help="A job: one site's plan as JSON, as in manifest.json.")
    ] = None,
    pld: Annotated[bool, typer.Option("--pld/--no-pld", help="Compute the PLD figure if it is not stored.")] = True,
    json_: Json = False,
) -> None:
    """Show what is spent, held by running jobs and left, for each data set, study and run.

    Example: fedkit ledger show --ledger ledger.db --event 0.0526,4,380
    """
    from fedkit.privacy.ledger.figures import summary
    from fedkit.privacy.ledger.ledger import Ledger

    status = computing(enabled=not json_)
    # The figure that took seconds to compute is stored in the file, where that may be written.
    with Ledger(ledger, read_only=not _writable(ledger)) as opened:
        names = [dataset] if dataset is not None else sorted(opened.book().accounts)
        shown = [
            summary(opened, name, job=_job(event, plan, opened.account(name).budget.unit), pld=pld, computing=status)
            for name in names
        ]
    if json_:
        sys.stdout.write(json.dumps({"ledger": str(ledger), "datasets": shown}, allow_nan=False) + "\n")
        return
    for each in shown:
        _print_budget(each)
    if not shown:
        sys.stdout.write("no budget yet\n")


@ledger_app.command()
def verify(ledger: LedgerPath, head: HeadPath = None, json_: Json = False) -> None:
    """Check the whole chain, every stored reply and, with --head, that nothing was forgotten since the export.

    Example: fedkit ledger verify --ledger ledger.db --head head.json
    """
    from fedkit.privacy.ledger.export import read_export
    from fedkit.privacy.ledger.ledger import Ledger
    from fedkit.privacy.ledger.replies import replies as stored_replies

    known = read_export(head) if head is not None else None
    with Ledger(ledger, head=known, read_only=not _writable(ledger)) as opened:
        replies, unread = stored_replies(opened.file)
        last = opened.export().head
    found = {"ledger": str(ledger), "entries": last.seq, "head": last.digest, "replies": replies, "encrypted": unread}
    if json_:
        sys.stdout.write(json.dumps({**found, "checked_against_head": head is not None}) + "\n")
        return
    sys.stdout.write(f"{last.seq} entries and {replies} replies are as they were written; head {last.digest}\n")
    if unread:
        sys.stdout.write(
            f"{unread} more replies are encrypted; whether they open shows `fedkit client encrypt --check`\n"
        )
    if head is None:
        sys.stdout.write("whether a backup was restored shows only against an export that was kept elsewhere: --head\n")


ledger_app.command()(export)


@ledger_app.command()
def reconcile(
    ledger: LedgerPath,
    export_: Annotated[
        Path | None, typer.Option("--export", metavar="FILE", help="The newest export that was kept elsewhere.")
    ] = None,
    receipts: Annotated[
        list[Path] | None, typer.Option("--receipts", metavar="FILE", help="The coordinator's receipts. Repeatable.")
    ] = None,
    json_: Json = False,
) -> None:
    """Reopen a restored backup: charge everything that the export or the receipts show, never less.

    Example: fedkit ledger reconcile --ledger ledger.db --export head.json --receipts receipts.json
    """
    from fedkit.privacy.ledger.export import read_export, read_receipts
    from fedkit.privacy.ledger.ledger import Ledger
    from fedkit.privacy.ledger.reconcile import reconcile as bring_up

    known = read_export(export_) if export_ is not None else None
    with Ledger(ledger) as opened:
        name = opened.book().ledger
        shown = [entry for path in receipts or [] for entry in read_receipts(path, name)]
        done = bring_up(opened, known, shown)
    charged = [
        {"dataset": each.dataset, "run": each.run, "round": each.round, "purpose": each.purpose}
        for each in done.charged
    ]
    if json_:
        found = {"ledger": str(ledger), "created": list(done.created), "charged": charged, "closed": done.closed}
        sys.stdout.write(json.dumps(found) + "\n")
        return
    sys.stdout.write(
        f"{len(charged)} forgotten reservations charged, {len(done.created)} budgets made again,"
        f" {done.closed} unanswered rounds closed\n"
    )
    sys.stdout.writelines(
        f"  {each['dataset']}: run {each['run']}, {each['purpose']} round {each['round']}\n" for each in charged
    )


def _writable(ledger: Path) -> bool:
    from fedkit.privacy.ledger.file import may_write

    return may_write(ledger)


def computing(*, enabled: bool) -> Callable[[str], AbstractContextManager[Any]]:
    """Says on stderr what is being computed, for as long as it is: the figure takes its place."""
    from contextlib import nullcontext

    from rich.console import Console

    console = Console(stderr=True)
    return console.status if enabled and console.is_terminal else nullcontext


def _job(events: list[str] | None, plan: Path | None, unit: str) -> Job | None:
    if plan is None and not events:
        return None
    from fedkit.errors import PrivacyError
    from fedkit.privacy.accounting import ADJACENCY, GaussianEvent
    from fedkit.privacy.events import evaluation_events
    from fedkit.privacy.ledger.facts import Job
    from fedkit.privacy.rdp_filter import merged, rounded
    from fedkit.types import EvaluationPlan

    found = []
    for text in events or []:
        try:
            q, sigma, steps = (plain_number(part) for part in text.split(","))
        except ValueError as error:
            raise PrivacyError(
                f"--event {text} is not Q,SIGMA,STEPS", code="FK350", remedy="write --event 0.05,1.2,380"
            ) from error
        found.append(rounded(GaussianEvent(q, sigma, steps)))  # type: ignore[arg-type]  # rounded takes any number
    if plan is None:
        return Job(unit, ADJACENCY, merged(found))
    try:
        # A plan of a simulation is priced as it would cost with real noise.
        values: dict[str, Any] = json.loads(plan.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise TypeError("it is no mapping")
        if absent := [key for key in _PLAN_KEYS if key not in values]:
            raise KeyError(f"without {', '.join(absent)}")
        steps = values["steps"] * values["rounds"]
        found.append(rounded(GaussianEvent(values["sample_rate"], values["noise_multiplier"], steps)))
        evaluation = values.get("evaluation")
        if evaluation is not None:
            released = EvaluationPlan(**{**evaluation, "rounds": tuple(evaluation["rounds"])})
            found += [rounded(each) for each in evaluation_events(released)]
        return Job(str(values["unit"]), str(values["adjacency"]), merged(found))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        why = error.args[0] if isinstance(error, KeyError) else error
        raise PrivacyError(
            f"{plan} holds no plan ({why})", code="FK350", remedy="give one site's entry of a manifest's plan"
        ) from error


def _print_budget(shown: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from fedkit.reporting import text

    # Names are for other commands: where nobody looks at a screen no column is cut.
    console = Console(width=None if sys.stdout.isatty() else 1_000)
    pld = "not computed" if shown["epsilon_pld"] is None else f"{text.epsilon(shown['epsilon_pld'])}"
    console.print(
        f"{shown['dataset']}: epsilon {shown['limit']:g} at delta {shown['delta']:g} for one {shown['unit']}"
        f" ({shown['adjacency']}), enforced at order {shown['order']:g}",
        markup=False,
        highlight=False,
    )
    console.print(
        f"  spent {shown['spent']:.2%} (epsilon {text.epsilon(shown['epsilon_spent'])} by the filter; by PLD {pld},"
        f" {shown['epsilon_pld_note']})"
        f"\n  held {shown['held']:.2%}, left {shown['left']:.2%}",
        highlight=False,
    )
    if "jobs_left" in shown:
        console.print(
            f"  one such job takes {shown['job']:.2%}: {shown['jobs_left']} more are affordable", highlight=False
        )
    if not shown["runs"]:
        return
    table = Table("study", "run", "state", "spent", "held", "replies", "unanswered", box=None, padding=(0, 2))
    for run in shown["runs"]:
        counts = str(run["replies"]), str(run["unanswered"])
        # Names may hold what would be markup.
        table.add_row(
            Text(run["study"]), Text(run["run"]), run["state"], f"{run['spent']:.2%}", f"{run['held']:.2%}", *counts
        )
    console.print(table)
