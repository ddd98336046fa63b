"""One folder a run: config, manifest, metrics, model, predictions, updates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from fedkit.config.experiment import ExperimentConfig
from fedkit.config.serialize import to_yaml
from fedkit.errors import RunError
from fedkit.storage.atomic import append_line, write_bytes, write_json, write_text
from fedkit.types import ClientUpdate, Float32, Predictions, RoundReport

MANIFEST, METRICS, RESULT, CONFIG = "manifest.json", "metrics.jsonl", "result.json", "config.yaml"
MODEL, PREDICTIONS, UPDATES, REPORT = "model.safetensors", "predictions.npz", "updates", "report.html"


@dataclass(frozen=True)
class RunDirectory:
    """A run's folder; every file in it is replaced whole or appended by line."""

    path: Path

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write what the run is and how it stands."""
        write_json(self.path / MANIFEST, manifest)

    def write_config(self, config: ExperimentConfig) -> None:
        """Write the resolved config."""
        write_text(self.path / CONFIG, to_yaml(config))

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write what ``--json`` prints."""
        write_json(self.path / RESULT, result)

    def append_round(self, report: RoundReport) -> None:
        """Append one round to the metrics."""
        line = {
            "round": report.round,
            "trained": list(report.trained),
            "failed": dict(report.failed),
            "sites": {site: dict(metrics) for site, metrics in report.sites.items()},
            "epsilon": dict(report.epsilon),
            "digest": report.digest,
            "seconds": round(report.seconds, 4),
        }
        append_line(self.path / METRICS, json.dumps(line, allow_nan=False))

    def write_model(self, tensors: Mapping[str, Float32], metadata: Mapping[str, str]) -> None:
        """Write named parameters as safetensors (no pickle: a model file must not run code)."""
        arrays = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
        write_bytes(self.path / MODEL, save(arrays, metadata=dict(metadata)))

    def write_updates(self, number: int, updates: Sequence[ClientUpdate]) -> None:
        """Record a round's updates and weights, so that a run with secure noise can be folded again."""
        folder = self.path / UPDATES
        folder.mkdir(exist_ok=True)
        arrays: dict[str, Any] = {f"delta/{update.site}": update.delta for update in updates}
        arrays |= {f"weight/{update.site}": np.array([update.weight], dtype=np.float64) for update in updates}
        write_bytes(folder / f"{number:05d}.safetensors", save(arrays))

    def read_updates(self, number: int) -> list[ClientUpdate]:
        """The updates of a round, by site name.

        Raises:
            RunError: the round was not recorded.
        """
        path = self.path / UPDATES / f"{number:05d}.safetensors"
        if not path.is_file():
            raise RunError(f"{path} does not exist: round {number} was not recorded", code="FK605")
        arrays = load_file(path)
        sites = sorted(key.removeprefix("delta/") for key in arrays if key.startswith("delta/"))
        return [ClientUpdate(site, arrays[f"delta/{site}"], float(arrays[f"weight/{site}"][0])) for site in sites]

    def write_predictions(self, predictions: Mapping[str, Predictions]) -> None:
        """Write the final model's scores on each site's test rows (simulation only)."""
        arrays: dict[str, Any] = {}
        for site, scored in predictions.items():
            arrays[f"{site}.y"], arrays[f"{site}.scores"] = scored.y, scored.scores
        with (self.path / PREDICTIONS).open("wb") as file:
            np.savez_compressed(file, **arrays)


def create(root: Path, name: str) -> RunDirectory:
    """Make a fresh run directory ``root/TIME-NAME`` and prove that it can be written.

    Raises:
        RunError: the folder cannot be created or written.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:60] or "run"
    for attempt in range(100):
        path = root / (f"{stamp}-{safe}" + (f"-{attempt + 1}" if attempt else ""))
        try:
            path.mkdir(parents=True)
            write_text(path / METRICS, "")
        except FileExistsError:
            if root.exists() and not root.is_dir():
                raise RunError(f"{root} is a file, not a folder", code="FK601", remedy="set runs_dir=FOLDER") from None
            continue
        except OSError as error:
            raise RunError(
                f"the run folder {path} cannot be written: {error.strerror}",
                code="FK601",
                remedy="set runs_dir=FOLDER to one that you may write",
            ) from None
        return RunDirectory(path)
    raise RunError(f"100 runs named {stamp}-{safe} exist in {root}", code="FK602")


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object of a run directory.

    Raises:
        RunError: it is missing or broken.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise RunError(
            f"{path} cannot be read", code="FK603", remedy="give a folder that `fedkit simulate` wrote"
        ) from None
    except ValueError as error:
        raise RunError(f"{path} is no JSON: {error}", code="FK604") from None
    if not isinstance(value, dict):
        raise RunError(f"{path} does not hold an object", code="FK604")
    return value


def read_digests(path: Path) -> dict[int, str]:
    """Round to the digest of its model, as far as the run got."""
    digests: dict[int, str] = {}
    for line in (path / METRICS).read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            break
        digests[int(entry["round"])] = str(entry["digest"])
    return digests
