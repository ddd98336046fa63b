"""``fedkit replay``: do a run again from its folder and say whether every round's model is identical.

Seeded runs are trained again. A run with secure noise, or one of real sites, cannot be: its recorded updates are folded
again, which proves the aggregation, not the training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.serverapp.strategy import Strategy
from torch import nn

from fedkit.config.experiment import ExperimentConfig
from fedkit.errors import RunError
from fedkit.federation.discovery import discover
from fedkit.federation.rounds import RoundLoop
from fedkit.federation.rounds import digest as parameters_digest
from fedkit.models import build as build_model
from fedkit.models.catalogue import initialise
from fedkit.models.flat import pack, shapes
from fedkit.runs.deleted import require_kept
from fedkit.runs.directory import CONFIG, MANIFEST, MODEL, RunDirectory, read_digests, read_json
from fedkit.runs.manifest import check_manifest
from fedkit.simulation.grid import InProcessGrid
from fedkit.simulation.local import one_thread, run_local
from fedkit.simulation.prepare import engine_for, prepare
from fedkit.simulation.recorded import RecordedSites
from fedkit.simulation.replayable import (
    check_config,
    check_draws,
    check_fingerprints,
    check_objects,
    check_plans,
    read_config,
)
from fedkit.strategies import build as build_strategy
from fedkit.training.cohort import COMPILED
from fedkit.training.engine import ENGINES
from fedkit.types import ClientUpdate, Float32, RoundReport, Task


@dataclass(frozen=True)
class Replay:
    """What a replay found.

    Attributes:
        how: ``retrained`` or ``refolded``.
        identical: every recorded round's model has the same bits, and so has the model that the run left.
        rounds: recorded rounds that were compared, the untrained model not counted.
        first_difference: the first round whose model differs, or None.
        model_identical: model.safetensors is the last recorded round's model; None where the run left no model.
        notes: what may explain a difference.
    """

    run_dir: str
    how: str
    identical: bool
    rounds: int
    first_difference: int | None
    notes: tuple[str, ...]
    model_identical: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return asdict(self) | {"notes": list(self.notes)}


def replay(
    run_dir: Path | str,
    *,
    model: Callable[[], nn.Module] | None = None,
    data: Mapping[str, Any] | None = None,
    task: Task | None = None,
    strategy: Strategy | None = None,
    models: Mapping[str, Callable[..., nn.Module]] | None = None,
) -> Replay:
    """Execute a run again and compare every round's model bit by bit.

    Args:
        model: the same as given to ``simulate``, where the run had one given in Python; likewise the others.
        models: for a deployed run of a model that its coordinator had installed, that model's function by its name.

    Raises:
        RunError: no run there, its files are broken or do not fit together, a plan states less than it costs, the
            data has changed, or an object that it was given in Python is missing.
    """
    path = Path(run_dir)
    manifest = read_json(path / MANIFEST)
    check_manifest(path / MANIFEST, manifest)
    installed = manifest["model"]["name"] if manifest["model"]["source"] == "installed" else None
    if installed is not None and installed not in (models or {}):
        raise RunError(
            f"the run's model {installed} was installed at its coordinator, and is not known here",
            code="FK607",
            remedy="install its package, and run: fedkit replay RUN --allow allow.yaml (the coordinator's table)",
        )
    config = read_config(path / CONFIG, () if installed is None else (installed,))
    check_config(path, manifest, config)
    check_plans(path, manifest)
    recorded = read_digests(path)
    if not recorded:
        raise RunError(f"{path} recorded no round", code="FK606")
    check_objects(manifest, model, data, strategy)
    last = max(recorded)
    federation = replace(config.federation, kind="local", num_rounds=max(1, last), evaluate_every=10**9)
    found: dict[int, str] = {}

    def compare(report: RoundReport, _: Float32, __: Any) -> None:
        found[report.round] = report.digest

    config = replace(config, federation=federation)
    deployed = manifest.get("federation") == "deployed"
    if deployed or (manifest["mode"] != "none" and manifest["noise"] == "secure"):
        how = "refolded"
        module = _refold(config, manifest, path, compare, model, strategy, last, models)
    else:
        how = "retrained"
        check_draws(path, manifest)
        # The plan's steps and noise derive from the whole run's rounds, not from how far an interrupted one got.
        full = replace(config, federation=replace(federation, num_rounds=manifest["num_rounds"]))
        prepared = prepare(_engine_of(path, manifest, full), model=model, data=data, task=task)
        check_fingerprints(manifest, prepared.dataset.fingerprints)
        trained = replace(prepared.config, federation=federation)
        as_ray = manifest.get("federation") == "ray"
        again = replace(prepared, config=trained)
        engine = engine_for(again).in_form(_form_of(path, manifest))
        run_local(again, compare, strategy=strategy, evaluate=False, engine=engine, as_ray=as_ray)
        module = prepared.model
    different = [number for number in sorted(recorded) if found.get(number) != recorded[number]]
    left = _model_digest(path, manifest, module)
    same_model = None if left is None else left == recorded[last]
    return Replay(
        str(path),
        how,
        not different and same_model is not False,
        last,
        different[0] if different else None,
        tuple(_version_notes(manifest)),
        same_model,
    )


def _refold(
    config: ExperimentConfig,
    manifest: Mapping[str, Any],
    path: Path,
    compare: Callable[[RoundReport, Float32, Any], None],
    model: Callable[[], nn.Module] | None,
    strategy: Strategy | None,
    last: int,
    models: Mapping[str, Callable[..., nn.Module]] | None,
) -> nn.Module:
    directory = RunDirectory(path)
    require_kept(path)
    for number in range(1, last + 1):
        # Read ahead: inside the loop an unreadable record would pass for a site that did not answer.
        directory.read_updates(number)
    sites = {site: site in manifest["local"] for site in manifest["data"]["sites"]}

    def read(number: int) -> list[ClientUpdate]:
        return directory.read_updates(number)

    task = manifest["data"]["task"]
    outputs = len(task["classes"]) if task["kind"] == "multiclass" else 1
    with one_thread():
        if model is None:
            module = build_model(config.model, tuple(manifest["data"]["input_shape"]), outputs, config.seed, models)
        else:
            module = initialise(model, config.seed)
        grid = InProcessGrid(RecordedSites(sites, read))
        roster = discover(grid, list(sites), config.federation.timeout)
        trains = frozenset(site for site, value in sites.items() if value)
        private = manifest["mode"] != "none"
        folded = strategy or build_strategy(config.strategy, num_sites=max(1, len(trains)), private=private)
        loop = RoundLoop(
            grid,
            folded,
            shapes(module),
            config.seed,
            config.federation,
            {site: node for site, (node, _) in roster.items()},
            trains,
            frozenset(),
            private=private,
        )
        if last:
            loop.run(pack(module), compare)
    return module


def _engine_of(path: Path, manifest: Mapping[str, Any], config: ExperimentConfig) -> ExperimentConfig:
    """The config with the engine and device that the run had: another one's last bits differ."""
    recorded = manifest.get("engine", {"name": "reference"})
    name = recorded.get("name") if isinstance(recorded, Mapping) else None
    if name not in ENGINES:
        raise RunError(
            f"{path / MANIFEST} names the engine {name!r}; this fedkit has {', '.join(ENGINES)}",
            code="FK615",
            remedy="restore the file, or use the fedkit that wrote the run",
        )
    device = "cuda" if str(recorded.get("device", "cpu")).startswith("cuda") else "cpu"
    return replace(config, training=replace(config.training, engine=name, device=device))


