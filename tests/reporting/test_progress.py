"""Progress: lines where there is no terminal, nothing at all when switched off."""

from __future__ import annotations

import io
import subprocess
import sys

from rich.console import Console

from fedkit.reporting.progress import describe_round, round_progress
from fedkit.types import RoundReport


def report(number, auroc=0.8, failed=None):
    sites = {"a": {"accuracy": 0.7, "auroc": auroc}, "b": {"accuracy": 0.8, "auroc": None}}
    return RoundReport(number, ("a", "b"), failed or {}, sites, {"a": 0.5, "b": 0.7}, "0" * 64, 0.1)


def test_undefined_metrics_take_no_part_in_the_mean():
    assert describe_round(report(1)) == "mean accuracy 0.750, mean AUROC 0.800, max epsilon 0.70"
    assert "AUROC" not in describe_round(report(1, auroc=None))


def lines_of(rounds, **changes):
    console = Console(file=io.StringIO(), width=200)
    with round_progress(rounds, console=console) as on_round:
        for number in range(rounds + 1):
            on_round(report(number, **changes))
    return console.file.getvalue().splitlines()


def test_plain_lines_are_few_and_end_with_the_last_round():
    assert len(lines_of(15)) == 16
    many = lines_of(1000)
    assert len(many) <= 22
    assert many[-1].startswith("round 1000/1000: ")


def test_a_missing_site_is_never_skipped():
    assert len(lines_of(100, failed={"[red]b[/]": "timeout"})) == 101
    assert "without [red]b[/]" in lines_of(3, failed={"[red]b[/]": "timeout"})[1]


def test_bar_is_drawn_on_a_terminal():
    console = Console(file=io.StringIO(), width=120, force_terminal=True, _environ={"TERM": "xterm"})
    with round_progress(2, console=console) as on_round:
        on_round(report(1))
        on_round(report(2))
    assert "2/2" in console.file.getvalue()


def test_switched_off_it_imports_and_prints_nothing(capsys):
    code = (
        "import sys\n"
        "from fedkit.reporting.progress import round_progress\n"
        "with round_progress(3, enabled=False) as on_round:\n"
        "    on_round(None)\n"
        "sys.exit('rich' in sys.modules or 'matplotlib' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
