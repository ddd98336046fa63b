"""A site looks at itself while it runs: in a thread of the node's process, which no answer waits for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedkit.errors import FedkitError
from fedkit_client.alert_book import AlertBook
from fedkit_client.alert_channels import Send, senders
from fedkit_client.alert_facts import ChannelState, Facts
from fedkit_client.alert_look import Look, known_head, shown_end
from fedkit_client.alert_metrics import Figures, serve
from fedkit_client.alert_rules import alerts_at

if TYPE_CHECKING:
    from fedkit_client.start import Opened
    from fedkit_client.state import State

EVERY = 15.0
"""Seconds between two looks."""

_HEARD_EVERY = 60.0
_LOG = logging.getLogger("fedkit.alerts")
_LEVELS = {"critical": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO}


@dataclass
class Pulse:
    """When the coordinator was last heard; written by the node's loop, read by the watch."""

    clock: Callable[[], float] = time.time
    at: float = 0.0

    def __post_init__(self) -> None:
        """Silence begins with the start."""
        self.at = self.clock()

    def beat(self) -> None:
        """It was heard now."""
        self.at = self.clock()


@dataclass
class Watch:
    """Looks, queues what is to be told, and sends it.

    Guarantee: nothing that fails here is raised to the node's loop, and no lock is held that an answer waits for.

    Args:
        shown: the end of the certificate that the coordinator shows now.
        problem: code of what keeps the site from its coordinator.
    """

    look: Look
    book: AlertBook
    pulse: Pulse
    problem: Callable[[], str]
    shown: Callable[[], float | None] = lambda: None
    clock: Callable[[], float] = time.time
    channels: dict[str, Send] = field(default_factory=dict)
    figures: Figures = field(default_factory=Figures)
    _told: dict[str, Any] | None = None
    _unlistened: tuple[float, str] | None = None
    _unbooked: float | None = None
    _ended: threading.Event = field(default_factory=threading.Event)
    _end_serving: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Begin, in threads that keep no process alive."""
        threading.Thread(target=self._run, name="alerts", daemon=True).start()

    def stop(self) -> None:
        """Begin no other look; what is queued is sent after the next start."""
        self._ended.set()
        self._end_serving()

    def once(self) -> None:
        """One look, and one attempt for each channel.

        Raises:
            FedkitError: FK785, where nothing can be kept; whatever stands is in `figures` all the same.
        """
        now, terms, site = self.clock(), self.look.file.alerts, self.look.file.site
        facts = self._facts(now)
        alerts = alerts_at(self.look.history, facts, terms, now)
        self.figures = Figures(now, alerts, facts, dict(self.look.history.answers))
        for state, alert in self.book.settle(alerts, terms.channels, terms.repeat, site, now):
            level = logging.INFO if state == "cleared" else _LEVELS[alert.severity]
            _LOG.log(level, "%s, %s: %s. %s", state, alert.severity, alert.text, alert.remedy)
        for name, send in self.channels.items():
            self._send(name, send)

    def _facts(self, now: float) -> Facts:
        if self._told is None:
            with suppress(FedkitError):
                self._told = self.book.recall()
        told = self._told or {}
        head = self.look.log(now, known_head(told))
        budgets, chains = self.look.budgets(now)
        if self.look.broken:
            chains["audit.jsonl"] = self.look.broken
        ends = self.look.certificates(now, self.shown)
        self._remember(head.seq, head.digest, ends)
        channels = dict[str, ChannelState]()
        with suppress(FedkitError):
            channels = self.book.channels(list(self.look.file.alerts.channels), now)
        if self._unlistened is not None:
            channels["prometheus"] = ChannelState(0, 1, *self._unlistened)
        return Facts(
            budgets, True, self.pulse.at, self.problem(), dict(ends), chains, channels,
            self.look.folder.quarantine.since(),
        )  # fmt: skip

    def _remember(self, seq: int, digest: str, ends: dict[str, float]) -> None:
        told, heard = self._told or {}, self.pulse.at
        before = told.get("heard")
        fresh = isinstance(before, (int, float)) and 0 <= heard - before < _HEARD_EVERY
        new = {"head": [seq, digest], "ends": dict(ends), "heard": before if fresh else heard}
        if new != told:
            with suppress(FedkitError):
                self.book.remember(new)
                self._told = new

    def _send(self, name: str, send: Send) -> None:
        for queued in self.book.due(name, self.clock()):
            if self._ended.is_set():
                return
            try:
                send(queued.body, self.clock())
            except FedkitError as error:
                self._failed(name, error)
                return
            except Exception as error:
                # A library's fault must not keep the other channels from being told.
                _LOG.warning("the channel %s failed with %s", name, type(error).__name__)
                self.book.failed(name, type(error).__name__, self.clock())
                return
            self.book.took(name, queued)

    def _failed(self, name: str, error: FedkitError) -> None:
        _LOG.warning("%s", error)
        self.book.failed(name, error.message, self.clock())

    def _run(self) -> None:
        if (address := self.look.file.alerts.prometheus) is not None:
            try:
                self._end_serving = serve(address, lambda: self.figures)
            except OSError as error:
                self._unlistened = self.clock(), f"{address[0]}:{address[1]}: {error.strerror}"
                _LOG.warning("no scrape is answered at %s", self._unlistened[1])
        while not self._ended.is_set():
            try:
                self.once()
            except FedkitError as error:
                _LOG.warning("%s", error)
            except Exception:
                _LOG.exception("a look failed")
            self._ended.wait(EVERY)


def watch_of(opened: Opened, public: bytes, state: State) -> Watch:
    """What looks at an opened site."""
    folder, enrolment, pulse = opened.folder, opened.enrolment, Pulse()

    def problem() -> str:
        said = state.problem
        return "" if said is None else str(said.get("code", ""))

    def shown() -> float | None:
        # A quarantined site says nothing to its coordinator, not even hello.
        return None if folder.quarantine.there() else shown_end(enrolment.host, enrolment.port)

    return Watch(
        Look(opened.file, folder, public), AlertBook(folder.alerts), pulse, problem, shown,
        channels=senders(opened.file.alerts),
    )  # fmt: skip
