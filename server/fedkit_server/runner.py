"""Runs the jobs that were submitted, one after the other, in a thread of the coordinator; goes on after a crash."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedkit.errors import DeploymentError, FedkitError
from fedkit.federation.events import Event
from fedkit.federation.flower_link import Link
from fedkit.federation.job import Job, open_job
from fedkit.federation.keyring import Keyring
from fedkit.governance.terms import Allowed
from fedkit.storage.keys import SigningKey
from fedkit_server.admitting import MOST_OPENINGS, check_sites, check_size, died_opening
from fedkit_server.audit import Trail
from fedkit_server.folder import AUDIT
from fedkit_server.log_of_run import RunLog
from fedkit_server.progress import progress_of
from fedkit_server.runners import nothing
from fedkit_server.store import RunRow, Store
from fedkit_server.turn import take_turn

_LOG = logging.getLogger("fedkit.server")
_PAUSE = 5.0
"""Seconds until what could not be written is tried again."""


class _ShuttingDown(Exception):
    """The coordinator is about to stop: the journal stays open for the next start."""


class Runner:
    """Runs jobs in the order of their submission.

    Guarantee: a run that the store knows is never begun twice. What a killed coordinator was doing is taken up again
    where its journal says, with the same questions, so that no site's budget is asked for twice.

    Args:
        folder: the coordinator's; runs lie in ``runs/``.
        key: the coordinator's, which signs orders.
        keyring: the newest one.
        models: those that this coordinator has installed beside fedkit's own.
        goodbye: seconds for which the sites are waited for at a run's end.
        trail: the coordinator's audit log; by default that of the folder.
    """

    def __init__(
        self,
        folder: Path,
        link: Link,
        store: Store,
        key: SigningKey,
        keyring: Callable[[], Keyring],
        *,
        models: Mapping[str, Allowed] | None = None,
        goodbye: float = 5.0,
        trail: Trail | None = None,
    ) -> None:
        self._folder, self._link, self._store = folder / "runs", link, store
        self._key, self._keyring, self._models, self._goodbye = key, keyring, models or {}, goodbye
        self._trail = trail or Trail(folder / AUDIT, key, store.site_key)
        self._logs: dict[str, RunLog] = {}
        self._progress: dict[str, dict[str, Any]] = {}
        self._stopping = {row.run for row in store.runs() if row.stopping}
        self._closing = False
        self._changed = threading.Condition()
        self._folder.mkdir(mode=0o700, exist_ok=True)
        link.end_all_runs()
        for row in store.runs():
            if row.state == "running":
                self._take_up(row)
        self._thread = threading.Thread(target=self._work, name="fedkit-runner", daemon=True)
        self._thread.start()

    def submit(self, job_text: str) -> str:
        """Queue a run; returns its id.

        Raises:
            FedkitError: the job is refused, or its run is known (FK730).
        """
        job = self._open(job_text)
        check_sites(job, self._store)
        check_size(job, self._models)
        self._trail.record("submitted", run=job.run, job=job.digest, user=job.submitter, sites=len(job.sites))
        if not self._store.add_run(job.run, job.signed.text, job.name, job.submitter, time.time()):
            raise DeploymentError(
                f"a run {job.run} was submitted before", code="FK730", remedy="submit the experiment again as a new run"
            )
        self._wake()
        return job.run

    def _open(self, text: str) -> Job:
        ring = self._keyring()
        return open_job(text, ring, ring.federation, time.time(), models=self._models)

    def stop(self, run: str) -> None:
        """End a run for good: what its holds at the sites have left is free again, the model so far is kept.

        Raises:
            DeploymentError: FK732, no such run; FK733, it is over.
        """
        self._row(run)
        # On disk before anybody is told that it will end: a restart goes on with ending it.
        if not self._store.stop_run(run):
            raise DeploymentError(f"{run} is over: {self._row(run).outcome}", code="FK733")
        with self._changed:
            self._stopping.add(run)
        self._wake()

    def resume(self, run: str, first: Callable[[], object] = nothing) -> None:
        """Go on with a run that failed below its quorum, in the round where it failed.

        Raises:
            DeploymentError: FK732, no such run; FK733, it is over, runs, or waits for its turn.
        """
        row = self._row(run)
        if row.state != "failed":
            raise DeploymentError(
                f"{run} is {row.outcome or row.state}; only a run that failed can be resumed",
                code="FK733",
                remedy="" if row.state in ("queued", "running") else "submit the experiment again as a new run",
            )
        first()
        self._store.set_run(run, "queued")
        self._wake()

    def events(self, run: str, after: int) -> list[dict[str, Any]]:
        """What happened after the event of that number."""
        return self._log(run).after(after)

    def wait_events(self, run: str, after: int, timeout: float) -> list[dict[str, Any]]:
        """The same, waiting until there is something or the time, in seconds, is over."""
        return self._log(run).wait(after, timeout)

    def status(self, run: str) -> dict[str, Any]:
        """How a run stands.

        Raises:
            DeploymentError: FK732, no such run.
        """
        row = self._row(run)
        found = {"run": run, "name": row.name, "submitter": row.submitter, "submitted_at": row.submitted_at}
        before = self._store.runs_before(row)
        return found | {"state": row.state, "outcome": row.outcome, "before": before} | self._progress_of(row)

    def _progress_of(self, row: RunRow) -> dict[str, Any]:
        with self._changed:
            known = self._progress.get(row.run)
        if known is None:
            # What earlier processes have done is in the run's folder.
            read = progress_of(row.job, self._folder / row.run)
            with self._changed:
                known = self._progress.setdefault(row.run, read)
        return dict(known)

    def close(self) -> None:
        """Stop so that the next start goes on, and return when that is done."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(30.0)

    def _row(self, run: str) -> RunRow:
        row = self._store.run(run)
        if row is None:
            known = ", ".join(each.run for each in self._store.runs()[:5]) or "none"
            raise DeploymentError(f"there is no run {run!r}; the newest are {known}", code="FK732")
        return row

    def _log(self, run: str) -> RunLog:
        self._row(run)
        with self._changed:
            if run not in self._logs:
                (self._folder / run).mkdir(mode=0o700, exist_ok=True)
                self._logs[run] = RunLog.open(self._folder / run)
            return self._logs[run]

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def alive(self) -> bool:
        """Whether runs have their turn."""
        return self._thread.is_alive()

    def _take_up(self, row: RunRow) -> None:
        if row.openings < MOST_OPENINGS:
            self._store.take_up_run(row.run)
            return
        why = died_opening(row)
        self._tell_failed(row.run, why)
        self._store.set_run(row.run, "failed", why)
        self._stopping.discard(row.run)

    def _work(self) -> None:
        while not self._closing:
            try:
                row = self._wait_for_next()
                if row is not None:
                    self._settle(row, *self._turn(row))
            except Exception:
                # Whatever it is, such as a store that cannot be read now: the next run has its turn.
                _LOG.exception("the runner")
                self._pause()

    def _turn(self, row: RunRow) -> tuple[str, str | None]:
        code = ""
        try:
            self._store.begin_run(row.run)
            self._trail.record("run_started", run=row.run)
            state, outcome = self._run(row)
        except _ShuttingDown:
            return "queued", None
        except FedkitError as error:
            _LOG.error("run %s: %s", row.run, error)
            state, outcome, code = "failed", str(error), error.code
            self._tell_failed(row.run, outcome)
        except (Exception, SystemExit) as error:
            _LOG.exception("run %s", row.run)
            state, outcome, code = "failed", f"{type(error).__name__}: see the coordinator's log", "FK739"
            self._tell_failed(row.run, outcome)
        self._trail.told("run_ended", run=row.run, outcome="failed" if state == "failed" else outcome, code=code)
        return state, outcome

    def _settle(self, row: RunRow, state: str, outcome: str | None) -> None:
        """Write how a turn ended, as often as it takes; a coordinator that closes first takes the run up again."""
        while True:
            try:
                # Stopped while it failed: it has one more turn, in which it ends before anybody is asked.
                again = state == "failed" and row.run in self._stopping and not row.stopping
                self._store.set_run(row.run, "queued" if again else state, None if again else outcome)
            except Exception:
                _LOG.exception("run %s is %s, which cannot be written", row.run, state)
            else:
                if state != "queued" and not again:
                    self._stopping.discard(row.run)
                return
            if self._closing:
                return
            self._pause()

    def _pause(self) -> None:
        with self._changed:
            if not self._closing:
                self._changed.wait(_PAUSE)

    def _wait_for_next(self) -> RunRow | None:
        """The run whose turn it is; None when the coordinator is about to stop."""
        with self._changed:
            while not self._closing:
                # The store gives the newest first.
                for row in reversed(self._store.runs()):
                    if row.state == "queued":
                        return row
                self._changed.wait(5.0)
        return None

    def _tell_failed(self, run: str, why: str) -> None:
        try:
            self._log(run).add(Event("finished", 0, detail=f"failed: {why}"))
        except Exception:
            _LOG.exception("run %s: nobody can be told that it failed", run)

    def _run(self, row: RunRow) -> tuple[str, str]:
        job = self._open(row.job)
        self._progress_of(row)

        def stop() -> bool:
            if self._closing:
                raise _ShuttingDown
            return row.run in self._stopping

        finish = take_turn(
            job,
            self._folder / row.run,
            self._link,
            self._store,
            key=self._key,
            keyring=self._keyring,
            trail=self._trail,
            progress=self._progress[row.run],
            stop=stop,
            tell=self._log(row.run).add,
            goodbye=self._goodbye,
            models=self._models,
        )
        return ("failed" if finish == "failed" else "finished"), finish
