"""Which addresses may be connected to.

The address is checked, never the name: DNS may return any address for a name. Everything that is not on the public
internet is refused unless `MIRROR_ALLOWED_NETWORKS` names it. That covers loopback, private and link-local networks
with their metadata services. It also covers the IPv6 forms that contain an IPv4 address, which other guards missed
(GHSA-r48c-v28r-pf6v, go-containerregistry #2284, #2292, #2440).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

from mirror.errors import AddressNotAllowed
from mirror.settings import Network

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_REFUSED: Final = tuple(
    (ipaddress.ip_network(network), what)
    for network, what in (
        ("0.0.0.0/8", "an address of this host"),
        ("10.0.0.0/8", "a private address"),
        ("100.64.0.0/10", "a carrier's shared address"),
        ("127.0.0.0/8", "a loopback address"),
        ("169.254.0.0/16", "a link-local address"),
        ("172.16.0.0/12", "a private address"),
        ("192.0.0.0/24", "an address for protocol use"),
        ("192.0.2.0/24", "a documentation address"),
        ("192.88.99.0/24", "a 6to4 relay"),
        ("192.168.0.0/16", "a private address"),
        ("198.18.0.0/15", "a benchmarking address"),
        ("198.51.100.0/24", "a documentation address"),
        ("203.0.113.0/24", "a documentation address"),
        ("224.0.0.0/4", "a multicast address"),
        ("240.0.0.0/4", "a reserved address"),
        ("::/128", "an address of this host"),
        ("::1/128", "a loopback address"),
        ("::/96", "an IPv4-compatible address"),
        ("::ffff:0:0/96", "an IPv4-mapped address"),
        ("64:ff9b::/96", "a NAT64 address"),
        ("64:ff9b:1::/48", "a NAT64 address"),
        ("100::/64", "a discard address"),
        ("2001::/32", "a Teredo address"),
        ("2001::/23", "an address for protocol use"),
        ("2001:db8::/32", "a documentation address"),
        ("2002::/16", "a 6to4 address"),
        ("3fff::/20", "a documentation address"),
        ("5f00::/16", "a segment routing address"),
        ("fc00::/7", "a private address"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a site-local address"),
        ("ff00::/8", "a multicast address"),
    )
)


class AddressGuard:
    """Allows the public internet and the *allowed* networks."""

    def __init__(self, allowed: Sequence[Network] = ()) -> None:
        self._allowed = tuple(allowed)

    def problem(self, address: Address) -> str | None:
        """Return why *address* must not be connected to, as a noun phrase.

        None if it may be.
        """
        if any(address in network for network in self._allowed):
            return None
        for network, what in _REFUSED:
            if address in network:
                return what
        return None if address.is_global else "not a public address"

    def require(self, host: str, address: str) -> None:
        """Raise AddressNotAllowed unless *address*, an address of *host*, is allowed.

        An IPv6 zone (``fe80::1%eth0``) is cut off. Only link-local addresses have one, and those are refused.
        """
        checked = ipaddress.ip_address(address.partition("%")[0])
        if what := self.problem(checked):
            shown = host if host == str(checked) else f"{host} ({checked})"
            raise AddressNotAllowed(shown, f"it is {what}")
