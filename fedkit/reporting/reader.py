"""A run directory, read: whatever a finished, failed or interrupted run left behind."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fedkit.errors import RunError
from fedkit.reporting.text import HEADLINE, ordered
from fedkit.types import Metrics, Predictions

FORMAT = 1
_FINISHED = ("complete", "degraded")
_NOT_METRICS = ("train", "test", "train_patients", "test_patients", "epsilon", "delta")
_SECTIONS = ("data", "plan", "local", "model", "strategy", "versions")


@dataclass(frozen=True)
class RunView:
    """One run as its directory tells it.

    Attributes:
        manifest: ``manifest.json``.
        config_text: ``config.yaml`` as written; ``config`` is the same, parsed.
        rounds: ``metrics.jsonl``, one mapping a round, round 0 the untrained model; without a torn last line.
        result: ``result.json``; None where the run did not get that far.
        predictions: site to the final model's scores on its test rows; empty where none were kept.
        remarks: what the reader of the directory had to leave out, in words.
    """

    path: Path
    manifest: Mapping[str, Any]
    config_text: str
    config: Mapping[str, Any]
    rounds: tuple[Mapping[str, Any], ...]
    result: Mapping[str, Any] | None
    predictions: Mapping[str, Predictions]
    remarks: tuple[str, ...]

    @property
    def name(self) -> str:
        """The experiment's name."""
        return str(self.manifest.get("name") or self.path.name)

    @property
    def outcome(self) -> str:
        """running, complete, degraded, failed or interrupted."""
        return str(self.manifest.get("outcome", "running"))

    @property
    def data(self) -> Mapping[str, Any]:
        """The manifest's section on data; empty where a run failed before it had read any."""
        return self.manifest.get("data") or {}

    @property
    def kind(self) -> str:
        """binary, multiclass or regression."""
        declared = (self.data.get("task") or {}).get("kind")
        configured = ((self.config.get("data") or {}).get("target") or {}).get("kind")
        return str(declared or configured or "binary")

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of all sites, in the data's order; the order fixes their colours."""
        names = dict.fromkeys(self.data.get("sites") or {})
        for line in self.rounds:
            names.update(dict.fromkeys(line.get("sites") or {}))
        names.update(dict.fromkeys((self.result or {}).get("sites") or {}))
        return tuple(names)

    @property
    def rounds_done(self) -> int:
        """Rounds that ended, the untrained round 0 not counted."""
        return max((int(line.get("round", 0)) for line in self.rounds), default=0)

    @property
    def num_rounds(self) -> int:
        """Rounds that were planned."""
        return int(self.manifest.get("num_rounds") or self.rounds_done)

    @property
    def deployed(self) -> bool:
        """Whether the sites were real ones, which tell what their own files and plans admit, and no more."""
        return self.manifest.get("federation") == "deployed"

    @property
    def private_mode(self) -> bool:
        """Whether the run followed privacy plans (with real or with seeded noise)."""
        return str(self.manifest.get("mode") or "none") != "none"

    @property
    def plan(self) -> Mapping[str, Mapping[str, Any]]:
        """Site to its privacy plan; empty without privacy."""
        return self.manifest.get("plan") or {}

    @property
    def overall(self) -> Metrics:
        """Metrics over all sites; empty where the run did not end."""
        return (self.result or {}).get("overall") or {}

    @property
    def metric_names(self) -> tuple[str, ...]:
        """All metrics of this run, in the order of display."""
        names = set(self.overall)
        for site in self.sites:
            names |= set(self.final(site))
        return ordered(names)

    @property
    def headline(self) -> tuple[str, ...]:
        """The metrics that stand for the rest."""
        known = set(self.metric_names)
        return tuple(n for n in HEADLINE.get(self.kind, ()) if n in known) or self.metric_names[:2]

    def final(self, site: str) -> Metrics:
        """A site's last known test metrics (of the result, else of the last evaluated round)."""
        facts = ((self.result or {}).get("sites") or {}).get(site) or {}
        final = {key: value for key, value in facts.items() if key not in _NOT_METRICS}
        lines = (line["sites"][site] for line in reversed(self.rounds) if (line.get("sites") or {}).get(site))
        return final or next(lines, {})

    def sizes(self, site: str) -> tuple[int | None, int | None]:
        """Rows a site trains on and tests on."""
        facts = {**((self.data.get("sites") or {}).get(site) or {})}
        facts |= {part: facts.get(f"{part}_rows", facts.get(part)) for part in ("train", "test")}
        facts |= {k: v for k, v in (((self.result or {}).get("sites") or {}).get(site) or {}).items() if v is not None}
        return facts.get("train"), facts.get("test")

    @property
    def totals(self) -> tuple[int, int]:
        """Rows trained on, and rows that the metrics overall cover; a site left out counts nothing there."""
        trained = self.manifest.get("local") or {}
        train = sum(self.sizes(site)[0] or 0 for site in self.sites if site in trained)
        return train, sum(self.sizes(site)[1] or 0 for site in self.sites if self.final(site))

    def spent(self, site: str) -> float | None:
        """Epsilon a site has spent so far; None without privacy or where the site never trained."""
        value = (((self.result or {}).get("sites") or {}).get(site) or {}).get("epsilon")
        if value is None:
            lines = (line["epsilon"][site] for line in reversed(self.rounds) if site in (line.get("epsilon") or {}))
            value = next(lines, None)
        return None if value is None else float(value)

    def series(self, site: str, metric: str) -> list[tuple[int, float]]:
        """(round, value) of one metric at one site, where it is defined."""
        points = ((line["round"], (line.get("sites") or {}).get(site, {}).get(metric)) for line in self.rounds)
        return [(int(r), float(v)) for r, v in points if v is not None]


