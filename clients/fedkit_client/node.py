"""The node's loop: wait for a message, have the executor answer it, send the answer; for as long as the site runs.

Nothing here decides what is answered: the gatekeeper does, in a child that holds no connection.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from flwr.app import MetricRecord, RecordDict

from fedkit.errors import DeploymentError, FederationError, FedkitError
from fedkit.federation.flower_node import NodeConnection, Received, UnreadableRequest
from fedkit.federation.public_codes import COMMON, public_code
from fedkit.federation.request import Request, unpack_request
from fedkit.governance.pause import PAUSED, PauseFile
from fedkit.storage.sealing import Vault
from fedkit_client.answers import USAGE, from_frame
from fedkit_client.audit import Trail
from fedkit_client.executor import Done, Executor
from fedkit_client.order_said import expires, shown_order
from fedkit_client.patience import Patience
from fedkit_client.state import State
from fedkit_client.stopping import Stop, Stopping
from fedkit_client.trouble import EARLIEST, explained
from fedkit_client.usage import note_usage

MOST_PARAMETERS = 250_000_000
"""Of one model: what a ledger can keep of a reply."""

KINDS = ("train", "evaluate", "query")
FIRST_PAUSE, LONGEST_PAUSE, SLOW_PAUSE = 1.0, 60.0, 60.0
_BEAT_EVERY = 5.0
_LOG = logging.getLogger("fedkit.node")


@dataclass
class Node:
    """A site's loop.

    Args:
        announce: tells the coordinator what the site offers; called before the first activation, until it succeeds.
        say: shows a person one event; called when something changes, not for every message.
        usage: file to which each answer's CPU seconds and peak memory are appended.
        disclose: tell the coordinator the same.
        pause: what stops all release; work goes no further while it is there.
        vault: seals what an answer has cost.
        upkeep: what is done by the clock, between two messages.
        trail: the site's audit log, which tells of every answer before it is sent.
        heard: called whenever the coordinator has answered.
    """

    connection: NodeConnection
    executor: Executor
    state: State
    stop: Stop
    announce: Callable[[], None]
    usage: Path
    disclose: bool = False
    say: Callable[[dict[str, Any]], None] = lambda _: None
    pause: PauseFile | None = None
    vault: Vault | None = None
    upkeep: Callable[[], None] = lambda: None
    trail: Trail = field(kw_only=True)
    heard: Callable[[], None] = lambda: None
    follow: Callable[[], None] = lambda: None
    patience: Patience = field(default_factory=Patience)
    _pause: float = FIRST_PAUSE
    _announced: bool = False
    _beaten: float = field(default=0.0)

    def run(self) -> None:
        """Until somebody asks to stop.

        Raises:
            DeploymentError: FK767, FK768, the executor is gone for good.
        """
        try:
            while True:
                try:
                    self._connected()
                except (httpx.HTTPError, ValueError) as error:
                    self._retry(_why(error, self.connection.address))
                except DeploymentError as error:
                    if error.code in ("FK767", "FK768"):
                        raise
                    self._retry(error)
                except FedkitError as error:
                    self._retry(error)
                except Exception as error:
                    # No message of a coordinator's may end a site.
                    _LOG.exception("unexpected")
                    self._retry(_unexpected(error))
        except Stopping:
            pass
        finally:
            self.connection.close()
            self.executor.close()
            self.state.enter("stopped")
            self.trail.stopped()
            self._tell({"event": "stopped"})

    def _connected(self) -> None:
        self._refuse_quarantined()
        # What is due goes where no coordinator is reached, too; in quarantine it stays, for it may be evidence.
        self.upkeep()
        with self.stop.at_rest():
            self.follow()
            if not self._announced:
                self.announce()
                self._announced = True
            self.connection.activate()
        self.heard()
        self._pause = FIRST_PAUSE
        if self.state.enter("connected"):
            self._tell({"event": "connected", "address": self.connection.address, "node": str(self.connection.node_id)})
            _LOG.info("connected to %s", self.connection.address)
        while True:
            self._take_breath()
            self._refuse_quarantined()
            self.upkeep()
            try:
                with self.stop.at_rest():
                    received = self.connection.receive()
                self.heard()
            except UnreadableRequest as error:
                _LOG.warning("a message is not read: %s", error)
                self._send(error.received, error.code, _kind(error.received.kind), "", 0, 0.0)
                continue
            if received is not None:
                self._serve(received)

    def _take_breath(self) -> None:
        """Before anything is read, or written down, of one more message that may bring nothing new."""
        if pause := self.patience.pause():
            if self.patience.first():
                _LOG.warning("too many messages are refused or ask again: one in %g s is taken", self.patience.each)
            self.stop.sleep(pause)

    def _retry(self, problem: FedkitError) -> None:
        slowly = problem.code in ("FK755", "FK745", "FK736", "FK762", "FK770", "FK771")
        if self.state.enter("retrying", problem):
            _LOG.warning("%s", problem)
            self._tell({"event": "retrying", "code": problem.code, "message": str(problem)})
        pause = SLOW_PAUSE if slowly else self._pause
        self._pause = min(LONGEST_PAUSE, 2 * self._pause)
        # Sites that lost their coordinator together do not all come back in the same second.
        self.stop.sleep(pause * random.uniform(0.5, 1.5))

    def _serve(self, received: Received) -> None:
        began = time.monotonic()
        kind, run, number = _kind(received.kind), "", 0
        content: RecordDict | str
        self.trail.begin()
        try:
            if received.kind not in KINDS:
                raise FedkitError(f"a message of the kind {received.kind[:40]!r}", code="FK510")
            request = unpack_request(received.message.content, most_parameters=MOST_PARAMETERS)
            kind, run, number = shown_order(request, kind)
            self.trail.peer_head = request.head
            self._refuse_paused()
            self.state.enter("working")
            content = self._asked(request, received.kind, (kind, run, number), began)
        except Exception as error:
            if isinstance(error, FedkitError) and error.code in ("FK767", "FK768"):
                raise
            _LOG.warning("a message is refused: %s", error, exc_info=not isinstance(error, FedkitError))
            content = public_code(error)
        self._send(received, content, kind, run, number, time.monotonic() - began)
        self.state.enter("connected")

    def _asked(self, request: Request, kind: str, shown: tuple[str, str, int], began: float) -> RecordDict | str:
        header = {"kind": kind, "order": request.order, "job": request.job, "keyring": list(request.keyring)}
        header["enrolments"] = list(request.enrolments)
        # A view without entries cannot be cast.
        body = request.parameters.data.cast("B") if len(request.parameters) else b""
        # Nobody has verified what the order says: whoever shortens its life could as well have sent nothing. A clock
        # further ahead of the coordinator's would have kept the site from connecting.
        over = expires(request) - EARLIEST

        def meanwhile() -> None:
            if time.time() >= over:
                raise FederationError("the order expired while it was at work, which is given up", code="FK543")
            self._meanwhile()

        done = self.executor.ask(header, body, meanwhile)
        note_usage(self.usage, *shown, done, time.monotonic() - began, self.vault)
        self.trail.child(done.header)
        return self._content(done)

    def _meanwhile(self) -> None:
        """While the executor works: signs of life go on, and one that fails is the next one's matter."""
        self.stop.check()
        self._refuse_paused()
        if time.monotonic() - self._beaten < _BEAT_EVERY:
            return
        self._beaten = time.monotonic()
        try:
            self.connection.beat()
            self.heard()
        except (httpx.HTTPError, ValueError) as error:
            _LOG.info("no sign of life got through (%s)", type(error).__name__)

    def _refuse_paused(self) -> None:
        if self.pause is not None:
            self.pause.refuse()

    def _refuse_quarantined(self) -> None:
        if self.pause is not None:
            self.pause.quarantine.refuse()

    def _content(self, done: Done) -> RecordDict | str:
        if done.header is None:
            _LOG.error("%s; the message is answered with %s", done.why, COMMON)
            return COMMON
        if "code" in done.header:
            return str(done.header["code"])
        content = from_frame(done.header, done.body)
        if self.disclose and done.usage is not None:
            used = done.usage
            content[USAGE] = MetricRecord({"cpu-seconds": used.cpu_seconds, "peak-bytes": used.peak_bytes})
        return content

    def _tell(self, event: dict[str, Any]) -> None:
        # Where a person's console is a file, its disk may be full.
        with suppress(OSError):
            self.say(event)

    def _send(
        self, received: Received, content: RecordDict | str, kind: str, run: str, number: int, seconds: float
    ) -> None:
        try:
            self._refuse_paused()
        except FedkitError as error:
            content = error.code
        # On disk before anything leaves; where it cannot be written nothing does, and the request comes again.
        content = self.trail.sealed(content, kind, run, number)
        self.patience.count(kind, run, number, refused=isinstance(content, str))
        # How long the work took may follow from records; Flower asks for it, and 0 is an answer.
        try:
            self.connection.answer(received, content, seconds if self.disclose else 0.0)
        except FederationError as error:
            if error.code != PAUSED:
                raise
            # Not confirmed, the message comes again, and is then answered with the code.
            self.trail.withheld(kind, run, number)
            _LOG.warning("an answer to %s of round %d of run %s stays here: %s", kind, number, run, error)
            return
        code = content if isinstance(content, str) else ""
        self.state.took(kind, run, number, code)
        self._tell({"event": "answered", "kind": kind, "run": run, "round": number, "code": code})
        _LOG.info("%s of round %d of run %s was answered%s", kind, number, run, f" with {code}" if code else "")


def _why(error: httpx.HTTPError | ValueError, address: str) -> FedkitError:
    try:
        return explained(error, address, time.time())
    except Exception as unknown:
        # It reads what the coordinator has sent.
        _LOG.exception("a failure cannot be explained")
        return _unexpected(unknown)


def _unexpected(error: Exception) -> FedkitError:
    return DeploymentError(
        f"an unexpected {type(error).__name__}", code=COMMON, remedy="see client.log; the site goes on trying"
    )


def _kind(said: str) -> str:
    return said if said in KINDS else "unknown"
