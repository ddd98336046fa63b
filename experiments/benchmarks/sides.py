"""Sides of a comparison that are processes of their own and take turns over a pipe, one line a turn."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processes import cpu_seconds, environment, memory, started, tree

_TICK = 0.1
"""Seconds between two looks at the memory of a side's processes."""
_SECONDS = ("seconds", "moved")


class SideFailed(RuntimeError):
    """A side died, hung, or said what is no answer; the text names it and quotes the end of its log."""


@dataclass(frozen=True)
class Turn:
    """What one turn took.

    Attributes:
        told: the side's answer; its ``counted`` rounds took ``seconds``.
        wall, cpu: seconds from the question to the answer, by the clock and of all processors.
    """

    told: Mapping[str, float]
    wall: float
    cpu: float


@dataclass
class Side:
    """One process, the pipe to it, and all processes that it has started."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    begun: float
    imported: float = 0.0
    """Seconds from the start of the process until its libraries were imported."""
    peak: int = 0
    """Bytes: the most that, at one look, the peaks of its living processes made together. A page that several of them
    have mapped counts in each."""
    processes: int = 0
    """The most of them at one look."""
    seen: set[tuple[int, str]] = field(default_factory=set)
    """All of them: id, and when it started."""
    _rest: bytes = b""

    @classmethod
    def start(cls, name: str, command: Sequence[str], log: Path, **more: str) -> Side:
        """Start it; what it prints beside its answers goes to a file."""
        with log.open("wb") as errors:
            popen = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment(**more),
                start_new_session=True,
            )
        return cls(name, popen, log, time.monotonic())

    def ready(self, timeout: float) -> None:
        """Wait until its libraries are imported.

        Raises:
            SideFailed: it is not ready.
        """
        line = self._line(timeout, "it was not ready")
        told = self._parsed(line)
        if not isinstance(told.get("ready"), float):
            raise self._failed(f"it said {line[:200]!r} where it should have said when it was ready")
        self.imported = told["ready"] - self.begun

    def ask(self, rounds: int, timeout: float) -> Turn:
        """One turn.

        Raises:
            SideFailed: it died, it did not answer in time, or what it said is no answer to this question.
        """
        start, before = time.perf_counter(), self.cpu_seconds()
        try:
            os.write(self._pipe(self.popen.stdin), json.dumps({"rounds": rounds}).encode() + b"\n")
        except OSError:
            raise self._failed("it has closed its pipe") from None
        line = self._line(timeout, f"a turn of {rounds} rounds was not over")
        wall, cpu = time.perf_counter() - start, self.cpu_seconds() - before
        told = self._parsed(line)
        numbers = {name: value for name, value in told.items() if isinstance(value, int | float)}
        if any(not (math.isfinite(numbers.get(name, 0)) and numbers.get(name, 0) > 0) for name in _SECONDS):
            raise self._failed(f"it answered {line[:200]!r}: {' and '.join(_SECONDS)} must be above 0")
        if numbers.get("rounds") != rounds or not 0 < numbers.get("counted", 0) <= rounds:
            raise self._failed(f"it answered {line[:200]!r} where {rounds} rounds were asked for")
        self.look()
        return Turn(numbers, wall, cpu)

    def cpu_seconds(self) -> float:
        """CPU time of all its processes, those that have ended and were waited for included."""
        return sum(cpu_seconds(pid) for pid in tree(self.popen.pid))

    def look(self) -> None:
        """Note the memory of its processes."""
        alive = tree(self.popen.pid)
        self.seen |= {(pid, started(pid)) for pid in alive}
        self.peak = max(self.peak, sum(memory(pid).get("VmHWM", 0) for pid in alive))
        self.processes = max(self.processes, len(alive))

    def end(self, patience: float = 10.0) -> None:
        """Close the pipe, wait a moment, then kill whatever it has started and is left."""
        self.look()
        self._close()
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(patience)
        for pid, start in self.seen:
            # A number may have gone to another program since.
            if start and started(pid) == start:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.popen.wait(5)

    def _close(self) -> None:
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream is not None:
                stream.close()

    @staticmethod
    def _pipe(stream: Any) -> int:
        return int(stream.fileno())

    def _line(self, timeout: float, late: str) -> str:
        end, fd = time.monotonic() + timeout, self._pipe(self.popen.stdout)
        while b"\n" not in self._rest:
            left = end - time.monotonic()
            if left <= 0:
                raise self._failed(f"{late} after {timeout:g} s")
            if select.select([fd], [], [], min(_TICK, left))[0]:
                read = os.read(fd, 65536)
                if not read:
                    code = self.popen.wait()
                    how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
                    raise self._failed(f"its process {how}")
                self._rest += read
            else:
                self.look()
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode(errors="replace")

    def _parsed(self, line: str) -> dict[str, Any]:
        try:
            told = json.loads(line)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise self._failed(f"it said {line[:200]!r}, which is no answer")
        return told

    def _failed(self, why: str) -> SideFailed:
        tail = self.log.read_text(encoding="utf-8", errors="replace").strip()[-1500:]
        return SideFailed(f"{self.name}: {why}" + (f"; the end of its log:\n{tail}" if tail else ""))
