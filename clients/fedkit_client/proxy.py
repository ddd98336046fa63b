"""The HTTP proxy that the environment names for an address, the same for every kind of connection."""

from __future__ import annotations

import base64
import socket
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from fedkit_client.address import joined
from fedkit_client.trouble import no_connection, no_name, proxy_refuses


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy that is asked to CONNECT.

    Attributes:
        url: with its password, if it has one; never shown.
    """

    host: str
    port: int
    url: str = field(repr=False)

    @property
    def shown(self) -> str:
        """Without user and password."""
        return f"http://{joined(self.host, self.port)}"


def proxy_for(host: str) -> Proxy | None:
    """The proxy of ``HTTPS_PROXY`` or ``ALL_PROXY``, unless ``NO_PROXY`` names the host.

    Raises:
        DeploymentError: FK748, a proxy that is no HTTP proxy.
    """
    found = getproxies()
    text = found.get("https") or found.get("all")
    if not text or proxy_bypass(host):
        return None
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname)
        port = parts.port or 3128
    except ValueError:
        known = False
    if not known:
        raise proxy_refuses("HTTPS_PROXY names no http:// proxy")
    return Proxy(str(parts.hostname), port, url)


def connect(host: str, port: int, timeout: float) -> socket.socket:
    """A TCP connection to an address, through the proxy if there is one.

    Raises:
        DeploymentError: FK746, FK747, FK748.
    """
    proxy = proxy_for(host)
    to = (proxy.host, proxy.port) if proxy else (host, port)
    try:
        connection = socket.create_connection(to, timeout)
    except socket.gaierror:
        raise no_name(joined(*to)) from None
    except OSError as error:
        raise no_connection(joined(*to), str(error)) from None
    if proxy is not None:
        try:
            _tunnel(connection, proxy, joined(host, port))
        except BaseException:
            connection.close()
            raise
    return connection


def _tunnel(connection: socket.socket, proxy: Proxy, target: str) -> None:
    parts = urlsplit(proxy.url)
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if parts.username:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}")
    try:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        answer = b""
        while b"\r\n\r\n" not in answer and len(answer) < 65536:
            part = connection.recv(1)
            if not part:
                break
            answer += part
    except OSError as error:
        raise proxy_refuses(str(error)) from None
    status = answer.split(b"\r\n", 1)[0].decode("latin-1")
    if not (status.startswith("HTTP/1.") and status.split(" ")[1:2] == ["200"]):
        raise proxy_refuses(status or "it hung up")
