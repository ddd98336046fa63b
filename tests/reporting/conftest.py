"""Run directories made by code: plausible, small, and one of each kind that reporting must read."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import yaml

HEART = {"cleveland": (199, 104), "hungary": (172, 89), "switzerland": (30, 16), "va": (85, 45)}
METRICS = {
    "binary": ("accuracy", "auroc", "average_precision", "log_loss", "brier"),
    "multiclass": ("accuracy", "auroc", "log_loss", "brier"),
    "regression": ("rmse", "mae", "r2"),
}
HIGHER = {"accuracy": 0.79, "auroc": 0.86, "average_precision": 0.82, "r2": 0.41}
LOWER = {"log_loss": 0.48, "brier": 0.16, "rmse": 6.2, "mae": 4.7}


@dataclass
class Fabricated:
    """What a fabricated run is made of."""

    name: str = "heart_disease"
    kind: str = "binary"
    sites: dict[str, tuple[int, int]] = field(default_factory=lambda: dict(HEART))
    rounds: int = 15
    done: int | None = None
    mode: str = "record_dp"
    noise: str | None = "seeded"
    outcome: str = "complete"
    epsilon: float = 3.0
    spent: float = 2.98
    baselines: bool = False
    undefined: tuple[tuple[str, str], ...] = ()
    declared: bool = False
    notes: tuple[str, ...] = ()
    subgroups: dict | None = None
    predictions: bool = True
    untested: tuple[str, ...] = ()
    seed: int = 42
    overrides: dict = field(default_factory=dict)
    evaluation: dict | None = None


def value(metric, site_index, progress, rng):
    """A learning curve's point: from poor to its target, worse at later sites."""
    site_index = site_index % 5
    if metric in HIGHER:
        start = 0.5 if metric != "r2" else -1.2
        end = HIGHER[metric] - 0.035 * site_index
    else:
        start, end = LOWER[metric] * 1.45, LOWER[metric] * (1 + 0.09 * site_index)
    return float(start + (end - start) * (1 - np.exp(-4 * progress)) + rng.normal(0, 0.008 * abs(end)))


def metrics_of(run, index, site, progress, rng):
    names = METRICS[run.kind]
    return {m: None if (site, m) in run.undefined else value(m, index, progress, rng) for m in names}


def statement(run):
    if run.mode == "none":
        return "No privacy mechanism was used: updates and model may reveal single records."
    if run.noise == "seeded":
        return f"Noise was seeded for replay: not private; with real noise the plan would cost epsilon {run.spent}."
    return f"Updates and model are ({run.spent}, 1e-5)-DP for one record at every site."


def manifest(run):
    plans = {}
    if run.mode != "none":
        for site, (train, test) in run.sites.items():
            plans[site] = {
                "site": site,
                "unit": "record",
                "adjacency": "add_remove",
                "sample_rate": 1 / 19,
                "max_grad_norm": 1.0,
                "noise_multiplier": 1.3119,
                "lot_size": (train + test) / 19,
                "steps": 12,
                "rounds": run.rounds,
                "epsilon": run.spent,
                "delta": 1e-5,
                "accountant": "PLD, dp-accounting 0.6.0",
                "records": train + test,
                "records_declared": run.declared,
                "noise": run.noise,
                "evaluation": run.evaluation,
            }
    task = {"kind": run.kind, "classes": [], "range": None}
    if run.kind == "regression":
        task["range"] = [0, 60]
    else:
        task["classes"] = ["healthy", "disease"] if run.kind == "binary" else ["none", "mild", "severe"]
    sites = {
        s: {
            "train": a,
            "test": b,
            "train_rows": a,
            "test_rows": b,
            "records": a + b,
            "records_declared": run.declared,
            "fingerprint": f"{i:064x}",
        }
        for i, (s, (a, b)) in enumerate(run.sites.items())
    }
    done = run.rounds if run.done is None else run.done
    return {
        "format": 1, "fedkit": "0.1.0", "name": run.name, "created": "2026-11-22T16:59:00+00:00",
        "versions": {"python": "3.11.9", "torch": "2.13.0", "flwr": "1.41.0", "opacus": "1.6.0", "numpy": "2.3.1"},
        "git": {"revision": "2f1c9a0d4b7e6a51c0ffee1234567890abcdef12", "dirty": False}, "seed": run.seed,
        "outcome": run.outcome, "notes": list(run.notes), "mode": run.mode,
        "noise": run.noise if run.mode != "none" else None,
        "private": run.mode != "none" and run.noise == "secure", "statement": statement(run), "federation": "local",
        "num_rounds": run.rounds, "rounds_done": done, "seconds": 3.21,
        "model": {"name": "logistic", "parameters": 14, "arguments": {}, "source": "config"},
        "strategy": {"name": "fedavg", "arguments": {}, "source": "config"},
        "plan": plans,
        "local": {s: {"steps": 12, "batch_size": 16, "learning_rate": 0.1, "optimizer": "sgd"} for s in run.sites},
        "data": {
            "name": run.name, "task": task, "unit": "record", "feature_names": [f"feature_{i}" for i in range(13)],
            "split": "keyed_hash", "scaling": "declared", "source": "builtin",
            "warnings": ["switzerland: chol is missing in every row"], "sites": sites,
        },
    }  # fmt: skip


