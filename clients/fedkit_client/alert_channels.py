"""How one notice is sent: to a webhook over HTTPS, signed; to a syslog receiver by RFC 5424.

::

    FK786  a channel that did not take it
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from fedkit.errors import DeploymentError, FedkitError
from fedkit.governance.alert_terms import AlertTerms, Syslog, Webhook
from fedkit.storage.private import require_private
from fedkit_client.proxy import proxy_for

SIGNATURE = "X-Fedkit-Signature"
LEAST_SECRET = 16
PATIENCE = 10.0
MOST_DATAGRAM = 2048
"""What every receiver of RFC 5424 should take."""

_PRIORITY = {"critical": 2, "warning": 4, "info": 6}
Send = Callable[[str, float], None]
"""Sends a notice's JSON at a time; raises FK786 where it was not taken."""


def senders(terms: AlertTerms) -> dict[str, Send]:
    """The channels that a site's file names."""
    found: dict[str, Send] = {}
    if (webhook := terms.webhook) is not None:
        found["webhook"] = lambda body, now: post(webhook, body, now)
    if (syslog := terms.syslog) is not None:
        found["syslog"] = lambda body, now: log(syslog, body, now)
    return found


def post(webhook: Webhook, body: str, now: float) -> None:
    """Send one notice to a webhook.

    Raises:
        DeploymentError: FK786.
    """
    secret = _secret(webhook)
    try:
        proxy = proxy_for(str(urlsplit(webhook.url).hostname))
        context = _context(webhook.ca_file)
        # The environment names no CA and no proxy but the one that was looked up.
        with httpx.Client(
            verify=context, timeout=PATIENCE, trust_env=False, proxy=None if proxy is None else proxy.url
        ) as client:
            headers = {"Content-Type": "application/json", SIGNATURE: signature(secret, body, now)}
            with client.stream("POST", webhook.url, content=body.encode(), headers=headers) as answer:
                status = answer.status_code
    except FedkitError as error:
        raise _refused("the webhook", error.message) from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        # A text of httpx's may hold the proxy's address with its password.
        raise _refused("the webhook", _why(error)) from None
    if not 200 <= status < 300:
        raise _refused("the webhook", f"HTTP {status}")


def signature(secret: bytes, body: str, now: float) -> str:
    """What a receiver compares: HMAC-SHA256 over the time and the body, so that neither is another's.

    >>> signature(b"0123456789abcdef", "{}", 0.5).split(",")[0]
    't=0'
    """
    at = int(now)
    return f"t={at},v1={hmac.new(secret, f'{at}.{body}'.encode(), hashlib.sha256).hexdigest()}"


def log(syslog: Syslog, body: str, now: float) -> None:
    """Send one notice to a syslog receiver.

    Raises:
        DeploymentError: FK786; of UDP, only where this machine itself knows.
    """
    message = syslog_message(syslog.facility, body, now)
    try:
        if syslog.kind == "unix":
            _local(syslog.place, message)
        elif syslog.kind == "udp":
            _datagram(syslog, message)
        else:
            _streamed(syslog, message)
    except OSError as error:
        raise _refused("the syslog receiver", _why(error)) from None


def syslog_message(facility: int, body: str, now: float) -> bytes:
    """RFC 5424 of a notice: no structured data, and the JSON as the message, after what receivers know it by."""
    told = json.loads(body)
    priority = 8 * facility + (6 if told["state"] == "cleared" else _PRIORITY[told["severity"]])
    at = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    host = "".join(letter for letter in socket.gethostname() if 33 <= ord(letter) <= 126)[:255] or "-"
    return f"<{priority}>1 {at} {host} fedkit {os.getpid()} {told['rule']} - @cee: {body}".encode("ascii")


def _datagram(syslog: Syslog, message: bytes) -> None:
    family, kind, protocol, _, place = socket.getaddrinfo(syslog.place, syslog.port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as connection:
        # Connected, so that a refusal by this machine is heard.
        connection.connect(place)
        connection.send(message[:MOST_DATAGRAM])


def _local(path: str, message: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.settimeout(PATIENCE)
        try:
            connection.connect(path)
            connection.send(message)
            return
        except OSError as error:
            # A stream listens there.
            if error.errno != errno.EPROTOTYPE:
                raise
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(path)
        connection.sendall(message + b"\n")


def _streamed(syslog: Syslog, message: bytes) -> None:
    framed = b"%d %s" % (len(message), message)
    with socket.create_connection((syslog.place, syslog.port), PATIENCE) as connection:
        if syslog.kind == "tcp":
            connection.sendall(framed)
            _end(connection)
            return
        with _context(syslog.ca_file).wrap_socket(connection, server_hostname=syslog.place) as secured:
            secured.sendall(framed)
            # Where the receiver refuses, it says so now.
            with suppress(ssl.SSLError):
                secured.unwrap()


def _end(connection: socket.socket) -> None:
    """Wait until the receiver has closed, so that a reset after the last byte is heard; not for long."""
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(1.0)
    with suppress(TimeoutError):
        connection.recv(1)


def _context(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _secret(webhook: Webhook) -> bytes:
    try:
        if webhook.secret_file is not None:
            require_private([webhook.secret_file])
            found = webhook.secret_file.read_bytes()
        else:
            found = os.environb.get(str(webhook.secret_env).encode(), b"")
    except DeploymentError as error:
        raise _refused("the webhook", error.message) from None
    except OSError as error:
        raise _refused("the webhook", f"its secret_file cannot be read ({error.strerror})") from None
    found = found.strip()
    if len(found) < LEAST_SECRET:
        raise _refused("the webhook", f"its secret has {len(found)} bytes; at least {LEAST_SECRET} are needed")
    return found


def _why(error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return "its certificate is not trusted, or there is no TLS"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _refused(what: str, why: str) -> DeploymentError:
    return DeploymentError(
        f"{what} did not take an alert: {why}",
        code="FK786",
        remedy="mend `alerts` in the site's file, or the receiver; `fedkit client alerts SITE.yaml --test`",
    )
