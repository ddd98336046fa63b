"""Parties in network namespaces of their own, joined by cables and a switch, all of which a test can pull.

Linux, root and iproute2 are needed; nothing of the machine's own network is touched.
"""

import itertools
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

SLOW_LINE = Path(__file__).with_name("slow_line.py")
_NUMBERS = itertools.count()


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=20)


def missing(*, slow=False):
    """What keeps this machine from having namespaces of its own; empty if nothing does."""
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    if slow and not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "/dev/net/tun cannot be opened"
    try:
        Network("coordinator").close()
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.strip()}"
    return ""


class Network:
    """A switch with a cable to each party; parties have no other way to one another, nor to anywhere else.

    Args:
        slow: seconds of delay and share of packets lost, each way, on the one line between two parties.
    """

    def __init__(self, *parties, slow=None):
        self._name = f"fk{os.getpid()}-{next(_NUMBERS)}"
        self._addresses = {party: f"10.77.9.{number}" for number, party in enumerate(parties, 1)}
        self._slow = None
        try:
            for name in ("switch", *parties):
                ip("netns", "add", self._space(name))
                ip("-n", self._space(name), "link", "set", "lo", "up")
            if slow is None:
                self._plug_all()
            else:
                self._slow = self._slow_line(*parties, *slow)
        except BaseException:
            self.close()
            raise

    def _space(self, name):
        return f"{self._name}-{name}"

    def address(self, party):
        return self._addresses[party]

    def inside(self, party):
        """The words before a command that is to run where a party is."""
        return ("ip", "netns", "exec", self._space(party))

    def _plug_all(self):
        switch = self._space("switch")
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        for party, address in self._addresses.items():
            there = self._space(party)
            ip("link", "add", self._port(party), "netns", switch, "type", "veth", "peer", "eth0", "netns", there)
            ip("-n", switch, "link", "set", self._port(party), "master", "bridge", "up")
            ip("-n", there, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", there, "link", "set", "eth0", "up")

    def _port(self, party):
        return f"port{self._addresses[party].rpartition('.')[2]}"

    def _slow_line(self, one, other, delay, loss):
        ends = [word for party in (one, other) for word in (self._space(party), self.address(party))]
        words = [sys.executable, str(SLOW_LINE), *ends, str(delay), str(loss)]
        line = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        if line.stdout.readline() != "up\n":
            raise AssertionError(f"the slow line did not come up: status {line.wait()}")
        return line

    def pull(self, party, *, near=False):
        """Cut a party off: at the switch, where nobody notices, or ``near`` it, where its own link goes down."""
        if near:
            ip("-n", self._space(party), "link", "set", "eth0", "down")
        else:
            ip("-n", self._space("switch"), "link", "set", self._port(party), "nomaster")

    def plug(self, party):
        ip("-n", self._space("switch"), "link", "set", self._port(party), "master", "bridge")
        ip("-n", self._space(party), "link", "set", "eth0", "up")

    def close(self):
        if self._slow is not None:
            self._slow.kill()
            self._slow.wait(20)
            self._slow.stdout.close()
        for name in ("switch", *self._addresses):
            with suppress(subprocess.CalledProcessError):
                ip("netns", "del", self._space(name))
