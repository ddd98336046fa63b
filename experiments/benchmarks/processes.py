"""Processes of a deployed benchmark: started in the background, measured by /proc, ended with all their children."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

BIN = Path(sys.executable).parent
_TICKS = os.sysconf("SC_CLK_TCK")


def environment(**more: str) -> dict[str, str]:
    """What every process of either side gets: the same interpreter first, one thread, nothing told to anybody."""
    return {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "OMP_NUM_THREADS": "1",
        **more,
    }


def call(
    command: Sequence[str], env: Mapping[str, str], cwd: Path, *, text: str | None = None, timeout: float = 120.0
) -> str:
    """Run a command to its end; returns what it printed.

    Args:
        text: what it reads from its standard input.


    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        env=dict(env),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        input=text or "",
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


@dataclass(frozen=True)
class Process:
    """A process in the background and whatever it starts."""

    popen: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, command: Sequence[str], env: Mapping[str, str], cwd: Path, log: Path) -> Process:
        """Start a command that is beside the interpreter; its output goes to a file."""
        with log.open("ab") as output:
            popen = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(popen, log)

    def require_alive(self) -> None:
        """Raises RuntimeError with the end of its log if the process has ended."""
        if self.popen.poll() is not None:
            tail = self.log.read_text(encoding="utf-8", errors="replace")[-3000:]
            raise RuntimeError(f"{self.popen.args} ended with {self.popen.returncode}:\n{tail}")

    def tree(self) -> list[int]:
        """Its id and those of its descendants that are alive."""
        return tree(self.popen.pid)

    def cpu_seconds(self) -> float:
        """CPU time of the process and its descendants, those that have ended and were waited for included."""
        return sum(cpu_seconds(pid) for pid in self.tree())

    def end(self) -> None:
        """End it and its descendants: SIGTERM, then SIGKILL for what is left."""
        pids = self.tree()
        with suppress(ProcessLookupError):
            os.kill(self.popen.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(15)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.popen.wait(5)


@contextmanager
def ended(processes: list[Process]) -> Iterator[None]:
    """End all processes of a list, the last started first, whatever happens."""
    try:
        yield
    finally:
        for process in reversed(processes):
            process.end()


def tree(root: int) -> list[int]:
    """A process and its descendants that are alive, the process first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root] if _stat(root) else []
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; none for a process that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def started(pid: int) -> str:
    """When a process started, in ticks of this machine; empty for one that is gone. With its id it names a process."""
    fields = _stat(pid)
    return fields[19] if fields else ""


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of its children that were waited for (utime to cstime)."""
    fields = _stat(pid)
    return sum(map(int, fields[11:15])) / _TICKS if fields else 0.0


def memory(pid: int) -> dict[str, int]:
    """VmHWM, VmRSS, RssAnon and RssFile in bytes; empty for a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    wanted = ("VmHWM", "VmRSS", "RssAnon", "RssFile")
    return {n: int(v.split()[0]) * 1024 for n, _, v in (line.partition(":") for line in lines) if n in wanted}


@dataclass
class Peak:
    """The most memory of a process tree: the sum of each process' own peak since the clock was set back.

    A sum of peaks is never less than the peak of the sum.
    """

    root: int
    peaks: dict[int, int] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Peak:
        """Set every process' peak back to what it holds now (proc(5), clear_refs)."""
        for pid in tree(self.root):
            Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while True:
            # A process that lives for one run only is gone when the run is over.
            for pid in tree(self.root):
                self.peaks[pid] = max(self.peaks.get(pid, 0), memory(pid).get("VmHWM", 0))
            if self._stop.wait(0.25):
                return

    def __exit__(self, *_: object) -> None:
        """Look a last time."""
        self._stop.set()
        self._thread.join()
        for pid in tree(self.root):
            self.peaks[pid] = max(self.peaks.get(pid, 0), memory(pid).get("VmHWM", 0))

    @property
    def total(self) -> int:
        """Bytes."""
        return sum(self.peaks.values())


def resident(root: int) -> int:
    """Bytes that a process tree holds in memory now, shared pages counted by each."""
    return sum(memory(pid).get("VmRSS", 0) for pid in tree(root))


def idle_percent(groups: Mapping[str, Sequence[Process]], seconds: float) -> dict[str, float]:
    """Percent of a core that each group of processes takes, a process, while nothing is asked of it."""
    before = {name: sum(p.cpu_seconds() for p in group) for name, group in groups.items()}
    start = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - start
    return {
        name: 100 * (sum(p.cpu_seconds() for p in group) - before[name]) / passed / len(group)
        for name, group in groups.items()
    }


def settle(processes: Sequence[Process], *, percent: float = 20.0, seconds: float = 60.0) -> None:
    """Wait until processes together take less than some percent of a core, so that the other side has the machine.

    Raises:
        RuntimeError: they do not come to rest.
    """
    end = time.monotonic() + seconds
    while idle_percent({"all": processes}, 1.0)["all"] * len(processes) > percent:
        if time.monotonic() > end:
            raise RuntimeError(f"{processes[0].popen.args} and its sites do not come to rest")


def machine_seconds() -> float:
    """CPU seconds that this machine has spent on anything, all cores together."""
    fields = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / _TICKS


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(what: str, ready: Callable[[], bool], processes: Sequence[Process], seconds: float) -> None:
    """Ask again and again.

    Raises:
        RuntimeError: a process ended, or the time is over.
    """
    end = time.monotonic() + seconds
    while not ready():
        for process in processes:
            process.require_alive()
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.2)


def listens(port: int) -> bool:
    """Whether somebody accepts connections on a port of loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
