"""``make bench``: every benchmark that needs nothing but this machine's cores, then what is promised of speed.

    python experiments/benchmarks/bench.py [--quick] [--write] [--only step,simulation]

A deployed federation takes 25 minutes more (``make bench-deployed``), and a GPU is measured where one is. The small
form leaves out the hundred thousand sites of ``bench_population.py``, which cannot be made small.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from environment import look, refusal

HERE = Path(__file__).parent
PARTS = ("step", "aggregation", "parts", "population", "simulation")
LARGE = ("population",)
ENDING = 60.0
"""Seconds that an interrupted benchmark has to end what it has started."""


def main(words: Sequence[str]) -> int:
    """Run them one after another; the first that fails ends it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="all of them in under 3 minutes: a look, not a result")
    parser.add_argument("--write", action="store_true", help="write the results files and README.md")
    parser.add_argument("--only", help="which of them, with commas")
    chosen = parser.parse_args(words)
    parts = chosen.only.split(",") if chosen.only else [p for p in PARTS if not (chosen.quick and p in LARGE)]
    if unknown := sorted({*parts} - {*PARTS}):
        parser.error(f"--only {','.join(unknown)}: there are {', '.join(PARTS)}")
    if chosen.write and "simulation" in parts and (missing := look().missing):
        parser.error(refusal(missing))
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fedkit-bench-") as name:
        results = HERE if chosen.write else Path(name)
        more = [*["--quick"] * chosen.quick, *(["--write"] if chosen.write else ["--results", name])]
        for part in parts:
            start = time.monotonic()
            print(f"== {part}", flush=True)
            if status := _status([sys.executable, str(HERE / f"bench_{part}.py"), *more]):
                return status
            print(f"== {part}: {time.monotonic() - start:.0f} s\n", flush=True)
        writing = ["--write"] * chosen.write
        print("== what is promised", flush=True)
        subprocess.run([sys.executable, str(HERE / "floors.py"), "--results", str(results), *writing], check=True)
    print(f"\n{time.monotonic() - begun:.0f} s in all", flush=True)
    return 0


def _status(command: Sequence[str]) -> int:
    """Exit status of a benchmark.

    Guarantee: interrupted (the terminal tells the benchmark too) or ended, this one waits until the benchmark has ended
    what it has started: ``subprocess.run`` would kill it after a quarter of a second, and leave its sides behind.
    """
    with subprocess.Popen(command) as popen:
        try:
            return popen.wait()
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt):
                popen.terminate()
            try:
                popen.wait(ENDING)
            except subprocess.TimeoutExpired:
                popen.kill()
            raise


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
