"""Sites for tests: folders that have joined, with and without a network, and processes of `fedkit client start`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fedkit_client.folder import FORMAT, Enrolment, SiteFolder
from fedkit_client.gatekeeper import Gatekeeper
from fedkit_client.join import join
from fedkit_client.ledgers import open_ledgers
from fedkit_client.logs import opened_lines
from fedkit_client.start import open_site

from fedkit.governance.site_file import read_site_file
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.storage.keys import create_node_key, create_signing_key, fingerprint
from tests.clients.coordinator import DATASET, SITE, Coordinator, site_yaml, write_declaration

FEDKIT = (sys.executable, "-m", "fedkit")
# A proxy of the machine that runs the tests is nobody's business here.
NO_PROXY = {name: "" for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy")}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in NO_PROXY:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session", autouse=True)
def _declared(tmp_path_factory):
    write_declaration(tmp_path_factory.mktemp("declared"))


@dataclass
class Bench:
    """A site without a network, and a coordinator that signs for it."""

    coordinator: Coordinator
    folder: SiteFolder
    keeper: Gatekeeper

    def entries(self) -> list[Any]:
        """The ledger as it stands; whatever is charged adds to it."""
        with Ledger(self.folder.ledger(DATASET), read_only=True) as ledger:
            return [entry.digest for entry in ledger.file.entries()]

    def charged(self) -> int:
        with Ledger(self.folder.ledger(DATASET), read_only=True) as ledger:
            return ledger.account(DATASET).spent


def make_bench(path: Path, **changes: Any) -> Bench:
    coordinator = Coordinator(path / "coordinator")
    made = SiteFolder(path / "site")
    made.ledgers.mkdir(parents=True, mode=0o700)
    made.path.chmod(0o700)
    made.ca.write_bytes(coordinator.ca.certificate)
    create_node_key(made.node_key)
    create_signing_key(made.signing_key)
    enrolment = Enrolment(
        FORMAT, SITE, coordinator.federation, fingerprint(coordinator.key.public), coordinator.keyring.root,
        "127.0.0.1", coordinator.port, coordinator.grpc_port, "7", int(time.time()),
    )  # fmt: skip
    made.enrolment_file.write_bytes(enrolment.as_json())
    made.enrolment_file.chmod(0o600)
    made.keyring_file.write_text("".join(f"{text}\n" for text in coordinator.keyring.statements))
    made.site_yaml.write_text(site_yaml(made.path, **changes))
    file = read_site_file(made.site_yaml)
    open_ledgers(file, made)
    return Bench(coordinator, made, Gatekeeper(file, made))


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Callable[..., Bench]:
    # The limits would stay on this process.
    monkeypatch.setattr("fedkit_client.gatekeeper.apply", lambda file, size=0: None)
    return lambda **changes: make_bench(tmp_path, **changes)


@dataclass
class Site:
    """A site's process."""

    folder: SiteFolder
    command: tuple[str, ...] = FEDKIT
    environment: dict[str, str] = field(default_factory=dict)
    process: Any = None

    def start(self, *words: str) -> Site:
        if self.process is not None:
            self.process.stdout.close()
        environment = {**os.environ, **NO_PROXY, **self.environment}
        self.process = subprocess.Popen(
            [*self.command, "client", "start", str(self.folder.site_yaml), "--json", *words],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )  # fmt: skip
        return self

    def event(self, name: str) -> dict[str, Any]:
        """Read on until an event of that name."""
        seen = []
        for line in self.process.stdout:
            seen.append(line)
            if line.startswith("{"):
                told = json.loads(line)
                if told.get("event") == name:
                    return told
        raise AssertionError(f"no event {name}: {''.join(seen)}\n{self.log()}")

    def log(self) -> str:
        folder = open_site(self.folder.site_yaml).folder
        return "\n".join(opened_lines(folder.log, folder.vault())) if self.folder.log.exists() else ""

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)
        self.process.stdout.close()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def charged(self) -> int:
        with Ledger(self.folder.ledger(DATASET), read_only=True) as ledger:
            return ledger.account(DATASET).spent

    def children(self) -> dict[str, int]:
        """Process ids of the keeper, its zygote and a child at work."""
        found, parent = {}, self.process.pid
        for name in ("keeper", "zygote", "child"):
            inner = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
            if not inner:
                break
            found[name] = parent = int(inner[0])
        return found


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[Callable[..., tuple[Coordinator, Site]]]:
    """Makes a coordinator and a site that has joined it and runs."""
    made: list[tuple[Coordinator, Site]] = []

    def make(start: bool = True, command: tuple[str, ...] = FEDKIT, **changes: Any) -> tuple[Coordinator, Site]:
        path = tmp_path_factory.mktemp("federation")
        coordinator = Coordinator(path / "coordinator").up()
        joined = join(f"127.0.0.1:{coordinator.port}", coordinator.invite(), path / "site")
        joined.folder.site_yaml.write_text(site_yaml(joined.folder.path, **changes))
        site = Site(joined.folder, command)
        made.append((coordinator, site))
        if start:
            site.start().event("connected")
        return coordinator, site

    yield make
    for coordinator, site in made:
        if site.process is not None and site.process.poll() is None:
            site.kill()
        if site.process is not None:
            site.process.stdout.close()
        coordinator.down()
