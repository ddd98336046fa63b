"""``fedkit client start``: from a site file to a running site.

::

    FK752  a site file of another site than the folder's
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedkit.errors import DeploymentError, FedkitError
from fedkit.governance.terms import SiteFile
from fedkit_client import lock, logs
from fedkit_client.edits import both, read_whole
from fedkit_client.folder import Enrolment, SiteFolder
from fedkit_client.vaults import Keys

if TYPE_CHECKING:
    from fedkit_client.alert_watch import Watch

Say = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Opened:
    """A site whose file and folder are fit for use.

    Attributes:
        path, digest: of the site's file, and of the text that was read from it.
    """

    file: SiteFile
    folder: SiteFolder
    enrolment: Enrolment
    path: Path
    digest: str = ""


def open_site(path: Path) -> Opened:
    """Read a site's file and folder.

    Raises:
        ConfigError: FK120, every problem of the file at once.
        DeploymentError: FK741, FK752, FK706.
    """
    file, digest = read_whole(path)
    path_of = file.folder.resolve()
    folder = SiteFolder(path_of, Keys(path_of, file.encryption))
    enrolment = folder.enrolment()
    if enrolment.site != file.site:
        raise DeploymentError(
            f"{path} is the file of {file.site}, and {folder.path} has joined as {enrolment.site}",
            code="FK752",
            remedy=f"write site: {enrolment.site}, or name the file of that folder",
        )
    folder.require_closed()
    return Opened(file, folder, enrolment, path, digest)


def check_allowed(file: SiteFile) -> None:
    """Refuse an installed function whose package is not the one that the file names; none of it is run.

    Raises:
        FederationError: FK563, FK560.
    """
    if not file.models and not file.sources:
        return
    from fedkit.governance.allow import check_packages

    check_packages(file.models)
    check_packages(file.sources, code="FK560")


def start(path: Path, say: Say, *, detach: bool = False) -> None:
    """Run a site until it is stopped.

    Args:
        say: shows a person one event.
        detach: go on in the background, once everything that can be refused was checked and the coordinator has
            answered, or has not.

    Raises:
        FedkitError: what is wrong with the file, folder, ledgers, limits, tables, or another process at work.
    """
    os.umask(0o077)
    # A pool of threads in the zygote would not survive a fork; training counts its own.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    opened = open_site(path)
    check_allowed(opened.file)
    pid = lock.holder(opened.folder.pid_file)
    if pid is not None:
        _refuse_second(opened.folder)
    if detach and _detached(say):
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(lock.hold(opened.folder.pid_file))
            from fedkit_client.ledgers import open_ledgers
            from fedkit_client.lineage import require_database, require_usable
            from fedkit_client.recalled import require_withdrawals
            from fedkit_client.record_check import log_remarks
            from fedkit_client.settling import settle

            # Before what reads it under a key: no round could be answered without it.
            require_database(opened.folder)
            # The key first: whatever is written from here on is sealed by it.
            said = settle(opened.folder)
            logs.configure(opened.folder.log, opened.folder.vault())
            open_ledgers(opened.file, opened.folder)
            require_withdrawals(opened.file, opened.folder)
            require_usable(opened.folder)
            node, watch = _ready(opened, say, stack, (*said, *log_remarks(opened)))
        except FedkitError as error:
            if detach:
                _tell_parent({"error": {"code": error.code, "message": str(error)}})
                os._exit(error.exit_status)
            raise
        if detach:
            logs.redirect(opened.folder.log)
            node.say = _tell_first
        watch.start()
        try:
            node.run()
        finally:
            watch.stop()


def _refuse_second(folder: SiteFolder) -> None:
    with lock.hold(folder.pid_file):
        # Whoever held it a moment ago has just left.
        return


def _ready(opened: Opened, say: Say, stack: ExitStack, warnings: Sequence[str] = ()) -> tuple[Any, Watch]:
    """A node whose executor waits for work; the fork comes before anything that a fork would tear."""
    from fedkit.storage.keys import load_signing_key
    from fedkit_client.readiness import fork, require_limits, tables_of
    from fedkit_client.tables import remarks, require_readable

    file, folder = opened.file, opened.folder
    executor = fork(file, folder)
    try:
        stack.enter_context(lock.alone(load_signing_key(folder.signing_key)))
        say({"event": "starting", "site": file.site, "folder": str(folder.path)})
        said = require_limits(file, folder, executor)
        looks = tables_of(executor)
        require_readable(looks)
        for text in (*warnings, *said, *remarks(looks)):
            # What a table's reading has shown may speak of its rows.
            logging.getLogger("fedkit.site").warning("%s", text)
            _WARNINGS.append(text)
            say({"event": "warning", "message": text})
        return _node(opened, executor, say)
    except BaseException:
        executor.close()
        raise


def _node(opened: Opened, executor: Any, say: Say) -> tuple[Any, Watch]:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from fedkit import __version__
    from fedkit.federation.flower_node import NodeConnection
    from fedkit.storage.keys import load_node_key, load_signing_key
    from fedkit_client.alert_watch import watch_of
    from fedkit_client.audit import Trail
    from fedkit_client.authorities import follow
    from fedkit_client.node import Node
    from fedkit_client.pace import Pace
    from fedkit_client.state import State
    from fedkit_client.stopping import Stop
    from fedkit_client.upkeep import Upkeep

    file, folder, enrolment = opened.file, opened.folder, opened.enrolment
    authority = folder.authority()
    key: Any = load_pem_private_key(load_node_key(folder.node_key).private_pem, password=None)
    signing = load_signing_key(folder.signing_key)
    connection = NodeConnection(enrolment.address, authority, key, spool=folder.path)
    connection.refusal, connection.release = folder.pause.refusal, folder.pause.release
    stop = Stop()
    if file.limits.bandwidth is not None:
        connection.pace = Pace(file.limits.bandwidth, nap=connection.beat)

    def announce() -> None:
        from fedkit.federation.enrolment import ANNOUNCE, version_text
        from fedkit.federation.offer import make_offer, offered
        from fedkit_client.enrol import call

        offer = make_offer(file.site, __version__, offered(file), signing, time.time())
        request = {"offer": offer.text, "wire": version_text()}
        call(enrolment.host, enrolment.grpc_port, connection.root, ANNOUNCE, request)
        logging.getLogger("fedkit.node").info("the offer was announced")

    state = State(folder.state_file, os.getpid(), __version__)
    state.enter("starting")
    trail = Trail(folder, file.site, signing)
    trail.started(__version__, opened.path, opened.digest)
    stop.listen()
    watch = watch_of(opened, signing.public, state)
    return Node(
        connection, executor, state, stop, announce, folder.usage, file.disclose_usage, say, folder.pause,
        folder.vault(), Upkeep(executor, trail.log.append), trail=trail, heard=both(watch.pulse.beat, trail.look),
        follow=lambda: connection.trust(follow(folder)),
    ), watch  # fmt: skip


_PARENT: list[int] = []
_WARNINGS: list[str] = []


def _detached(say: Say) -> bool:
    """Fork into the background; True in the process that stays in front, once the other has started or failed."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as file:
            # One line, not the end of the pipe: the executor's processes hold it open as long as they live.
            told = json.loads(file.readline() or "{}")
        os.wait()
        if "error" in told:
            raise _Told(told["error"])
        if "event" not in told:
            raise DeploymentError(
                "the site did not start", code="FK767", remedy="see client.log, or start it without --detach"
            )
        say(told)
        return True
    os.close(reading)
    os.setsid()
    if os.fork():
        os._exit(0)
    # The terminal stays with whoever has it.
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    _PARENT.append(writing)
    return False


class _Told(DeploymentError):
    """What the background process found; its text is finished already."""

    def __init__(self, told: dict[str, str]) -> None:
        super().__init__(told["message"], code=told["code"])
        self._text = told["message"]

    def __str__(self) -> str:
        return self._text


def _tell_first(event: dict[str, Any]) -> None:
    """How the first attempt to connect went, for whoever waits in front; nothing from then on."""
    _tell_parent(
        {
            **event,
            "event": "started",
            "connected": event["event"] == "connected",
            "pid": os.getpid(),
            "warnings": _WARNINGS,
        }
    )


def _tell_parent(message: dict[str, Any]) -> None:
    for handle in _PARENT:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(message) + "\n")
    _PARENT.clear()
    sys.stdout.flush()
