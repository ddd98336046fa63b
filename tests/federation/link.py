"""A SuperLink of our own on a free port, with a CA that lives as long as the test."""

import datetime
import gc
import ipaddress
import socket
import threading
import time
import warnings
from contextlib import contextmanager

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fedkit_server.guard import Guard, Wakes
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from fedkit.federation.flower_api import superlink_app
from fedkit.federation.flower_link import Link
from fedkit.federation.flower_node import NodeConnection


def certificate(folder):
    """A self-signed certificate for 127.0.0.1; returns the paths of certificate and key."""
    key, name = ec.generate_private_key(ec.SECP384R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(True, 0), True)
        .sign(key, hashes.SHA384())
    )
    (folder / "test.crt").write_bytes(made.public_bytes(s.Encoding.PEM))
    (folder / "test.key").write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
    return folder / "test.crt", folder / "test.key"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Served:
    """What a test has of a running link."""

    def __init__(self, folder):
        self.folder = folder
        self.crt, self.key = certificate(folder)
        self.port = free_port()
        self.link = Link.open(folder / "link.db", folder / "objects")
        self.wakes = Wakes()
        self.link.on_wake = self.wakes.wake
        self.keys, self.connections = {}, []

    def node(self, name, *, wait=5.0):
        """A registered, activated node."""
        if name not in self.keys:
            self.keys[name] = ec.generate_private_key(ec.SECP384R1())
            self.link.register(public_key_to_bytes(self.keys[name].public_key()), name)
        found = self.connection(self.keys[name], wait=wait)
        found.activate()
        return found

    def connection(self, key, *, wait=5.0):
        found = NodeConnection(f"127.0.0.1:{self.port}", self.crt.read_bytes(), key, wait=wait, spool=self.folder)
        self.connections.append(found)
        return found

    def hang_up(self):
        """Close every connection without a goodbye, as a killed process does."""
        for connection in self.connections:
            connection._client.close()
        self.connections.clear()


async def nothing(scope, receive, send):
    raise AssertionError("no test asks for it")


def let_go():
    """Collect what a server that was ended beside its clients leaves open, here and not in somebody else's test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@contextmanager
def served(folder, may_control=lambda token: token == "right"):
    found = Served(folder)
    app = Guard(superlink_app(found.link), nothing, may_control, found.wakes)
    config = uvicorn.Config(
        app, host="127.0.0.1", port=found.port, ssl_keyfile=found.key, ssl_certfile=found.crt, log_level="error"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 20
    while not server.started and time.monotonic() < end:
        time.sleep(0.02)
    assert server.started
    try:
        yield found
    finally:
        server.should_exit = True
        thread.join(10)
        let_go()
