"""How many actors of Ray a run has, and the Ray that they are in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from fedkit.config.experiment import FederationConfig
from fedkit.errors import FederationError, TrainingError
from fedkit.simulation.ray_actors import Actors
from fedkit.simulation.ray_cluster import OURS, Cluster, connected
from fedkit.simulation.ray_probe import check
from fedkit.simulation.seat import Outfit
from fedkit.simulation.spread import AUTO, cores, for_kind
from fedkit.training.engine import Engine


@contextmanager
def actors(
    engine: Engine, outfit: Outfit, a_round: int, federation: FederationConfig, cpus: int | None = None
) -> Iterator[Actors]:
    """Actors that end with the block, and with them the Ray that was started for them.

    Args:
        engine: that was chosen for the outfit.
        a_round: most sites of a round.
        cpus: this run's part of a cluster that others use beside it; None where none do.

    Raises:
        FederationError: see :mod:`fedkit.simulation.ray_probe`.
        TrainingError: FK418, more workers than the cluster has CPUs.
    """
    check(federation.address)
    asked, most = outfit.training.workers, min(a_round, engine.most_workers)
    # Which engine it is has been decided, and on which device.
    training = replace(for_kind(outfit.training, "ray"), engine=engine.name)
    wanted = min(most, cpus or (cores() if asked == AUTO and federation.address in OURS else most))
    with connected(federation.address, wanted) as cluster:
        free = cluster.cpus if cpus is None else min(cpus, cluster.cpus)
        count, why = _count(replace(cluster, cpus=free), asked, most, a_round)
        where = "on this machine" if cluster.nodes == 1 else f"on {cluster.nodes} machines"
        ours = f"started for the {'run' if cpus is None else 'sweep'}"
        begun = ours if federation.address in OURS else "joined"
        why = f"{why}; Ray {cluster.version} {where}, {begun}"
        made = Actors(
            cluster, replace(outfit, training=training, form=engine.form or 1), count, why, federation.timeout
        )
        try:
            yield made
        finally:
            made.stop()


def _count(cluster: Cluster, asked: str, most: int, a_round: int) -> tuple[int, str]:
    if asked == AUTO:
        if cluster.cpus < 1:
            raise FederationError("the cluster has no CPU free", code="FK554", remedy="wait, or add machines to it")
        if cluster.cpus <= most:
            return cluster.cpus, f"{cluster.cpus} CPUs were free"
        return most, f"the memory budget holds {most}" if most < a_round else f"a round has {most} sites"
    count = min(int(asked), most)
    if count > cluster.cpus:
        raise TrainingError(
            f"training.workers={asked}, each with a CPU of its own; the cluster has {cluster.cpus} free",
            code="FK418",
            remedy="set training.workers=auto, or add machines to it",
        )
    return count, f"training.workers={asked}"
