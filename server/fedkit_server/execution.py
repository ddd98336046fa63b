"""One run of a job over a Grid: the round loop with a journal, the run directory, goodbye to the sites."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from fedkit.federation.events import Event
from fedkit.federation.flower_grid import LinkGrid
from fedkit.federation.flower_internals import local_identity
from fedkit.federation.job import Job
from fedkit.federation.keyring import Keyring
from fedkit.federation.rounds import RoundLoop
from fedkit.governance.allow import allowed_models
from fedkit.governance.terms import Allowed
from fedkit.models.flat import pack, shapes
from fedkit.runs.journal import Journal, open_journal
from fedkit.simulation.local import epsilon_by_site, evaluation_rounds, one_thread
from fedkit.simulation.prepare import Prepared, strategy_for
from fedkit.storage.keys import SigningKey
from fedkit.types import ClientUpdate, Float32, RoundReport
from fedkit_server.audit import Trail
from fedkit_server.record import open_record
from fedkit_server.requests import Requests
from fedkit_server.usage import Meter


def execute(
    job: Job,
    path: Path,
    grid: LinkGrid,
    nodes: Mapping[str, int],
    *,
    key: SigningKey,
    keyring: Callable[[], Keyring],
    trail: Trail,
    site_keys: Callable[[], Mapping[str, bytes]],
    stop: Callable[[], bool],
    tell: Callable[[Event], None],
    goodbye: float,
    models: Mapping[str, Allowed],
) -> str:
    """Run a job, or what its journal says is left of it; one that failed goes on with the round in which it did.

    Args:
        path: the run's folder; made if it is not there.
        nodes: site to Flower node id, in the job's order.
        key: the coordinator's.
        trail: the coordinator's audit log, whose head every message tells.
        site_keys: public keys of the sites that are enrolled when it is asked.
        stop: polled; True ends the run for good. What it raises leaves the journal open.
        goodbye: seconds to wait for sites to free what remains of their holds.
        models: those that the coordinator has installed beside fedkit's own.

    Returns:
        complete, degraded, failed or stopped. After ``failed`` the sites' holds stay, so that the run can be resumed
        until they expire.

    Raises:
        FedkitError: the plans, the model, the strategy or the journal cannot be used.
    """
    record = open_record(path, job, allowed_models(models, job.config.model.name))
    # A site has nothing to say that is larger: float32 updates, float64 histograms.
    size = sum(part.numel() for part in record.prepared.model.parameters())
    grid.most_bytes = 8 * (size + sum(spec.size for spec in record.prepared.local.specs)) + 2**20
    requests = Requests(job, keyring, key, trail.head, site_keys)
    with one_thread(), closing(open_journal(path / "journal")) as journal:
        if (point := journal.load()) is not None and point.outcome == "failed":
            journal.reopen()
        loop = _loop(record.prepared, grid, nodes, requests, journal, stop, tell)
        meter = Meter(path, grid, nodes)

        def on_round(report: RoundReport, parameters: Float32, updates: Sequence[ClientUpdate]) -> None:
            # Whoever fetches the run, and every site in the next round, gets this model.
            trail.record("released", run=job.run, round=report.round, digest=report.digest)
            record.on_round(report, parameters, updates)
            requests.known(parameters, report.digest)
            meter.save()

        untrained = [pack(record.prepared.model)]
        # From here on only its shapes are asked for: a large one need not lie in memory twice.
        record.prepared.model.to("meta")
        try:
            finish = loop.run(untrained.pop(), on_round)
        finally:
            usage = meter.save()
    result = record.finish(finish, usage)
    if finish.outcome != "failed":
        _say_goodbye(grid, nodes, requests, finish.rounds, goodbye)
        meter.save()
    return str(result["outcome"])


def _loop(
    prepared: Prepared,
    grid: LinkGrid,
    nodes: Mapping[str, int],
    requests: Requests,
    journal: Journal,
    stop: Callable[[], bool],
    tell: Callable[[Event], None],
) -> RoundLoop:
    config, plans = prepared.config, prepared.local.sites
    private = config.privacy.mode != "none"
    return RoundLoop(
        grid,
        strategy_for(prepared),
        shapes(prepared.model),
        config.seed,
        config.federation,
        dict(nodes),
        frozenset(plans),
        # Exact metrics exist only where nothing is private and the site's own file allows them.
        frozenset() if private else frozenset(plans),
        lambda rounds: epsilon_by_site(prepared, rounds),
        {site: plan.weight for site, plan in plans.items() if plan.weight is not None} if private else None,
        evaluation_rounds(prepared),
        sum(spec.size for spec in prepared.local.specs),
        private=private,
        declared=config.data.records,
        journal=journal,
        make_request=requests,
        stop=stop,
        on_progress=tell,
    )


def _say_goodbye(grid: LinkGrid, nodes: Mapping[str, int], requests: Requests, rounds: int, seconds: float) -> None:
    """Tell the sites that the run is over; one that is away frees its hold when it expires."""
    content = requests.make("end", rounds, np.zeros(0, np.float32))
    with local_identity():
        messages = [grid.create_message(content, "train", node, "", ttl=60.0) for node in nodes.values()]
        waiting = {i for i in grid.push_messages(messages) if i}
        end = time.monotonic() + seconds
        while waiting and time.monotonic() < end:
            for reply in grid.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
            if waiting:
                grid.wait_for_reply(0.5)
    # A site confirms what it got once it has answered.
    time.sleep(0.5)
