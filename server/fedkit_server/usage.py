"""What came in from each site: bytes of replies, and CPU seconds and peak memory where its own file discloses them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import Message, MetricRecord

from fedkit.federation.flower_grid import LinkGrid
from fedkit.federation.flower_link import Link
from fedkit.storage.atomic import write_text

USAGE = "usage.json"
_RECORD, _CPU, _PEAK = "usage", "cpu-seconds", "peak-bytes"
_MOST = 1e18
Arrived = Callable[[list[Message]], None]


class MeteredGrid(LinkGrid):
    """A run's Grid, which takes what sites disclose out of their replies and adds it up.

    Args:
        arrived: is given replies as they came, before anything is made of them; what it raises lets none through.
    """

    def __init__(
        self, link: Link, run_id: int, *, spool: Path | None = None, arrived: Arrived = lambda _: None
    ) -> None:
        super().__init__(link, run_id, spool=spool)
        self._arrived = arrived
        self.disclosed: dict[int, dict[str, float]] = {}

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have come in whole."""
        found = list(super().pull_messages(message_ids))
        if found:
            self._arrived(found)
        for message in found:
            if message.has_content() and _RECORD in message.content:
                self._add(message.metadata.src_node_id, message.content.pop(_RECORD))
        return found

    def _add(self, node: int, record: Any) -> None:
        if not isinstance(record, MetricRecord):
            return
        cpu, peak = _sane(record.get(_CPU)), _sane(record.get(_PEAK))
        if cpu is None or peak is None:
            return
        known = self.disclosed.setdefault(node, {"cpu_seconds": 0.0, "peak_bytes": 0.0})
        known["cpu_seconds"] += cpu
        known["peak_bytes"] = max(known["peak_bytes"], peak)


class Meter:
    """A run's usage over every process that worked on it; what a killed one heard since its last round is lost.

    Args:
        folder: the run's.
        nodes: site to Flower node id.
    """

    def __init__(self, folder: Path, grid: LinkGrid, nodes: Mapping[str, int]) -> None:
        self._path, self._grid, self._nodes = folder / USAGE, grid, nodes
        self._before = read_usage(folder)

    def usage(self) -> dict[str, Any]:
        """Site to bytes, and site to what it discloses; only sites of which there is something."""
        received, disclosed = dict(self._before["bytes_received"]), dict(self._before["disclosed"])
        heard = self._grid.disclosed if isinstance(self._grid, MeteredGrid) else {}
        for site, node in self._nodes.items():
            if size := self._grid.bytes_by_node.get(node):
                received[site] = received.get(site, 0) + size
            if (new := heard.get(node)) is not None:
                old = disclosed.get(site, {"cpu_seconds": 0.0, "peak_bytes": 0.0})
                disclosed[site] = {
                    "cpu_seconds": old["cpu_seconds"] + new["cpu_seconds"],
                    "peak_bytes": max(old["peak_bytes"], new["peak_bytes"]),
                }
        return {"bytes_received": dict(sorted(received.items())), "disclosed": dict(sorted(disclosed.items()))}

    def save(self) -> dict[str, Any]:
        """Write it down; returns the same."""
        usage = self.usage()
        write_text(self._path, json.dumps(usage) + "\n")
        return usage


def read_usage(folder: Path) -> dict[str, Any]:
    """What a run's folder says of its usage so far; nothing where there is no such file, or a broken one."""
    try:
        found = json.loads((folder / USAGE).read_text(encoding="utf-8"))
        return {"bytes_received": dict(found["bytes_received"]), "disclosed": dict(found["disclosed"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"bytes_received": {}, "disclosed": {}}


def _sane(value: Any) -> float | None:
    """A number that a site may have measured; it is the site's word alone."""
    good = isinstance(value, (int, float)) and math.isfinite(value) and 0 <= value < _MOST
    return float(value) if good else None
