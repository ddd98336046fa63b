"""A sweep's cells as they pass: one bar with an estimate on a terminal, a line a cell elsewhere, or nothing.

The estimate knows nothing before a cell has ended. Then a cell is expected to take as long a round as those that have
ended; what cannot be known (an epsilon whose noise takes long to calibrate) is not in it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


@dataclass
class Estimate:
    """How long the rest of a sweep will take.

    Args:
        rounds: of each cell that is to be run.
        jobs: cells that run at a time.

    >>> clock = iter([0.0, 10.0, 10.0, 10.0])
    >>> estimate = Estimate({0: 5, 1: 5, 2: 10}, 1, lambda: next(clock))
    >>> estimate.left()
    >>> estimate.begun(0), estimate.ended(0)
    (None, None)
    >>> estimate.left()
    30.0
    """

    rounds: Mapping[int, int]
    jobs: int
    clock: Callable[[], float] = time.monotonic
    _begun: dict[int, float] = field(default_factory=dict)
    _took: dict[int, float] = field(default_factory=dict)

    def begun(self, cell: int) -> None:
        """A cell is being run."""
        self._begun[cell] = self.clock()

    def ended(self, cell: int) -> None:
        """A cell has ended."""
        if cell in self._begun:
            self._took[cell] = self.clock() - self._begun.pop(cell)

    def left(self) -> float | None:
        """Seconds; None while no cell has ended that was run."""
        if not self._took:
            return None
        each = sum(self._took.values()) / max(1, sum(self.rounds[cell] for cell in self._took))
        now = self.clock()
        rest = [
            max(0.0, each * rounds - (now - self._begun.get(cell, now)))
            for cell, rounds in self.rounds.items()
            if cell not in self._took
        ]
        return max(sum(rest) / self.jobs, *rest) if len(rest) > 1 else sum(rest)


@dataclass(frozen=True)
class SweepProgress:
    """What is called as a sweep goes; each by itself may do nothing.

    Attributes:
        planned: (rounds of each cell that is to be run, number of cells, cells at a time, why not more).
        begun: a cell. round: (cell, rounds that it has done).
        ended: (cell, number of cells, the cell as ``sweep.json`` holds it).
    """

    planned: Callable[[Mapping[int, int], int, int, str], None] = lambda *_: None
    begun: Callable[[int], None] = lambda *_: None
    round: Callable[[int, int], None] = lambda *_: None
    ended: Callable[[int, int, dict[str, Any]], None] = lambda *_: None


def said(index: int, total: int, cell: Mapping[str, Any]) -> str:
    """A cell that has ended, in a line."""
    label = " ".join(f"{key}={value}" for key, value in cell["overrides"].items())
    return f"[{index + 1}/{total}] {label}: {cell['status']}"


@contextmanager
def sweep_progress(*, enabled: bool = True, console: Console | None = None) -> Iterator[SweepProgress]:
    """Show a sweep's cells on stderr.

    Args:
        enabled: False gives what does nothing, and imports nothing.
        console: for tests; by default stderr.
    """
    if not enabled:
        yield SweepProgress()
        return
    from rich.console import Console

    target = console or Console(stderr=True, file=sys.stderr)
    line = _Line(target)
    if not target.is_terminal or target.is_dumb_terminal:
        yield SweepProgress(ended=line)
        return
    with _bar(target, line) as progress:
        yield progress


@dataclass(frozen=True)
class _Line:
    console: Console

    def __call__(self, index: int, total: int, cell: Mapping[str, Any]) -> None:
        self.console.print(said(index, total, cell), markup=False, highlight=False)


@contextmanager
def _bar(console: Console, line: _Line) -> Iterator[SweepProgress]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.fields[cells]}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[left]}[/]"),
        console=console,
        refresh_per_second=4,
        transient=True,
    )
    task = bar.add_task("", total=None, cells="cells", left="", start=True)
    estimate, done, over = Estimate({}, 1), dict[int, int](), list[int]()

    def planned(rounds: Mapping[int, int], cells: int, jobs: int, why: str) -> None:
        nonlocal estimate
        estimate = Estimate(rounds, jobs)
        over.append(cells)
        bar.update(task, total=max(1, sum(rounds.values())))
        if why:
            console.print(f"one cell at a time: {why}", markup=False, highlight=False)

    def begun(cell: int) -> None:
        estimate.begun(cell)
        show()

    def round_(cell: int, number: int) -> None:
        done[cell] = max(done.get(cell, 0), number)
        show()

    def ended(index: int, total: int, cell: dict[str, Any]) -> None:
        estimate.ended(index)
        done[index] = estimate.rounds.get(index, 0)
        ends.append(index)
        line(index, total, cell)
        show()

    ends: list[int] = []

    def show() -> None:
        left = estimate.left()
        cells = f"cells {len(ends)}/{over[0] if over else '?'}"
        bar.update(task, completed=sum(done.values()), cells=cells, left=_words(left))

    with bar:
        yield SweepProgress(planned, begun, round_, ended)


def _words(left: float | None) -> str:
    if left is None:
        return "no cell has ended yet"
    return f"about {left:.0f} s left" if left < 120 else f"about {left / 60:.0f} min left"


def cells_in_order(cells: Mapping[int, dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Cells that have ended, by their number."""
    return [cells[index] for index in sorted(cells)]
