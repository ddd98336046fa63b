"""Samples a second of a round on a GPU beside one core of the same machine, on the same lots and noise.

The sides are what ``training.engine=auto`` takes on the GPU, the reference engine there, and what it takes on the CPU
with one thread. They take turns (A B C A B C ...); a ratio is taken a turn and its median is told. What a process pays
once, its CUDA context and what is made ready for a model, is told by itself.

    python experiments/benchmarks/bench_device.py [--quick] [--out FILE]
    python experiments/benchmarks/bench_device.py --table      # README's table from device.json, where no GPU is
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn
from write import put

from fedkit.config.experiment import TrainingConfig
from fedkit.models.flat import pack
from fedkit.privacy.events import max_lot
from fedkit.privacy.randomness import Seeded
from fedkit.training.choice import choose
from fedkit.training.engine import Engine, reference_on
from fedkit.training.kinds import Kinds
from fedkit.training.local import as_found
from fedkit.training.on_device import device_of, name_of
from fedkit.types import Examples, LocalPlan, PrivacyPlan, RoundPlan, Site, Task

HERE = Path(__file__).parent
TWO, DIGITS = Task("multiclass", ("0", "1")), Task("multiclass", tuple("0123456789"))


def cnn(width: int) -> nn.Module:
    """Two convolutions and two linear layers on 28 x 28: 106k parameters at width 16."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(98 * width, 4 * width), nn.ReLU(), nn.Linear(4 * width, 10),
    )  # fmt: skip


def mlp(*widths: int) -> nn.Module:
    """Linear layers and ReLU."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@dataclass(frozen=True)
class Work:
    """A round.

    Attributes:
        rows: of each site. steps: on the GPU, and those of the CPU where that many would take too long.
    """

    name: str
    make: Callable[[], nn.Module]
    task: Task
    shape: tuple[int, ...]
    sites: int
    rows: int
    lot: int
    steps: int
    cpu_steps: int
    private: bool = True


IMAGE = (1, 28, 28)
WORKS = [
    Work("W1, mlp 4k", lambda: mlp(30, 64, 32, 2), TWO, (30,), 20, 100, 20, 5, 5),
    Work("mlp 4k", lambda: mlp(30, 64, 32, 2), TWO, (30,), 100, 100, 20, 5, 5),
    Work("mlp 74k", lambda: mlp(30, 256, 256, 2), TWO, (30,), 20, 200, 32, 6, 6),
    Work("W2, cnn 106k", lambda: cnn(16), DIGITS, IMAGE, 10, 200, 32, 6, 6),
    *(
        Work(name, make, DIGITS, IMAGE, 1, 2000, lot, steps, cpu_steps, private)
        for name, make in (
            ("cnn 106k", lambda: cnn(16)), ("cnn 1.6M", lambda: cnn(64)), ("mlp 1.9M", lambda: mlp(784, 1024, 1024, 10))
        )
        for private in (True, False)
        for lot, steps, cpu_steps in ((32, 40, 4), (256, 16, 2))
    ),
]  # fmt: skip


def plan_of(work: Work, model: nn.Module, sites: list[Site], steps: int) -> RoundPlan:
    """The work at some of its sites."""
    plans = {site.name: local_plan(work, site.name, steps) for site in sites}
    return RoundPlan(1, 1, pack(model), 0.0, plans)


def local_plan(work: Work, name: str, steps: int) -> LocalPlan:
    """A round's work at a site."""
    if not work.private:
        return LocalPlan(steps, work.lot, 0.05, "sgd", None, None, reports_loss=False)
    rate = work.lot / work.rows
    plan = PrivacyPlan(
        site=name, unit="record", adjacency="add_remove", sample_rate=rate, max_grad_norm=1.0, noise_multiplier=1.0,
        lot_size=float(work.lot), steps=steps, rounds=1, epsilon=8.0, delta=1e-5, accountant="pld", records=work.rows,
        records_declared=True, noise="seeded", max_lot=max_lot(work.rows, rate, work.steps),
    )  # fmt: skip
    return LocalPlan(steps, work.lot, 0.05, "sgd", plan, None)


