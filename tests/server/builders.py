"""A coordinator's folder and state without a process, a site's keys, and a runner that runs nothing."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from fedkit_server.folder import ServerFolder, create_folder
from fedkit_server.runners import nothing
from fedkit_server.state import State
from fedkit_server.store import Store
from fedkit_server.tokens import new_token, token_hash
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from fedkit.errors import DeploymentError
from fedkit.federation.enrolment import version_text
from fedkit.federation.flower_link import Link
from fedkit.federation.offer import OfferedData, make_offer
from fedkit.storage.keys import SigningKey, new_signing_key


@dataclass
class Clock:
    now: float = field(default_factory=time.time)

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Coordinator:
    state: State
    root: SigningKey
    token: str
    clock: Clock

    def close(self) -> None:
        self.state.store.close()


def make_server_folder(path: Path, root: SigningKey, **other: Any) -> ServerFolder:
    chosen = {"name": "heart", "hosts": ["localhost"], "port": 19443, "grpc_port": 19444, "admin": "anna"} | other
    return create_folder(path, **chosen, root=root, now=time.time())


def make_coordinator(path: Path, link: Link) -> Coordinator:
    root, clock, token = new_signing_key(), Clock(), new_token()
    folder = make_server_folder(path, root)
    store = Store(folder.database)
    store.put_token("anna", token_hash(token), clock())
    state = State(folder, folder.settings(), store, link, clock)
    return Coordinator(state, root, token, clock)


@dataclass(frozen=True)
class SiteKeys:
    node: ec.EllipticCurvePrivateKey
    signing: SigningKey

    @property
    def node_bytes(self) -> bytes:
        return public_key_to_bytes(self.node.public_key())

    def request(self, site: str, secret: str, **other: Any) -> dict[str, Any]:
        return {
            "secret": secret,
            "site": site,
            "node_key": base64.b64encode(self.node_bytes).decode(),
            "site_key": base64.b64encode(self.signing.public).decode(),
            "wire": version_text(),
        } | other


def new_site() -> SiteKeys:
    return SiteKeys(ec.generate_private_key(ec.SECP384R1()), new_signing_key())


def offer_text(site: str, key: SigningKey, now: float, name: str = "heart_disease", **other: Any) -> str:
    said = {
        "records": 303, "unit": "record", "delta": 1e-5, "max_epsilon": 3.0, "models": ("logistic",),
        "strategies": ("fedavg",), "unprotected": False, "declaration": "0" * 64,
    } | other  # fmt: skip
    return make_offer(site, "0.1.0", {name: OfferedData(**said)}, key, now).text


@dataclass
class FakeRuns:
    """Remembers what it was asked; every run is over at once."""

    state: State
    asked: list[tuple[str, ...]] = field(default_factory=list)
    log: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def submit(self, job_text: str) -> str:
        from fedkit.federation.job import open_job

        ring = self.state.keyring
        job = open_job(job_text, ring, ring.federation, self.state.clock())
        self.state.store.add_run(job.run, job_text, job.name, job.submitter, self.state.clock())
        self.asked.append(("submit", job.run))
        return job.run

    def stop(self, run: str) -> None:
        self.asked.append(("stop", run))

    def resume(self, run: str, first: Callable[[], object] = nothing) -> None:
        raise DeploymentError(f"{run} is over", code="FK733")

    def events(self, run: str, after: int) -> list[dict[str, Any]]:
        return self.log.get(run, [])[after:]

    def wait_events(self, run: str, after: int, timeout: float) -> list[dict[str, Any]]:
        self.asked.append(("wait", run, f"{timeout:.1f}"))
        self.log[run] = [{"n": 1, "at": 0.0, "kind": "asked", "round": 1, "site": "north", "purpose": "train"}]
        return self.events(run, after)

    def status(self, run: str) -> dict[str, Any]:
        row = self.state.store.run(run)
        assert row is not None
        return {"run": run, "name": row.name, "state": row.state, "outcome": row.outcome, "round": 2, "bytes": 7}

    def alive(self) -> bool:
        return ("dead",) not in self.asked

    def close(self) -> None:
        self.asked.append(("close",))
