"""A coordinator for a site's tests: Flower's link behind our guard, enrolment and a CA, in threads of this process.

It signs what an honest one would sign, and sends whatever it is given.
"""

from __future__ import annotations

import base64
import json
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvicorn
from fedkit_server.guard import Guard, Wakes
from fedkit_server.pki import Pair, certificate_fingerprint, make_ca, make_server

from fedkit.config.compose import compose
from fedkit.config.experiment import ExperimentConfig
from fedkit.errors import DeploymentError
from fedkit.federation import enrolment as protocol
from fedkit.federation import statements
from fedkit.federation.flower_api import superlink_app
from fedkit.federation.flower_grid import LinkGrid
from fedkit.federation.flower_link import Link
from fedkit.federation.invite import Invitation, invitation_line, new_secret
from fedkit.federation.job import make_job, open_job
from fedkit.federation.keyring import Keyring
from fedkit.federation.order import make_order
from fedkit.federation.request import Request, pack_request
from fedkit.storage.keys import SigningKey, fingerprint, new_signing_key
from tests.federation.link import let_go

SITE = "north"
DATASET = "icu"
DECLARATION = {
    "target": {"column": "died", "kind": "binary", "positive": [1]},
    "features": {"numeric": {"age": [0, 120], "rate": [20, 250]}, "categorical": {}},
    "split": {"test_fraction": 0.25, "seed": 43},
}
RECORDS = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Coordinator:
    folder: Path
    port: int = field(default_factory=free_port)
    grpc_port: int = field(default_factory=free_port)
    ca: Pair = field(default_factory=lambda: make_ca("test"))
    key: SigningKey = field(default_factory=new_signing_key)
    root: SigningKey = field(default_factory=new_signing_key)
    offers: list[str] = field(default_factory=list)
    nodes: dict[str, int] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    joined: list[dict[str, Any]] = field(default_factory=list)
    ahead: float = 0.0
    authorities: bytes = b""
    keyring: Keyring = field(init=False)
    link: Link = field(init=False)
    _server: Any = None
    _grpc: Any = None
    _grid: LinkGrid | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.federation = certificate_fingerprint(self.ca.certificate)
        self.keyring = statements.start(self.federation, "ana", self.root, self.key.public, time.time() - 100)
        self.certify(self.ca)

    def certify(self, ca: Pair) -> None:
        """Show a certificate by this CA from the next `up` on."""
        self.certificate = make_server(ca, ["localhost", "127.0.0.1"])
        for name, content in (("crt", self.certificate.certificate), ("key", self.certificate.key)):
            (self.folder / f"server.{name}").write_bytes(content)

    # Its life

    def up(self) -> Coordinator:
        self.link = Link.open(self.folder / "link.db", self.folder / "objects")
        wakes = Wakes()
        self.link.on_wake = wakes.wake
        guard = Guard(superlink_app(self.link), self._api, lambda _: False, wakes)
        config = uvicorn.Config(
            guard, host="127.0.0.1", port=self.port, log_level="critical", loop="asyncio",
            timeout_graceful_shutdown=1,
            ssl_keyfile=str(self.folder / "server.key"), ssl_certfile=str(self.folder / "server.crt"),
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.02)
        self._serve_grpc()
        return self

    def _run(self) -> None:
        with suppress(Exception):
            self._server.run()

    def down(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(20)
        self._grpc.stop(0).wait()
        self._grid = None
        let_go()

    async def _api(self, scope: Any, receive: Any, send: Any) -> None:
        told = {"/fedkit/v1/ca": self.ca.certificate, "/fedkit/v1/authorities": self.authorities}
        found = told.get(scope["path"], b"")
        await send({"type": "http.response.start", "status": 200 if found else 404, "headers": []})
        await send({"type": "http.response.body", "body": found})

    def _serve_grpc(self) -> None:
        def method(answer: Any) -> Any:
            def handle(content: bytes, context: Any) -> bytes:
                try:
                    return protocol.encode(answer(protocol.decode(content, "the request")))
                except DeploymentError as error:
                    context.abort(grpc.StatusCode.PERMISSION_DENIED, protocol.error_text(error))
                    raise

            return grpc.unary_unary_rpc_method_handler(handle)

        self._grpc = grpc.server(ThreadPoolExecutor(2))
        handlers = {protocol.JOIN: method(self._join), protocol.ANNOUNCE: method(self._announce)}
        self._grpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(protocol.SERVICE, handlers),))
        credentials = grpc.ssl_server_credentials([(self.certificate.key, self.certificate.certificate)])
        assert self._grpc.add_secure_port(f"127.0.0.1:{self.grpc_port}", credentials)
        self._grpc.start()

    def _join(self, request: dict[str, Any]) -> dict[str, Any]:
        self.joined.append(request)
        if self.secrets.pop(request["site"], None) != request["secret"]:
            raise DeploymentError("the invitation was used before", code="FK730", remedy="ask for a new one")
        node = self.link.register(base64.b64decode(request["node_key"]), request["site"])
        self.nodes[request["site"]] = node
        return {
            "node_id": str(node), "keyring": list(self.keyring.statements), "port": self.port,
            "grpc_port": self.grpc_port, "wire": protocol.version_text(),
        }  # fmt: skip

    def _announce(self, request: dict[str, Any]) -> dict[str, Any]:
        self.offers.append(request["offer"])
        return {"keyring": list(self.keyring.statements), "wire": protocol.version_text()}

    # What it and its users sign

    def invite(self, site: str = SITE, *, lifetime: float = 3600, **changes: Any) -> str:
        secret = new_secret()
        self.secrets[site] = secret
        given = {
            "federation": self.federation, "coordinator": fingerprint(self.key.public), "root": self.keyring.root,
            "site": site, "secret": secret, "expires_at": int(time.time() + lifetime), "port": self.port,
            "grpc_port": self.grpc_port, **changes,
        }  # fmt: skip
        return invitation_line(Invitation(**given))

    def job(self, run: str = "run-1", config: ExperimentConfig | None = None, key: SigningKey | None = None, **changes):
        given = {
            "federation": self.federation, "run": run, "study": "none", "submitter": "ana", "min_sites": 1,
            "deadline": 60.0, "lifetime": 3600.0, "key": key or self.root, "now": time.time(), **changes,
        }  # fmt: skip
        return make_job(config or experiment(), **given)

    def opened(self, signed: Any) -> Any:
        return open_job(signed.text, self.keyring, self.federation, time.time())

    def order(self, signed: Any, kind: str, number: int, parameters: Any, key: SigningKey | None = None, **changes):
        given = {"lifetime": 600.0, **changes}
        return make_order(self.opened(signed), kind, number, parameters, key or self.key, time.time(), **given)

    def request(self, signed: Any, kind: str, number: int, parameters: Any, **changes: Any) -> Request:
        order = self.order(signed, kind, number, parameters)
        given = {"order": order.text, "job": signed.text, "keyring": self.keyring.statements,
                 "parameters": parameters, **changes}  # fmt: skip
        return Request(**given)

    # What it sends

    def grid(self) -> LinkGrid:
        if self._grid is None:
            self._grid = LinkGrid(self.link, self.link.begin_run())
        return self._grid

    def send(self, content: Any, kind: str = "train", site: str = SITE, ttl: float = 300.0) -> str:
        content = pack_request(content) if isinstance(content, Request) else content
        grid = self.grid()
        (message_id,) = grid.push_messages([grid.create_message(content, kind, self.nodes[site], "", ttl=ttl)])
        return message_id

    def reply(self, message_id: str, timeout: float = 60.0) -> Any:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for message in self.grid().pull_messages([message_id]):
                return message
            self.grid().wait_for_reply(1.0)
        raise AssertionError(f"no reply within {timeout} s")

    def ask(self, content: Any, kind: str = "train", timeout: float = 60.0) -> Any:
        return self.reply(self.send(content, kind), timeout)

    def code(self, content: Any, kind: str = "train", timeout: float = 60.0) -> str:
        """The code that a message is answered with."""
        message = self.ask(content, kind, timeout)
        assert message.has_error(), message.content
        return message.error.reason


