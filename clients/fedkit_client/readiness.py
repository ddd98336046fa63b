"""What has to hold before a site connects: its limits can be met, its tables can be read.

``fedkit client start`` and ``fedkit client doctor`` ask the same functions, in a process that has loaded the same: what
one lets pass the other does not refuse.
"""

from __future__ import annotations

import os
from typing import Any

from fedkit.errors import DeploymentError
from fedkit.governance.terms import SiteFile
from fedkit_client.answering import answerer, silent
from fedkit_client.executor import Executor
from fedkit_client.folder import SiteFolder
from fedkit_client.limits import remarks_on, require_disk, require_memory
from fedkit_client.tables import Look, from_plain


def fork(file: SiteFile, folder: SiteFolder) -> Executor:
    """A site's executor, which has the folder's keys if they were opened before.

    To be called before anything is loaded that its size would be measured with, or a thread.
    """
    # A pool of threads in the zygote would not survive a fork; training counts its own. It takes addresses for each
    # processor, so that whoever measures without it finds another least memory.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    return Executor.start(silent(folder), answerer(file, folder))


def require_limits(file: SiteFile, folder: SiteFolder, executor: Executor) -> list[str]:
    """Have one child take the limits on, so that one that cannot be met is known before the first message.

    Returns:
        Limits that limit nothing, each as a sentence.

    Raises:
        DeploymentError: FK760 to FK762, FK767.
    """
    executor.wait_ready()
    require_memory(file.limits, executor.address_space)
    require_disk(file.limits, folder.path)
    _asked(executor, "probe", "under its limits the executor cannot work")
    return remarks_on(file.limits)


def tables_of(executor: Executor) -> list[Look]:
    """Have one child read every table under the limits.

    Raises:
        DeploymentError: FK760 to FK762, the child did not live to tell.
    """
    told = _asked(executor, "tables", "under its limits the executor cannot read the site's tables")
    return [from_plain(each) for each in told["tables"]]


def _asked(executor: Executor, what: str, cannot: str) -> dict[str, Any]:
    done = executor.ask({what: True}, b"")
    if done.header is None:
        raise DeploymentError(f"{cannot}: {done.why}", code="FK760", remedy="raise limits.memory")
    if problem := done.header.get("problem"):
        raise DeploymentError(problem["message"], code=problem["code"], remedy=problem["remedy"])
    return done.header
