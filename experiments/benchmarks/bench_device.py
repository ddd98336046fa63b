"""Samples a second of one site's round on a GPU beside the CPU of the same machine, on the same lots and noise.

The sides take turns (A B A B ...); a ratio is taken a turn and its median is told. The CPU trains with one thread, as a
site's simulation does, by the reference engine. What a process pays once, its CUDA context, is told by itself.

    python experiments/benchmarks/bench_device.py [--quick] [--out FILE]
    python experiments/benchmarks/bench_device.py --table      # README's table from device.json, where no GPU is
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn
from write import put

from fedkit.models.flat import pack
from fedkit.privacy.events import max_lot
from fedkit.training.local import train
from fedkit.training.on_device import CPU, device_of, name_of
from fedkit.types import Examples, LocalPlan, PrivacyPlan, RoundPlan, Site, Task

DIGITS = Task("multiclass", tuple("0123456789"))
ROWS, SIDE = 2000, 28
HERE = Path(__file__).parent


def cnn(width: int) -> nn.Module:
    """Two convolutions and two linear layers on 28 x 28: 106k parameters at width 16."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(98 * width, 4 * width), nn.ReLU(), nn.Linear(4 * width, 10),
    )  # fmt: skip


def mlp() -> nn.Module:
    """1.9 million parameters."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(),
                         nn.Linear(1024, 10))  # fmt: skip


MODELS = {"cnn, 106k": lambda: cnn(16), "cnn, 1.6M": lambda: cnn(64), "mlp, 1.9M": mlp}


def local_plan(private: bool, lot: int, steps: int) -> LocalPlan:
    """A round's work at the site."""
    if not private:
        return LocalPlan(steps, lot, 0.05, "sgd", None, None, reports_loss=False)
    rate = lot / ROWS
    plan = PrivacyPlan(
        site="site", unit="record", adjacency="add_remove", sample_rate=rate, max_grad_norm=1.0, noise_multiplier=1.0,
        lot_size=float(lot), steps=steps, rounds=1, epsilon=8.0, delta=1e-5, accountant="pld", records=ROWS,
        records_declared=True, noise="seeded", max_lot=max_lot(ROWS, rate, steps),
    )  # fmt: skip
    return LocalPlan(steps, lot, 0.05, "sgd", plan, None)


def table(told: dict[str, Any]) -> str:
    """A Markdown table of what was measured."""
    lines = [
        "| model | training | lot | GPU, rows a second | CPU, one thread | GPU / CPU |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r['model']} | {'DP-SGD' if r['private'] else 'SGD'} | {r['lot']} | {r['cuda']:,} | {r['cpu']:,} |"
        f" **{r['ratio']:.1f}** |"
        for r in told["rows"]
    ]
    about = f"{told['date']}, {told['device']} and a core beside it, torch {told['torch']}, {told['turns']} turns"
    return "\n".join(lines) + f"\n\n{about}; a process opens the GPU in {told['context_seconds']} s."


def main() -> None:
    """Measure, and print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer turns and steps")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--table", action="store_true", help="measure nothing; write README's table from device.json")
    asked = parser.parse_args()
    if asked.table:
        put(HERE / "README.md", "device", table(json.loads((HERE / "device.json").read_text(encoding="utf-8"))))
        return
    began = time.perf_counter()
    device = device_of("cuda", "the device")
    torch.zeros(1, device=device).sum().item()
    turns = 3 if asked.quick else 5
    found = {
        "device": name_of(device), "torch": torch.__version__,
        "context_seconds": round(time.perf_counter() - began, 3), "turns": turns,
        "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip
    print(found)
    numbers = np.random.default_rng(0)
    x = numbers.random((ROWS, 1, SIDE, SIDE)).astype(np.float32)
    examples = Examples(x, numbers.integers(0, 10, ROWS), np.arange(ROWS))
    site = Site("site", examples, examples, ROWS, True)
    rows = []
    for name, make in MODELS.items():
        torch.manual_seed(0)
        model = make()
        for private in (True, False):
            for lot in (32, 256):
                steps = 5 if lot == 32 else 2
                plan = RoundPlan(1, 1, pack(model), 0.0, {"site": local_plan(private, lot, steps)})
                took: dict[str, list[float]] = {"cuda": [], "cpu": []}
                for turn in range(turns + 1):
                    for where in (device, CPU):
                        start = time.perf_counter()
                        train(model, DIGITS, [site], plan, {}, device=where)
                        if turn:
                            took[where.type].append(time.perf_counter() - start)
                rates = {where: round(lot * steps / median(times)) for where, times in took.items()}
                ratio = round(median(c / g for g, c in zip(took["cuda"], took["cpu"], strict=True)), 2)
                rows.append({"model": name, "private": private, "lot": lot, **rates, "ratio": ratio})
                print(f"{name:10} {'DP' if private else 'plain':5} lot {lot:3}: cuda {rates['cuda']:8.0f}/s, "
                      f"cpu {rates['cpu']:8.0f}/s, {ratio:.1f}x", flush=True)  # fmt: skip
    if asked.out:
        asked.out.write_text(json.dumps({**found, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
