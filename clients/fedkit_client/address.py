"""HOST:PORT: taken apart and put together.

::

    FK746  an address that is none
"""

from __future__ import annotations

import re

from fedkit.errors import DeploymentError


def joined(host: str, port: int) -> str:
    """host:port; an IPv6 address in brackets.

    >>> joined("192.0.2.7", 8443), joined("2001:db8::1", 8443)
    ('192.0.2.7:8443', '[2001:db8::1]:8443')
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parted(address: str, port: int) -> tuple[str, int]:
    """Host and port of an address whose port may be left out.

    Raises:
        DeploymentError: FK746, it is none.

    >>> parted("fl.example.org", 8443), parted("[2001:db8::1]:9000", 8443)
    (('fl.example.org', 8443), ('2001:db8::1', 9000))
    """
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]]+))(?::([0-9]{1,5}))?", address)
    if found is None or not 0 < int(found[3] or port) < 65536:
        raise DeploymentError(
            f"{address[:100]!r} is no HOST or HOST:PORT",
            code="FK746",
            remedy="name the coordinator without https:// and path, such as fl.example.org:9443",
        )
    return found[1] or found[2], int(found[3] or port)
