"""Where a run's figures can be mirrored to: MLflow, TensorBoard. Each is an extra, imported when it is asked for."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fedkit.errors import RunError

_STATUS = {"complete": "FINISHED", "degraded": "FINISHED", "failed": "FAILED"}
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_./-]")
_LONGEST = 500
"""Characters of a text; MLflow's older servers take no more of a parameter."""


class Tracker(Protocol):
    """What a run's figures are told to; what it raises is the mirror's to catch."""

    def begin(self, run: Path, experiment: str) -> str:
        """Take a run up; returns what finds it again."""

    def facts(self, run: str, facts: Mapping[str, str]) -> None:
        """What does not change from round to round."""

    def scalars(self, run: str, step: int, values: Mapping[str, float]) -> None:
        """Figures of one round; on their way to the disk or the server when it returns."""

    def end(self, run: str, outcome: str) -> None:
        """The run is over."""


@dataclass
class _MLflow:
    client: Any
    metric: Any
    param: Any

    def begin(self, run: Path, experiment: str) -> str:
        found = self.client.get_experiment_by_name(experiment)
        where = self.client.create_experiment(experiment) if found is None else found.experiment_id
        # A client makes no tags of its own: no user's name, host or command line goes along.
        return str(self.client.create_run(where, run_name=run.name, tags={"fedkit.run": run.name}).info.run_id)

    def facts(self, run: str, facts: Mapping[str, str]) -> None:
        self.client.log_batch(run, params=[self.param(_name(key), text[:_LONGEST]) for key, text in facts.items()])

    def scalars(self, run: str, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self.client.log_batch(run, metrics=[self.metric(_name(key), value, now, step) for key, value in values.items()])

    def end(self, run: str, outcome: str) -> None:
        self.client.set_tag(run, "fedkit.outcome", outcome)
        self.client.set_terminated(run, _STATUS.get(outcome, "KILLED"))


@dataclass
class _TensorBoard:
    make: Callable[..., Any]
    place: Path | None

    def begin(self, run: Path, experiment: str) -> str:
        return str(run / "tensorboard" if self.place is None else self.place / "tensorboard" / run.name)

    def facts(self, run: str, facts: Mapping[str, str]) -> None:
        with self._writer(run) as writer:
            writer.add_text("run", "\n".join(f"    {key}: {text}" for key, text in facts.items()), 0)

    def scalars(self, run: str, step: int, values: Mapping[str, float]) -> None:
        with self._writer(run) as writer:
            for key, value in values.items():
                writer.add_scalar(_name(key), value, step)

    def end(self, run: str, outcome: str) -> None:
        with self._writer(run) as writer:
            writer.add_text("outcome", outcome, 0)

    def _writer(self, run: str) -> Any:
        # Closed each time: its flush does not wait for what it holds in a queue. And a file's own name has the second
        # alone: another writer within it would write over this one.
        return self.make(run, filename_suffix=f".{time.time_ns()}")


def _mlflow(place: Path | None) -> Tracker:
    # Nothing is told to anybody but the server that is named, which is not waited for without end.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for name, value in (("MLFLOW_HTTP_REQUEST_TIMEOUT", "10"), ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")):
        os.environ.setdefault(name, value)
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    database = ((place or Path()) / "mlflow.db").absolute()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{database}"
    client = MlflowClient(tracking_uri=uri)
    # A server that is not there is found before a run, not after its first round.
    client.search_experiments(max_results=1)
    return _MLflow(client, Metric, Param)


def _tensorboard(place: Path | None) -> Tracker:
    from tensorboardX import SummaryWriter

    return _TensorBoard(SummaryWriter, place)


TRACKERS: Mapping[str, Callable[[Path | None], Tracker]] = {"mlflow": _mlflow, "tensorboard": _tensorboard}


def open_tracker(kind: str, place: Path | None) -> Tracker:
    """A tracker, before any work is done for a run.

    Args:
        kind: one of `TRACKERS`.
        place: the folder that TensorBoard's files and MLflow's database go into unless the environment names a server
            (MLFLOW_TRACKING_URI); None for the run's folder and the current one.

    Raises:
        RunError: FK617, no such tracker, one that is not installed, or one that does not answer.
    """
    if kind not in TRACKERS:
        raise RunError(f"there is no tracker {kind[:40]!r}", code="FK617", remedy=f"--track {' or '.join(TRACKERS)}")
    try:
        return TRACKERS[kind](place)
    except ModuleNotFoundError as error:
        raise RunError(
            f"--track {kind} needs {error.name}, which is not installed",
            code="FK617",
            remedy=f"pip install 'fedkit[{kind}]'",
        ) from None
    except Exception as error:
        # Of the error's text nobody knows what it names: a server's address may hold a password.
        raise RunError(
            f"--track {kind} cannot begin: {type(error).__name__}",
            code="FK617",
            remedy="look at MLFLOW_TRACKING_URI and at the server that it names, or leave --track out",
        ) from None


def _name(key: str) -> str:
    return _NOT_IN_A_NAME.sub("_", key)[:250]
