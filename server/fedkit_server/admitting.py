"""What a coordinator looks at before it queues a run: that the sites are enrolled, that it fits this host."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedkit.errors import DeploymentError, first_line
from fedkit.federation.job import Job
from fedkit.governance.terms import Allowed
from fedkit_server.store import RunRow, Store

MOST_PARAMETERS = 250_000_000
MOST_OPENINGS = 2
"""So often a run is begun that ends the coordinator before any site is asked."""

_COPIES = 4
"""So often a run's model lies in the coordinator's memory as 32-bit numbers: model, sum, an update, a message."""


def check_sites(job: Job, store: Store) -> None:
    """Refuse a job for a stranger.

    Raises:
        DeploymentError: FK731.
    """
    enrolled = {site.name for site in store.sites() if site.revoked_at is None}
    if missing := [name for name in job.sites if name not in enrolled]:
        raise DeploymentError(
            f"{', '.join(missing)} is not enrolled; the federation has {', '.join(sorted(enrolled)) or 'no site'}",
            code="FK731",
            remedy="invite the site, or leave it out of --sites",
        )


def check_size(job: Job, models: Mapping[str, Allowed]) -> None:
    """Refuse a job whose model this host cannot hold; it is built without its numbers. Statistics have none.

    Raises:
        DeploymentError: FK734.
        FedkitError: the model cannot be built.
    """
    if job.statistics is not None:
        return
    # Imported here: an idle coordinator has no torch in memory.
    import torch

    from fedkit.data.declared import input_shape, task_of
    from fedkit.governance.allow import allowed_models
    from fedkit.models import build

    config = job.config
    own, shape = allowed_models(models, config.model.name), input_shape(config.data)
    try:
        with torch.device("meta"):
            module = build(config.model, shape, task_of(config.data).num_outputs, config.seed, own)
    except (RuntimeError, ValueError, OverflowError, MemoryError) as error:
        if own:
            # An installed model may need its numbers; the run will tell.
            return
        # Such as a width whose product no longer counts in 64 bits.
        raise _too_large(f"a model that torch cannot describe: {first_line(error)[:100]}") from None
    count = sum(parameter.numel() for parameter in module.parameters())
    if count > MOST_PARAMETERS:
        raise _too_large(f"a model of {count:,} parameters; {MOST_PARAMETERS:,} are the most")
    free = free_memory()
    if free is not None and (needed := count * 4 * _COPIES) > free:
        raise _too_large(f"a model that needs {needed / 1e9:.1f} GB here; {free / 1e9:.1f} GB are free")


def died_opening(row: RunRow) -> str:
    """Why a run whose opening ended the coordinator is not begun again: FK735."""
    return str(
        DeploymentError(
            f"the coordinator ended {row.openings} times while it opened this run",
            code="FK735",
            remedy="look for a lack of memory in the host's log, then resume the run or submit a smaller one",
        )
    )


def free_memory(meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that this process may still take, by the kernel's account and its container's; None where none is given."""
    found = []
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        pass
    try:
        most, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        # What a container keeps of files counts as used, and is given back.
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        found.append(max(0, int(most) - int(used) + int(stat.get("inactive_file", 0))))
    except (OSError, ValueError):
        pass
    return min(found, default=None)


def _too_large(why: str) -> DeploymentError:
    return DeploymentError(
        f"the job has {why}",
        code="FK734",
        remedy="choose a smaller model, or run the coordinator on a host with more memory",
    )
