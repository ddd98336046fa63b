"""The newest runs that a site was asked for, admitted or not, for `fedkit client explain`; may be deleted."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedkit.config.experiment import ExperimentConfig
from fedkit.config.serialize import from_dict, to_dict
from fedkit.errors import DeploymentError, FedkitError
from fedkit.federation.job import Job
from fedkit.governance.agreement import Standing
from fedkit.governance.clauses import Circumstances
from fedkit.governance.statistics import Statistics, statistics_of
from fedkit.storage.private import replace

MOST = 30
_MOST_BYTES = 2 * 2**20


@dataclass(frozen=True)
class AskedRun:
    """A run as it was asked for: signed by its submitter, whatever became of it.

    Attributes:
        job: the job's digest.
        config: plain values; see `fedkit.config.serialize.to_dict`.
        agreement: digest of the study agreement that the job names; empty where it names none.
        statistics: plain values of what is asked for in place of a model.
    """

    run: str
    job: str
    study: str
    submitter: str
    key: str
    others: tuple[str, ...]
    at: float
    expires_at: int
    config: dict[str, Any]
    agreement: str = ""
    statistics: dict[str, Any] | None = None

    @property
    def dataset(self) -> str:
        """The data set's name."""
        return str(self.config["data"]["name"])

    def experiment(self, models: tuple[str, ...] = ()) -> ExperimentConfig:
        """The config, parsed by the schema.

        Raises:
            ConfigError: FK101, it is not what a job may hold.
        """
        return from_dict(self.config, python=False, models=models)

    def question(self) -> Statistics | None:
        """What is asked for in place of a model."""
        return None if self.statistics is None else statistics_of(self.statistics)

    def circumstances(self, now: float, approval: str, standing: Standing) -> Circumstances:
        """What the site holds the run against, besides."""
        return Circumstances(
            now, self.study, self.submitter, self.key, self.others, approval, self.agreement, standing, self.question()
        )


def asked_run(job: Job, others: tuple[str, ...], now: float) -> AskedRun:
    """A job that was opened, as it is remembered."""
    return AskedRun(
        job.run, job.digest, job.study, job.submitter, job.signed.key, others, round(now, 3), job.expires_at,
        to_dict(job.config), job.agreement, None if job.statistics is None else job.statistics.as_dict(),
    )  # fmt: skip


def read_run(values: Any) -> AskedRun:
    """A remembered run from its plain values.

    Raises:
        ValueError: it is none.
    """
    kinds = {"run": str, "job": str, "study": str, "submitter": str, "key": str, "expires_at": int, "config": dict}
    # Lines of before have neither an agreement nor statistics.
    values = {"agreement": "", "statistics": None, **values} if isinstance(values, dict) else values
    if not isinstance(values, dict) or set(values) != {*kinds, "others", "at", "agreement", "statistics"}:
        raise ValueError("other fields than a run's")
    if type(values.get("agreement", "")) is not str:
        raise ValueError("an agreement that is no text")
    if not all(type(values[name]) is kind for name, kind in kinds.items()) or type(values["at"]) not in (int, float):
        raise ValueError("a field of another type")
    data, others = values["config"].get("data"), values["others"]
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        raise ValueError("a config without a data set")
    if not isinstance(others, list) or not all(isinstance(other, str) for other in others):
        raise ValueError("other sites that are no names")
    if values["statistics"] is not None:
        statistics_of(values["statistics"])
    return AskedRun(**{**values, "others": tuple(others)})


@dataclass(frozen=True)
class Asked:
    """``asked.json``: nothing is decided by it."""

    path: Path

    def note(self, run: AskedRun) -> None:
        """Remember a run, once; what cannot be written is forgotten."""
        known = self.runs()
        if any(other.job == run.job and other.others == run.others for other in known):
            return
        newest = [asdict(each) for each in (*(other for other in known if other.job != run.job), run)][-MOST:]
        # Every message reads the file, and a config may have a megabyte.
        while len(text := json.dumps(newest) + "\n") > _MOST_BYTES and len(newest) > 1:
            del newest[0]
        with suppress(DeploymentError):
            replace(self.path, text.encode())

    def runs(self) -> list[AskedRun]:
        """Those that can be read, oldest first."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            return [read_run(values) for values in found]
        except (OSError, ValueError, TypeError, RecursionError, FedkitError):
            return []

    def find(self, run: str) -> AskedRun | None:
        """The newest of a name, or of a job's digest."""
        return next((each for each in reversed(self.runs()) if run in (each.run, each.job)), None)