def scores(run, index, n, rng):
    if run.kind == "regression":
        y = rng.uniform(0, 1, n)
        return y.astype(np.float32), np.clip(0.25 + 0.5 * y + rng.normal(0, 0.1, n), 0, 1)
    if run.kind == "binary":
        y = rng.integers(0, 2, n)
        if any(m == "auroc" and s == list(run.sites)[index] for s, m in run.undefined):
            y[:] = 1
        return y, 1 / (1 + np.exp(-(2.4 * y - 1.2 + rng.normal(0, 1.1 + 0.2 * index, n))))
    y = rng.integers(0, 3, n)
    logits = rng.normal(0, 1, (n, 3)) + 1.8 * np.eye(3)[y]
    return y, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def config(run):
    tree = {
        "name": run.name, "seed": run.seed, "runs_dir": "runs",
        "data": {"name": run.name, "target": {"column": "num", "kind": run.kind},
                 "source": {"kind": "builtin", "path": "heart_disease.csv"}},
        "model": {"name": "logistic", "arguments": {}},
        "strategy": {"name": "fedavg", "arguments": {}},
        "privacy": {"mode": run.mode, "noise": run.noise, "epsilon": run.epsilon if run.mode != "none" else None,
                    "delta": 1e-05, "max_grad_norm": 1.0, "sample_rate": 1 / 19},
        "training": {"learning_rate": 0.1, "local_steps": 12},
        "federation": {"kind": "local", "num_rounds": run.rounds, "min_sites": 1},
    }  # fmt: skip
    for key, val in run.overrides.items():
        group, leaf = key.split(".")
        tree[group][leaf] = val
    return tree


def result(run, path, final):
    overall = {}
    for m in METRICS[run.kind]:
        known = [f[m] for f in final.values() if f[m] is not None]
        overall[m] = float(np.mean(known)) if known else None
    private = run.mode != "none"
    res = {
        "run_dir": str(path), "outcome": run.outcome, "rounds": run.rounds, "seconds": 3.21,
        "noise": run.noise if private else None, "private": private and run.noise == "secure",
        "statement": statement(run), "notes": list(run.notes), "model": {"name": "logistic", "parameters": 14},
        "overall": overall,
        "sites": {s: {"train": run.sites[s][0], "test": run.sites[s][1], **({} if s in run.untested else final[s]),
                      **({"epsilon": run.spent, "delta": 1e-5} if private else {"epsilon": None, "delta": None})}
                  for s in run.sites},
        "subgroups": run.subgroups or {},
    }  # fmt: skip
    if run.baselines:

        def shifted(by):
            better = {
                s: {m: None if v is None else v + (by if m in HIGHER else -by) for m, v in f.items()}
                for s, f in final.items()
            }
            return {"overall": {m: v + (by if m in HIGHER else -by) for m, v in overall.items()}, "sites": better}

        res["baselines"] = {"pooled": shifted(0.021), "local_only": shifted(-0.052)}
    return res


