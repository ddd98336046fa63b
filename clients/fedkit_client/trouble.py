"""What the network's errors mean to a hospital: one code, one sentence, one remedy each.

::

    FK743  TLS is intercepted      FK746  no such name          FK749  a certificate for another name
    FK744  certificate's dates     FK747  no connection         FK755  a node key that does not count
    FK745  clocks apart            FK748  a proxy that refuses  FK756  the coordinator fails
"""

from __future__ import annotations

import email.utils
import ssl
from collections.abc import Mapping

import httpx

from fedkit.errors import DeploymentError

EARLIEST, LATEST = -5.0, 305.0
"""Seconds by which a site's clock may be behind the coordinator's, and ahead of it the other way: Flower's window."""


def explained(error: httpx.HTTPError | ValueError, address: str, now: float) -> DeploymentError:
    """A failed call to the coordinator's fleet interface, in our words.

    Args:
        now: seconds since the epoch, by this machine.
    """
    if isinstance(error, httpx.HTTPStatusError):
        return _answered(error, address, now)
    if isinstance(error, httpx.ProxyError):
        return proxy_refuses(str(error))
    text = str(error) or type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return untrusted(address, cause.verify_message)
        cause = cause.__cause__ or cause.__context__
    if any(mark in text for mark in ("Name or service", "getaddrinfo", "name resolution", "nodename", "No address")):
        return no_name(address)
    return no_connection(address, text)


def skew_of(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds by which the coordinator's clock is ahead of ours, from an answer's Date header; None without one."""
    try:
        return email.utils.parsedate_to_datetime(headers["date"]).timestamp() - now
    except (KeyError, ValueError, TypeError, OverflowError):
        return None


def clocks_apart(skew: float) -> DeploymentError:
    """The two clocks differ by more than a signature may be old."""
    which = "behind" if skew > 0 else "ahead of"
    return DeploymentError(
        f"this machine's clock is {abs(skew):.0f} s {which} the coordinator's; {-EARLIEST:.0f} s ahead and {LATEST:.0f}"
        " s behind are allowed",
        code="FK745",
        remedy="set both clocks by NTP (`timedatectl set-ntp true`), then try again",
    )


def untrusted(address: str, why: str, seen: str = "") -> DeploymentError:
    """A TLS connection whose certificate the pinned CA has not issued."""
    if "expired" in why or "not yet valid" in why:
        return DeploymentError(
            f"the certificate of {address} is not valid now ({why}){seen}",
            code="FK744",
            remedy="check this machine's clock; else ask the coordinator's admin for `fedkit server renew`",
        )
    if "ostname mismatch" in why or "IP address mismatch" in why or "not match" in why:
        return DeploymentError(
            f"the certificate at {address} is for other names{seen}",
            code="FK749",
            remedy="use the name that the coordinator's admin gave, or ask them to add this one to the certificate",
        )
    return DeploymentError(
        f"the connection to {address} shows a certificate that the pinned CA has not issued{seen}: TLS is intercepted"
        " on the way, or this is another server",
        code="FK743",
        remedy="ask the network's administrators to exempt this host from TLS inspection; nothing secret was sent. If"
        " the coordinator's CA was replaced while the site was away: `fedkit client trust SITE.yaml`",
    )


def no_name(address: str) -> DeploymentError:
    """A host that no DNS server knows."""
    return DeploymentError(
        f"the name in {address} cannot be resolved",
        code="FK746",
        remedy="check its spelling and this machine's DNS, or use the IP address if the certificate has it",
    )


def no_connection(address: str, why: str) -> DeploymentError:
    """Nobody answers."""
    return DeploymentError(
        f"no connection to {address}: {why}",
        code="FK747",
        remedy="check that the coordinator runs and that firewalls let this machine through; HTTPS_PROXY names a proxy",
    )


def proxy_refuses(why: str) -> DeploymentError:
    """The HTTP proxy of the environment does not let the connection through."""
    return DeploymentError(
        f"the HTTP proxy of the environment does not let the connection through: {why[:200]}",
        code="FK748",
        remedy="check HTTPS_PROXY, or except the coordinator's host with NO_PROXY",
    )


def _answered(error: httpx.HTTPStatusError, address: str, now: float) -> DeploymentError:
    status = error.response.status_code
    skew = skew_of(error.response.headers, now)
    if status == 401 and skew is not None and not EARLIEST < skew < LATEST:
        return clocks_apart(skew)
    if status == 407:
        return proxy_refuses("it asks for a password")
    if status in (401, 403, 404, 412):
        return DeploymentError(
            f"the coordinator at {address} does not know this node's key, or has revoked it (HTTP {status})",
            code="FK755",
            remedy="ask the coordinator's admin; to come back, join again with a new invitation",
        )
    return DeploymentError(
        f"the coordinator at {address} answers with HTTP {status}",
        code="FK756",
        remedy="see the coordinator's log; the site goes on trying",
    )
