"""A site's limits, put on a child before it does anything; what is measured before is whether they can be met at all.

::

    FK760  a memory limit that is too low        FK761  a device that is not there
    FK762  more disk than the site gives, or than there is
"""

from __future__ import annotations

import math
import os
import random
import resource
import shutil
from pathlib import Path

from fedkit.errors import DeploymentError, first_line
from fedkit.governance.terms import Limits, SiteFile

HEADROOM = 384 * 2**20
"""Bytes that a small model takes beyond the imported libraries: measured with the shipped experiments, and doubled."""

LEAST_DISK = 64 * 2**20
_NICE = 5


def require_memory(limits: Limits, address_space: int) -> None:
    """Refuse a memory limit under which nothing could be trained.

    Args:
        address_space: bytes that the executor occupies before it reads a record, as it has measured itself.

    Raises:
        DeploymentError: FK760.
    """
    least = address_space + HEADROOM
    if limits.memory is not None and limits.memory < least:
        raise DeploymentError(
            f"limits.memory is {_gib(limits.memory)}; the libraries alone take {_gib(address_space)} of address space"
            f" here, and {_gib(least)} is the least",
            code="FK760",
            remedy=f"set limits.memory to {_gib(least)} or more, or leave it out",
        )


def require_disk(limits: Limits, folder: Path, more: int = 0) -> None:
    """Refuse work that could take more than the site gives, or leave the disk full.

    Args:
        more: bytes that the work will write, about.

    Raises:
        DeploymentError: FK762.
    """
    free = shutil.disk_usage(folder).free
    if free < LEAST_DISK + more:
        raise DeploymentError(
            f"the disk of {folder} has {_size(free)} free; {_size(LEAST_DISK + more)} is the least",
            code="FK762",
            remedy=f"free {_size(LEAST_DISK + more - free)} on it",
        )
    if limits.disk is not None and (used := folder_size(folder)) + more > limits.disk:
        grown = f" and would take {_size(used + more)}" if more else ""
        raise DeploymentError(
            f"{folder} takes {_size(used)}{grown}; limits.disk is {_size(limits.disk)}",
            code="FK762",
            remedy=f"set limits.disk above {_size(used + more)}: ledgers and logs stay, the answers of runs that have"
            " ended are deleted by themselves",
        )


def remarks_on(limits: Limits) -> list[str]:
    """Limits that limit nothing here: a sentence for each."""
    here = len(os.sched_getaffinity(0))
    if limits.cpus is None or limits.cpus <= here:
        return []
    return [f"limits.cpus is {limits.cpus:g} and {here} are here: it limits nothing"]


def folder_size(folder: Path) -> int:
    """Bytes that a folder's files take on the disk."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if not path.is_dir())


def apply(file: SiteFile, answer_bytes: int = 0) -> None:
    """Put the site's limits on this process; nothing takes them off again.

    Args:
        answer_bytes: of what will be stored in the ledger, about.

    Raises:
        DeploymentError: FK761, FK762.
    """
    limits = file.limits
    require_disk(limits, file.folder, answer_bytes)
    os.nice(_NICE)
    if limits.cpus is not None:
        allowed = sorted(os.sched_getaffinity(0))
        count = max(1, int(limits.cpus))
        if count < len(allowed):
            os.sched_setaffinity(0, random.sample(allowed, count))
    if file.device == "cpu":
        # Before torch looks for any: a GPU that the site keeps for others is not even opened.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if limits.memory is not None:
        # A CUDA context reserves more addresses than any machine has memory.
        kind = resource.RLIMIT_AS if file.device == "cpu" else resource.RLIMIT_DATA
        resource.setrlimit(kind, (limits.memory, limits.memory))
    import torch

    here = len(os.sched_getaffinity(0))
    # More threads than cores would each wait for the others.
    torch.set_num_threads(max(1, min(here, int(limits.cpus or here))))
    if file.device == "cuda" and not torch.cuda.is_available():
        raise DeploymentError(
            "device is cuda, and torch finds no GPU here",
            code="FK761",
            remedy="set device: cpu, or install a driver and a torch that fit the GPU",
        )


def work_a_little(file: SiteFile) -> None:
    """A matrix product on the site's device, in a process that is under its limits.

    Raises:
        DeploymentError: FK761, a GPU that torch finds and cannot use.
    """
    import torch

    from fedkit.training.on_device import device_of

    device = device_of(file.device, "device")
    try:
        with torch.no_grad():
            ones = torch.ones(1000, 1000, device=device)
            (ones @ ones).sum().item()
    except RuntimeError as error:
        if device.type != "cuda":
            raise
        raise DeploymentError(
            f"torch finds a GPU here and cannot use it: {first_line(error)}",
            code="FK761",
            remedy="set device: cpu, or install a driver and a torch that fit the GPU, and leave it memory",
        ) from error


def _size(size: int) -> str:
    """Rounded up, so that what is asked for is enough.

    >>> _size(10 * 2**10), _size(64 * 2**20 + 1), _size(5 * 2**30)
    ('10.0KiB', '64.1MiB', '5.0GiB')
    """
    unit, name = next(((u, n) for u, n in ((2**30, "GiB"), (2**20, "MiB")) if size >= u), (2**10, "KiB"))
    return f"{math.ceil(10 * size / unit) / 10}{name}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}GiB"
