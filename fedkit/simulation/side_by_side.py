"""Pieces of work that need nothing of each other, in forked processes side by side: a sweep's cells.

A process does one piece after another, so that what one has computed (calibrated noise, costs) serves the next.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

import torch

from fedkit.simulation.forked import CannotStart, Forked, fork

Do = Callable[[int, Callable[[int], None]], Any]
"""(which piece, told how far it is) to its result, which must pickle."""

_LEAVE_SECONDS = 30.0


@dataclass(frozen=True)
class News:
    """What has become of a piece.

    Attributes:
        what: ``begun``; ``round``, value how far it is; ``done``, value its result; ``lost``, value how its process
            ended.
    """

    what: Literal["begun", "round", "done", "lost"]
    piece: int
    value: Any = None


def side_by_side(pieces: Sequence[int], do: Do, jobs: int, beside: Sequence[Forked] = ()) -> Generator[News]:
    """Do pieces of work in so many processes, and tell of each as it goes.

    Args:
        do: lets no exception out but KeyboardInterrupt.
        beside: other processes that were forked from this one.

    Raises:
        CannotStart: before any piece was begun.

    Guarantee: left before its end (Ctrl-C), it interrupts every piece that is being done as Ctrl-C would, and waits.
    """
    waiting, running = deque(pieces), dict[Connection, tuple[Forked, int]]()
    started: list[Forked] = []

    def begin(forked: Forked) -> Iterator[News]:
        if waiting:
            running[forked.connection] = forked, waiting.popleft()
            forked.say(running[forked.connection][1])
            yield News("begun", running[forked.connection][1])

    try:
        for _ in range(min(jobs, len(pieces))):
            started.append(fork(partial(_serve, do=do), [*beside, *started]))
        for forked in started:
            yield from begin(forked)
        while running:
            for connection in wait(list(running)):
                forked, piece = running[connection]  # type: ignore[index]
                try:
                    what, value = forked.connection.recv()
                except (EOFError, OSError):
                    del running[forked.connection]
                    started.remove(forked)
                    yield News("lost", piece, forked.end())
                    if waiting:
                        try:
                            started.append(fork(partial(_serve, do=do), [*beside, *started]))
                        except CannotStart:
                            # The others go on; where there are none, what waits is lost too.
                            if not running:
                                yield from (News("lost", waiting.popleft(), "had no process") for _ in list(waiting))
                            continue
                        yield from begin(started[-1])
                    continue
                yield News(what, piece, value)
                if what == "done":
                    del running[forked.connection]
                    yield from begin(forked)
    finally:
        _leave([forked for forked, _ in running.values()])
        for forked in started:
            forked.end()


def _leave(busy: Sequence[Forked]) -> None:
    for forked in busy:
        if forked.process.pid is not None and forked.process.is_alive():
            os.kill(forked.process.pid, signal.SIGINT)
    for forked in busy:
        forked.process.join(_LEAVE_SECONDS)


def _serve(connection: Connection, do: Do) -> None:
    # Ctrl-C reaches every process of a terminal's group; here it comes from whoever started this one, once.
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)

    def tell(number: int) -> None:
        try:
            connection.send(("round", number))
        except OSError:
            raise KeyboardInterrupt from None

    try:
        while True:
            connection.send(("done", do(connection.recv(), tell)))
    except KeyboardInterrupt:
        return
