"""fedkit on loopback, by its own commands: a coordinator, and a site for each hospital of the heart disease table."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processes import Process, call, environment, free_port, settle, wait_until

TABLE = Path(__file__).parents[2] / "fedkit/data/builtin/heart_disease.csv"
SITES = ("cleveland", "hungary", "switzerland", "va")
_SITE_FILE = """\
site: {site}
data:
  heart_disease:
    declaration: heart_disease
    source: {{kind: csv, path: {table}}}
    records: {records}
    unit: record
    max_epsilon: 100.0   # every turn of the benchmark is a run of its own
    delta: 1.0e-5
    models: [logistic, mlp]
    strategies: [fedavg]
    allow_unprotected: true
    policy:
      purposes: [heart-disease-research]
      studies: [none]
      submitters: any
      release: [updates, private_metrics, exact_metrics]
      approval: automatic
      max_rounds: 1000
"""


@dataclass
class Deployed:
    """A federation of fedkit; its processes go on ``processes`` as they start."""

    folder: Path
    processes: list[Process] = field(default_factory=list)
    _ports: tuple[int, int] = field(default_factory=lambda: (free_port(), free_port()))

    @property
    def coordinator(self) -> Process:
        """`fedkit server start`."""
        return self.processes[0]

    @property
    def sites(self) -> list[Process]:
        """`fedkit client start`, one a hospital."""
        return self.processes[1:]

    def start(self) -> None:
        """Start everything and wait until every site is online and has made its offer."""
        self.folder.mkdir()
        port, grpc_port = map(str, self._ports)
        words = (
            "--name",
            "bench",
            "--host",
            "localhost",
            "--profile",
            "lead",
            "--port",
            port,
            "--grpc-port",
            grpc_port,
        )
        self._fedkit("server", "init", "coordinator", *words)
        self._start("coordinator", "server", "start", "coordinator", "--bind", "127.0.0.1")
        wait_until("the coordinator", lambda: self._listed() is not None, self.processes, 90)
        self._fedkit("server", "invite", *SITES, "--out", "invitations")
        for site in SITES:
            self._join(site, port)
            self._start(site, "client", "start", f"{site}/site.yaml")
        wait_until("the sites", lambda: self._online() == len(SITES), self.processes, 180)

    def _join(self, site: str, port: str) -> None:
        with TABLE.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["site"] == site]
        table = self.folder / f"{site}.csv"
        with table.open("w", encoding="utf-8", newline="") as file:
            columns = [column for column in rows[0] if column != "site"]
            writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        (self.folder / f"{site}.yaml").write_text(
            _SITE_FILE.format(site=site, table=table, records=len(rows)), encoding="utf-8"
        )
        words = ("--token-file", f"invitations/{site}.token", "--site-file", f"{site}.yaml", "--folder", site)
        self._fedkit("client", "join", f"localhost:{port}", *words)

    def _start(self, name: str, *words: str) -> None:
        log = self.folder / f"{name}.out"
        self.processes.append(Process.start(["fedkit", *words], environment(), self.folder, log))

    def _fedkit(self, *words: str) -> str:
        return call(["fedkit", *words], environment(FEDKIT_PROFILE=str(self.folder / "lead")), self.folder)

    def _listed(self) -> list[dict[str, Any]] | None:
        try:
            found: list[dict[str, Any]] = json.loads(self._fedkit("server", "sites", "--json"))["sites"]
        except RuntimeError:
            return None
        return found

    def _online(self) -> int:
        return sum(site["state"] == "online" and bool(site["offer"]) for site in self._listed() or [])

    def run(self, seconds: float, sites: Sequence[str], rounds: int, *overrides: str) -> list[dict[str, float]]:
        """One run of the heart disease experiment.

        Args:
            seconds: how long to wait for it.

        Returns:
            A mapping a round, without the untrained model's, with begin, end and answered: when the coordinator
            begins the round, when the next may begin.

        Raises:
            RuntimeError: it did not end within the time, or a site did not answer a round.
        """
        words = ["heart_disease", f"federation.num_rounds={rounds}", *overrides, "--sites", ",".join(sites)]
        run = json.loads(self._fedkit("server", "run", *words, "--detach", "--json"))["run"]
        log = self.folder / "coordinator/runs" / run / "events.jsonl"
        events: list[dict[str, Any]] = []

        def done() -> bool:
            if log.is_file():
                events[:] = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines(keepends=True)[:]
                             if line.endswith("\n")]  # fmt: skip
            return bool(events) and events[-1]["kind"] == "finished"

        wait_until("a run of fedkit", done, self.processes, seconds)
        found = (
            [_round(events, number) for number in range(1, rounds + 1)] if events[-1]["detail"] == "complete" else []
        )
        if not found or any(line["answered"] != len(sites) for line in found):
            raise RuntimeError(f"a run of fedkit was not complete: {events[-5:]}; see {self.folder}")
        settle(self.processes)
        return found


def _round(events: Sequence[dict[str, Any]], number: int) -> dict[str, float]:
    of_round = [event for event in events if event["round"] == number]
    times = {event["kind"]: float(event["at"]) for event in of_round}
    answered = sum(event["kind"] == "received" and event["purpose"] == "train" for event in of_round)
    return {"round": number, "begin": times["round_started"], "end": times["round_finished"], "answered": answered}
