"""The same experiment over a stock SuperLink and one stock SuperNode a site, as processes on this machine.

For comparison with the in-process Grid, not for deployment: the link listens on loopback only, without TLS and
without authentication. Every message starts a process that imports torch, so a round takes tens of seconds.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from fedkit.config.serialize import to_dict
from fedkit.errors import ConfigError, FederationError
from fedkit.federation.flower_internals import submit_run
from fedkit.federation.rounds import Finish, OnRound
from fedkit.simulation.exchange import Exchange
from fedkit.simulation.prepare import Prepared
from fedkit.storage.atomic import write_json

_START_SECONDS = 60.0


def run_flower(prepared: Prepared, on_round: OnRound, run_dir: Path) -> Finish:
    """Run every round over a real SuperLink.

    Args:
        run_dir: the run's folder; the processes' logs go to its ``logs``, where ``sites.json`` says whose they are.

    Raises:
        ConfigError: the model, the data or the strategy was given in Python: other processes cannot see it.
        FederationError: a process does not come up or the ServerApp fails.
    """
    if "python" in (prepared.model_source, prepared.strategy_source) or prepared.config.data.source.kind == "arrays":
        raise ConfigError(
            ["federation=flower runs in other processes; objects given in Python need federation=local"],
            code="FK530",
        )
    logs = run_dir / "logs"
    logs.mkdir(exist_ok=True)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedkit-flower-")))
        exchange = Exchange(home / "exchange")
        exchange.folder.mkdir()
        link = _start_link(stack, home, logs)
        # A site's name comes from the data and may hold anything, '../' included: files go by number.
        names = {f"node-{index}": site.name for index, site in enumerate(prepared.dataset.sites)}
        write_json(logs / "sites.json", {f"{node}.log": name for node, name in names.items()})
        for node, name in names.items():
            command = [
                *("flower-supernode", "--insecure", "--superlink", link, "--port", str(_free_port())),
                *("--node-config", f'site-hex="{name.encode().hex()}"'),
            ]
            stack.enter_context(_process(command, home / node, logs / f"{node}.log"))
        submit_run(
            link,
            server_app="fedkit_server.app:app",
            client_app="fedkit_client.app:app",
            settings={
                "fedkit-config": json.dumps(to_dict(prepared.config)),
                "fedkit-exchange": str(exchange.folder),
            },
        )
        return _follow(prepared, exchange, on_round, logs)


def _follow(prepared: Prepared, exchange: Exchange, on_round: OnRound, logs: Path) -> Finish:
    config = prepared.config.federation
    number, parameters = 0, None
    patience = config.timeout * 2 + _START_SECONDS
    last = time.monotonic()
    while True:
        done = exchange.finished()
        while (model := exchange.take_round(number, on_round)) is not None:
            number, parameters, last = number + 1, model, time.monotonic()
        if done is not None:
            if "error" in done or parameters is None:
                raise FederationError(f"the ServerApp stopped: {done.get('error')}", code="FK531", remedy=f"see {logs}")
            notes = done["notes"]
            return Finish(
                parameters, str(done["outcome"]), number - 1, tuple(map(str, notes if isinstance(notes, list) else []))
            )
        if time.monotonic() - last > patience:
            raise FederationError(
                f"nothing was heard from the ServerApp for {patience:.0f} s", code="FK532", remedy=f"see {logs}"
            )
        time.sleep(0.2)


def _start_link(stack: ExitStack, home: Path, logs: Path) -> str:
    port, health = _free_port(), _free_port()
    command = [
        *("flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port)),
        *("--health-server-address", f"127.0.0.1:{health}", "--disable-runtime-dependency-installation"),
    ]
    process = stack.enter_context(_process(command, home / "link", logs / "superlink.log"))
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise FederationError(
                f"flower-superlink ended with status {process.returncode}",
                code="FK533",
                remedy=f"see {logs / 'superlink.log'}",
            )
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return f"127.0.0.1:{port}"
    raise FederationError(
        f"flower-superlink did not listen within {_START_SECONDS:.0f} s", code="FK533", remedy=f"see {logs}"
    )


@contextmanager
def _process(command: list[str], home: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    home.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [_executable(command[0]), *command[1:]],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=_environment(home),
            cwd=home,
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        try:
            yield process
        finally:
            _end(process)


def _end_with_parent() -> None:
    # A killed command (kill -9) cannot clean up: the kernel ends its children (prctl PR_SET_PDEATHSIG).
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _end(process: subprocess.Popen[bytes]) -> None:
    # The apps are grandchildren: only the whole session's group takes them along.
    for kind, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, kind)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _environment(home: Path) -> Mapping[str, str]:
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "OMP_NUM_THREADS": "1",
    }


def _executable(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise FederationError(f"{name} is not installed beside {sys.executable}", code="FK534", remedy="reinstall flwr")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
