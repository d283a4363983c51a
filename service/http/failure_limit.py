"""The brake on guessing the token: failed attempts are counted by the address that they come from.

Counts are of one process, in a table of bounded size; ADR 19 says why not in Redis and not by a library.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from typing import Final

BURST: Final = 10
"""Failures in a row that an address may have; people mistype, and a fleet rolls out a new token node by node."""
SECONDS_EACH: Final = 6.0
"""Seconds after which one of them is forgotten."""
_MOST_ADDRESSES: Final = 10_000
_IPV6_NETWORK: Final = 64
"""One customer's prefix: whoever has one address of it has all."""


@dataclass(slots=True)
class _Failures:
    count: float
    since: float


class FailureLimit:
    """A leaky bucket of failures for each address. The address that failed longest ago makes room for a new one."""

    def __init__(self, clock: Callable[[], float] = monotonic, *, most_addresses: int = _MOST_ADDRESSES) -> None:
        self._clock = clock
        self._most = most_addresses
        self._failures: OrderedDict[str, _Failures] = OrderedDict()
        self._lock = Lock()

    def wait(self, address: str) -> int:
        """Seconds until the address may fail again, 0 if it may now."""
        with self._lock:
            over = self._count(network_of(address)) - (BURST - 1)
        return math.ceil(over * SECONDS_EACH) if over > 0 else 0

    def note(self, address: str) -> None:
        """The address has failed. A refused attempt is none: otherwise one that goes on would never be let in again."""
        network = network_of(address)
        with self._lock:
            self._failures[network] = _Failures(self._count(network) + 1, self._clock())
            self._failures.move_to_end(network)
            if len(self._failures) > self._most:
                self._failures.popitem(last=False)

    def _count(self, network: str) -> float:
        found = self._failures.get(network)
        return max(0.0, found.count - (self._clock() - found.since) / SECONDS_EACH) if found else 0.0


def network_of(address: str) -> str:
    """The address itself, or for IPv6 its /64; an IPv4 address that is written as IPv6 is the IPv4 address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, _IPV6_NETWORK), strict=False))
    return str(parsed)
