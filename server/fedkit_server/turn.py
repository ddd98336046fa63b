"""One run's turn: a Flower run of its own, the Grid that logs what comes in, and the execution over it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedkit.federation.events import Event
from fedkit.federation.flower_link import Link
from fedkit.federation.job import Job
from fedkit.federation.keyring import Keyring
from fedkit.governance.terms import Allowed
from fedkit.storage.keys import SigningKey
from fedkit_server.audit import Trail
from fedkit_server.store import Store


def take_turn(
    job: Job,
    folder: Path,
    link: Link,
    store: Store,
    *,
    key: SigningKey,
    keyring: Callable[[], Keyring],
    trail: Trail,
    progress: dict[str, Any],
    stop: Callable[[], bool],
    tell: Callable[[Event], None],
    goodbye: float,
    models: Mapping[str, Allowed],
) -> str:
    """Run a job until it ends; returns complete, degraded, failed or stopped.

    Args:
        folder: the run's.
        progress: ``round`` and ``bytes``, kept up to date.
        tell: is told what happens.

    Raises:
        FedkitError: the run cannot go on.
    """
    # Imported here: an idle coordinator has no torch in memory.
    from fedkit_server.asking_statistics import ask_statistics
    from fedkit_server.execution import execute
    from fedkit_server.requests import Requests
    from fedkit_server.usage import MeteredGrid

    known = {site.name: site.node_id for site in store.sites() if site.revoked_at is None}
    # A site that was revoked since keeps its place, and is missing.
    nodes = {site: known.get(site, index + 2) for index, site in enumerate(job.sites)}
    names = {node: site for site, node in nodes.items()}
    opened = list[bool]()

    def told(event: Event) -> None:
        progress["round"] = event.round
        progress["bytes"] = before + sum(grid.bytes_by_node.values())
        tell(event)
        if event.kind == "asked" and not opened:
            opened.append(True)
            store.run_opened(job.run)

    flower_run = link.begin_run()
    grid = MeteredGrid(
        link,
        flower_run,
        spool=folder,
        arrived=lambda replies: trail.arrived(job.run, progress["round"], names, replies),
    )
    before = progress["bytes"]
    try:
        if job.statistics is not None:
            requests = Requests(job, keyring, key, trail.head, store.site_keys)
            return ask_statistics(job, folder, grid, nodes, requests, stop=stop, tell=told)
        return execute(
            job,
            folder,
            grid,
            nodes,
            key=key,
            keyring=keyring,
            trail=trail,
            site_keys=store.site_keys,
            stop=stop,
            tell=told,
            goodbye=goodbye,
            models=models,
        )
    finally:
        progress["bytes"] = before + sum(grid.bytes_by_node.values())
        link.end_run(flower_run)