POLICY = {
    "purposes": ["testing"], "studies": ["heart", "none"], "submitters": "any",
    "release": ["updates", "private_metrics", "exact_metrics"], "approval": "automatic", "max_rounds": 100,
}  # fmt: skip
SETTINGS = (
    "purpose=testing", "model=logistic", "privacy.noise=secure", "privacy.epsilon=null", "privacy.noise_multiplier=1.2",
    "privacy.evaluation.share=null", "privacy.evaluation.noise_multiplier=5", "privacy.evaluation.every=1",
    "training.local_steps=2", "federation.num_rounds=5",
)  # fmt: skip


UNPROTECTED = (
    "privacy=none", "privacy.noise_multiplier=null", "privacy.evaluation.noise_multiplier=null",
    "privacy.evaluation.every=0",
)  # fmt: skip


@cache
def experiment(*overrides: str) -> ExperimentConfig:
    """The run of a made-up table that the site declares too."""
    return compose(None, ["data=icu", *SETTINGS, *overrides], _DATA)


_DATA: Path | None = None


def write_declaration(folder: Path) -> None:
    """Where `experiment` finds the data set's declaration."""
    global _DATA
    _DATA = folder
    (folder / "data").mkdir(parents=True, exist_ok=True)
    declared = {"name": DATASET, "description": "A made-up table", "source": {"kind": "csv", "path": "icu.csv"},
                "site_column": "region", "records": {SITE: RECORDS}, **DECLARATION}  # fmt: skip
    text = "# fedkit simulate --config-dir my data=icu\n# A made-up table\n" + "".join(
        f"{key}: {json.dumps(value)}\n" for key, value in declared.items() if key != "description"
    )
    (folder / "data" / "icu.yaml").write_text(text)
    (folder / "data" / "icu.csv").write_text("region,age,rate,died\nnorth,50,80,1\n")


def site_yaml(folder: Path, **changes: Any) -> str:
    """A site file over a table of `RECORDS - 10` rows, which it writes too."""
    rows = "\n".join(f"{20 + (i * 7) % 70},{60 + (i * 13) % 90},{i // 2 % 2}" for i in range(RECORDS - 10))
    table = folder / "table.csv"
    table.write_text(f"age,rate,died\n{rows}\n")
    data = {
        "declaration": DECLARATION, "source": {"kind": "csv", "path": str(table)}, "records": RECORDS,
        "unit": "record", "max_epsilon": 50.0, "delta": 1e-5, "models": ["logistic", "mlp"],
        "strategies": ["fedavg", "fedprox"],
        "policy": {**POLICY, **changes.pop("policy", {})}, **changes.pop("data", {}),
    }  # fmt: skip
    return json.dumps({"site": SITE, "data": {DATASET: data}, **changes})


def model(size: int = 3, value: float = 0.0) -> Any:
    return np.full(size, value, np.float32)


def texts(values: Sequence[str]) -> str:
    return json.dumps(list(values))


def unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
