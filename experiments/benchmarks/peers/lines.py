"""A side's end of the pipe: one line a turn, {"rounds": R} from the benchmark, what the turn took from here.

Only the standard library, so that every environment has it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

_PIPE: list[TextIO] = []


def take() -> None:
    """From here on what libraries print goes where errors go: the pipe carries answers and nothing else."""
    if not _PIPE:
        _PIPE.append(os.fdopen(os.dup(1), "w", encoding="utf-8"))
        os.dup2(2, 1)


def ready() -> None:
    """Libraries are imported: from here on the clock of a start runs. The time is one that all processes share."""
    take()
    _say({"ready": time.monotonic()})


def asked() -> Iterator[int]:
    """The rounds of each turn, until the benchmark closes the pipe."""
    for line in iter(sys.stdin.readline, ""):
        yield int(json.loads(line)["rounds"])


def answer(rounds: int, counted: int, seconds: float, moved: float, **more: float) -> None:
    """What a turn took.

    Args:
        rounds: trained in this turn.
        counted: of them within ``seconds``: all, or all but a first that had a start in it.
        moved: distance of the last model from the first; 0 or nan says that nothing was trained.
    """
    _say({"rounds": rounds, "counted": counted, "seconds": seconds, "moved": moved, **more})


def serve(turn: Callable[[int], dict[str, float]]) -> None:
    """Say ready, then answer every turn."""
    ready()
    for rounds in asked():
        answer(rounds, **turn(rounds))  # type: ignore[arg-type]


def _say(told: dict[str, object]) -> None:
    _PIPE[0].write(json.dumps(told) + "\n")
    _PIPE[0].flush()
