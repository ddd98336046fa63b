"""The five parties as the services of `server/compose.yaml`, each started with the engine's own `run`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from engine import ROOT, Engine
from fedkit_server.archive import unpack
from parties import wait


class Containers:
    """The services of the compose file, started one by one with the engine's own `run`."""

    address = "coordinator"
    data = "/data"

    def __init__(self, engine: Engine, demo: Path) -> None:
        self.engine = engine
        text = (ROOT / "server/compose.yaml").read_text(encoding="utf-8")
        values = {**os.environ, "FEDKIT_DEMO": str(demo)}
        text = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: values.get(found[1]) or found[2], text)
        self.compose: dict[str, Any] = yaml.safe_load(text)
        self.network = f"{self.compose['name']}_federation"
        self.close()
        engine.run("network", "create", "--internal", self.network)
        for volume in self.compose["volumes"]:
            engine.run("volume", "create", self._named(volume))

    def make_federation(self) -> None:  # noqa: D102
        self._once("init")

    def start_coordinator(self) -> None:  # noqa: D102
        self._up("coordinator")
        self.wait_for("coordinator")

    def lead(self, *words: str, show: bool = False) -> str:  # noqa: D102
        return self._once("lead", "server", *words, show=show)

    def invitation(self, site: str) -> str:  # noqa: D102
        self.lead("invite", site, "--out", "/var/lib/fedkit/invitations")
        return self._once("lead", f"/var/lib/fedkit/invitations/{site}.token", entrypoint="cat")

    def join_and_start(self, site: str, invitation: str) -> None:  # noqa: D102
        words = ("--token-file", "-", "--site-file", "/data/site.yaml", "--folder", "/var/lib/fedkit/site")
        self._once(site, "client", "join", self.address, *words, text=invitation)
        self._up(site)

    def wait_for(self, site: str) -> None:  # noqa: D102
        check = self.compose["services"][site]["healthcheck"]["test"][1:]
        name = self._named(site)

        def healthy() -> bool:
            if self.engine.run("inspect", "--format", "{{.State.Running}}", name).strip() != "true":
                raise RuntimeError(f"{site} has ended")
            try:
                self.engine.run("exec", name, *check, limit=30)
            except subprocess.SubprocessError:
                return False
            return True

        wait(f"{site}'s health check", healthy)

    def fetch(self, run: str, place: Path) -> None:  # noqa: D102
        self.lead("pull", run, "--out", f"/var/lib/fedkit/runs/{run}")
        pack = f"cd /var/lib/fedkit/runs/{run} && find -type f -printf '%P\\0' | tar --null --files-from=- --create"
        done = subprocess.run(
            [self.engine.program, "run", "--rm", *self._words("lead", "lead-command", entrypoint="sh"), "-c", pack],
            check=True, capture_output=True, env={**os.environ, **self.engine.environment},
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch, "run.tar")
            file.write_bytes(done.stdout)
            unpack(file, place)

    def logs(self) -> str:  # noqa: D102
        names = self.engine.run("ps", "--all", "--format", "{{.Names}}", "--filter", "label=fedkit", check=False)
        told = []
        for name in sorted(names.split()):
            done = subprocess.run(
                [self.engine.program, "logs", "--tail", "30", name], check=False, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **self.engine.environment},
            )  # fmt: skip
            told.append(f"== {name}\n{done.stdout}")
        return "\n".join(told)

    def close(self) -> None:  # noqa: D102
        names = self.engine.run("ps", "--all", "--quiet", "--filter", "label=fedkit", check=False).split()
        if names:
            self.engine.run("rm", "--force", *names, check=False)
        for volume in self.compose["volumes"]:
            self.engine.run("volume", "rm", "--force", self._named(volume), check=False)
        self.engine.run("network", "rm", self.network, check=False)

    def _named(self, volume: str) -> str:
        return f"{self.compose['name']}_{volume}"

    def _up(self, service: str) -> None:
        self.engine.run("run", "--detach", *self._words(service), *self.compose["services"][service]["command"])

    def _once(
        self, service: str, *words: str, text: str | None = None, show: bool = False, entrypoint: str | None = None
    ) -> str:
        flags = ["--rm", *(["--interactive"] if text is not None else []), *(["--tty"] if show and _terminal() else [])]
        command = words or self.compose["services"][service]["command"]
        name = f"{service}-command"
        return self.engine.run(
            "run", *flags, *self._words(service, name, entrypoint=entrypoint), *command, text=text, show=show
        )

    def _words(self, service: str, name: str | None = None, *, entrypoint: str | None = None) -> list[str]:
        """The service's settings as the engine's flags; an unknown one is an error rather than a container less closed.

        A command's container has a name of its own, so that it is not taken for the service.
        """
        told = dict(self.compose["services"][service])
        for unused in ("command", "healthcheck", "profiles"):
            told.pop(unused, None)
        # The checks are called by `wait_for`: an engine's own timers need an init system on the host.
        words = ["--name", self._named(name or service), "--label", "fedkit", "--no-healthcheck"]
        words += ["--user", told.pop("user"), "--pids-limit", str(told.pop("pids_limit"))]
        words += ["--memory", told.pop("mem_limit")]
        words += ["--read-only"] if told.pop("read_only") else []
        for key, flag in (("cap_drop", "--cap-drop"), ("security_opt", "--security-opt"), ("tmpfs", "--tmpfs")):
            words += [word for value in told.pop(key) for word in (flag, value.removesuffix(":true"))]
        for key, value in told.pop("environment", {}).items():
            words += ["--env", f"{key}={value}"]
        for volume in told.pop("volumes"):
            source, _, rest = volume.partition(":")
            words += ["--volume", f"{source if '/' in source else self._named(source)}:{rest}"]
        if told.pop("networks") != ["federation"]:
            raise ValueError(f"{service} is on another network")
        words += ["--network", self.network]
        words += ["--network-alias", service] if name is None else []
        words += ["--entrypoint", entrypoint] if entrypoint else []
        image = told.pop("image")
        if told:
            raise ValueError(f"compose.yaml says of {service} what this script does not know: {', '.join(told)}")
        return [*words, image]


def _terminal() -> bool:
    return sys.stdout.isatty() and sys.stdin.isatty()
