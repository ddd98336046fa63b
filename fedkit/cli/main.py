"""``fedkit``: the entry point. Loads nothing heavy; a command imports what it needs when it runs.

Exit status: 0 done (complete or degraded), 1 a run failed, a replay differs or an audit contradicts, 2 bad input,
130 interrupted.
"""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import click
import typer
import typer.core

from fedkit import __version__
from fedkit.cli.audit_command import audit
from fedkit.cli.config_commands import config_app
from fedkit.cli.data_commands import data_app
from fedkit.cli.deployed import client, server
from fedkit.cli.ledger_commands import ledger_app
from fedkit.cli.plan_command import plan
from fedkit.cli.privacy_commands import privacy_app
from fedkit.cli.run_commands import compare, replay, report, simulate, sweep
from fedkit.cli.stats_command import stats
from fedkit.errors import FedkitError, Interrupted

# Typer escapes "[required]" for Rich wherever Rich is installed, even in help that Rich does not print.
typer.core.HAS_RICH = False
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
app.command()(plan)
app.command()(stats)
app.command()(audit)
app.command()(compare)
app.command()(report)
app.command()(replay)
app.add_typer(config_app, name="config")
app.add_typer(data_app, name="data")
app.add_typer(privacy_app, name="privacy")
app.add_typer(ledger_app, name="ledger")
_OUTPUT_GONE = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
_signalled: list[int] = []
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
    # A stopped container must leave a run directory that says so, like Ctrl-C.
    _signalled.clear()
    signal.signal(signal.SIGTERM, _as_interrupt)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _as_interrupt)
    _tolerate_narrow_encodings()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = app(words, prog_name="fedkit", standalone_mode=False)
        sys.stdout.flush()
    except FedkitError as error:
        _leave(words, error.code, str(error), error.exit_status)
    except Interrupted as error:
        _leave(words, "FK001", str(error), error.exit_status)
    except (KeyboardInterrupt, click.Abort):
        _leave_early(words)
    except click.ClickException as error:
        _refuse(words, error)
    except OSError as error:
        if _signalled:
            _leave_early(words)
        if error.errno not in _OUTPUT_GONE or error.filename is not None:
            raise
        _leave_unread(error)
    except SystemExit as stop:
        # What click makes of a closed pipe.
        if isinstance(stop.__context__, OSError):
            _leave_unread(stop.__context__)
        raise
    except Exception:
        # A signal that hits an import surfaces as whatever the half-loaded library makes of it.
        if _signalled:
            _leave_early(words)
        raise
    if status == Interrupted.exit_status:
        _leave_early(words)
    sys.exit(status if isinstance(status, int) else 0)


def _refuse(words: Sequence[str], error: click.ClickException) -> NoReturn:
    # Nobody who misspells --json wants prose in its place.
    if any(get_close_matches("--json", [word.split("=")[0]], cutoff=0.8) for word in words if word.startswith("--")):
        _print_error("FK002", error.format_message())
    error.show()
    sys.exit(error.exit_code)


def _leave_early(words: Sequence[str]) -> NoReturn:
    _leave(words, "FK001", "interrupted before anything was run", Interrupted.exit_status)


def _leave_unread(error: OSError) -> NoReturn:
    """Nobody reads the output: say so where it may be heard, and keep the interpreter from trying again."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"fedkit: the output cannot be written: {error.strerror or error}\n")
        sys.stderr.flush()
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


def _leave(words: Sequence[str], code: str, message: str, status: int) -> NoReturn:
    if "--json" in words:
        _print_error(code, message)
    with suppress(OSError):
        sys.stderr.write(f"fedkit: {message}\n")
    if _signalled:
        # An interrupt inside exec("...") leaves a mark by which the interpreter would die of SIGINT in place of
        # leaving with the status; the next exec takes it away.
        exec("")  # noqa: S102  # an empty program
    sys.exit(status)


def _print_error(code: str, message: str) -> None:
    try:
        sys.stdout.write(json.dumps({"error": {"code": code, "message": message}}) + "\n")
        sys.stdout.flush()
    except OSError as error:
        _leave_unread(error)


def _tolerate_narrow_encodings() -> None:
    """A terminal without a letter shows a question mark, not a traceback."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # it lives as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _as_interrupt(number: int, _: FrameType | None) -> NoReturn:
    _signalled.append(number)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
