"""``fedkit replay``: do a run again from its folder and say whether every round's model is identical.

Seeded runs are trained again. A run with secure noise cannot be: its recorded updates are folded again, which proves
the aggregation, not the training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flwr.serverapp.strategy import Strategy
from torch import nn

from fedkit.config.experiment import ExperimentConfig
from fedkit.config.serialize import from_yaml
from fedkit.errors import RunError
from fedkit.federation.rounds import RoundLoop, discover
from fedkit.models import build as build_model
from fedkit.models.catalogue import initialise
from fedkit.models.flat import pack, shapes
from fedkit.runs.directory import CONFIG, MANIFEST, RunDirectory, read_digests, read_json
from fedkit.simulation.grid import InProcessGrid
from fedkit.simulation.local import one_thread, run_local
from fedkit.simulation.prepare import prepare
from fedkit.simulation.recorded import RecordedSites
from fedkit.strategies import build as build_strategy
from fedkit.types import ClientUpdate, Float32, RoundReport, Task


@dataclass(frozen=True)
class Replay:
    """What a replay found.

    Attributes:
        how: ``retrained`` or ``refolded``.
        identical: every recorded round's model has the same bits.
        rounds: recorded rounds that were compared, the untrained model not counted.
        first_difference: the first round whose model differs, or None.
        notes: what may explain a difference.
    """

    run_dir: str
    how: str
    identical: bool
    rounds: int
    first_difference: int | None
    notes: tuple[str, ...]

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
) -> Replay:
    """Execute a run again and compare every round's model bit by bit.

    Args:
        model: the same as given to ``simulate``, where the run had one given in Python; likewise the others.

    Raises:
        RunError: no run there, its data has changed, or an object that it was given in Python is missing.
    """
    path = Path(run_dir)
    manifest = read_json(path / MANIFEST)
    config = from_yaml((path / CONFIG).read_text(encoding="utf-8"))
    recorded = read_digests(path)
    if not recorded:
        raise RunError(f"{path} recorded no round", code="FK606")
    _check_objects(manifest, model, data, strategy)
    last = max(recorded)
    federation = replace(config.federation, kind="local", num_rounds=max(1, last), evaluate_every=10**9)
    found: dict[int, str] = {}

    def compare(report: RoundReport, _: Float32, __: Any) -> None:
        found[report.round] = report.digest

    config = replace(config, federation=federation)
    if manifest["mode"] != "none" and manifest["noise"] == "secure":
        how = "refolded"
        _refold(config, manifest, path, compare, model, strategy, last)
    else:
        how = "retrained"
        # The plan's steps and noise derive from the whole run's rounds, not from how far an interrupted one got.
        full = replace(config, federation=replace(federation, num_rounds=manifest["num_rounds"]))
        prepared = prepare(full, model=model, data=data, task=task)
        _check_fingerprints(manifest, prepared.dataset.fingerprints)
        run_local(replace(prepared, config=config), compare, strategy=strategy, evaluate=False)
    different = [number for number in sorted(recorded) if found.get(number) != recorded[number]]
    return Replay(
        str(path), how, not different, last, different[0] if different else None, tuple(_version_notes(manifest))
    )


def _refold(
    config: ExperimentConfig,
    manifest: Mapping[str, Any],
    path: Path,
    compare: Callable[[RoundReport, Float32, Any], None],
    model: Callable[[], nn.Module] | None,
    strategy: Strategy | None,
    last: int,
) -> None:
    directory = RunDirectory(path)
    sites = {site: site in manifest["local"] for site in manifest["data"]["sites"]}

    def read(number: int) -> list[ClientUpdate]:
        return directory.read_updates(number)

    task = manifest["data"]["task"]
    outputs = len(task["classes"]) if task["kind"] == "multiclass" else 1
    with one_thread():
        if model is None:
            module = build_model(config.model, tuple(manifest["data"]["input_shape"]), outputs, config.seed)
        else:
            module = initialise(model, config.seed)
        grid = InProcessGrid(RecordedSites(sites, read))
        roster = discover(grid, list(sites), config.federation.timeout)
        trains = frozenset(site for site, value in sites.items() if value)
        folded = strategy or build_strategy(config.strategy, num_sites=max(1, len(trains)), private=True)
        loop = RoundLoop(
            grid,
            folded,
            shapes(module),
            config.seed,
            config.federation,
            {site: node for site, (node, _) in roster.items()},
            trains,
            frozenset(),
        )
        if last:
            loop.run(pack(module), compare)


def _check_objects(
    manifest: Mapping[str, Any], model: object | None, data: object | None, strategy: object | None
) -> None:
    given = {
        "model": manifest["model"]["source"] == "python",
        "strategy": manifest["strategy"]["source"] == "python",
        "data": manifest["data"]["source"] == "arrays" and manifest["noise"] != "secure",
    }
    passed = {"model": model, "strategy": strategy, "data": data}
    missing = [name for name, needed in given.items() if needed and passed[name] is None]
    if missing:
        raise RunError(
            f"the run was given its {' and '.join(missing)} in Python, which no file records",
            code="FK607",
            remedy=f"call fedkit.replay(run_dir, {', '.join(f'{name}=...' for name in missing)})",
        )


def _check_fingerprints(manifest: Mapping[str, Any], found: Mapping[str, str]) -> None:
    recorded = {site: entry["fingerprint"] for site, entry in manifest["data"]["sites"].items()}
    changed = sorted(site for site in recorded.keys() | found.keys() if recorded.get(site) != found.get(site))
    if changed:
        raise RunError(
            f"the data of {', '.join(changed)} is not what the run was trained on",
            code="FK608",
            remedy="restore the data, or compare two runs with `fedkit compare`",
        )


def _version_notes(manifest: Mapping[str, Any]) -> list[str]:
    from fedkit.runs.manifest import installed_versions

    now = installed_versions()
    return [
        f"{name}: the run had {then}, here is {now.get(name, 'none')}"
        for name, then in manifest.get("versions", {}).items()
        if now.get(name) != then
    ]
