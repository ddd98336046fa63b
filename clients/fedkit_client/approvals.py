"""What a person at the site has decided about runs, where a data set's ``approval`` is ``manual``.

``approvals.jsonl`` in the site's folder: one JSON object a line, none of which ever changes. A line is a request (which
the site notes when a run first asks), an approval or a denial; the last decision about a job's digest counts.

::

    FK763  no such request, or more than one
    FK765  the file cannot be read, or others can write it; every run counts as not approved
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fedkit.errors import DeploymentError
from fedkit.storage.private import replace
from fedkit_client.asked import AskedRun, read_run

APPROVED = "approved"
DAYS, MOST_DAYS = 30.0, 366.0
MOST_OPEN = 100
"""Requests that wait at once; further ones are not noted, so that nobody fills the disk by submitting runs."""

_MOST_BYTES = 64 * 2**20
_DAY = 86_400.0
_DECISION = {"approved": {"kind", "at", "run", "job", "until"}, "denied": {"kind", "at", "run", "job", "reason"}}


@dataclass(frozen=True)
class Decision:
    """The last word about a job.

    Attributes:
        until: seconds since the epoch, for an approval.
        reason: for a denial.
    """

    kind: str
    at: float
    run: str
    job: str
    until: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Record:
    """What the file says.

    Attributes:
        requests: by the job's digest, oldest first.
        decisions: the last one about each job.
        approved: the job that was last approved, by data set.
    """

    requests: Mapping[str, AskedRun] = field(default_factory=dict)
    decisions: Mapping[str, Decision] = field(default_factory=dict)
    approved: Mapping[str, AskedRun] = field(default_factory=dict)

    def standing(self, job: str, now: float) -> str:
        """``approved``, or why the job is not."""
        decision = self.decisions.get(job)
        if decision is None:
            return "requested, and not decided" if job in self.requests else "not asked for before"
        if decision.kind != APPROVED:
            return f"denied ({decision.reason})"
        return APPROVED if decision.at <= now < decision.until else "expired"

    def open(self, now: float) -> list[AskedRun]:
        """Requests that a person can decide: neither decided, unless the approval has expired, nor over."""
        waiting = ("requested, and not decided", "expired")
        return [each for each in self.requests.values() if self.standing(each.job, now) in waiting
                and each.expires_at > now]  # fmt: skip


@dataclass(frozen=True)
class Approvals:
    """The file, shared by the site's processes and the command line.

    Guarantee: a line that was there stays, byte for byte; a crash leaves the file as it was or with one more line.
    Whatever cannot be read approves nothing.
    """

    path: Path

    def standing(self, job: str, now: float) -> str:
        """``approved``, or why the job is not; never raises."""
        try:
            return self.read().standing(job, now)
        except DeploymentError as error:
            return f"not readable ({error.message})"

    def read(self) -> Record:
        """Everything that was noted.

        Raises:
            DeploymentError: FK765.
        """
        return _record(self._content(), self.path)

    def find(self, run: str) -> AskedRun:
        """The one request of a run's name, or of a job's digest.

        Raises:
            DeploymentError: FK763, FK765.
        """
        return _one(self.read(), run)

    def note(self, run: AskedRun, now: float) -> bool:
        """Note a request, once; False if too many wait already, or the file is half full.

        Raises:
            DeploymentError: FK700, FK765.
        """
        if run.job in self.read().requests:
            return True
        with self._alone() as content:
            record = _record(content, self.path)
            if run.job not in record.requests:
                # The second half of the file is for decisions, which nobody else can use up.
                if len(record.open(now)) >= MOST_OPEN or len(content) > _MOST_BYTES // 2:
                    return False
                self._append(content, {"kind": "requested", **asdict(run)})
        return True

    def approve(self, run: str, days: float, now: float) -> tuple[AskedRun, Decision]:
        """Approve the exact job that was asked for; it counts from now on, for so many days.

        Args:
            run: its name, or the job's digest.

        Raises:
            DeploymentError: FK763, FK707, FK700, FK765.
        """
        require_days(days)
        with self._alone() as content:
            found = _one(_record(content, self.path), run)
            line: dict[str, Any] = {
                "kind": APPROVED,
                "at": now,
                "run": found.run,
                "job": found.job,
                "until": now + days * _DAY,
            }
            self._append(content, line)
            return found, Decision(**line)

    def deny(self, run: str, reason: str, now: float) -> tuple[AskedRun, Decision]:
        """Deny a job, one that was approved too.

        Raises:
            DeploymentError: FK763, FK707, FK700, FK765.
        """
        require_reason(reason)
        with self._alone() as content:
            found = _one(_record(content, self.path), run)
            line: dict[str, Any] = {"kind": "denied", "at": now, "run": found.run, "job": found.job, "reason": reason}
            self._append(content, line)
            return found, Decision(**line)

    @contextmanager
    def _alone(self) -> Iterator[bytes]:
        # The file itself is replaced, so that the lock needs one that stays.
        place = self.path.with_suffix(".lock")
        try:
            handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _unreadable(place, error.strerror or "error") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield self._content()
        finally:
            os.close(handle)

    def _append(self, content: bytes, line: Mapping[str, Any]) -> None:
        # Whole or not at all: a line that a killed process has half written could hide the decision after it.
        replace(self.path, content + json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n")
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _content(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                mode = os.fstat(file.fileno())
                if stat.S_IMODE(mode.st_mode) & 0o077 or mode.st_uid != os.geteuid():
                    raise _unreadable(self.path, "others on this machine can reach it")
                content = file.read(_MOST_BYTES + 1)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise _unreadable(self.path, error.strerror or type(error).__name__) from None
        if len(content) > _MOST_BYTES:
            raise _unreadable(self.path, f"it is larger than {_MOST_BYTES:,} bytes")
        return content


def require_days(days: float) -> None:
    """Refuse a time for which nothing can be approved.

    Raises:
        DeploymentError: FK707.
    """
    if not 0 < days <= MOST_DAYS:
        raise DeploymentError(
            f"an approval is good for more than 0 and at most {MOST_DAYS:g} days; --days is {days:g}",
            code="FK707",
            remedy="use --days 30",
        )


def require_reason(reason: str) -> None:
    """Refuse a denial without a reason.

    Raises:
        DeploymentError: FK707.
    """
    if not reason.strip() or len(reason) > 1000:
        raise DeploymentError(
            "a denial needs a reason of 1 to 1,000 characters", code="FK707", remedy='use --reason "TEXT"'
        )


def _record(content: bytes, path: Path) -> Record:
    if content and not content.endswith(b"\n"):
        raise _unreadable(path, "its last line is not whole")
    requests: dict[str, AskedRun] = {}
    decisions: dict[str, Decision] = {}
    approved: dict[str, AskedRun] = {}
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            values = json.loads(line, object_pairs_hook=_once)
            kind = values.pop("kind")
            if kind == "requested":
                run = read_run(values)
                requests.setdefault(run.job, run)
                continue
            decision = _decision({"kind": kind, **values})
            decisions[decision.job] = decision
            if kind == APPROVED:
                approved[requests[decision.job].dataset] = requests[decision.job]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise _unreadable(path, f"line {number} is none of its lines") from None
    return Record(requests, decisions, approved)


def _decision(values: dict[str, Any]) -> Decision:
    if set(values) != _DECISION[values["kind"]]:
        raise ValueError("other fields than a decision's")
    numbers = [values[name] for name in ("at", "until") if name in values]
    if not all(type(each) in (int, float) for each in numbers):
        raise ValueError("a time that is none")
    if not all(isinstance(values[name], str) for name in ("run", "job", "reason") if name in values):
        raise ValueError("a text that is none")
    return Decision(**values)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key twice")
    return found


def _one(record: Record, run: str) -> AskedRun:
    # A digest is one job's, whatever name another gives itself.
    by_job = record.requests.get(run)
    found = [each for each in record.requests.values() if run == each.run] if by_job is None else [by_job]
    if len(found) == 1:
        return found[0]
    if not found:
        known = ", ".join(list(dict.fromkeys(each.run for each in record.requests.values()))[-5:]) or "none"
        raise DeploymentError(
            f"no run {run!r} has asked for an approval; the newest that did are {known}",
            code="FK763",
            remedy="see `fedkit client requests SITE.yaml`",
        )
    jobs = ", ".join(each.job for each in found)
    raise DeploymentError(
        f"{len(found)} jobs call themselves {run}: {jobs}", code="FK763", remedy="name the job's digest in its place"
    )


def _unreadable(path: Path, why: str) -> DeploymentError:
    return DeploymentError(
        f"{path} cannot be used: {why}",
        code="FK765",
        remedy=f"look at it, mend it or move it away, and chmod 600 {path}; until then no run counts as approved",
    )
