"""One folder a run: config, manifest, metrics, model, predictions, updates."""

from __future__ import annotations

import errno
import io
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fedkit.config.experiment import ExperimentConfig
from fedkit.config.serialize import to_yaml
from fedkit.errors import RunError
from fedkit.runs.updates import as_safetensors, model_as_safetensors
from fedkit.storage.atomic import append_line, link, sync_folder, write_bytes, write_json, write_parts, write_text
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
        if report.histograms:
            line["histograms"] = {site: list(cells) for site, cells in report.histograms.items()}
        append_line(self.path / METRICS, json.dumps(line, allow_nan=False))

    def write_model(self, tensors: Mapping[str, Float32], metadata: Mapping[str, str]) -> None:
        """Write named parameters as safetensors (no pickle: a model file must not run code)."""
        write_parts(self.path / MODEL, model_as_safetensors(tensors, metadata))

    def write_updates(self, number: int, updates: Sequence[ClientUpdate]) -> None:
        """Record a round's updates and weights in one file, so that a run with secure noise can be folded again."""
        folder = self.path / UPDATES
        folder.mkdir(exist_ok=True)
        write_parts(folder / f"{number:05d}.safetensors", as_safetensors(updates))

    def link_updates(self, number: int, files: Sequence[Path]) -> None:
        """Record a round's updates that lie on this disk in a file each: they are linked, not copied.

        Args:
            files: safetensors as :func:`fedkit.runs.updates.as_safetensors` makes of one update, flushed to disk.
        """
        folder = self.path / UPDATES / f"{number:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        for place, file in enumerate(files):
            link(file, folder / f"{place:05d}.safetensors")
        for path in (folder, folder.parent, self.path):
            sync_folder(path)

    def read_updates(self, number: int) -> list[ClientUpdate]:
        """The updates of a round, by site name.

        Raises:
            RunError: the round was not recorded, or its file is broken.
        """
        path = self.path / UPDATES / f"{number:05d}.safetensors"
        each = sorted(path.with_suffix("").glob("*.safetensors"))
        if not each and not path.is_file():
            raise RunError(f"{path} does not exist: round {number} was not recorded", code="FK605")
        arrays = {key: value for file in each or [path] for key, value in _load(file).items()}
        sites = sorted(key.removeprefix("delta/") for key in arrays if key.startswith("delta/"))
        try:
            return [ClientUpdate(site, arrays[f"delta/{site}"], float(arrays[f"weight/{site}"][0])) for site in sites]
        except (KeyError, IndexError, TypeError, ValueError):
            raise RunError(f"{path} does not hold a weight for each update", code="FK604") from None

    def read_model(self) -> dict[str, Float32]:
        """Parameter name to its values, as the run left them.

        Raises:
            RunError: the file is missing or broken.
        """
        return _load(self.path / MODEL)

    def write_predictions(self, predictions: Mapping[str, Predictions]) -> None:
        """Write the final model's scores on each site's test rows (simulation only)."""
        arrays: dict[str, Any] = {}
        for site, scored in predictions.items():
            arrays[f"{site}.y"], arrays[f"{site}.scores"] = scored.y, scored.scores
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_bytes(self.path / PREDICTIONS, buffer.getvalue())


def prove_writable(root: Path) -> None:
    """Find out, before any work is done, whether a run directory could be made; leaves nothing behind.

    Raises:
        RunError: it could not.
    """
    nearest = root
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        Path(tempfile.mkdtemp(prefix=".fedkit-", dir=nearest)).rmdir()
    except OSError as error:
        raise cannot_write(root, error) from None


def create(root: Path, name: str) -> RunDirectory:
    """Make a fresh run directory ``root/TIME-NAME`` and prove that it can be written.

    Only its owner may look into it: a simulation's folder holds exact predictions.

    Raises:
        RunError: the folder cannot be created or written.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:60] or "run"
    for attempt in range(100):
        path = root / (f"{stamp}-{safe}" + (f"-{attempt + 1}" if attempt else ""))
        try:
            path.mkdir(mode=0o700, parents=True)
            write_text(path / METRICS, "")
        except FileExistsError:
            if root.exists() and not root.is_dir():
                raise RunError(f"{root} is a file, not a folder", code="FK601", remedy="set runs_dir=FOLDER") from None
            continue
        except OSError as error:
            raise cannot_write(path, error) from None
        return RunDirectory(path)
    raise RunError(f"100 runs named {stamp}-{safe} exist in {root}", code="FK602")


def reopen(path: Path) -> tuple[RunDirectory, int]:
    """A run's folder after its process was killed; a torn last line of the metrics is cut off.

    Returns:
        The folder, and the last round that it has recorded (-1: not even the untrained model): a round up to it must
        not be appended again.

    Raises:
        RunError: the metrics are missing, or an earlier line is no round.
    """
    try:
        with (path / METRICS).open("r+b") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
            os.fsync(file.fileno())
    except FileNotFoundError:
        # Said as for any other reader.
        read_text(path / METRICS)
    except OSError as error:
        raise cannot_write(path, error) from None
    return RunDirectory(path), max(read_digests(path), default=-1)


def cannot_write(path: Path, error: OSError) -> RunError:
    """The one message for a run folder that the disk refuses."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return RunError(
        f"the run folder {path} cannot be written: {error.strerror or error}",
        code="FK601",
        remedy="free space, or set runs_dir=FOLDER to another disk"
        if full
        else "set runs_dir=FOLDER to one that you may write",
    )


def read_text(path: Path) -> str:
    """One text file of a run directory.

    Raises:
        RunError: it is missing, or no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        raise RunError(
            f"{path} cannot be read", code="FK603", remedy="give a folder that `fedkit simulate` wrote"
        ) from None
    except ValueError:
        raise RunError(f"{path} is no UTF-8 text", code="FK604") from None


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object of a run directory.

    Raises:
        RunError: it is missing or broken.
    """
    text = read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is no JSON: {error}", code="FK604") from None
    if not isinstance(value, dict):
        raise RunError(f"{path} does not hold an object", code="FK604")
    return value


def read_digests(path: Path) -> dict[int, str]:
    """Round to the digest of its model, as far as the run got; a torn last line is passed over.

    Raises:
        RunError: the metrics are missing, or a line is no round.
    """
    digests: dict[int, str] = {}
    *whole, torn = read_text(path / METRICS).split("\n")
    for number, line in enumerate([*whole, torn], 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            digests[int(entry["round"])] = str(entry["digest"])
        except (ValueError, KeyError, TypeError, RecursionError):
            if number <= len(whole):
                raise RunError(f"{path / METRICS}, line {number}, is no round", code="FK604") from None
    return digests


def _load(path: Path) -> dict[str, Float32]:
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        raise RunError(f"{path} is missing or broken", code="FK604", remedy="restore the file") from None
