"""From where a request or a socket comes: what rates of strangers are counted by. Knows no limits.

The address is that of `connection.client`, which the application has already set right behind trusted proxies.
"""

from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address

from starlette.requests import HTTPConnection

UNKNOWN = "unknown"
SUBSCRIBER_BITS = 64
"""What one subscriber of IPv6 gets, at least: whoever has it can take any address of it (RFC 6177)."""


REMEMBERED = 1_024
ADDRESS_CHARACTERS = 64
"""Of what is remembered. No address is longer; what a proxy says in place of one may be."""


def client_key(connection: HTTPConnection) -> str:
    """An IPv4 address as it is, IPv6 by its /64; everybody whose address is not known is one."""
    host = connection.client.host if connection.client else ""
    return (_key if len(host) <= ADDRESS_CHARACTERS else _key.__wrapped__)(host)


@lru_cache(REMEMBERED)
def _key(host: str) -> str:
    try:
        address = ip_address(host)
    except ValueError:
        return UNKNOWN
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((int(address), SUBSCRIBER_BITS), strict=False))
