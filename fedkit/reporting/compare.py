"""Runs side by side: what differed in their configs, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkit.errors import RunError
from fedkit.reporting import text
from fedkit.reporting.reader import RunView, read_run
from fedkit.types import Metrics


@dataclass(frozen=True)
class ComparedRun:
    """One run of a comparison.

    Attributes:
        epsilon: site to epsilon spent in the whole run; None at a site that took no part; empty without privacy.
        max_epsilon: the largest of them; what seeded noise would have cost is not spent, see ``private``.
        noise: ``seeded``, ``secure`` or None.
    """

    run_dir: str
    name: str
    outcome: str
    rounds: int
    seconds: float | None
    noise: str | None
    private: bool
    epsilon: Mapping[str, float | None]
    max_epsilon: float | None
    delta: float | None
    unit: str
    adjacency: str | None
    overall: Metrics


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        runs: in the order asked for.
        differences: dotted config key to its value in each run, only where they differ; None where a run lacks it.
    """

    runs: tuple[ComparedRun, ...]
    differences: Mapping[str, tuple[Any, ...]]

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics that some run has, in the order of display."""
        return text.ordered({name for run in self.runs for name in run.overall})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for ``--json``."""
        runs = [
            {
                **{key: value for key, value in vars(run).items() if key not in ("epsilon", "overall")},
                "epsilon": dict(run.epsilon),
                "overall": dict(run.overall),
            }
            for run in self.runs
        ]
        return {"runs": runs, "differences": {key: list(values) for key, values in self.differences.items()}}


def compare(run_dirs: Sequence[Path | str]) -> Comparison:
    """Set runs side by side.

    Raises:
        RunError: FK620 fewer than two runs; FK610 to FK613 a directory that cannot be read.
    """
    if len(run_dirs) < 2:
        remedy = "name two or more run directories"
        raise RunError(f"{text.plural(len(run_dirs), 'run')} given; a comparison needs 2", code="FK620", remedy=remedy)
    views = [read_run(path) for path in run_dirs]
    configs = [flatten(view.config) for view in views]
    keys = dict.fromkeys(key for config in configs for key in config)
    rows = {key: tuple(config.get(key) for config in configs) for key in keys}
    return Comparison(
        runs=tuple(_compared(view) for view in views),
        differences={key: row for key, row in rows.items() if any(value != row[0] for value in row)},
    )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; lists and empty mappings stay values.

    >>> flatten({"seed": 1, "privacy": {"epsilon": 3}, "x": {}})
    {'seed': 1, 'privacy.epsilon': 3, 'x': {}}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = text.redact(value) if isinstance(value, str) else value
    return flat


def _compared(view: RunView) -> ComparedRun:
    spent = {site: view.spent(site) for site in view.sites} if view.private_mode else {}
    known = [value for value in spent.values() if value is not None]
    plan: Mapping[str, Any] = next(iter(view.plan.values()), {})
    return ComparedRun(
        run_dir=str(view.path),
        name=view.name,
        outcome=view.outcome,
        rounds=view.rounds_done,
        seconds=view.manifest.get("seconds"),
        noise=view.manifest.get("noise") if view.private_mode else None,
        private=bool(view.manifest.get("private")),
        epsilon=spent,
        max_epsilon=max(known, default=None),
        delta=plan.get("delta"),
        unit=str(plan.get("unit") or view.data.get("unit") or "record"),
        adjacency=plan.get("adjacency"),
        overall=dict(view.overall),
    )
