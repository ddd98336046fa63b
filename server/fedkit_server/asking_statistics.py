"""A job that asks for statistics: one question to each of its sites, whose answers go to the run's folder as they came.

No model is made, and nobody is told of the end: a site frees what it held once it has answered. Asked again, a site
answers from its ledger, so that a coordinator that was killed asks anew.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedkit.errors import FedkitError
from fedkit.federation import wire
from fedkit.federation.asking import ask
from fedkit.federation.events import Event, EventKind, Stopped
from fedkit.federation.flower_grid import LinkGrid
from fedkit.federation.job import Job
from fedkit.storage.atomic import write_text
from fedkit_server.record import JOB
from fedkit_server.requests import Requests

ANSWERS = "statistics.json"
MOST_BYTES = 2**26
"""Of one site's answer: several thousand columns of a thousand bins."""


def ask_statistics(
    job: Job,
    folder: Path,
    grid: LinkGrid,
    nodes: Mapping[str, int],
    requests: Requests,
    *,
    stop: Callable[[], bool],
    tell: Callable[[Event], None],
) -> str:
    """Ask every site that has not answered yet; returns complete, degraded, failed or stopped.

    Args:
        folder: the run's; made if it is not there.
        nodes: site to Flower node id, in the job's order.
        stop: polled; True ends the run for good.

    Raises:
        OSError, RunError: the folder cannot be written.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    write_text(folder / JOB, job.signed.text + "\n")
    found = read_answers(folder)
    # A site that was missing or refused may answer now.
    answers, failed = dict(found["answers"]), dict[str, str]()
    open_ = {site: node for site, node in nodes.items() if site not in answers}
    grid.most_bytes = MOST_BYTES

    def told(kind: EventKind, site: str, detail: str = "") -> None:
        tell(Event(kind, 0, "statistics", site, detail))

    for site in open_:
        told("asked", site)
    outcome = ""
    try:
        for arrival in ask(
            grid,
            open_,
            lambda: _requests(requests),
            message_type="query",
            timeout=job.deadline,
            size=2**20,
            stop=stop,
        ):
            site, reason = arrival.site, arrival.reason
            if arrival.kind != "reply" or arrival.content is None:
                if arrival.kind in ("refused", "missing"):
                    failed[site] = reason
                told(arrival.kind if arrival.kind != "reply" else "ignored", site, reason)
                continue
            try:
                answers[site] = base64.b64encode(wire.unpack_statistics(arrival.content)).decode()
            except FedkitError as error:
                failed[site] = error.code
                told("refused", site, error.code)
                continue
            _write(folder, answers, failed)
            told("received", site)
    except Stopped:
        outcome = "stopped"
    _write(folder, answers, failed)
    count = len(answers)
    outcome = outcome or ("complete" if count == len(nodes) else "degraded" if count >= job.min_sites else "failed")
    tell(Event("finished", 0, detail=outcome))
    return outcome


def read_answers(folder: Path) -> dict[str, Any]:
    """What a run's folder holds: ``answers``, site to the bytes in base64, and ``failed``, site to the reason."""
    try:
        found = json.loads((folder / ANSWERS).read_text(encoding="utf-8"))
        return {"answers": dict(found["answers"]), "failed": dict(found["failed"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"answers": {}, "failed": {}}


def _requests(requests: Requests) -> Callable[[str], Any]:
    content = requests.make("statistics", 0, np.zeros(0, np.float32))
    return lambda _: content


def _write(folder: Path, answers: Mapping[str, str], failed: Mapping[str, str]) -> None:
    write_text(folder / ANSWERS, json.dumps({"answers": answers, "failed": failed}) + "\n")
