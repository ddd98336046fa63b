"""Stock Flower on loopback: a SuperLink with TLS, node authentication and SQLite, a SuperNode a site, `flwr run`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from fedkit_server import pki
from processes import Process, call, environment, free_port, listens, settle, wait_until

APP = Path(__file__).parent / "stock_flower"


@dataclass
class Stock:
    """A federation of stock Flower; its processes go on ``processes`` as they start."""

    folder: Path
    nodes: Sequence[Mapping[str, str]]
    """The node config of each SuperNode."""
    processes: list[Process] = field(default_factory=list)
    _port: int = field(default_factory=free_port)
    _runs: int = 0

    @property
    def link(self) -> Process:
        """The SuperLink."""
        return self.processes[0]

    @property
    def sites(self) -> list[Process]:
        """The SuperNodes."""
        return self.processes[1:]

    def _env(self, name: str) -> dict[str, str]:
        home = self.folder / name
        home.mkdir(exist_ok=True)
        return environment(FLWR_HOME=str(home))

    def start(self) -> None:
        """Start everything and wait until every node is online."""
        self.folder.mkdir()
        shutil.copytree(APP, self.folder / "app")
        self._make_certificates()
        self._start_link()
        for index, config in enumerate(self.nodes, 1):
            key = ec.generate_private_key(ec.SECP384R1())
            private, public = self.folder / f"node-{index}", self.folder / f"node-{index}.pub"
            private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
            public.write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
            self._flwr("supernode", "register", str(public), "stock", "--name", f"site{index}")
            self._start_node(index, private, config)
        wait_until("stock nodes online", lambda: self._online() == len(self.nodes), self.processes, 90)

    def _make_certificates(self) -> None:
        ca = pki.make_ca("bench")
        server = pki.make_server(ca, ["127.0.0.1", "localhost"])
        for name, content in (
            ("ca.crt", ca.certificate),
            ("server.crt", server.certificate),
            ("server.key", server.key),
        ):
            (self.folder / name).write_bytes(content)
        (Path(self._env("user")["FLWR_HOME"]) / "config.toml").write_text(
            f'[superlink]\ndefault = "stock"\n[superlink.stock]\naddress = "127.0.0.1:{self._port}"\n'
            f'root-certificates = "{self.folder / "ca.crt"}"\n',
            encoding="utf-8",
        )

    def _start_link(self) -> None:
        command = [
            *("flower-superlink", "--host", "127.0.0.1", "--port", str(self._port)),
            *("--ssl-ca-certfile", "ca.crt", "--ssl-certfile", "server.crt", "--ssl-keyfile", "server.key"),
            *("--enable-supernode-auth", "--database", "state.db", "--disable-runtime-dependency-installation"),
        ]
        self.processes.append(Process.start(command, self._env("link"), self.folder, self.folder / "link.log"))
        wait_until("flower-superlink", lambda: listens(self._port), self.processes, 90)

    def _start_node(self, index: int, key: Path, config: Mapping[str, str]) -> None:
        command = [
            *("flower-supernode", "--superlink", f"127.0.0.1:{self._port}", "--root-certificates", "ca.crt"),
            *("--auth-supernode-private-key", str(key), "--port", str(free_port())),
            *("--node-config", " ".join(f'{name}="{value}"' for name, value in config.items())),
        ]
        log = self.folder / f"node-{index}.log"
        self.processes.append(Process.start(command, self._env(f"home-{index}"), self.folder, log))

    def _flwr(self, *words: str) -> str:
        return call(["flwr", *words], self._env("user"), self.folder)

    def _online(self) -> int:
        listed = json.loads(self._flwr("supernode", "list", "stock", "--format", "json"))
        return sum(node["status"] == "online" for node in listed["nodes"])

    def run(self, seconds: float, nodes: int, **config: Any) -> list[dict[str, float]]:
        """One run of the app.

        Args:
            seconds: how long to wait for it.
            nodes: how many take part.
            config: entries of the run config, with _ for -.

        Returns:
            A mapping a round with begin, end and answered, and a last one with the least and greatest value of the
            model.

        Raises:
            RuntimeError: it did not end within the time, or a node did not answer a round.
        """
        self._runs += 1
        times = self.folder / f"times-{self._runs}.jsonl"
        config |= {"times": str(times), "nodes": nodes, "fraction": nodes / len(self.nodes)}
        words = " ".join(f"{k.replace('_', '-')}={json.dumps(v)}" for k, v in config.items())
        self._flwr("run", "app", "stock", "--run-config", words)
        lines: list[dict[str, float]] = []

        def done() -> bool:
            lines[:] = _lines(times)
            return len(lines) > config["rounds"]

        wait_until("a run of stock Flower", done, self.processes, seconds)
        if any(line["answered"] != nodes for line in lines[:-1]):
            raise RuntimeError(f"a node of stock Flower did not answer: {lines}; see {self.folder}")
        settle(self.processes)
        return lines


def _lines(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    return [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
    ]
