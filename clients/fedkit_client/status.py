"""``fedkit client status``: what the loop wrote last, who holds the lock, and what the ledgers say."""

from __future__ import annotations

import time
from typing import Any

from fedkit.errors import DeploymentError
from fedkit.federation.heads import CONTRADICTED
from fedkit.governance.quarantine import QUARANTINED
from fedkit.storage.audit import RECOVERED
from fedkit.storage.audit_verify import alerts, readable_lines
from fedkit.storage.sealing import Vault
from fedkit_client import lock
from fedkit_client.digest import file_digest
from fedkit_client.ledgers import budgets
from fedkit_client.logs import printable
from fedkit_client.start import Opened
from fedkit_client.state import read_state
from fedkit_client.usage import read_usage


def status(opened: Opened) -> dict[str, Any]:
    """How a site stands; reads files only, and nothing of any record."""
    folder = opened.folder
    pid = lock.holder(folder.pid_file)
    state = read_state(folder.state_file) or {}
    running = pid is not None
    phase = state.get("phase", "") if running else "stopped"
    return {
        "site": opened.file.site,
        "running": running,
        "pid": pid,
        "connected": phase in ("connected", "working"),
        "phase": phase,
        "since": state.get("since") if running else None,
        "connected_at": state.get("connected_at") if running else None,
        "problem": standing_problem(opened, state) if running else None,
        "paused": _paused(opened),
        "quarantined": folder.quarantine.since(),
        "file_changed": running and file_changed(opened),
        "coordinator": opened.enrolment.address,
        "last": state.get("last"),
        "answered": state.get("answered", 0),
        "refused": state.get("refused", 0),
        "budgets": budgets(opened.file, folder),
        "usage": _usage(opened),
        "log": alerts(folder.audit, (CONTRADICTED, RECOVERED)),
    }


def standing_problem(opened: Opened, state: dict[str, Any]) -> dict[str, str] | None:
    """What keeps a running site from its coordinator, as its loop wrote last; a lifted quarantine does not."""
    problem: dict[str, str] | None = state.get("problem")
    if problem is not None and problem.get("code") == QUARANTINED and not opened.folder.quarantine.there():
        return None
    return problem


def status_text(found: dict[str, Any]) -> str:
    """The same for a person."""
    lines = [f"{found['site']}: {_running(found)}"]
    if (paused := found["paused"]) is not None:
        lines.append(f"  PAUSED since {_ago(paused['since'])}{_because(paused)}; nothing leaves until `resume`")
    if (since := found["quarantined"]) is not None:
        lines.append(f"  QUARANTINED since {_ago(since)}; nothing is answered until `quarantine --lift`")
    if found["file_changed"]:
        lines.append("  site.yaml has changed since the start: what it says now counts once the site is started again")
    if (problem := found["problem"]) is not None:
        lines.append(f"  {problem['code']}: {problem['message']}. Remedy: {problem['remedy']}.")
    if (last := found["last"]) is not None:
        how = f"refused with {last['code']}" if last["code"] else "answered"
        lines.append(f"  last: {last['kind']} of round {last['round']} of run {last['run']}, {how}, {_ago(last['at'])}")
    for name, told in found["budgets"].items():
        if told.get("absent"):
            lines.append(f"  {name}: no ledger yet, the first start makes it")
            continue
        if "problem" in told:
            lines.append(f"  {name}: {told['problem']}")
            continue
        lines.append(
            f"  {name}: epsilon {told['epsilon_spent']:g} of {told['limit']:g} spent at delta {told['delta']:g} for one"
            f" {told['unit']}; of the budget {told['spent']:.1%} spent, {told['held']:.1%} held,"
            f" {told['left']:.1%} left"
        )
    if found["log"][CONTRADICTED]:
        lines.append("  ALERT: the coordinator's audit log contradicts what it told before; `log verify`, `log show`")
    used = found["usage"]
    seconds = used["cpu_seconds"]
    cost = "CPU seconds that cannot be read without its key" if seconds is None else f"{seconds:.0f} CPU seconds in all"
    lines.append(f"  used here: {used['answers']} answers, {cost}")
    return "\n".join(map(printable, lines)) + "\n"


def file_changed(opened: Opened) -> bool:
    """Whether a running site works by another text than its file has now: it reads the file when it starts."""
    known = None
    if opened.folder.audit.exists():
        for line in readable_lines(opened.folder.audit, ("configured",)):
            known = line.fields.get("digest")
    return known is not None and known != file_digest(opened.path)


def _running(found: dict[str, Any]) -> str:
    if not found["running"]:
        return "not running; `fedkit client start SITE.yaml`"
    running = f"running (process {found['pid']})"
    if not found["connected"]:
        return f"{running}, not connected to {found['coordinator']}, {found['phase']} since {_ago(found['since'])}"
    working = f", at work on a message since {_ago(found['since'])}" if found["phase"] == "working" else ""
    return f"{running}, connected to {found['coordinator']} since {_ago(found['connected_at'])}{working}"


def _paused(opened: Opened) -> dict[str, Any] | None:
    pause = opened.folder.pause.read()
    return None if pause is None else {"since": pause.since, "reason": pause.reason, "problem": pause.problem}


def _because(paused: dict[str, Any]) -> str:
    return "".join(f": {text}" for text in (paused["reason"], paused["problem"]) if text)


def _usage(opened: Opened) -> dict[str, Any]:
    """What the answers have cost; None where a part of it does not open, for the rest is no sum."""
    total: dict[str, Any] = {"answers": 0, "cpu_seconds": 0.0, "peak_bytes": 0}
    shut = False
    try:
        for told in read_usage(opened.folder.usage, _vault(opened)):
            total["answers"] += 1
            shut = shut or "cpu_seconds" not in told
            total["cpu_seconds"] += told.get("cpu_seconds") or 0.0
            total["peak_bytes"] = max(total["peak_bytes"], told.get("peak_bytes") or 0)
    except (OSError, ValueError, KeyError):
        pass
    return {**total, "cpu_seconds": None, "peak_bytes": None} if shut else total


def _vault(opened: Opened) -> Vault | None:
    try:
        return opened.folder.vault()
    except DeploymentError:
        # What the site costs is nothing to do without a key for; all else here needs none.
        return None


def _ago(at: float | None) -> str:
    if not at:
        return "an unknown time"
    seconds = max(0, int(time.time() - at))
    return f"{seconds} s ago" if seconds < 120 else f"{seconds // 60} min ago"
