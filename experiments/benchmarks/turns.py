"""Sides of a comparison that take turns, and the peak of memory that one of them needs."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any


def take_turns(sides: Mapping[str, Callable[[], Any]], turns: int, calls: int = 1) -> dict[str, list[float]]:
    """Seconds a call of each side, A B A B ...; a first turn warms up and is not kept."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(-1, turns):
        for name, work in sides.items():
            gc.collect()
            start = time.perf_counter()
            for _ in range(calls):
                work()
            if turn >= 0:
                seconds[name].append((time.perf_counter() - start) / calls)
    return seconds


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest of peer / fedkit, taken turn by turn; above 1 says that fedkit is faster."""
    found = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {"ratio": round(median(found), 2), "least": round(min(found), 2), "greatest": round(max(found), 2)}


def shown(found: Mapping[str, Any]) -> str:
    """The same for a cell of a table."""
    ratio, least, greatest = (
        f"{found[key]:,.{1 if found[key] >= 10 else 2}f}" for key in ("ratio", "least", "greatest")
    )
    return f"**{ratio}** ({least} to {greatest})"


def peak_in_a_process(script: Path, *words: str) -> int:
    """Bytes that a process of its own needed at most: whatever ``script --peak WORDS`` prints last, as JSON.

    Raises:
        RuntimeError: the process failed.
    """
    done = subprocess.run([sys.executable, str(script), "--peak", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{script.name} --peak {' '.join(words)}: {done.stderr[-2000:]}")
    return int(json.loads(done.stdout.splitlines()[-1]))


def peak_of(work: Callable[[], Any]) -> int:
    """Bytes by which this process' resident memory grew at most while ``work`` ran (Linux: VmHWM after a reset)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _kilobytes("VmRSS")
    work()
    return (_kilobytes("VmHWM") - before) * 1024


def free_memory() -> int:
    """Bytes that may still be taken, by the kernel's account."""
    for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _kilobytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {key}")
