"""A line between two network namespaces that delays and loses packets: not every kernel has ``tc netem``.

``python slow_line.py SPACE ADDRESS SPACE ADDRESS DELAY LOSS``: seconds and a share, each way; says ``up``.
"""

import asyncio
import ctypes
import fcntl
import os
import random
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

CLONE_NEWNET, TUNSETIFF, IFF_TUN_NO_PI = 0x40000000, 0x400454CA, 0x1001
NAME = "line0"


def enter(handle):
    if ctypes.CDLL(None, use_errno=True).setns(handle, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "the namespace cannot be entered")


def end(space, address, peer):
    """One end of the line: what is written to it arrives in the namespace."""
    home, there = (os.open(path, os.O_RDONLY) for path in ("/proc/self/ns/net", Path("/var/run/netns", space)))
    enter(there)
    try:
        handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(handle, TUNSETIFF, struct.pack("16sH22x", NAME.encode(), IFF_TUN_NO_PI))
    finally:
        enter(home)
        os.close(home)
        os.close(there)
    for words in (("addr", "add", address, "peer", peer, "dev", NAME), ("link", "set", NAME, "up")):
        subprocess.run(["ip", "-n", space, *words], check=True)
    return handle


async def carry(one, other, delay, loss):
    loop, dice = asyncio.get_running_loop(), random.Random(1)

    def deliver(handle, packet):
        # An end whose queue is full loses the packet, as a router's would.
        with suppress(OSError):
            os.write(handle, packet)

    def pump(here, there):
        with suppress(BlockingIOError):
            packet = os.read(here, 65536)
            if dice.random() >= loss:
                loop.call_later(delay, deliver, there, packet)

    loop.add_reader(one, pump, one, other)
    loop.add_reader(other, pump, other, one)
    print("up", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    spaces, addresses = sys.argv[1:5:2], sys.argv[2:5:2]
    ends = [end(spaces[i], addresses[i], addresses[1 - i]) for i in (0, 1)]
    asyncio.run(carry(*ends, float(sys.argv[5]), float(sys.argv[6])))
