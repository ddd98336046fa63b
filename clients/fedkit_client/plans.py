"""Plans that were made before: calibrating noise takes seconds, and a site answers each message in a new process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedkit import __version__
from fedkit.config.experiment import ExperimentConfig
from fedkit.config.serialize import digest
from fedkit.data.declared import task_of
from fedkit.errors import DeploymentError
from fedkit.storage.private import replace
from fedkit.training.plan import LocalPlans, declared_plans, evaluation_specs
from fedkit.types import EvaluationPlan, LocalPlan, PrivacyPlan

_MOST = 64


@dataclass(frozen=True)
class Plans:
    """`declared_plans`, with its results in ``plans.json``.

    Nothing rests on the file but time: whatever plan is followed is also what the ledger is charged for.
    """

    path: Path

    def __call__(self, config: ExperimentConfig, names: Sequence[str]) -> LocalPlans:
        """The plans of a private run's sites, from the declaration alone.

        Raises:
            FedkitError: see `declared_plans`.
        """
        key = hashlib.sha256(f"{__version__} {digest(config)} {list(names)!r}".encode()).hexdigest()
        known = self._read()
        if (found := known.get(key)) is not None:
            with suppress(KeyError, TypeError, AttributeError):
                sites = {name: _plan(values) for name, values in found.items()}
                return LocalPlans(sites, (), (), evaluation_specs(config, task_of(config.data)))
        made = declared_plans(config, names)
        known[key] = {name: asdict(plan) for name, plan in made.sites.items()}
        newest = dict(list(known.items())[-_MOST:])
        with suppress(DeploymentError):
            replace(self.path, (json.dumps(newest) + "\n").encode())
        return made

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _plan(values: dict[str, Any]) -> LocalPlan:
    privacy = values["privacy"]
    if privacy is not None:
        evaluation = privacy["evaluation"]
        if evaluation is not None:
            evaluation = EvaluationPlan(**{**evaluation, "rounds": tuple(evaluation["rounds"])})
        privacy = PrivacyPlan(**{**privacy, "evaluation": evaluation})
    return LocalPlan(**{**values, "privacy": privacy})
