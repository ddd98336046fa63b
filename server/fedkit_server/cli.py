"""``fedkit server``: the commands of the deployed coordinator, and of its users. Loads nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from fedkit_server.authority_commands import authority, trust
from fedkit_server.backup_commands import backup, restore
from fedkit_server.dashboard_commands import dashboard, dashboard_user
from fedkit_server.folder_commands import halt, hash_, init, rotate, start
from fedkit_server.log_commands import log_app
from fedkit_server.options import SETTINGS
from fedkit_server.preflight_command import preflight
from fedkit_server.purge_command import purge
from fedkit_server.retrain_command import retrain_without
from fedkit_server.run_command import run
from fedkit_server.site_commands import invite, revoke, sites
from fedkit_server.stats_command import stats
from fedkit_server.study_commands import study_app
from fedkit_server.user_commands import user_app
from fedkit_server.watch_commands import pull, resume, status, stop, watch

app = typer.Typer(
    help="The coordinator of a federation, and what its users do with it.\n\n"
    "On the coordinator's host: init, start, halt, rotate, purge, backup, restore, authority, hash, log. By a"
    " profile: all others.\n\n"
    "Example: fedkit server init coordinator --name heart --host fl.example.org",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    **SETTINGS,
)
for _command in (init, start, halt, rotate, invite, sites, revoke, preflight, stats, run, status, watch, stop, resume):
    app.command()(_command)
app.command()(pull)
app.command()(dashboard)
app.command()(dashboard_user)
app.command()(purge)
app.command()(backup)
app.command()(authority)
app.command()(trust)
app.command()(restore)
app.command("hash")(hash_)
app.command("retrain-without")(retrain_without)
app.add_typer(user_app, name="user")
app.add_typer(study_app, name="study")
app.add_typer(log_app, name="log")


def main(arguments: Sequence[str]) -> None:
    """Run one command.

    Raises:
        FedkitError: it is refused.
        typer.Exit: it ends with another status than 0.
    """
    status = app(list(arguments), prog_name="fedkit server", standalone_mode=False)
    if isinstance(status, int) and status:
        raise typer.Exit(status)
