import io

import pytest
from rich.console import Console

from fedkit.reporting.sweep_progress import Estimate, SweepProgress, cells_in_order, sweep_progress

CELL = {"overrides": {"seed": "1"}, "result": None, "error": None, "status": "ran"}


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_no_estimate_is_made_before_a_cell_has_ended():
    clock = Clock()
    estimate = Estimate({0: 10, 1: 10}, 2, clock)
    assert estimate.left() is None
    estimate.begun(0)
    clock.now = 60
    assert estimate.left() is None


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_of_equal_cells_the_estimate_is_right_at_every_end(jobs):
    clock, cells = Clock(), list(range(6))
    estimate = Estimate(dict.fromkeys(cells, 7), jobs, clock)
    for first in range(0, 6, jobs):
        for cell in cells[first : first + jobs]:
            estimate.begun(cell)
        clock.now += 5
        for cell in cells[first : first + jobs]:
            estimate.ended(cell)
        assert estimate.left() == 5 * (6 - first - jobs) / jobs


def test_the_rest_takes_no_less_than_its_longest_cell():
    clock = Clock()
    estimate = Estimate({0: 1, 1: 1, 2: 50}, 4, clock)
    estimate.begun(0)
    clock.now = 2
    estimate.ended(0)
    assert estimate.left() == 100


def test_what_a_running_cell_has_had_is_taken_off_but_never_below_nothing():
    clock = Clock()
    estimate = Estimate({0: 1, 1: 1}, 1, clock)
    estimate.begun(0)
    clock.now = 10
    estimate.ended(0)
    estimate.begun(1)
    clock.now = 14
    assert estimate.left() == 6
    clock.now = 99
    assert estimate.left() == 0


def shown(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, _environ={"TERM": "xterm"})
    with sweep_progress(console=console) as progress:
        progress.planned({1: 3, 2: 3}, 3, 2, "")
        progress.ended(0, 3, {**CELL, "status": "kept"})
        progress.begun(1)
        progress.round(1, 2)
        progress.ended(1, 3, CELL)
    return console.file.getvalue()


def test_elsewhere_than_on_a_terminal_each_cell_is_a_line():
    assert shown(terminal=False) == "[1/3] seed=1: kept\n[2/3] seed=1: ran\n"


def test_on_a_terminal_there_is_one_bar_over_all_cells():
    text = shown(terminal=True)
    assert "cells 2/3" in text and "50%" in text and "[2/3] seed=1: ran" in text and "left" in text


def test_switched_off_it_does_nothing():
    with sweep_progress(enabled=False) as progress:
        assert progress == SweepProgress()
        progress.planned({}, 1, 1, "")
        progress.ended(0, 1, CELL)


def test_cells_are_listed_by_number_not_by_time():
    assert cells_in_order({2: {"a": 2}, 0: {"a": 0}}) == [{"a": 0}, {"a": 2}]
