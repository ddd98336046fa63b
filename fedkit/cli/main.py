"""``fedkit``: the entry point. Loads nothing heavy; a command imports what it needs when it runs.

Exit status: 0 done (complete or degraded), 1 a run failed or a replay differs, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, NoReturn

import typer

from fedkit import __version__
from fedkit.cli.config_commands import config_app
from fedkit.cli.data_commands import data_app
from fedkit.cli.deployed import client, server
from fedkit.cli.run_commands import compare, replay, report, simulate, sweep
from fedkit.errors import FedkitError, Interrupted

app = typer.Typer(
    help="Train one model over the records of many hospitals; no record leaves its hospital.\n\n"
    "Example: fedkit simulate heart_disease",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(simulate)
app.command()(sweep)
app.command()(compare)
app.command()(report)
app.command()(replay)
app.add_typer(config_app, name="config")
app.add_typer(data_app, name="data")
_PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
app.command(context_settings=_PASS_ON)(server)
app.command(context_settings=_PASS_ON)(client)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    """Train one model over the records of many hospitals; no record leaves its hospital.

    Example: fedkit simulate heart_disease
    """
    if version:
        sys.stdout.write(f"fedkit {__version__}\n")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # A stopped container must leave a run directory that says so, like Ctrl-C.
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        app(words, prog_name="fedkit")
    except FedkitError as error:
        _leave(words, error.code, str(error), error.exit_status)
    except Interrupted as error:
        _leave(words, "FK001", str(error), error.exit_status)
    except KeyboardInterrupt:
        _leave(words, "FK001", "interrupted before anything was run", Interrupted.exit_status)


def _leave(words: Sequence[str], code: str, message: str, status: int) -> NoReturn:
    if "--json" in words:
        sys.stdout.write(json.dumps({"error": {"code": code, "message": message}}) + "\n")
    sys.stderr.write(f"fedkit: {message}\n")
    sys.exit(status)


def _as_interrupt(_: int, __: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