def read_run(run_dir: Path | str) -> RunView:
    """Read a run directory.

    Returns:
        The run; what an unfinished run did not write is empty, what is torn is left out and remarked upon.

    Raises:
        RunError: FK610 no run directory, FK611 broken content, FK612 a file is missing, FK613 an unknown format.
    """
    path = Path(run_dir)
    if not (path / "manifest.json").is_file():
        what = "is not a run directory: it has no manifest.json" if path.is_dir() else "is not a directory"
        raise RunError(
            f"{path} {what}", code="FK610", remedy="name a folder such as runs/20261122-165900-heart_disease"
        )
    manifest = _object(path / "manifest.json")
    if manifest.get("format") != FORMAT:
        raise RunError(
            f"{path / 'manifest.json'} has format {manifest.get('format')!r}; this fedkit reads {FORMAT}",
            code="FK613",
            remedy="use the fedkit that wrote the run",
        )
    _check_sections(path / "manifest.json", manifest)
    finished = manifest["outcome"] in _FINISHED
    config_text = _text(path / "config.yaml")
    remarks: list[str] = []
    rounds = _rounds(path / "metrics.jsonl", finished, remarks)
    result = _object(path / "result.json") if finished or (path / "result.json").exists() else None
    return RunView(
        path=path,
        manifest=manifest,
        config_text=config_text,
        config=_yaml(path / "config.yaml", config_text),
        rounds=rounds,
        result=result,
        predictions=_predictions(path / "predictions.npz", remarks),
        remarks=tuple(remarks),
    )


def _check_sections(path: Path, manifest: Mapping[str, Any]) -> None:
    whole = all(isinstance(manifest.get(key), str) for key in ("name", "outcome"))
    sections = all(isinstance(manifest.get(key) or {}, Mapping) for key in _SECTIONS)
    rounds = manifest.get("num_rounds")
    if not whole or not sections or not isinstance(rounds, int):
        raise RunError(f"{path} is not whole: a manifest holds more than this", code="FK611", remedy="restore the file")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        message, remedy = f"{path} is missing", "run the experiment again; a run directory is read as a whole"
        raise RunError(message, code="FK612", remedy=remedy) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read: {error}", code="FK611") from error


def _parse(path: Path, text: str, where: str = "") -> Mapping[str, Any]:
    try:
        # A metric that is NaN is undefined; JSON proper has no other way to say so than null.
        value = json.loads(text, parse_constant=lambda _: None)
    except ValueError as error:
        raise RunError(f"{path}{where} is not JSON: {error}", code="FK611") from None
    if not isinstance(value, dict):
        raise RunError(f"{path}{where} holds a {type(value).__name__}, not an object", code="FK611")
    return value


def _object(path: Path) -> Mapping[str, Any]:
    return _parse(path, _text(path))


def _yaml(path: Path, text: str) -> Mapping[str, Any]:
    try:
        value = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise RunError(f"{path} is not YAML: {error}", code="FK611") from None
    if not isinstance(value, dict):
        raise RunError(f"{path} holds a {type(value).__name__}, not a mapping", code="FK611")
    return value


def _rounds(path: Path, finished: bool, remarks: list[str]) -> tuple[Mapping[str, Any], ...]:
    if not path.exists() and not finished:
        return ()
    lines = _text(path).split("\n")
    # A process that was killed while it appended leaves a last line without its newline; all others are whole.
    if torn := lines.pop():
        try:
            whole = isinstance(json.loads(torn), dict)
        except ValueError:
            whole = False
        if whole:
            lines.append(torn)
        else:
            remarks.append("The last line of metrics.jsonl was cut off while it was written; it is left out.")
    rounds = tuple(_parse(path, text, f", line {at}") for at, text in enumerate(lines, 1) if text.strip())
    for line in rounds:
        number, parts = line.get("round"), (line.get(key, {}) for key in ("sites", "failed", "epsilon"))
        if not isinstance(number, int) or not all(isinstance(part, Mapping) for part in parts):
            raise RunError(f"{path} holds a line that is no round", code="FK611", remedy="restore the file")
    return rounds


def _predictions(path: Path, remarks: list[str]) -> Mapping[str, Predictions]:
    if not path.exists():
        return {}
    try:
        # From memory: numpy leaves a file open that turns out to be torn.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            sites = [key.removesuffix(".y") for key in arrays.files if key.endswith(".y")]
            read = {s: Predictions(arrays[f"{s}.y"], np.asarray(arrays[f"{s}.scores"], float)) for s in sites}
    except (OSError, ValueError, KeyError, EOFError, TypeError, NotImplementedError, zlib.error, zipfile.BadZipFile):
        remarks.append("predictions.npz cannot be read: ROC and calibration curves are left out.")
        return {}
    # A torn archive may hold one array of a pair and half of the other.
    whole = {s: p for s, p in read.items() if p.y.ndim == 1 and p.scores.ndim >= 1 and len(p.y) == len(p.scores)}
    if len(whole) < len(read):
        remarks.append("predictions.npz is not whole: some sites' ROC and calibration curves are left out.")
    return {site: p for site, p in whole.items() if np.isfinite(p.scores).all()}
