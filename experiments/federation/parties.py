"""Five parties and the ML lead who uses them: what the experiment asks of them, and how plain processes do it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Protocol

PATIENCE = 180.0


class Parties(Protocol):
    """What the experiment asks of whoever runs the five.

    Attributes:
        address: under which sites reach the coordinator.
        data: a site's folder of data, as the site sees it, with SITE in the place of its name.
    """

    address: str
    data: str

    def make_federation(self) -> None:
        """`fedkit server init`."""

    def start_coordinator(self) -> None:
        """Start it and wait until it is healthy."""

    def lead(self, *words: str, show: bool = False) -> str:
        """`fedkit server WORDS` with the ML lead's profile; returns standard output, or shows it."""

    def invitation(self, site: str) -> str:
        """A new invitation's text."""

    def join_and_start(self, site: str, invitation: str) -> None:
        """`fedkit client join`, and `start` without waiting for it."""

    def wait_for(self, site: str) -> None:
        """Until a site's own health check says that it is connected."""

    def fetch(self, run: str, place: Path) -> None:
        """`fedkit server pull`, into a new folder of this host."""

    def logs(self) -> str:
        """The last lines of every party's log."""

    def close(self) -> None:
        """End and remove all of it."""


def wait(what: str, ready: Any) -> None:
    """Until ready() is true.

    Raises:
        TimeoutError: it is not in time.
    """
    end = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} has taken more than {PATIENCE:.0f} s")
        time.sleep(1.0)


class Processes:
    """Plain processes on the loopback, in a folder that is removed at the end."""

    def __init__(self, demo: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fedkit-federation-"))
        self.port, self.grpc_port = _free_ports(2)
        self.address = f"localhost:{self.port}"
        self.data = f"{demo}/SITE"
        self.children: dict[str, subprocess.Popen[bytes]] = {}

    def make_federation(self) -> None:  # noqa: D102
        self._fedkit(
            "server", "init", "coordinator", "--name", "heart", "--host", "localhost", "--profile", "lead",
            "--port", str(self.port), "--grpc-port", str(self.grpc_port),
        )  # fmt: skip

    def start_coordinator(self) -> None:  # noqa: D102
        self._start("coordinator", "server", "start", "coordinator", "--bind", "127.0.0.1")
        self._healthy("coordinator", "fedkit_server.health", "coordinator")

    def lead(self, *words: str, show: bool = False) -> str:  # noqa: D102
        return self._fedkit("server", *words, show=show)

    def invitation(self, site: str) -> str:  # noqa: D102
        self.lead("invite", site, "--out", "invitations")
        return (self.folder / f"invitations/{site}.token").read_text(encoding="utf-8")

    def join_and_start(self, site: str, invitation: str) -> None:  # noqa: D102
        file = self.data.replace("SITE", site) + "/site.yaml"
        words = ("--token-file", "-", "--site-file", file, "--folder", site)
        self._fedkit("client", "join", self.address, *words, text=invitation)
        self._start(site, "client", "start", f"{site}/site.yaml")

    def wait_for(self, site: str) -> None:  # noqa: D102
        self._healthy(site, "fedkit_client.health", site, "connected")

    def fetch(self, run: str, place: Path) -> None:  # noqa: D102
        self.lead("pull", run, "--out", str(place.absolute()))

    def logs(self) -> str:  # noqa: D102
        files = sorted(self.folder.glob("*/*.log"))
        return "\n".join(f"== {file}\n" + "\n".join(file.read_text().splitlines()[-30:]) for file in files)

    def close(self) -> None:  # noqa: D102
        # Sites first, so that none of them is left trying to reach a coordinator that is gone.
        for child in reversed(self.children.values()):
            child.send_signal(signal.SIGTERM)
        for child in self.children.values():
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.children.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, name: str, *words: str) -> None:
        said = (self.folder / "output.log").open("ab")
        self.children[name] = subprocess.Popen(
            [sys.executable, "-m", "fedkit", *words], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=said,
            stderr=said, start_new_session=True,
        )  # fmt: skip

    def _healthy(self, what: str, *module: str) -> None:
        def healthy() -> bool:
            if self.children[what].poll() is not None:
                raise RuntimeError(f"{what} has ended\n{(self.folder / 'output.log').read_text()}")
            return subprocess.run([sys.executable, "-m", *module], cwd=self.folder, check=False).returncode == 0

        wait(f"{what}'s health check", healthy)

    def _fedkit(self, *words: str, text: str | None = None, show: bool = False) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "fedkit", *words], cwd=self.folder, input=text, text=True, check=False,
            stdin=None if text is not None else subprocess.DEVNULL,
            stdout=None if show else subprocess.PIPE, stderr=None if show else subprocess.PIPE,
            env={**os.environ, "FEDKIT_PROFILE": str(self.folder / "lead")},
        )  # fmt: skip
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, ["fedkit", *words], done.stdout, done.stderr)
        return done.stdout or ""


def _free_ports(count: int) -> list[int]:
    opened = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in opened]
    for each in opened:
        each.close()
    return ports