def sites_of(work: Work) -> list[Site]:
    """Random rows."""
    numbers, found = np.random.default_rng(0), []
    for k in range(work.sites):
        x = numbers.random((work.rows, *work.shape)).astype(np.float32)
        rows = Examples(x, numbers.integers(0, work.task.num_outputs, work.rows), np.arange(work.rows))
        found.append(Site(f"site {k}", rows, rows, work.rows, True))
    return found


def measured(work: Work, turns: int) -> dict[str, Any]:
    """Rows a second of each side."""
    torch.manual_seed(0)
    model, sites, device = work.make(), sites_of(work), device_of("cuda", "the device")
    plan = plan_of(work, model, sites, work.steps)

    def auto(where: str) -> Engine:
        return choose(
            TrainingConfig(0.05, local_steps=work.steps, device=where, workers="1"),
            model, work.task, work.shape, Kinds.of(plan.sites),
        )  # fmt: skip

    there, here = auto("cuda"), auto("cpu")
    # The reference's rows cost the same at every site, and in private steps each takes a tenth of a second.
    sides = {
        "cuda": (there, sites, work.steps),
        "reference": (reference_on(device), sites[:1], min(5, work.steps) if work.private else work.steps),
        "cpu": (here, sites, work.cpu_steps),
    }
    took: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(turns + 1):
        for side, (engine, some, steps) in sides.items():
            each = plan_of(work, model, some, steps)
            begun = time.perf_counter()
            engine.train(model, work.task, some, each, {})
            seconds = time.perf_counter() - begun
            if turn:
                took[side].append(seconds / (len(some) * steps * work.lot))
            elif side == "cuda":
                ready = seconds
    return {
        "name": work.name, "private": work.private, "sites": work.sites, "lot": work.lot,
        "engine": there.name, "cpu_engine": here.name, "first_seconds": round(ready, 2),
        **{side: round(1 / median(times)) for side, times in took.items()},
        "ratio": round(median(c / g for g, c in zip(took["cuda"], took["cpu"], strict=True)), 2),
        "bits": bits(work, model) if work.private else None,
    }  # fmt: skip


def bits(work: Work, model: nn.Module) -> int:
    """Rows a second for whose noise one core draws the random bits, and does nothing else."""
    fill, _ = Seeded("bits").noise
    words = np.empty(sum(p.numel() for p in model.parameters()), dtype=np.uint64)
    took = []
    for _ in range(20):
        begun = time.perf_counter()
        fill(words)
        took.append(time.perf_counter() - begun)
    return round(work.lot / median(took))


def table(told: dict[str, Any]) -> str:
    """A Markdown table of what was measured."""
    lines = [
        "| model | training | sites | lot | engine there | GPU, rows a second | reference there | one core |"
        " GPU / core | bits alone |",
        "|---|---|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r['name']} | {'DP-SGD' if r['private'] else 'SGD'} | {r['sites']} | {r['lot']} |"
        f" {r['engine']} | {r['cuda']:,} | {r['reference']:,} | {r['cpu']:,} ({r['cpu_engine']}) |"
        f" **{r['ratio']:.1f}** | {'' if r['bits'] is None else format(r['bits'], ',')} |"
        for r in told["rows"]
    ]
    about = f"{told['date']}, {told['device']} and a core beside it, torch {told['torch']}, {told['turns']} turns"
    return "\n".join(lines) + f"\n\n{about}; a process opens the GPU in {told['context_seconds']} s."


def main() -> None:
    """Measure, and print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer turns")
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
    found: dict[str, Any] = {
        "device": name_of(device), "torch": torch.__version__,
        "context_seconds": round(time.perf_counter() - began, 3), "turns": turns,
        "date": datetime.now(UTC).date().isoformat(), "rows": [],
    }  # fmt: skip
    print({key: value for key, value in found.items() if key != "rows"})
    with as_found():
        for work in WORKS:
            found["rows"].append(measured(work, turns))
            print(found["rows"][-1], flush=True)
            if asked.out:
                asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
