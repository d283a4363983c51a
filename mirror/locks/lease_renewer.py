"""Renewing many leases with one thread, for work whose length nobody knows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Self

import structlog

from mirror.background import BackgroundLoop, record_fault, suppress_faults
from mirror.errors import RedisUnavailable
from mirror.locks.lease import Lease, Leases

_RENEWALS: Final = 4
"""Renewals within the length of a lease: three may be lost."""
_LOG = structlog.get_logger(__name__)


class LeaseRenewer:
    """Keeps leases of *seconds* each, for the length of a context.

    A lease that ended because Redis was silent is taken again, if nobody else has it. One that somebody else has is
    lost: whoever works under it is told, once, from the keeper's thread. So is one that cannot be renewed for any other
    reason than a silent Redis, and the others are kept.
    """

    def __init__(self, leases: Leases, seconds: float) -> None:
        self._leases = leases
        self._seconds = seconds
        self._held: dict[str, tuple[Lease, Callable[[], None]]] = {}
        self._lock = threading.Lock()
        self._loop = BackgroundLoop("lease-keeper", seconds / _RENEWALS, self._renew_all)

    def __enter__(self) -> Self:
        self._loop.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give back what is still held."""
        self._loop.end()
        for lease, _lost in list(self._held.values()):
            self.give_back(lease)

    def take(self, key: str, lost: Callable[[], None]) -> Lease | None:
        """The lease, kept from now on, or None while somebody else holds it; *lost* is called if it gets lost."""
        lease = self._leases.take(key, self._seconds)
        if lease is not None:
            with self._lock:
                self._held[key] = (lease, lost)
        return lease

    def give_back(self, lease: Lease) -> None:
        """Renew it no longer and end it; where Redis does not answer it ends by itself."""
        with self._lock:
            self._held.pop(lease.key, None)
        try:
            self._leases.end(lease)
        except RedisUnavailable:
            _LOG.warning("a lease is left to end by itself", lease=lease.key)
        except Exception as error:  # noqa: BLE001 - the work under it is done, and the next lease is given back too
            record_fault("giving back a lease", error, lease=lease.key)

    def _renew_all(self) -> bool:
        with self._lock:
            held = list(self._held.values())
        for lease, lost in held:
            if not self._is_kept(lease):
                with suppress_faults("telling of a lost lease", lease=lease.key):
                    lost()
        return True

    def _is_kept(self, lease: Lease) -> bool:
        """Renew the lease; False once it is lost."""
        try:
            return self._renew(lease)
        except RedisUnavailable:
            _LOG.warning("Redis does not answer; the lease is renewed when it does", lease=lease.key)
            return True
        except Exception as error:  # noqa: BLE001 - a lease that cannot be renewed is lost, and the others are not
            record_fault("renewing a lease", error, lease=lease.key)
            with self._lock:
                self._held.pop(lease.key, None)
            return False

    def _renew(self, lease: Lease) -> bool:
        """Under the lock, so that no lease is taken again that is just being given back."""
        with self._lock:
            if lease.key not in self._held:
                return True
            kept = self._leases.renew(lease) or self._leases.take_again(lease)
            if not kept:
                self._held.pop(lease.key)
            return kept
