"""Rounds as they pass: a bar on a terminal, plain lines elsewhere, nothing at all when switched off."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fedkit.reporting import text
from fedkit.types import RoundReport

if TYPE_CHECKING:
    from rich.console import Console

OnRound = Callable[[RoundReport], None]
_SHOWN = ("accuracy", "auroc", "rmse", "r2")
_PLAIN_LINES = 20


@contextmanager
def round_progress(num_rounds: int, *, enabled: bool = True, console: Console | None = None) -> Iterator[OnRound]:
    """Show the rounds of a run on stderr.

    Args:
        num_rounds: rounds to come, the untrained round 0 not counted.
        enabled: False gives a callback that does nothing, and imports nothing.
        console: for tests; by default stderr.

    Returns:
        A context whose value is called with each RoundReport.
    """
    if not enabled:
        yield _nothing
        return
    from rich.console import Console

    target = console or Console(stderr=True, file=sys.stderr)
    if target.is_terminal and not target.is_dumb_terminal:
        with _bar(num_rounds, target) as on_round:
            yield on_round
    else:
        yield _lines(num_rounds, target)


def _nothing(report: RoundReport) -> None:
    return None


def describe_round(report: RoundReport) -> str:
    """A round in a few words: means over the sites where a metric is defined, the largest epsilon, who is missing."""
    words = []
    for name in _SHOWN:
        known = [v for metrics in report.sites.values() if (v := metrics.get(name)) is not None]
        if known:
            words.append(f"mean {_word(name)} {text.number(sum(known) / len(known))}")
    if report.epsilon:
        words.append(f"max epsilon {text.epsilon(_largest(report.epsilon))}")
    if report.failed:
        words.append(f"without {', '.join(report.failed)}")
    return ", ".join(words)


def _word(metric: str) -> str:
    label = text.describe(metric).label
    return label if label.isupper() else label.lower()


def _largest(epsilon: Mapping[str, float]) -> float:
    return max(epsilon.values())


def _lines(num_rounds: int, console: Console) -> OnRound:
    every = max(1, -(-num_rounds // _PLAIN_LINES))

    def on_round(report: RoundReport) -> None:
        due = report.round % every == 0 or report.round == num_rounds or bool(report.failed)
        if due:
            line = f"round {report.round}/{num_rounds}: {describe_round(report)}".rstrip(": ")
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    return on_round


@contextmanager
def _bar(num_rounds: int, console: Console) -> Iterator[OnRound]:
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("rounds"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]left[/]"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[last]}"),
        console=console,
        # Four draws a second are enough for eyes, and leave the cores to the training.
        refresh_per_second=4,
        transient=True,
    )
    task = bar.add_task("", total=num_rounds, last="")

    def on_round(report: RoundReport) -> None:
        bar.update(task, completed=report.round, last=escape(describe_round(report)))

    with bar:
        yield on_round
