"""A site's ``/metrics`` for Prometheus, on a loopback address; the figures are those of the last look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fedkit.governance.alert_terms import SEVERITIES
from fedkit_client.alert import Alert
from fedkit_client.alert_facts import Facts


@dataclass(frozen=True)
class Figures:
    """What one look has found.

    Attributes:
        at: seconds since the epoch; 0 before the first look.
        answers: code, empty for an answer, to how many requests the log tells of.
    """

    at: float = 0.0
    alerts: tuple[Alert, ...] = ()
    facts: Facts = field(default_factory=Facts)
    answers: dict[str, int] = field(default_factory=dict)


def serve(address: tuple[str, int], figures: Callable[[], Figures]) -> Callable[[], None]:
    """Answer scrapes in a thread of its own; returns what ends it.

    Raises:
        OSError: the address is taken, or is not this machine's.
    """
    registry = CollectorRegistry()
    registry.register(_Collected(figures))
    server, thread = start_http_server(address[1], addr=address[0], registry=registry)

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join(5.0)

    return end


class _Collected(Collector):
    def __init__(self, figures: Callable[[], Figures]) -> None:
        self._figures = figures

    def describe(self) -> list[Metric]:
        """Nothing: registering must not read anything."""
        return []

    def collect(self) -> Iterator[Any]:
        """All families."""
        found = self._figures()
        facts = found.facts
        yield GaugeMetricFamily("fedkit_site_looked_at_seconds", "When the site last looked at itself.", found.at)
        yield GaugeMetricFamily(
            "fedkit_site_coordinator_heard_seconds", "When the coordinator was last heard.", facts.heard or 0.0
        )
        quarantined = int(facts.quarantined is not None)
        yield GaugeMetricFamily("fedkit_site_quarantined", "1 while the site is quarantined.", quarantined)
        yield GaugeMetricFamily("fedkit_site_chains_broken", "Logs and ledgers that are broken.", len(facts.chains))
        shares = GaugeMetricFamily("fedkit_site_budget", "Shares of a budget.", labels=["dataset", "part"])
        epsilon = GaugeMetricFamily("fedkit_site_epsilon", "Epsilon of a budget.", labels=["dataset", "part"])
        for name, budget in facts.budgets.items():
            if not budget.problem:
                for part in ("spent", "held", "left"):
                    shares.add_metric([name, part], getattr(budget, part))
                epsilon.add_metric([name, "spent"], budget.epsilon_spent)
                epsilon.add_metric([name, "limit"], budget.limit)
        yield shares
        yield epsilon
        answers = CounterMetricFamily(
            "fedkit_site_requests",
            "Requests by the code that they were answered with; answered: none.",
            labels=["code"],
        )
        for code, count in sorted(found.answers.items()):
            answers.add_metric([code or "answered"], count)
        yield answers
        ends = GaugeMetricFamily(
            "fedkit_site_certificate_ends_seconds", "Ends of certificates.", labels=["certificate"]
        )
        for name, end in facts.ends.items():
            ends.add_metric([name], end)
        yield ends
        counted = Counter((alert.rule, alert.severity) for alert in found.alerts)
        standing = GaugeMetricFamily("fedkit_site_alerts", "Alerts that stand.", labels=["rule", "severity"])
        for (rule, severity), count in sorted(
            counted.items(), key=lambda each: (each[0][0], SEVERITIES.index(each[0][1]))
        ):
            standing.add_metric([rule, severity], count)
        yield standing
        queued = GaugeMetricFamily("fedkit_site_alert_queue", "Notices that wait.", labels=["channel"])
        failures = GaugeMetricFamily("fedkit_site_alert_failures", "Failures in a row.", labels=["channel"])
        for name, channel in facts.channels.items():
            queued.add_metric([name], channel.queued)
            failures.add_metric([name], channel.failures)
        yield queued
        yield failures