def write(folder, run):
    """Write the run directory and return its path."""
    path = Path(folder) / f"20261122-165900-{run.name.replace('/', '_')}"
    path.mkdir(parents=True)
    rng = np.random.default_rng(run.seed)
    (path / "manifest.json").write_text(json.dumps(manifest(run)))
    (path / "config.yaml").write_text(yaml.safe_dump(config(run), sort_keys=False))
    done, final, lines = run.rounds if run.done is None else run.done, {}, []
    for r in range(done + 1):
        final = {s: metrics_of(run, i, s, r / run.rounds, rng) for i, s in enumerate(run.sites)}
        spent = {s: run.spent * (r / run.rounds) ** 0.6 for s in run.sites} if run.mode != "none" else {}
        lines.append(
            {
                "round": r,
                "trained": list(run.sites) if r else [],
                "failed": {},
                "sites": {s: f for s, f in final.items() if s not in run.untested},
                "epsilon": spent,
                "digest": f"sha256:{r:064x}",
                "seconds": 0.2,
            }
        )
    if lines and run.outcome != "failed":
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if run.outcome in ("complete", "degraded"):
        (path / "result.json").write_text(json.dumps(result(run, path, final)))
        if run.predictions:
            arrays = {}
            for i, (s, (_, test)) in enumerate(run.sites.items()):
                arrays[f"{s}.y"], arrays[f"{s}.scores"] = scores(run, i, test, rng)
            np.savez(path / "predictions.npz", **arrays)
    return path


SUBGROUPS = {
    "sex": {"female": {"n": 61, "accuracy": 0.77, "auroc": None}, "male": {"n": 193, "accuracy": 0.74, "auroc": 0.83}},
    "age": {
        "under 45": {"n": 41, "accuracy": 0.81, "auroc": 0.8},
        "45 to 70": {"n": 206, "accuracy": 0.74, "auroc": 0.82},
        "over 70": {"n": None, "suppressed": True},
    },
}
NO_AUROC = (("switzerland", "auroc"), ("switzerland", "average_precision"))
EVALUATION = {"noise_multiplier": 5.47479, "rounds": [15], "histograms": 3, "bins": 6}
HOSTILE = {
    '<script>alert("s")</script>': (120, 40),
    "$x_{$ & \"quotes\" 'single'": (90, 30),
    "_hidden": (80, 25),
    "[bold red]markup[/]": (70, 24),
}

KINDS = {
    "seeded": Fabricated(undefined=NO_AUROC, subgroups=SUBGROUPS, baselines=True),
    "secure": Fabricated(
        noise="secure", declared=True, undefined=NO_AUROC, subgroups=SUBGROUPS, evaluation=EVALUATION
    ),
    "open": Fabricated(name="flamby_heart", mode="none", undefined=NO_AUROC),
    "regression": Fabricated(name="icu_stay", kind="regression", noise="secure"),
    "multiclass": Fabricated(name="severity", kind="multiclass"),
    "failed": Fabricated(
        name="failed", outcome="failed", done=0, notes=("round 1: 0 of 4 sites answered, at least 1 needed",)
    ),
    "interrupted": Fabricated(name="interrupted", outcome="interrupted", done=2, undefined=NO_AUROC),
    "degraded": Fabricated(
        name="degraded", outcome="degraded", noise="secure", predictions=False,
        notes=("site switzerland left out of training: 3 units, at least 5 needed",),
    ),
    "hostile": Fabricated(name="<script>alert('n')</script>", sites=HOSTILE, notes=("<img src=x onerror=alert(1)>",)),
    "many": Fabricated(name="many", sites={f"site {i:02d}": (60, 20) for i in range(30)}, rounds=40),
}  # fmt: skip


@pytest.fixture
def make_run(tmp_path):
    """Write a run directory: ``make_run("seeded")`` or ``make_run("seeded", seed=7)``."""

    def make(kind, folder=None, **changes):
        base = KINDS[kind]
        return write(folder or tmp_path / kind, Fabricated(**{**base.__dict__, **changes}))

    return make


def edited(path, **changes):
    """Change keys of a run's manifest; returns the run's path."""
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | changes))
    return path


@pytest.fixture(params=KINDS, scope="session")
def any_run(request, tmp_path_factory):
    """One run of each kind, not to be changed."""
    return write(tmp_path_factory.mktemp(request.param), KINDS[request.param])
