"""Real receivers of alerts in threads: HTTPS with a CA of its own, syslog over every transport, a proxy."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from fedkit_server.pki import make_ca, make_server


class Hook:
    """A webhook's receiver.

    Attributes:
        status: what it answers with.
        taken: headers and body of each request.
        answering: cleared, every request waits.
    """

    def __init__(self, folder):
        self.status, self.taken, self.answering = 200, [], threading.Event()
        self.answering.set()
        authority = make_ca("hospital")
        pair = make_server(authority, ["localhost", "127.0.0.1"])
        (folder / "hook.ca").write_bytes(authority.certificate)
        (folder / "hook.crt").write_bytes(pair.certificate)
        (folder / "hook.key").write_bytes(pair.key)
        self.ca_file = folder / "hook.ca"
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.taken.append((dict(self.headers), body))
                hook.answering.wait(60)
                self.send_response(hook.status)
                if hook.status == 302:
                    self.send_header("Location", "https://localhost:1/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *words):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "hook.crt", folder / "hook.key")
        self.server.socket = self.context.wrap_socket(self.server.socket, server_side=True)
        self.server.handle_error = lambda *words: None
        self.port = self.server.server_address[1]
        self.url = f"https://localhost:{self.port}/fedkit"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def close(self):
        self.answering.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)


@contextmanager
def stream(family=socket.AF_INET, place=("127.0.0.1", 0), context=None):
    """A syslog receiver over a stream: what each connection has sent, whole."""
    taken = []
    with socket.socket(family) as listening:
        listening.bind(place)
        listening.listen()

        def run():
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with suppress(OSError), connection:
                    said = context.wrap_socket(connection, server_side=True) if context else connection
                    said.settimeout(5)
                    whole = b""
                    while part := said.recv(65536):
                        whole += part
                    taken.append(whole)
                    if context:
                        said.close()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield listening.getsockname(), taken
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(5)


@contextmanager
def proxy():
    """An HTTP proxy that takes CONNECT; the places that it was asked for."""
    asked = []
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def pump(one, other):
            with suppress(OSError):
                while part := one.recv(65536):
                    other.sendall(part)
            with suppress(OSError):
                other.shutdown(socket.SHUT_WR)

        def serve(connection):
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(1)
            place = head.split()[1].decode()
            asked.append(place)
            host, _, port = place.rpartition(":")
            with socket.create_connection((host, int(port)), 5) as other:
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=pump, args=(other, connection), daemon=True)
                back.start()
                pump(connection, other)
                back.join(5)
            connection.close()

        def run():
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(5)
