"""A federation of real processes on this machine: one coordinator, hospitals, the command line that people use."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECORDS = {"cleveland": 303, "hungary": 294, "switzerland": 123, "va": 200}
SITE_YAML = """\
site: {site}
data:
  heart_disease:
    declaration: heart_disease
    source: {{kind: builtin, path: heart_disease.csv}}
    site_column: site
    records: {records}
    unit: record
    max_epsilon: {max_epsilon}
    delta: 1.0e-5
    models: [logistic, mlp]
    strategies: [fedavg, fedprox, fedadam]
    allow_unprotected: {unprotected}
    policy:
      purposes: [heart-disease-research]
      studies: [none]
      submitters: any
      release: [updates, private_metrics, exact_metrics]
      approval: automatic
      max_rounds: 1000
"""


def free_ports(count):
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def environment(library=None):
    # Pages and threads of five processes on two cores: more would only wait for each other.
    parts = [str(ROOT / part) for part in (".", "server", "clients")] + ([str(library)] if library else [])
    path = os.pathsep.join(parts)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@dataclass
class Federation:
    """Coordinator and sites in ``folder``.

    Attributes:
        site_program: what starts a site, in place of ``python -m fedkit client``.
        coordinator_words: further ones of ``server start``.
        host: the address that sites reach the coordinator at.
        inside: party to the words before its commands, such as those that enter a network namespace.
    """

    folder: Path
    sites: tuple[str, ...] = tuple(RECORDS)
    max_epsilon: float = 8.0
    unprotected: bool = False
    site_program: tuple[str, ...] = ("-m", "fedkit", "client")
    coordinator_words: tuple[str, ...] = ()
    processes: dict[str, subprocess.Popen] = field(default_factory=dict)
    port: int = 0
    host: str = "127.0.0.1"
    inside: dict[str, tuple[str, ...]] = field(default_factory=dict)
    began: dict[str, float] = field(default_factory=dict)

    @property
    def profile(self):
        return self.folder / "admin"

    def library(self, name):
        """What a party alone has installed beside fedkit."""
        return self.folder / "lib" / name

    def fedkit(self, *words, check=True, timeout=120, library=None, at="coordinator"):
        """One command, where a party is; what it printed."""
        done = subprocess.run(
            [*self.inside.get(at, ()), sys.executable, "-m", "fedkit", *map(str, words)],
            cwd=self.folder, env=environment(library), capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{words}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def json(self, *words, **more):
        return json.loads(self.fedkit(*words, "--json", **more).stdout)

    def remote(self, *words, **more):
        return self.fedkit("server", *words, "--profile", self.profile, **more)

    def make(self):
        """Initialise, start, let every site join."""
        self.port, grpc_port = free_ports(2)
        self.fedkit(
            "server", "init", "coordinator", "--name", "test", "--host", self.host, "--port", self.port,
            "--grpc-port", grpc_port, "--profile", self.profile,
        )  # fmt: skip
        self.start_coordinator()
        self.remote("invite", *self.sites, "--out", self.folder)
        for site in self.sites:
            text = SITE_YAML.format(
                site=site,
                records=RECORDS[site],
                max_epsilon=self.max_epsilon,
                unprotected=str(self.unprotected).lower(),
            )
            (self.folder / f"{site}.yaml").write_text(text)
            self.fedkit(
                "client", "join", f"{self.host}:{self.port}", "--token-file", f"{site}.token", "--site-file",
                f"{site}.yaml", "--folder", site, at=site,
            )  # fmt: skip
        return self

    def _spawn(self, name, *words):
        log = (self.folder / f"{name}.out").open("ab")
        self.processes[name] = subprocess.Popen(
            [*self.inside.get(name, ()), sys.executable, *map(str, words)],
            cwd=self.folder, env=environment(self.library(name)), stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        log.close()

    def start_coordinator(self, *, wait_up=True):
        words = ("server", "start", "coordinator", "--bind", self.host, *self.coordinator_words)
        self._spawn("coordinator", "-m", "fedkit", *words)
        if wait_up:
            wait(lambda: self.reaches("coordinator"), 60, "the coordinator does not answer")

    def reaches(self, party):
        """Whether a TCP connection to the coordinator comes about from where a party is."""
        if party not in self.inside:
            return reaches(self.host, self.port)
        code = f"import socket; socket.create_connection(({self.host!r}, {self.port}), 2.0).close()"
        words = [*self.inside[party], sys.executable, "-c", code]
        return subprocess.run(words, stderr=subprocess.DEVNULL, timeout=60).returncode == 0

    def start_site(self, site, *, wait_online=True):
        self.began[site] = time.time()
        self._spawn(site, *self.site_program, "start", f"{site}/site.yaml")
        if wait_online:
            self.wait_online(site)

    def start_sites(self):
        for site in self.sites:
            self.start_site(site, wait_online=False)
        for site in self.sites:
            self.wait_online(site)
        return self

    def wait_online(self, site):
        def online():
            found = self.state(site)
            # What a killed process has left tells nothing of the new one.
            return found.get("started_at", 0) >= self.began.get(site, 0) and found["phase"] in ("connected", "working")

        wait(online, 90, f"{site} does not connect")

    def state(self, site):
        with suppress(OSError, ValueError):
            return json.loads((self.folder / site / "state.json").read_text())
        return {}

    def kill(self, name):
        """kill -9 of a process and of whatever it had started, at once."""
        process = self.processes.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)

    def alive(self, name):
        return name in self.processes and self.processes[name].poll() is None

    def submit(self, *overrides, sites=None, min_sites=None, deadline=120):
        """Submit a run; returns its id."""
        sites = sites or self.sites
        found = self.remote(
            "run", "heart_disease", *overrides, "--sites", ",".join(sites), "--min-sites", min_sites or len(sites),
            "--deadline", deadline, "--detach", "--json",
        )  # fmt: skip
        return json.loads(found.stdout)["run"]

    def status(self, run):
        with suppress(AssertionError, subprocess.TimeoutExpired, ValueError):
            return json.loads(self.remote("status", run, "--json").stdout)
        return {}

    def events(self, run):
        """What a run has told so far, as it lies on the coordinator's disk; half a line of a killed one is left out."""
        path, found = self.folder / "coordinator" / "runs" / run / "events.jsonl", []
        for line in path.read_text().splitlines() if path.exists() else ():
            with suppress(ValueError):
                found.append(json.loads(line))
        return found

    def begun(self, run):
        """The number of the newest round."""
        return max((event["round"] for event in self.events(run) if event["kind"] == "round_started"), default=0)

    def finish(self, run, timeout=240):
        """Wait for a run's end; returns its state."""
        found = {}

        def over():
            found.update(self.status(run))
            return found.get("state") in ("finished", "failed")

        wait(over, timeout, f"{run} does not end", pause=1.0)
        return found

    def run(self, *overrides, **more):
        """Submit, wait, pull; returns the pulled run directory."""
        run = self.submit(*overrides, **more)
        found = self.finish(run)
        assert found["state"] == "finished", f"{found}\n{self.logs()}"
        return self.pull(run)

    def logs(self):
        """The last lines of every log, for a failure's report."""
        paths = [self.folder / "coordinator" / "server.log", *(self.folder / s / "client.log" for s in self.sites)]
        return "\n".join(f"--- {p}\n" + "\n".join(p.read_text().splitlines()[-8:]) for p in paths if p.exists())

    def pull(self, run):
        target = self.folder / "pulled" / run
        self.remote("pull", run, "--out", target)
        return target

    def spent(self, site):
        """What the ledger of a site says."""
        return self.json("ledger", "show", "--ledger", self.folder / site / "ledgers" / "heart_disease.sqlite")

    def results(self, run):
        """What a run that is over has written: its result, and a line for each round."""
        pulled = self.pull(run)
        lines = (pulled / "metrics.jsonl").read_text().splitlines()
        return json.loads((pulled / "result.json").read_text()), [json.loads(line) for line in lines]

    def charged(self, site, run):
        """(round, purpose) of every reservation of a run in a site's ledger."""
        exported = self.folder / f"{site}-export.json"
        exported.unlink(missing_ok=True)
        ledger = self.folder / site / "ledgers" / "heart_disease.sqlite"
        self.fedkit("ledger", "verify", "--ledger", ledger)
        self.fedkit("ledger", "export", "--ledger", ledger, "--out", exported)
        entries = [json.loads(entry["body"]) for entry in json.loads(exported.read_text())["entries"]]
        return [(e["round"], e["purpose"]) for e in entries if e.get("kind") == "reserve" and e.get("run") == run]

    def close(self):
        for name in list(self.processes):
            self.kill(name)


def reaches(host, port):
    with suppress(OSError), socket.create_connection((host, port), 1.0):
        return True
    return False


def wait(done, seconds, why, pause=0.2):
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise AssertionError(f"{why} within {seconds} s")
        time.sleep(pause)
