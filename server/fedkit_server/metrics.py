"""``/metrics``: counts for Prometheus, read from the store at every scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fedkit_server.authorities import certificate_end
from fedkit_server.runners import Runs
from fedkit_server.state import State

__all__ = ["CONTENT_TYPE", "scrape"]
STATES = ("queued", "running", "stopped", "finished", "failed")


def scrape(state: State, runs: Runs) -> bytes:
    """The current figures in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Figures(state, runs))
    return bytes(generate_latest(registry))


class _Figures(Collector):
    def __init__(self, state: State, runs: Runs) -> None:
        self._state, self._runs = state, runs

    def describe(self) -> list[Metric]:
        """Nothing: registering must not read anything."""
        return []

    def collect(self) -> Iterator[Any]:
        """All families."""
        state = self._state
        enrolled = [site for site in state.store.sites() if site.revoked_at is None]
        online = state.link.online()
        yield GaugeMetricFamily("fedkit_sites_enrolled", "Sites that have joined and are not revoked.", len(enrolled))
        here = sum(site.node_id in online for site in enrolled)
        yield GaugeMetricFamily("fedkit_sites_online", "Enrolled sites that are connected now.", here)
        rows = state.store.runs()
        counted = Counter(row.state for row in rows)
        by_state = GaugeMetricFamily("fedkit_runs", "Runs by state.", labels=["state"])
        for name in sorted({*STATES, *counted}):
            by_state.add_metric([name], counted[name])
        yield by_state
        yield GaugeMetricFamily("fedkit_runner_alive", "1 while runs have their turn.", int(self._runs.alive()))
        number = GaugeMetricFamily("fedkit_run_round", "Round that an active run is in.", labels=["run"])
        received = CounterMetricFamily(
            "fedkit_run_received_bytes", "Bytes of replies that an active run has received.", labels=["run"]
        )
        for row in rows:
            if row.state in ("queued", "running"):
                status = self._runs.status(row.run)
                number.add_metric([row.run], float(status.get("round") or 0))
                received.add_metric([row.run], float(status.get("bytes") or 0))
        yield number
        yield received
        yield CounterMetricFamily(
            "fedkit_failed_logins", "Requests without a valid token since the start.", state.failed_logins
        )
        ends = certificate_end(state.folder).timestamp()
        yield GaugeMetricFamily("fedkit_certificate_expires_at", "When the TLS certificate ends, epoch seconds.", ends)
