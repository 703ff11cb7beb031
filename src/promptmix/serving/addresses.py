"""Which addresses of the web a server may fetch from: whatever is not part of the public internet is refused."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

__all__ = ["WebAddress", "is_public", "web_address"]

_LONGEST = 2048
_PORTS = {"http": 80, "https": 443}
_HOST_NAME = re.compile(r"[a-z0-9_.-]{1,253}")

_UNICAST_6 = ipaddress.IPv6Network("2000::/3")  # all that is given to networks of the internet; the rest is for other uses
# Of the special-purpose registries of IANA (RFC 6890), written out: what Python's own table holds depends on its version.
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # behind a provider's address translation
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # a virtual machine's host, on Azure
            "169.254.0.0/16",  # link-local, where clouds keep their metadata
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # relays of 6to4
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
            "2001::/23",  # protocol assignments, Teredo among them, which holds an IPv4 address
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, which holds an IPv4 address
            "3fff::/20",  # documentation
        ),
    )
)


@dataclass(frozen=True, kw_only=True)
class WebAddress:
    """An address of the web, taken apart.

    Attributes:
        scheme: ``http`` or ``https``.
        host: a name, or an IP address without brackets.
        target: path and query.
    """

    scheme: str
    host: str
    port: int
    target: str

    @property
    def host_header(self) -> str:
        """What the server is told it was called."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def web_address(text: str, ports: Collection[int]) -> WebAddress:
    """Take an address apart.

    Args:
        ports: those that may be asked.

    Raises:
        ValueError: it is none that may be fetched from; the message is a line for a person.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"an address has at most {_LONGEST:,} signs")
    # Programs differ in what they make of other signs, and of \\; the one that checks and the one that fetches must not.
    if not all("!" <= sign <= "~" and sign != "\\" for sign in text):
        raise ValueError("an address is of plain signs without spaces; write others as %20 and the like, and names in Punycode")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as problem:
        raise ValueError("the address cannot be read; write https://host/path") from problem
    if parts.scheme not in _PORTS:
        raise ValueError("an address begins with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("an address holds no user and no password")
    host = parts.hostname or ""
    if not (_HOST_NAME.fullmatch(host) or _is_ip_address(host)):
        raise ValueError("the address has no host that can be looked up; write https://host/path")
    port = _PORTS[parts.scheme] if port is None else port
    if port not in ports:
        raise ValueError(f"port {port} may not be asked, only {', '.join(map(str, sorted(ports)))}")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return WebAddress(scheme=parts.scheme, host=host, port=port, target=target)


def is_public(address: str) -> bool:
    """Whether an IP address is of the public internet: not private, loopback, link-local, multicast, reserved or unspecified, and
    no IPv6 address that stands for one of IPv4 (mapped, NAT64, 6to4, Teredo)."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if parsed.version == 6 and parsed not in _UNICAST_6:
        return False
    return parsed.is_global and not any(parsed in network for network in _NOT_PUBLIC if network.version == parsed.version)


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host  # no zones