def _form_of(path: Path, manifest: Mapping[str, Any]) -> int:
    """The order in which training added up; runs from before there were several tell none, and had the first."""
    recorded = manifest.get("engine", {})
    form = recorded.get("form", 1) if isinstance(recorded, Mapping) else 1
    if type(form) is not int or not 1 <= form <= COMPILED:
        raise RunError(
            f"{path / MANIFEST} names the form {form!r} of the engine; this fedkit has 1 to {COMPILED}",
            code="FK615",
            remedy="restore the file, or use the fedkit that wrote the run",
        )
    return form


def _model_digest(path: Path, manifest: Mapping[str, Any], module: nn.Module) -> str | None:
    if manifest["outcome"] not in ("complete", "degraded") and not (path / MODEL).exists():
        return None
    saved, order = RunDirectory(path).read_model(), shapes(module)
    if {name: value.shape for name, value in saved.items()} != order:
        return ""
    flat = [np.asarray(saved[name], dtype=np.float32).ravel() for name in order]
    return parameters_digest(np.concatenate(flat))


def _version_notes(manifest: Mapping[str, Any]) -> list[str]:
    from fedkit.runs.manifest import installed_versions

    now = installed_versions()
    return [
        f"{name}: the run had {then}, here is {now.get(name, 'none')}"
        for name, then in manifest.get("versions", {}).items()
        if now.get(name) != then
    ]
