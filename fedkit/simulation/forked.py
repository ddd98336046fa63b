"""Processes that are forked from this one, each with a connection to it: what all of them have in common.

A fork shares what is in memory and pickles nothing, so that models and records given in Python need not travel. What
it cannot have is this process' threads; whoever is forked uses one thread and nothing that a thread here may hold.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path


class CannotStart(Exception):
    """Processes cannot be had here; the text says why."""


@dataclass(frozen=True)
class Forked:
    """One process and this end of its connection."""

    process: BaseProcess
    connection: Connection

    def say(self, word: object) -> None:
        """Send it something; one that has just died is found so when it is listened to."""
        with suppress(OSError):
            self.connection.send(word)

    def end(self) -> str:
        """Kill it where it lives, and say how it ended."""
        self.process.kill()
        self.process.join()
        self.connection.close()
        return self.how()

    def seconds(self) -> float:
        """Processor time that it has used; as long as the clock's where this system does not tell."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except OSError:
            return time.monotonic()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def how(self) -> str:
        """How a process ended that has closed its connection."""
        self.process.join()
        code = self.process.exitcode
        return f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with status {code}"


def inside() -> bool:
    """Whether this process is one of them, which forks no others."""
    return bool(multiprocessing.current_process().daemon)


def fork(serve: Callable[[Connection], None], others: Sequence[Forked]) -> Forked:
    """A process that serves its connection and ends when it returns, or with this one.

    Args:
        others: those that live beside it.

    Raises:
        CannotStart: no fork on this system, none to be had now, or one that would be asked for by one of them.
    """
    if "fork" not in multiprocessing.get_all_start_methods() or sys.platform == "darwin":
        raise CannotStart("this system cannot fork a process that has threads")
    if inside():
        raise CannotStart("this process is one of several itself")
    context = multiprocessing.get_context("fork")
    ours, its = context.Pipe()
    # While a copy of one of these is open there, nobody's end is seen by the process at its other end.
    copied = [ours, *(other.connection for other in others)]
    process = context.Process(target=_serve, args=(serve, its, copied), name="fedkit", daemon=True)
    try:
        with warnings.catch_warnings():
            # Threads of a progress bar hold nothing that such a process uses.
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
    except OSError as error:
        ours.close()
        raise CannotStart(f"a process could not be started: {error}") from None
    finally:
        its.close()
    return Forked(process, ours)


def _serve(serve: Callable[[Connection], None], connection: Connection, copied: Sequence[Connection]) -> None:
    for other in copied:
        other.close()
    # Its pages stay shared while no garbage collection writes to them.
    gc.freeze()
    with suppress(EOFError, OSError):
        serve(connection)
